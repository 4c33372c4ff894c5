//! Whole sequences forward and backward through servers that come and go: the gradients of one machine.

use std::sync::Arc;
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::fake::FakeSpan;
use bouquet_span::{Adapter, Dropout, Keep, LinearId, Pass, Site, Span};
use bouquet_swarm::simulated::Road;

use crate::contract::{driven, routed};
use crate::world::{WIDTH, World};

#[test]
fn gradients_are_those_of_one_machine_whoever_dies_between_forward_and_backward() {
    let runtime = driven();
    let guard = runtime.enter();
    let mut world = World::new(Road::default());
    world.threads = true;
    // Each block has two servers, with other borders.
    let servers: Vec<_> = [0..3, 3..6, 0..2, 2..5, 5..6].map(|cut| world.serve(cut)).into();
    let route = routed(&mut world, &runtime, 0..6);
    drop(guard);
    let alone = FakeSpan::new(0..6, WIDTH);
    let mut random = Random::new(11);
    let pairs = (0..6).map(|block| (LinearId::new(block, Site::O), random.low_rank(WIDTH, WIDTH, 2))).collect();
    let pass = Pass {
        adapter: Some(Arc::new(Adapter { pairs, dropout: 0.2 })),
        prompts: Some(Arc::new(random.prompts(1..5, 2, WIDTH))),
        dropout: Some(Dropout { seed: 1, step: 2, view: 0, first_sequence: 40 }),
        keep: Keep::BlockInputs,
        leaf: 2,
        ..Pass::default()
    };
    // More tokens than one part takes.
    let lengths = [60, 990, 1, 0, 200, 40, 3];
    for killed in [servers[0], servers[1]] {
        let hidden = random.hidden(&lengths, WIDTH);
        let grad = random.hidden(&lengths, WIDTH);
        let (expected, kept) = alone.forward(hidden.clone(), &pass).unwrap();
        let (output, saved) = route.forward(hidden, &pass).unwrap();
        assert_eq!(output, expected);
        let guard = runtime.enter();
        world.kill(killed);
        drop(guard);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(route.backward(saved, grad.clone(), &pass).unwrap(), alone.backward(kept, grad, &pass).unwrap());
    }
}

#[test]
fn who_takes_for_ever_is_left_for_another() {
    let runtime = driven();
    let guard = runtime.enter();
    let mut world = World::new(Road::default());
    world.patience.progress = Duration::from_millis(100);
    world.serve_slowly(0..3, Duration::from_secs(3600));
    let route = routed(&mut world, &runtime, 0..3);
    world.serve(0..2);
    world.serve(2..3);
    drop(guard);
    let mut random = Random::new(5);
    let hidden = random.hidden(&[2, 1], WIDTH);
    let alone = FakeSpan::new(0..3, WIDTH);
    let (expected, _) = alone.forward(hidden.clone(), &Pass::default()).unwrap();
    assert_eq!(route.forward(hidden, &Pass::default()).unwrap().0, expected);
}

#[test]
fn who_is_frozen_while_it_answers_is_left_for_another() {
    let runtime = driven();
    let guard = runtime.enter();
    // The rows take two seconds on the way back; the machine is frozen after one of them.
    let mut world = World::new(Road { delay: Duration::ZERO, bytes_per_second: 400_000 });
    world.threads = true;
    world.patience.open = Duration::from_secs(1);
    let frozen = world.serve(0..3);
    let route = routed(&mut world, &runtime, 0..3);
    drop(guard);
    let mut random = Random::new(5);
    let hidden = random.hidden(&[50_000], WIDTH);
    let alone = FakeSpan::new(0..3, WIDTH);
    let (expected, _) = alone.forward(hidden.clone(), &Pass::default()).unwrap();
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| route.forward(hidden, &Pass::default()).unwrap().0);
        // Two seconds there, and half of those back.
        std::thread::sleep(Duration::from_millis(3000));
        assert!(!running.is_finished());
        let _guard = runtime.enter();
        world.simulation.freeze(frozen);
        world.serve(0..3);
        assert_eq!(running.join().unwrap(), expected);
    });
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn an_adapter_may_take_longer_than_anybody_may_be_silent() {
    let runtime = driven();
    let guard = runtime.enter();
    let mut world = World::new(Road { delay: Duration::ZERO, bytes_per_second: 400_000 });
    world.threads = true;
    world.patience.open = Duration::from_secs(1);
    world.serve(0..3);
    let route = routed(&mut world, &runtime, 0..3);
    drop(guard);
    let mut random = Random::new(5);
    // A megabyte and a half.
    let pairs = (0..3).map(|block| (LinearId::new(block, Site::O), random.low_rank(WIDTH, WIDTH, 16_000))).collect();
    let pass = Pass { adapter: Some(Arc::new(Adapter { pairs, dropout: 0.0 })), ..Pass::default() };
    let hidden = random.hidden(&[2, 1], WIDTH);
    let alone = FakeSpan::new(0..3, WIDTH);
    let (expected, _) = alone.forward(hidden.clone(), &pass).unwrap();
    assert_eq!(route.forward(hidden, &pass).unwrap().0, expected);
}

#[test]
fn an_adapter_that_servers_have_is_not_sent() {
    let runtime = driven();
    let guard = runtime.enter();
    let mut world = World::new(Road::default());
    world.threads = true;
    let servers = [0..2, 2..3].map(|cut| world.serve(cut));
    let route = routed(&mut world, &runtime, 0..3);
    drop(guard);
    let mut random = Random::new(12);
    // More than a server takes from a client: whoever sends it is refused.
    let pairs = [(LinearId::new(1, Site::O), random.low_rank(WIDTH, WIDTH, 600_000))].into_iter().collect();
    let adapter = Arc::new(Adapter { pairs, dropout: 0.0 });
    let pass = Pass { adapter: Some(adapter.clone()), ..Pass::default() };
    let hidden = random.hidden(&[3, 1], WIDTH);
    assert!(route.forward(hidden.clone(), &pass).is_err());
    servers.iter().for_each(|server| world.running[server].0.preload(adapter.clone()));
    // A part of a server's blocks has a part of the adapter.
    for range in [0..3, 0..2, 1..2] {
        let (output, _) = route.slice(range.clone()).forward(hidden.clone(), &pass).unwrap();
        assert_eq!(output, FakeSpan::new(range, WIDTH).forward(hidden.clone(), &pass).unwrap().0);
    }
}
