//! Prompts over several servers, by simulated time and the real schedule.

use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::{Limits, Pass, Returned, SessionShape};
use bouquet_swarm::client::ring::Ring;
use bouquet_swarm::simulated::Road;
use tokio::time::Instant;

use crate::world::{WIDTH, World, id};

/// How long a prompt of so many tokens takes through 12 blocks that are cut so.
async fn prompt(tokens: usize, cuts: usize) -> Duration {
    let mut world = World::new(Road { delay: Duration::from_micros(100), bytes_per_second: 0 });
    for cut in 0..cuts {
        world.serve(12 * cut / cuts..12 * (cut + 1) / cuts);
    }
    let client = world.client();
    let shape = SessionShape { sequences: 1, max_tokens: tokens, max_rewind: 0 };
    let mut ring = Ring::open(client, id(1), 0..12, WIDTH, shape, &Pass::default()).await.unwrap();
    let hidden = Random::new(1).hidden(&[tokens], WIDTH);
    let start = Instant::now();
    ring.step(&hidden, Returned::Last, &Limits::default()).await.unwrap();
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn servers_work_on_parts_of_a_prompt_side_by_side() {
    for (tokens, cuts, times) in [(1024, 2, 1.75), (1024, 3, 2.35), (512, 2, 1.58), (512, 3, 1.95)] {
        let (one, several) = (prompt(tokens, 1).await, prompt(tokens, cuts).await);
        let found = one.as_secs_f64() / several.as_secs_f64();
        assert!(found > times, "{tokens} tokens over {cuts} servers: {found:.2} times as fast");
    }
}
