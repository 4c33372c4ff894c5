//! Who comes in, who does not, and what those are told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bouquet_swarm::network::Settings;
use bouquet_swarm::{Network, SwarmError, Transport};
use libp2p_identity::Keypair;

use super::{KEY, assert_carries, echo, machine, machine_at, multiaddr, socket, within};

/// Why a machine cannot be reached, and that this took no longer than it may.
async fn unreachable(from: &Network, peer: libp2p_identity::PeerId, addresses: Vec<multiaddr::Multiaddr>) -> String {
    let before = Instant::now();
    let error = from.open(peer, addresses).await.err().unwrap();
    assert!(matches!(error, SwarmError::Unreachable { .. }), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
    error.to_string()
}

#[test]
fn a_wrong_key_is_told_soon() {
    within(async {
        let (one, other) = (machine(KEY), machine([8; 32]));
        let before = Instant::now();
        let error = unreachable(&one, other.peer_id(), other.addresses()).await;
        assert!(error.contains("the key of the invite may be of another swarm"), "{error}");
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    });
}

#[test]
fn another_machine_at_an_address_is_not_taken_for_the_one() {
    within(async {
        let (one, other, stranger) = (machine(KEY), machine(KEY), machine(KEY));
        let error = unreachable(&one, other.peer_id(), stranger.addresses()).await;
        assert!(error.contains("another machine is at its address"), "{error}");
        // Its own address among others is found.
        echo(&other);
        let addresses = [stranger.addresses(), other.addresses()].concat();
        let mut stream = one.open(other.peer_id(), addresses).await.unwrap();
        assert_carries(&mut stream, b"it is you").await;
    });
}

#[test]
fn nobody_there_is_told_at_once() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let (peer, addresses) = (other.peer_id(), other.addresses());
        tokio::task::spawn_blocking(move || drop(other)).await.unwrap();
        let before = Instant::now();
        let error = unreachable(&one, peer, addresses.clone()).await;
        assert!(before.elapsed() < Duration::from_secs(2), "{error}: {:?}", before.elapsed());
        assert!(error.ends_with(&format!("({})", addresses[0])), "{error}");
        assert!(unreachable(&one, peer, Vec::new()).await.contains("no address of it is known"));
        assert!(unreachable(&one, one.peer_id(), one.addresses()).await.contains("it is this machine"));
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = unreachable(&one, peer, vec![multiaddr(silent.local_addr().unwrap())]).await;
        assert!(!error.is_empty());
    });
}

#[test]
fn a_port_in_use_is_told_in_a_sentence() {
    let one = machine(KEY);
    let listen = one.addresses();
    let settings = || Settings { keypair: Keypair::generate_ed25519(), key: KEY, listen: listen.clone(), mdns: false };
    let error = Network::start(settings()).err().unwrap();
    assert!(matches!(error, SwarmError::Network(_)), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot listen on {}: another program uses the port", listen[0]));
    drop(one);
    Network::start(settings()).unwrap();
}

#[test]
fn all_interfaces_are_told_as_what_they_are() {
    let one = machine_at(KEY, "/ip4/0.0.0.0/tcp/0");
    let addresses = one.addresses();
    assert!(!addresses.is_empty());
    for address in &addresses {
        let text = address.to_string();
        assert!(!text.contains("0.0.0.0") && !text.ends_with("/tcp/0"), "{text}");
    }
    let loopback = |address: &&multiaddr::Multiaddr| address.to_string().contains("/127.");
    let all = addresses.iter().filter(loopback).count();
    assert!(all == 0 || all == addresses.len(), "{addresses:?}");
}

#[test]
fn garbage_at_the_door_harms_nobody() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        echo(&other);
        let mut open = Vec::new();
        for length in [0, 1, 23, 24, 39, 40, 41, 4096, 100_000] {
            let mut raw = TcpStream::connect(socket(&other)).unwrap();
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 % 256) as u8).collect();
            // It may be sent away while it speaks.
            let _ = raw.write_all(&bytes);
            open.push(raw);
        }
        let mut stream = one.open(other.peer_id(), other.addresses()).await.unwrap();
        assert_carries(&mut stream, b"undisturbed").await;
    });
}

#[test]
fn those_who_stand_in_the_door_lock_nobody_out() {
    within(async {
        let other = machine(KEY);
        echo(&other);
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(TcpStream::connect(socket(&other)).unwrap());
        }
        for text in [b"one", b"two"] {
            let one = machine_at(KEY, "");
            let mut stream = one.open(other.peer_id(), other.addresses()).await.unwrap();
            assert_carries(&mut stream, text).await;
            silent.push(TcpStream::connect(socket(&other)).unwrap());
        }
        // Who came first was sent away, with nothing but a nonce.
        silent[0].set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut heard = Vec::new();
        silent[0].read_to_end(&mut heard).unwrap();
        assert_eq!(heard.len(), 24);
    });
}
