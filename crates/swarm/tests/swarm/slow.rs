//! A server that is there, says so, and does not get on.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::{Limits, Pass, Returned, SpanError};
use bouquet_swarm::client::guide::{Guide, Need, Stop};
use bouquet_swarm::client::{Client, passes};
use bouquet_swarm::simulated::Road;
use bouquet_swarm::{Hop, Result};
use libp2p_identity::PeerId;
use tokio::time::Instant;

use crate::world::{Book, WIDTH, World, alone, ring, stride, strides};

/// For each token and block.
const SLOW: Duration = Duration::from_secs(12);

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_left_for_another() {
    let mut world = World::new(Road::default());
    world.serve(0..3);
    let slow = world.serve_slowly(3..6, SLOW);
    let client = world.client();
    let mut ring = ring(&client, 1, 0..6).await;
    assert_eq!(ring.servers()[1].0, slow);
    let quick = world.serve(3..6);
    let strides = strides(3, 2, 4);
    let (mut positions, start) = (vec![0; 2], Instant::now());
    for (one, expected) in strides.iter().zip(&alone(0..6, &strides)) {
        assert_eq!(&stride(&mut ring, &mut positions, one).await.unwrap(), expected);
    }
    assert_eq!(ring.servers()[1].0, quick);
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_and_alone_is_waited_for() {
    let mut world = World::new(Road::default());
    world.serve(0..3);
    world.serve_slowly(3..6, SLOW);
    let client = world.client();
    let mut ring = ring(&client, 1, 0..6).await;
    let strides = strides(3, 2, 4);
    let (mut positions, start) = (vec![0; 2], Instant::now());
    for (one, expected) in strides.iter().zip(&alone(0..6, &strides)) {
        assert_eq!(&stride(&mut ring, &mut positions, one).await.unwrap(), expected);
    }
    assert_eq!(ring.mended(), 2, "nobody was given up");
    // 36 seconds for each token, and nothing besides.
    let tokens: usize = strides.iter().map(|one| one.hidden.tokens()).sum();
    assert!(start.elapsed() < SLOW * 3 * tokens as u32 + Duration::from_secs(1), "{:?}", start.elapsed());
}

/// What a client hears of who holds it up.
struct Noting {
    book: Arc<Book>,
    waited: Mutex<Vec<(PeerId, Range<usize>, Duration)>>,
}

impl Guide for Noting {
    fn route(&self, blocks: Range<usize>, kept: &[Hop], without: &BTreeSet<PeerId>, need: Need) -> Result<Vec<Stop>> {
        self.book.route(blocks, kept, without, need)
    }

    fn waits(&self, peer: PeerId, blocks: &Range<usize>, waited: Duration) {
        self.waited.lock().unwrap().push((peer, blocks.clone(), waited));
    }

    fn failed(&self, peer: PeerId) {
        self.book.failed(peer);
    }

    fn worked(&self, peer: PeerId) {
        self.book.worked(peer);
    }

    fn asked(&self, peer: PeerId, work: u64) -> u64 {
        self.book.asked(peer, work)
    }

    fn answered(&self, peer: PeerId, work: u64, took: Option<(Duration, u64)>) {
        self.book.answered(peer, work, took);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_and_alone_is_named_and_not_waited_for_for_ever() {
    let mut world = World::new(Road::default());
    // Sooner than a server itself gives up on its blocks.
    world.patience.progress = Duration::from_secs(3);
    world.serve(0..3);
    let slow = world.serve_slowly(3..6, Duration::from_secs(3600));
    let noting = Arc::new(Noting { book: world.book.clone(), waited: Mutex::default() });
    let Client { transport, fingerprint, wire, patience, .. } = &*world.client();
    let (transport, guide): (_, Arc<dyn Guide>) = (transport.clone(), noting.clone());
    let client = Arc::new(Client { transport, guide, fingerprint: *fingerprint, wire: *wire, patience: *patience });
    // Thirty times as long as anything may take, and what the rows may take.
    let longest = Duration::from_secs(90)..Duration::from_secs(100);
    let named = |error: SpanError, took: Duration| {
        let said = error.to_string();
        assert!(said.starts_with(&format!("{slow} has been at blocks 3:6 for 9")), "{said}");
        assert!(longest.contains(&took), "{took:?}");
        let waited = std::mem::take(&mut *noting.waited.lock().unwrap());
        assert!(waited.iter().all(|(peer, blocks, _)| (*peer, blocks) == (slow, &(3..6))), "{waited:?}");
        assert!(waited.len() > 60 && waited[0].2 < Duration::from_secs(8), "{waited:?}");
    };
    let hidden = Random::new(5).hidden(&[2, 1], WIDTH);
    let start = Instant::now();
    let error = passes::forward(&client, 0..6, hidden.clone(), &Pass::default(), false).await.err().unwrap();
    named(error, start.elapsed());
    let mut ring = ring(&client, 1, 0..6).await;
    let start = Instant::now();
    let error = ring.step(&hidden, Returned::Last, &Limits::default()).await.err().unwrap();
    named(error, start.elapsed());
}

/// Rows go astray between two servers that the client hears well. Returns for how long the text stood still.
async fn parted(spare: bool, heals: Option<Duration>) -> Duration {
    let mut world = World::new(Road { delay: Duration::from_millis(1), bytes_per_second: 0 });
    let servers = [world.serve(0..3), world.serve(3..6)];
    let client = world.client();
    let mut ring = ring(&client, 1, 0..6).await;
    if spare {
        world.serve(3..6);
    }
    let strides = strides(3, 200, 12);
    let mut positions = vec![0; 2];
    let mut pause = Duration::ZERO;
    for (number, (one, expected)) in strides.iter().zip(&alone(0..6, &strides)).enumerate() {
        if number == 6 {
            world.simulation.cut(servers[0], servers[1]);
            if let Some(after) = heals {
                let simulation = world.simulation.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    simulation.heal();
                });
            }
        }
        let start = Instant::now();
        assert_eq!(&stride(&mut ring, &mut positions, one).await.unwrap(), expected, "stride {number}");
        pause = pause.max(start.elapsed());
    }
    pause
}

#[tokio::test(start_paused = true)]
async fn servers_that_do_not_hear_each_other_are_parted_in_seconds() {
    // Two seconds of silence, and five in which nobody answers.
    let pause = parted(true, None).await;
    assert!(pause < Duration::from_secs(8), "{pause:?}");
    for heals in [1, 3, 15] {
        let pause = parted(false, Some(Duration::from_secs(heals))).await;
        assert!(pause < Duration::from_secs(heals + 12), "{heals}: {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_frozen_is_replaced_in_two_seconds() {
    for place in 0..3 {
        let mut world = World::new(Road { delay: Duration::from_millis(1), bytes_per_second: 0 });
        let servers = [world.serve(0..2), world.serve(2..4), world.serve(4..6)];
        let client = world.client();
        let mut ring = ring(&client, 1, 0..6).await;
        for blocks in [0..2, 2..4, 4..6] {
            world.serve(blocks);
        }
        let strides = strides(3, 200, 12);
        let (mut positions, mut pause) = (vec![0; 2], Duration::ZERO);
        for (number, (one, expected)) in strides.iter().zip(&alone(0..6, &strides)).enumerate() {
            if number == 6 {
                world.simulation.freeze(servers[place]);
            }
            let start = Instant::now();
            assert_eq!(&stride(&mut ring, &mut positions, one).await.unwrap(), expected, "stride {number}");
            pause = pause.max(start.elapsed());
        }
        assert!(pause < Duration::from_millis(2400), "server {place}: {pause:?}");
    }
}
