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
