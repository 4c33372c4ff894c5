//! Places, memory, and who yields.

use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;
use crate::{Digest, Figures};

fn joiner(fits: usize) -> Joiner {
    Joiner { fits, seconds_per_block: 0.01 }
}

fn held(blocks: Range<usize>) -> Held {
    Held { blocks, seconds_per_block: 0.01 }
}

#[test]
fn a_server_goes_where_it_is_needed_most() {
    let slow = |blocks| Held { blocks, seconds_per_block: 0.1 };
    let cases: [(&str, usize, &[Held], Range<usize>); 9] = [
        ("the first", 4, &[], 0..4),
        ("behind the first", 4, &[held(0..4)], 4..8),
        ("a hole, though it leaves none of its own", 4, &[held(0..5), held(8..12)], 4..8),
        ("a hole at the end", 4, &[held(0..9)], 8..12),
        ("a whole model", 20, &[held(0..9)], 0..12),
        ("the slowest, where there is no hole", 4, &[held(0..6), slow(6..12)], 6..10),
        ("where a server has many blocks, each is weaker", 4, &[held(0..4), held(4..12)], 4..8),
        ("what the slowest leaves, next", 3, &[slow(3..6), held(0..3), held(6..12)], 3..6),
        ("nothing fits", 0, &[], 0..0),
    ];
    for (name, fits, others, expected) in cases {
        assert_eq!(choose(12, &joiner(fits), others), expected, "{name}");
    }
    assert_eq!(choose(0, &joiner(3), &[]), 0..0);
}

#[test]
fn as_many_fit_as_fit_anywhere() {
    let even = [10; 8];
    for (memory, fixed, cache, expected) in [
        (100, 0, 0, 8),
        (79, 0, 0, 7),
        (100, 50, 0, 5),
        (100, 50, 1, 4),
        (100, 91, 0, 0),
        (100, 101, 0, 0),
        (u64::MAX, 0, u64::MAX / 2, 1),
    ] {
        assert_eq!(how_many(memory, fixed, &even, cache), expected, "{memory} {fixed} {cache}");
    }
    // Two small ones would fit, but not wherever they are.
    assert_eq!(how_many(25, 0, &[10, 10, 20, 10], 0), 1);
    assert_eq!(how_many(15, 0, &[10, 10, 20, 10], 0), 0);
    assert_eq!(how_many(15, 0, &[], 0), 0);
}

fn record(blocks: Range<u32>, state: ServerState) -> Record {
    Record {
        number: 1,
        lifetime_ms: 20_000,
        fingerprint: Digest([7; 32]),
        name: String::new(),
        addresses: Vec::new(),
        state,
        blocks,
        figures: Figures { decode_seconds_per_block: 0.5, ..Figures::default() },
    }
}

fn peers(count: u8) -> Vec<PeerId> {
    let peer = |number| Keypair::ed25519_from_bytes([number; 32]).unwrap().public().to_peer_id();
    let mut peers: Vec<PeerId> = (0..count).map(peer).collect();
    peers.sort();
    peers
}

#[test]
fn who_leaves_does_not_count_and_of_those_who_join_with_it_the_smaller_keys() {
    let peers = peers(6);
    let me = peers[2];
    let states = [
        ServerState::Joining,
        ServerState::Leaving,
        ServerState::Joining,
        ServerState::Serving,
        ServerState::Joining,
        ServerState::Joining,
    ];
    let records: Vec<Record> =
        states.into_iter().enumerate().map(|(place, state)| record(place as u32..10, state)).collect();
    let live = peers.iter().copied().zip(&records);
    let counted = others(&me, &BTreeSet::from([peers[5]]), live);
    assert_eq!(counted.iter().map(|held| held.blocks.start).collect::<Vec<_>>(), [0, 3, 5]);
    assert!(counted.iter().all(|held| held.seconds_per_block == 0.5));
}

fn joiners() -> impl Strategy<Value = Vec<Joiner>> {
    let joiner = (1..8usize, 1..50u32);
    let joiner = joiner.prop_map(|(fits, ms)| Joiner { fits, seconds_per_block: f64::from(ms) / 1000.0 });
    prop::collection::vec(joiner, 1..10)
}

fn covered(block_count: usize, spans: &[Range<usize>]) -> usize {
    (0..block_count).filter(|block| spans.iter().any(|span| span.contains(block))).count()
}

/// The throughputs of all blocks, sorted.
fn throughputs(block_count: usize, held: &[Held]) -> Vec<f64> {
    let at = |block: usize| {
        held.iter()
            .filter(|held| held.blocks.contains(&block))
            .map(|held| throughput(held.seconds_per_block, held.blocks.len()))
            .sum()
    };
    let mut all: Vec<f64> = (0..block_count).map(at).collect();
    all.sort_by(f64::total_cmp);
    all
}

proptest! {
    #[test]
    fn servers_that_join_one_after_another_leave_no_hole(joiners in joiners(), block_count in 1..30usize) {
        let spans = place(block_count, &joiners);
        let capacity: usize = joiners.iter().map(|joiner| joiner.fits).sum();
        prop_assert_eq!(covered(block_count, &spans), block_count.min(capacity));
        for (span, joiner) in spans.iter().zip(&joiners) {
            prop_assert_eq!(span.len(), joiner.fits.min(block_count));
        }
    }

    #[test]
    fn no_other_place_is_better_and_choosing_again_changes_nothing(
        joiners in joiners(),
        block_count in 1..30usize,
        starts in prop::collection::vec(0..30usize, 10),
    ) {
        let (me, rest) = joiners.split_first().unwrap();
        let others: Vec<Held> = rest.iter().zip(starts).map(|(joiner, start)| {
            Held { blocks: start..start + joiner.fits, seconds_per_block: joiner.seconds_per_block }
        }).collect();
        let chosen = choose(block_count, me, &others);
        prop_assert_eq!(&choose(block_count, me, &others), &chosen);
        let with = |blocks: Range<usize>| {
            let mine = Held { blocks, seconds_per_block: me.seconds_per_block };
            throughputs(block_count, &[&others[..], &[mine]].concat())
        };
        let reached = with(chosen.clone());
        for start in 0..=block_count - chosen.len() {
            let other = with(start..start + chosen.len());
            prop_assert!(!weaker(&reached, &other), "{start} is better than {chosen:?}");
            prop_assert!(start >= chosen.start || weaker(&other, &reached), "{start} is as good, and before {chosen:?}");
        }
    }

    #[test]
    fn servers_that_join_at_once_settle_without_a_hole(joiners in joiners(), block_count in 1..30usize) {
        // All choose before any has heard of another; then each chooses again, all at the same time, until nothing moves.
        let peers = peers(joiners.len() as u8);
        let alone = |joiner: &Joiner| choose(block_count, joiner, &[]);
        let mut spans: Vec<Range<usize>> = joiners.iter().map(alone).collect();
        for _ in 0..joiners.len() {
            let records: Vec<Record> = spans.iter().zip(&joiners).map(|(span, joiner)| {
                let mut record = record(span.start as u32..span.end as u32, ServerState::Joining);
                record.figures.decode_seconds_per_block = joiner.seconds_per_block as f32;
                record
            }).collect();
            let again = |(me, joiner): (&PeerId, &Joiner)| {
                choose(block_count, joiner, &others(me, &BTreeSet::new(), peers.iter().copied().zip(&records)))
            };
            spans = peers.iter().zip(&joiners).map(again).collect();
        }
        let capacity: usize = joiners.iter().map(|joiner| joiner.fits).sum();
        prop_assert_eq!(covered(block_count, &spans), block_count.min(capacity));
    }
}
