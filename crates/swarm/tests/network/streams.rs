//! Streams: opened, accepted, ended, broken, none lost.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bouquet_swarm::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{KEY, assert_carries, echo, machine, machine_at, pair, within};

#[test]
fn a_megabyte_goes_both_ways_at_once() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let (opened, accepted) = pair(&one, &other).await;
        assert_eq!((opened.peer, accepted.peer), (other.peer_id(), one.peer_id()));
        let bytes = |seed: usize| (0..1_000_000).map(|i| ((i * 31 + seed) % 251) as u8).collect::<Vec<u8>>();
        let ends = [(opened, bytes(1), bytes(2)), (accepted, bytes(2), bytes(1))];
        let tasks = ends.map(|(mut end, sent, expected)| {
            tokio::spawn(async move {
                let write = async {
                    end.writer.write_all(&sent).await.unwrap();
                    end.writer.shutdown().await.unwrap();
                };
                let mut received = Vec::new();
                let (_, read) = tokio::join!(write, end.reader.read_to_end(&mut received));
                read.unwrap();
                assert!(received == expected);
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn streams_that_are_opened_at_once_all_arrive() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let opening = (0..32_u8).map(|number| {
            let (one, other) = (one.clone(), other.clone());
            tokio::spawn(async move {
                let mut stream = one.open(other.peer_id(), other.addresses()).await.unwrap();
                stream.writer.write_all(&[number]).await.unwrap();
                stream.writer.flush().await.unwrap();
                stream
            })
        });
        let opening: Vec<_> = opening.collect();
        let mut numbers = BTreeSet::new();
        for _ in 0..32 {
            let mut stream = other.accept().await.unwrap();
            numbers.insert(stream.reader.read_u8().await.unwrap());
        }
        assert_eq!(numbers, (0..32).collect());
        for task in opening {
            task.await.unwrap();
        }
    });
}

#[test]
fn streams_that_nobody_accepts_are_refused_and_not_lost() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let mut opened = Vec::new();
        let refused = loop {
            match one.open(other.peer_id(), other.addresses()).await {
                Ok(stream) => opened.push(stream),
                Err(error) => break error.to_string(),
            }
        };
        assert!(refused.contains("takes no more streams"), "{refused}");
        assert_eq!(opened.len(), 64);
        for _ in 0..opened.len() {
            other.accept().await.unwrap();
        }
        one.open(other.peer_id(), other.addresses()).await.unwrap();
    });
}

#[test]
fn what_was_written_arrives_though_the_stream_is_dropped_and_its_end_is_no_error() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let (mut opened, mut accepted) = pair(&one, &other).await;
        opened.writer.write_all(b"farewell").await.unwrap();
        opened.writer.flush().await.unwrap();
        drop(opened);
        let mut text = Vec::new();
        accepted.reader.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"farewell");
    });
}

#[test]
fn a_machine_that_vanishes_breaks_its_streams_at_once() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let (mut opened, accepted) = pair(&one, &other).await;
        let before = Instant::now();
        let reading = tokio::spawn(async move { opened.reader.read_u8().await.unwrap_err().kind() });
        // The network goes, the stream is still held.
        tokio::task::spawn_blocking(move || drop(other)).await.unwrap();
        assert_eq!(reading.await.unwrap(), ErrorKind::ConnectionReset);
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        drop(accepted);
    });
}

#[test]
fn a_machine_that_leaves_accepts_no_more_and_opens_no_more() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        one.leave();
        assert!(one.accept().await.is_none());
        let error = one.open(other.peer_id(), other.addresses()).await.err().unwrap().to_string();
        assert!(error.contains("left"), "{error}");
    });
}

#[test]
fn dropping_takes_no_time_even_with_open_streams() {
    within(async {
        let (one, other) = (machine(KEY), machine(KEY));
        let ends = pair(&one, &other).await;
        let before = Instant::now();
        tokio::task::spawn_blocking(move || drop((one, other))).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        drop(ends);
    });
}

#[test]
fn both_ways_over_one_connection() {
    within(async {
        // One that does not listen can be reached over the connection that it opened.
        let (client, server) = (machine_at(KEY, ""), machine(KEY));
        assert!(client.addresses().is_empty());
        let (_there, _) = pair(&client, &server).await;
        echo(&client);
        let mut back = server.open(client.peer_id(), Vec::new()).await.unwrap();
        assert_carries(&mut back, b"and back").await;
    });
}
