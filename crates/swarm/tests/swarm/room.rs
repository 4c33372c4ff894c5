//! Caches: what is free, who gets it, and that all of it comes back.

use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::{Limits, Pass, Returned, SessionShape};
use bouquet_swarm::client::ring::Ring;
use bouquet_swarm::simulated::Road;
use bouquet_swarm::{Figures, Refusal, SwarmError};
use tokio::time::Instant;

use crate::world::{CACHE_BYTES, WIDTH, World, alone, id, ring, stride, strides};

/// Bytes of a token through so many blocks: keys and values, and a row that is passed on.
fn token_bytes(blocks: u64) -> u64 {
    blocks * CACHE_BYTES + 4 * WIDTH as u64
}

fn free(world: &World, peer: libp2p_identity::PeerId) -> u64 {
    world.running[&peer].0.figures(Figures::default()).free_cache_tokens
}

async fn open(
    client: &std::sync::Arc<bouquet_swarm::client::Client>,
    number: u8,
    max_tokens: usize,
) -> Result<Ring, SwarmError> {
    let shape = SessionShape { sequences: 2, max_tokens, max_rewind: 8 };
    Ring::open(client.clone(), id(number), 0..4, WIDTH, shape, &Pass::default()).await
}

/// As long as a word takes from machine to machine.
async fn soon() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// The behaviour of `test_server_stats` of Petals.
#[tokio::test(start_paused = true)]
async fn free_cache_drops_by_exactly_what_is_reserved_and_comes_back() {
    let mut world = World::new(Road::default());
    world.settings.cache_bytes = 5000 * token_bytes(4) + 3;
    let server = world.serve(0..4);
    let client = world.client();
    assert_eq!(free(&world, server), 5000);
    let first = open(&client, 1, 600).await.unwrap();
    assert_eq!(free(&world, server), 5000 - 1200);
    let second = open(&client, 2, 100).await.unwrap();
    assert_eq!(free(&world, server), 5000 - 1200 - 200);
    drop(first);
    soon().await;
    assert_eq!(free(&world, server), 5000 - 200);
    // Through a part of the blocks it takes a part, in bytes.
    let shape = SessionShape { sequences: 1, max_tokens: 300, max_rewind: 0 };
    let part = Ring::open(client.clone(), id(3), 1..2, WIDTH, shape, &Pass::default()).await.unwrap();
    let left = 4800 * token_bytes(4) + 3 - 300 * token_bytes(1);
    assert_eq!(free(&world, server), left / token_bytes(4));
    drop((second, part));
    soon().await;
    assert_eq!(free(&world, server), 5000);
    // A client that is gone without a word keeps it for a minute.
    let lost = open(&client, 4, 600).await.unwrap();
    world.simulation.kill(client.transport.peer_id());
    std::mem::forget(lost);
    soon().await;
    assert_eq!(free(&world, server), 3800);
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(free(&world, server), 5000);
}

#[tokio::test(start_paused = true)]
async fn who_finds_one_server_full_goes_to_another_and_is_refused_by_the_last_in_bytes() {
    let mut world = World::new(Road { delay: Duration::from_millis(5), bytes_per_second: 0 });
    world.settings.cache_bytes = 1500 * token_bytes(4);
    let servers = [world.serve(0..4), world.serve(0..4)];
    let client = world.client();
    let first = open(&client, 1, 600).await.unwrap();
    let second = open(&client, 2, 600).await.unwrap();
    assert_eq!(servers.map(|server| free(&world, server)), [300, 300], "one each");
    let before = Instant::now();
    let refused = open(&client, 3, 600).await.err().unwrap();
    let (needed, available) = (1200 * token_bytes(4), 300 * token_bytes(4));
    let full = Refusal::CacheFull { needed, available };
    assert!(matches!(&refused, SwarmError::Refused { refusal, .. } if *refusal == full), "{refused}");
    assert!(before.elapsed() < Duration::from_secs(1), "at once: {:?}", before.elapsed());
    drop(first);
    soon().await;
    drop(open(&client, 3, 600).await.unwrap());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_begun_waits_for_room() {
    let mut world = World::new(Road { delay: Duration::from_millis(5), bytes_per_second: 0 });
    world.settings.cache_bytes = 1500 * token_bytes(4);
    let dies = world.serve(0..4);
    let client = world.client();
    let strides = strides(4, 30, 4);
    let expected = alone(0..4, &strides);
    let mut session = ring(&client, 1, 0..4).await;
    let mut positions = vec![0; 2];
    for (one, expected) in strides[..2].iter().zip(&expected) {
        assert_eq!(&stride(&mut session, &mut positions, one).await.unwrap(), expected);
    }
    world.kill(dies);
    let stays = world.serve(0..4);
    let other = open(&client, 2, 600).await.unwrap();
    assert_eq!(free(&world, stays), 300);
    let goes = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(other);
    };
    let (output, ()) = tokio::join!(stride(&mut session, &mut positions, &strides[2]), goes);
    assert_eq!(output.unwrap(), expected[2]);
    // Nobody makes room: after the time that was told, it says so.
    world.kill(stays);
    world.serve(0..4);
    let _other = open(&client, 3, 600).await.unwrap();
    let before = Instant::now();
    let refused = session.step(&strides[3].hidden, Returned::Last, &Limits::default()).await.unwrap_err();
    assert!(matches!(refused, bouquet_span::SpanError::CacheFull { .. }), "{refused}");
    assert!((25..40).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

/// Clients that open, step, close, vanish, and come again with the name of a session that is there, in any order.
async fn contended(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(Road { delay: Duration::from_millis(random.below(10) as u64), bytes_per_second: 0 });
    let room = 1000 + random.below(2000) as u64;
    world.settings.cache_bytes = room * token_bytes(4);
    let server = world.serve(0..4);
    let mut clients: Vec<_> = (0..3).map(|_| world.client()).collect();
    let mut held: Vec<(usize, u64, Ring)> = Vec::new();
    let prompt = strides(seed, 20, 0);
    for number in 0..40_u8 {
        match random.below(5) {
            0 | 1 => {
                // Two at once.
                let (one, other) = (random.below(3), random.below(3));
                let tokens = [1 + random.below(700), 1 + random.below(700)];
                let (first, second) = tokio::join!(
                    open(&clients[one], number, tokens[0]),
                    open(&clients[other], number + 100, tokens[1])
                );
                for (client, tokens, opened) in [(one, tokens[0], first), (other, tokens[1], second)] {
                    match opened {
                        Ok(ring) => held.push((client, 2 * tokens as u64, ring)),
                        Err(SwarmError::Refused { refusal: Refusal::CacheFull { needed, available }, .. }) => {
                            assert!(needed == 2 * tokens as u64 * token_bytes(4) && needed > available, "seed {seed}");
                        }
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
            }
            2 if !held.is_empty() => {
                let place = random.below(held.len());
                let (_, tokens, ring) = &mut held[place];
                if *tokens >= 2 * 20 {
                    ring.step(&prompt[0].hidden, Returned::Last, &Limits::default()).await.unwrap();
                }
                held.swap_remove(place);
            }
            3 if !held.is_empty() => drop(held.swap_remove(random.below(held.len()))),
            4 if random.below(4) == 0 => {
                let gone = random.below(3);
                world.simulation.kill(clients[gone].transport.peer_id());
                held.retain(|(client, ..)| *client != gone);
                clients[gone] = world.client();
                tokio::time::sleep(Duration::from_secs(62)).await;
            }
            _ => {}
        }
        soon().await;
        let reserved: u64 = held.iter().map(|(_, tokens, _)| tokens).sum();
        assert_eq!(free(&world, server), room - reserved, "seed {seed}, after {number}");
        assert_eq!(world.running[&server].0.sessions(), held.len(), "seed {seed}");
    }
    held.clear();
    soon().await;
    assert_eq!(free(&world, server), room, "seed {seed}");
}

#[test]
fn of_two_who_want_the_last_cache_one_gets_it_and_nothing_leaks() {
    for seed in 0..60 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(contended(seed));
    }
}
