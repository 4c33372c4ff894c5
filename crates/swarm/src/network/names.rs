//! Names as addresses, by the system's resolver.

use std::net::IpAddr;
use std::time::Duration;

use multiaddr::{Multiaddr, Protocol};
use tokio::time::timeout;

/// How long a name may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Addresses of a name that are used.
const MAX_ADDRESSES: usize = 8;

/// Addresses in place of names: of `/dns/NAME`, or of one kind alone with `dns4` and `dns6`. What has no name stays; a name
/// that nobody knows is nowhere.
pub(super) async fn resolve(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut resolved: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        let found = match address.iter().next() {
            Some(Protocol::Dns(name)) => lookup(&name, &address, |_| true).await,
            Some(Protocol::Dns4(name)) => lookup(&name, &address, IpAddr::is_ipv4).await,
            Some(Protocol::Dns6(name)) => lookup(&name, &address, IpAddr::is_ipv6).await,
            _ => vec![address],
        };
        for address in found {
            if !resolved.contains(&address) {
                resolved.push(address);
            }
        }
    }
    resolved
}

async fn lookup(name: &str, address: &Multiaddr, kind: impl Fn(&IpAddr) -> bool) -> Vec<Multiaddr> {
    let Ok(Ok(found)) = timeout(DEADLINE, tokio::net::lookup_host((name, 0))).await else { return Vec::new() };
    let found = found.map(|socket| socket.ip()).filter(kind).take(MAX_ADDRESSES);
    let at = |ip: IpAddr| Multiaddr::from(ip).into_iter().chain(address.iter().skip(1)).collect();
    found.map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_where_it_is() {
        let resolved = async |text: &str| resolve(vec![text.parse().unwrap()]).await;
        let loopback: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/tcp/7".parse().unwrap()];
        assert_eq!(resolved("/dns4/localhost/tcp/7").await, loopback);
        assert!(resolved("/dns/localhost/tcp/7").await.contains(&loopback[0]));
        assert_eq!(resolved("/ip4/127.0.0.1/tcp/7").await, loopback);
        assert!(resolved("/dns4/no-such-name.invalid/tcp/7").await.is_empty());
    }
}
