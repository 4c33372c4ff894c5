//! Links that are slow, break, freeze and heal, by the relay.

use std::time::{Duration, Instant};

use bouquet_swarm::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::relay::{Link, Relay};
use super::{KEY, assert_carries, echo, machine, machine_at, multiaddr, socket, within};

#[test]
fn the_relay_is_as_slow_as_it_is_told() {
    within(async {
        let server = machine(KEY);
        echo(&server);
        let relay = Relay::start(socket(&server), Link { delay: Duration::from_millis(20), ..Link::default() });
        let client = machine_at(KEY, "");
        let address = vec![multiaddr(relay.address())];
        let mut stream = client.open(server.peer_id(), address.clone()).await.unwrap();
        let before = Instant::now();
        assert_carries(&mut stream, b"there and back").await;
        let took = before.elapsed();
        assert!(took >= Duration::from_millis(40), "{took:?}");
        // A stream over a connection that is there takes one round trip, when the machine has nothing else to do.
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let before = Instant::now();
            drop(client.open(server.peer_id(), address.clone()).await.unwrap());
            quickest = quickest.min(before.elapsed());
        }
        assert!((40..80).contains(&quickest.as_millis()), "{quickest:?}");
        relay.set(Link { bytes_per_second: Some(1_000_000), ..Link::default() });
        let before = Instant::now();
        assert_carries(&mut stream, &[1; 100_000]).await;
        assert!(before.elapsed() >= Duration::from_millis(100), "{:?}", before.elapsed());
        relay.set(Link { lost_per_mille: 1000, ..Link::default() });
        let before = Instant::now();
        assert_carries(&mut stream, b"late").await;
        assert!(before.elapsed() >= Duration::from_millis(400), "{:?}", before.elapsed());
    });
}

#[test]
fn a_cut_breaks_streams_at_both_ends_and_another_connection_follows() {
    within(async {
        let server = machine(KEY);
        let relay = Relay::start(socket(&server), Link::default());
        let client = machine_at(KEY, "");
        let address = vec![multiaddr(relay.address())];
        let (opened, accepted) = tokio::join!(client.open(server.peer_id(), address.clone()), server.accept());
        let (mut opened, mut accepted) = (opened.unwrap(), accepted.unwrap());
        relay.cut();
        assert!(opened.reader.read_u8().await.is_err());
        assert!(accepted.reader.read_u8().await.is_err());
        assert!(client.open(server.peer_id(), address.clone()).await.is_err());
        relay.heal();
        echo(&server);
        let mut stream = client.open(server.peer_id(), address).await.unwrap();
        assert_carries(&mut stream, b"again").await;
    });
}

#[test]
fn what_is_frozen_goes_on() {
    within(async {
        let server = machine(KEY);
        echo(&server);
        let relay = Relay::start(socket(&server), Link::default());
        let client = machine_at(KEY, "");
        let mut stream = client.open(server.peer_id(), vec![multiaddr(relay.address())]).await.unwrap();
        relay.freeze();
        stream.writer.write_all(b"!").await.unwrap();
        stream.writer.flush().await.unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(200), stream.reader.read_u8()).await;
        assert!(silence.is_err());
        relay.heal();
        assert_eq!(stream.reader.read_u8().await.unwrap(), b'!');
    });
}

#[test]
fn a_connection_that_is_dead_without_a_word_is_not_waited_for() {
    within(async {
        let server = machine(KEY);
        echo(&server);
        let relay = Relay::start(socket(&server), Link::default());
        let client = machine_at(KEY, "");
        let _stream = client.open(server.peer_id(), vec![multiaddr(relay.address())]).await.unwrap();
        relay.freeze();
        // Its address has changed, as it were: another one leads to it.
        let mut stream = client.open(server.peer_id(), server.addresses()).await.unwrap();
        assert_carries(&mut stream, b"over another").await;
        let before = Instant::now();
        drop(client.open(server.peer_id(), Vec::new()).await.unwrap());
        assert!(before.elapsed() < Duration::from_secs(1), "the newest is used: {:?}", before.elapsed());
        let late = machine_at(KEY, "");
        let before = Instant::now();
        assert!(late.open(server.peer_id(), vec![multiaddr(relay.address())]).await.is_err());
        assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
    });
}
