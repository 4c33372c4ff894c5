//! A route over servers keeps the contract of a span.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bouquet_span::contract::{self, Random, Subject};
use bouquet_span::{Adapter, LinearId, Site};
use bouquet_swarm::client::routed::RoutedSpan;
use bouquet_swarm::simulated::Road;
use bouquet_swarm::wire::message::SessionId;
use tokio::runtime::{Builder, Handle};

use crate::world::{WIDTH, World};

/// A runtime that somebody else drives, as in a program.
pub(crate) fn driven() -> Handle {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        sender.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    receiver.recv().unwrap()
}

pub(crate) fn routed(world: &mut World, runtime: &Handle, blocks: std::ops::Range<usize>) -> RoutedSpan {
    let next = AtomicU64::new(1);
    let new_id = move || {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        SessionId(id)
    };
    RoutedSpan::new(world.client(), runtime.clone(), blocks, WIDTH, Arc::new(new_id))
}

#[test]
fn a_route_keeps_the_contract() {
    let runtime = driven();
    let guard = runtime.enter();
    let mut world = World::new(Road { delay: Duration::ZERO, bytes_per_second: 0 });
    world.threads = true;
    for blocks in [4..6, 6..7] {
        world.serve(blocks);
    }
    let whole = routed(&mut world, &runtime, 4..7);
    drop(guard);
    let mut random = Random::new(1);
    let pairs = (4..7).map(|block| (LinearId::new(block, Site::O), random.low_rank(WIDTH, WIDTH, 2))).collect();
    let adapter = Adapter { pairs, dropout: 0.0 };
    let prompts = random.prompts(4..7, 2, WIDTH);
    let halves = [4..5, 5..7].map(|range| Arc::new(whole.slice(range)) as _).into();
    contract::check(&Subject::new("a route", Arc::new(whole), halves, adapter, prompts));
}
