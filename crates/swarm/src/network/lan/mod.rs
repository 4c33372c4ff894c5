//! Machines of the same swarm on the local network, by multicast DNS ([RFC 6762](https://www.rfc-editor.org/rfc/rfc6762)),
//! so that they find each other when their addresses have changed.
//!
//! Each machine is an instance of the service `_bouquet._udp.local`, under a subtype that is a hash of the swarm's key:
//! others of the same swarm ask for that, and swarms do not mix. An answer is a hint and no more: whoever is at an address
//! still has to have the key of the swarm and that of the machine.
//!
//! It is spoken over IPv4, on the interfaces that are listened on and on no other, never on loopback; by a client, which
//! listens nowhere and has only questions, on those over which it reaches the addresses of its invite. That is why it is
//! not libp2p's, which speaks on every interface there is, nor a crate that opens a socket on each before it is told
//! which.

mod packet;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use self::packet::{Names, Packet};
use self::table::Table;
use super::listen;

/// Where multicast DNS is spoken.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// How long after a question the next one comes: at first, and at most. Each is twice as long as the one before.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const LAST_INTERVAL: Duration = Duration::from_secs(60);

/// How long an answer waits for others that would say the same (RFC 6762, section 6), and how long the next may follow.
const ANSWER_AFTER: Duration = Duration::from_millis(20);
const ANSWER_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long an answer holds: two questions may be lost.
const TTL: Duration = Duration::from_secs(150);

/// Interfaces that are looked on, of a machine that only looks.
const MAX_REACHED: usize = 8;

/// Bytes of a message.
const MAX_PACKET: usize = 9000;

/// The neighbourhood.
pub(super) struct Lan {
    names: Names,
    spoken: bool,
    /// Nothing is listened on, and those who are there are found all the same.
    only_looks: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: Table,
    /// Those that others are reached over, of a machine that only looks.
    reached: BTreeSet<Ipv4Addr>,
    interfaces: BTreeMap<Ipv4Addr, Interface>,
}

/// One that is spoken on. Dropping it ends that.
struct Interface {
    /// What is listened on there.
    addresses: Vec<Multiaddr>,
    /// Asks now.
    ask: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a machine and its swarm are called.
fn names(peer: PeerId, key: &[u8; 32]) -> Names {
    let digest = Sha256::new().chain_update(b"bouquet swarm, as its neighbours know it\n").chain_update(key).finalize();
    let subtype = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Names { subtype, peer }
}

/// [`super::heard_nearby`].
pub(super) fn heard(bytes: &[u8], key: &[u8; 32], me: PeerId) -> Option<(PeerId, Vec<Multiaddr>)> {
    match packet::read(bytes, &names(me, key))? {
        Packet::Answer { peer, addresses, .. } => Some((peer, addresses)),
        Packet::Question => None,
    }
}

/// [`super::said_nearby`].
pub(super) fn said(key: &[u8; 32], me: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    packet::answer(&names(me, key), addresses, TTL)
}

impl Lan {
    /// A neighbourhood in which nothing is spoken yet, and never if it is not `spoken`.
    pub(super) fn new(peer: PeerId, key: &[u8; 32], spoken: bool, only_looks: bool) -> Arc<Lan> {
        Arc::new(Lan { names: names(peer, key), spoken, only_looks, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is listened on these addresses and no others; on the network's thread.
    pub(super) fn listens(self: &Arc<Self>, all: &[Multiaddr]) {
        if self.spoken {
            self.speak_on(interfaces(all));
        }
    }

    /// It reaches for others at these addresses, whoever is there now; on the network's thread.
    pub(super) fn reaches(self: &Arc<Self>, addresses: &[Multiaddr]) {
        if !self.spoken || !self.only_looks {
            return;
        }
        let reached = {
            let reached = &mut self.state().reached;
            let before = reached.len();
            reached.extend(addresses.iter().filter_map(way).take(MAX_REACHED - before));
            (reached.len() > before).then(|| reached.clone())
        };
        if let Some(reached) = reached {
            self.speak_on(reached.into_iter().map(|interface| (interface, Vec::new())).collect());
        }
    }

    fn speak_on(self: &Arc<Self>, interfaces: BTreeMap<Ipv4Addr, Vec<Multiaddr>>) {
        let mut state = self.state();
        state.interfaces.retain(|interface, _| interfaces.contains_key(interface));
        for (interface, addresses) in interfaces {
            match state.interfaces.get_mut(&interface) {
                Some(known) => known.addresses = addresses,
                None => {
                    // Without a socket (another program may hold the port alone) nobody is found, and all else works.
                    let Ok(socket) = socket(interface) else { continue };
                    let ask = Arc::new(Notify::new());
                    let task = tokio::spawn(self.clone().speak(interface, socket, ask.clone()));
                    state.interfaces.insert(interface, Interface { addresses, ask, task });
                }
            }
        }
    }

    /// Asks who is there.
    pub(super) fn ask(&self) {
        self.state().interfaces.values().for_each(|interface| interface.ask.notify_one());
    }

    /// Where a machine says that it is.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.state().table.addresses(peer, Instant::now())
    }

    /// All machines that have been heard of; `None` where nothing is spoken.
    pub(super) fn all(&self) -> Option<Vec<PeerId>> {
        let state = self.state();
        (!state.interfaces.is_empty()).then(|| state.table.all(Instant::now()))
    }

    /// Tells the others that this machine leaves.
    pub(super) async fn leave(&self) {
        let interfaces = std::mem::take(&mut self.state().interfaces);
        for (interface, said) in interfaces {
            said.task.abort();
            if said.addresses.is_empty() {
                continue;
            }
            if let Ok(socket) = socket(interface) {
                let _ =
                    socket.send_to(&packet::answer(&self.names, &said.addresses, Duration::ZERO), (GROUP, PORT)).await;
            }
        }
    }

    /// Asks and answers on one interface. Errors of sending are those of a network that comes and goes.
    async fn speak(self: Arc<Self>, interface: Ipv4Addr, socket: UdpSocket, asked: Arc<Notify>) {
        let question = packet::question(&self.names);
        let mut buffer = vec![0; MAX_PACKET];
        let mut interval = FIRST_INTERVAL;
        let mut ask_at = Instant::now();
        let mut answered = None;
        // The first answer is nobody's question: it says that this machine is there.
        let mut answer_at = Some(Instant::now());
        let at = |time: Option<Instant>| async move {
            match time {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        loop {
            tokio::select! {
                biased;
                () = sleep_until(ask_at) => {
                    let _ = socket.send_to(&question, (GROUP, PORT)).await;
                    ask_at = Instant::now() + interval;
                    interval = LAST_INTERVAL.min(2 * interval);
                }
                () = asked.notified() => {
                    ask_at = ask_at.min(Instant::now() + FIRST_INTERVAL);
                    interval = FIRST_INTERVAL;
                }
                () = at(answer_at) => {
                    let addresses = self.state().interfaces.get(&interface).map(|known| known.addresses.clone());
                    // Who only looks is not there to be found.
                    if let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) {
                        let answer = packet::answer(&self.names, &addresses, TTL);
                        let _ = socket.send_to(&answer, (GROUP, PORT)).await;
                    }
                    (answered, answer_at) = (Some(Instant::now()), None);
                }
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, _)) => match packet::read(&buffer[..length], &self.names) {
                        Some(Packet::Question) => {
                            let soon = Instant::now() + ANSWER_AFTER;
                            let next = answered.map_or(soon, |last| soon.max(last + ANSWER_AGAIN_AFTER));
                            answer_at = answer_at.or(Some(next));
                        }
                        Some(Packet::Answer { peer, addresses, ttl }) => {
                            self.state().table.learn(peer, addresses, ttl, Instant::now());
                        }
                        None => {}
                    },
                    // A network that is down says so at once, again and again.
                    Err(_) => tokio::time::sleep(FIRST_INTERVAL).await,
                },
            }
        }
    }
}

/// The interfaces that are spoken on when these addresses are listened on, each with its own addresses.
fn interfaces(listened: &[Multiaddr]) -> BTreeMap<Ipv4Addr, Vec<Multiaddr>> {
    let mut interfaces: BTreeMap<Ipv4Addr, Vec<Multiaddr>> = BTreeMap::new();
    for address in listened {
        if let Some(IpAddr::V4(ip)) = listen::socket_address(address).map(|socket| socket.ip())
            && !ip.is_loopback()
            && !ip.is_unspecified()
        {
            interfaces.entry(ip).or_default().push(address.clone());
        }
    }
    interfaces
}

/// The interface over which an address is reached, if that is one to speak on. Asking sends nothing.
fn way(address: &Multiaddr) -> Option<Ipv4Addr> {
    let address = listen::socket_address(address).filter(|address| address.is_ipv4() && !address.ip().is_loopback())?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(address).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

/// A socket that speaks multicast DNS on one interface, beside other programs that do.
fn socket(interface: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.set_multicast_if_v4(&interface)?;
    socket.join_multicast_v4(&GROUP, &interface)?;
    // Nothing of groups that other programs joined on other interfaces.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_multicast_all_v4(false)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(255)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_speaks_only_where_it_listens_and_never_on_loopback() {
        let spoken = |text: &str| {
            let all: Vec<Multiaddr> = text.split_whitespace().map(|address| address.parse().unwrap()).collect();
            interfaces(&all).into_keys().collect::<Vec<_>>()
        };
        assert!(spoken("/ip4/127.0.0.1/tcp/1 /ip4/127.8.0.1/tcp/1 /ip6/::1/tcp/1").is_empty());
        assert!(spoken("/ip4/0.0.0.0/tcp/1 /dns4/localhost/tcp/1").is_empty());
        let one = Ipv4Addr::new(192, 168, 1, 4);
        assert_eq!(spoken("/ip4/127.0.0.1/tcp/1 /ip4/192.168.1.4/tcp/1 /ip4/192.168.1.4/tcp/2"), [one]);
    }

    #[tokio::test]
    async fn with_loopback_alone_no_socket_is_opened() {
        let lan = Lan::new(PeerId::random(), &[1; 32], true, false);
        lan.listens(&["/ip4/127.0.0.1/tcp/1".parse().unwrap(), "/ip6/::1/tcp/1".parse().unwrap()]);
        assert!(lan.state().interfaces.is_empty());
        let silent = Lan::new(PeerId::random(), &[1; 32], false, false);
        silent.listens(&["/ip4/192.168.1.4/tcp/1".parse().unwrap()]);
        assert!(silent.state().interfaces.is_empty());
    }

    /// Real messages, which the filter is taken away for, so that they go over loopback.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn machines_of_a_swarm_find_each_other_and_are_told_when_one_leaves() {
        let on = |port: u16| {
            let address = format!("/ip4/192.168.1.4/tcp/{port}").parse().unwrap();
            BTreeMap::from([(Ipv4Addr::LOCALHOST, vec![address])])
        };
        let machine = |key: u8| Lan::new(PeerId::random(), &[key; 32], true, false);
        let (one, other, stranger) = (machine(1), machine(1), machine(2));
        stranger.speak_on(on(3));
        one.speak_on(on(1));
        other.speak_on(on(2));
        let until = async |done: &dyn Fn() -> bool| {
            let patience = Instant::now() + Duration::from_secs(10);
            while !done() {
                assert!(Instant::now() < patience, "nothing is heard");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (first, second) = (on(1)[&Ipv4Addr::LOCALHOST].clone(), on(2)[&Ipv4Addr::LOCALHOST].clone());
        until(&|| one.all().unwrap() == [other.names.peer]).await;
        until(&|| other.all().unwrap() == [one.names.peer]).await;
        assert_eq!(other.addresses(&one.names.peer), first);
        assert_eq!(one.addresses(&other.names.peer), second);
        other.leave().await;
        until(&|| one.all().unwrap().is_empty()).await;
        assert!(stranger.all().unwrap().is_empty());
        // One that only looks finds the others, and nobody finds it.
        let client = Lan::new(PeerId::random(), &[1; 32], true, true);
        client.speak_on(BTreeMap::from([(Ipv4Addr::LOCALHOST, Vec::new())]));
        until(&|| client.all().unwrap() == [one.names.peer]).await;
        assert!(one.all().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_only_looks_does_so_where_it_reaches_for_others_and_never_for_loopback() {
        let lan = Lan::new(PeerId::random(), &[1; 32], true, true);
        let loopback = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip4/127.3.0.1/tcp/1"];
        lan.reaches(&loopback.map(|address| address.parse().unwrap()));
        assert!(lan.state().interfaces.is_empty());
        assert_eq!(lan.all(), None);
        // This machine by an address of its own, where it has one: that is looked on and nothing else.
        let to: Multiaddr = "/ip4/203.0.113.9/tcp/1".parse().unwrap();
        let expected: Vec<Ipv4Addr> = way(&to).into_iter().collect();
        lan.reaches(std::slice::from_ref(&to));
        assert!(lan.state().interfaces.keys().all(|interface| expected.contains(interface)));
        // A server that listens on loopback alone reaches for others without a word on their network.
        let server = Lan::new(PeerId::random(), &[1; 32], true, false);
        server.listens(&["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        server.reaches(&[to]);
        assert_eq!(server.all(), None);
    }

    #[test]
    fn swarms_have_other_names() {
        let names = |key| Lan::new(PeerId::random(), &key, true, false).names.subtype.clone();
        assert_eq!(names([1; 32]), names([1; 32]));
        assert_ne!(names([1; 32]), names([2; 32]));
    }
}
