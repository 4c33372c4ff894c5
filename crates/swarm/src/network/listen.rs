//! Where this machine listens, and what of that others are told.

use std::io;
use std::net::{IpAddr, SocketAddr};

use multiaddr::{Multiaddr, Protocol};
use socket2::{Domain, Socket, Type};

use super::gate;
use crate::{Result, SwarmError};

/// Addresses that others are told, at most.
const MAX_TOLD: usize = crate::record::MAX_ADDRESSES;

/// The socket address of `/ip4/ADDRESS/tcp/PORT` or `/ip6/ADDRESS/tcp/PORT`, whatever follows; nothing for others.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether this machine can listen there. libp2p listens with `SO_REUSEPORT`, so that it would share a port with another
/// program of the same user and get some of its connections.
pub(super) fn check(address: &Multiaddr) -> Result<()> {
    let Some(socket) = socket_address(address).filter(|_| address.iter().count() == 2) else {
        let what = "it is not of the form /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT";
        return Err(SwarmError::Network(format!("cannot listen on {address}: {what}")));
    };
    bind(socket).map_err(|error| refused(address, &error))
}

fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // On Windows this would allow what it is to find out.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// One sentence for why it is not listened on an address.
pub(super) fn refused(address: &Multiaddr, error: &(dyn std::error::Error + 'static)) -> SwarmError {
    let why = match gate::find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::AddrInUse) => "another program uses the port".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "this user may not use the port".to_owned(),
        Some(io::ErrorKind::AddrNotAvailable) => "it is not an address of this machine".to_owned(),
        _ => gate::reason(error),
    };
    SwarmError::Network(format!("cannot listen on {address}: {why}"))
}

/// What others are told of the addresses that are listened on: loopback only if there is nothing else, for then this
/// machine is all there is; an address of a link only if there is nothing better.
pub(super) fn told(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let rank = |address: &Multiaddr| match socket_address(address).map(|socket| socket.ip()) {
        Some(IpAddr::V4(ip)) if ip.is_loopback() => 2,
        Some(IpAddr::V6(ip)) if ip.is_loopback() => 2,
        Some(IpAddr::V4(ip)) if ip.is_link_local() => 1,
        Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => 1,
        _ => 0,
    };
    let best = addresses.iter().map(rank).min();
    let mut told: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        if Some(rank(address)) == best && !told.contains(address) {
            told.push(address.clone());
        }
    }
    told.sort_by_key(|address| socket_address(address).is_some_and(|socket| socket.is_ipv6()));
    told.truncate(MAX_TOLD);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<Multiaddr> {
        text.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_is_told_only_alone() {
        for (listened, expected) in [
            ("/ip4/127.0.0.1/tcp/1 /ip6/::1/tcp/1", "/ip4/127.0.0.1/tcp/1 /ip6/::1/tcp/1"),
            ("/ip4/127.0.0.1/tcp/1 /ip4/192.168.1.4/tcp/1", "/ip4/192.168.1.4/tcp/1"),
            (
                "/ip6/fe80::1/tcp/1 /ip6/2001:db8::1/tcp/1 /ip4/10.0.0.2/tcp/1",
                "/ip4/10.0.0.2/tcp/1 /ip6/2001:db8::1/tcp/1",
            ),
            ("/ip6/::1/tcp/1 /ip4/169.254.0.9/tcp/1", "/ip4/169.254.0.9/tcp/1"),
            ("/ip4/10.0.0.2/tcp/1 /ip4/10.0.0.2/tcp/1", "/ip4/10.0.0.2/tcp/1"),
            ("", ""),
        ] {
            assert_eq!(told(&addresses(listened)), addresses(expected), "{listened}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_told_in_a_sentence() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let in_use = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
        for (address, why) in [
            (in_use.as_str(), "another program uses the port"),
            ("/ip4/192.0.2.1/tcp/0", "not an address of this machine"),
            ("/ip4/127.0.0.1/udp/4", "form"),
            ("/dns4/localhost/tcp/4", "form"),
            ("/ip4/127.0.0.1/tcp/4/ws", "form"),
        ] {
            let error = check(&address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(address), "{error}");
        }
        drop(taken);
        check(&in_use.parse().unwrap()).unwrap();
    }
}
