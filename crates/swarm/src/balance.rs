//! Which blocks a server that joins takes: pure functions of what it can hold and of what others hold.
//!
//! It takes as many as fit, since each border between servers costs every token a leg of the way. Among the places where
//! they could be, it takes the one that raises the weakest block most, then the second weakest, and so on: throughputs of
//! all blocks, sorted, are compared as words are. Where places are equal, the first is taken; so servers that join one
//! after another leave no hole as long as together they can hold the model.
//!
//! Two that choose at the same moment may choose the same. So a server says that it is joining, waits for others to
//! hear, and chooses again before it loads: see [`others`], which makes one of the two yield.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use libp2p_identity::PeerId;

use crate::{Record, ServerState};

/// Seconds that no block is faster than, whatever is said: a speed divides.
const LEAST_SECONDS: f64 = 1e-6;

/// Blocks that a server holds, and how fast it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Which.
    pub blocks: Range<usize>,
    /// Seconds that a token takes in one of them.
    pub seconds_per_block: f64,
}

/// A server that is to be placed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Joiner {
    /// How many blocks it can hold: see [`how_many`].
    pub fits: usize,
    /// Seconds that a token takes in one of them.
    pub seconds_per_block: f64,
}

/// How many blocks fit into memory, wherever in the model they are: the most of which any that follow each other fit.
///
/// `blocks` are the bytes of each block's weights, `cache_per_block` those of one block's cache for as many tokens as the
/// server offers, `fixed` what it takes besides. All in bytes.
pub fn how_many(memory: u64, fixed: u64, blocks: &[u64], cache_per_block: u64) -> usize {
    let Some(memory) = memory.checked_sub(fixed) else { return 0 };
    let bytes =
        |window: &[u64]| window.iter().map(|block| u128::from(*block) + u128::from(cache_per_block)).sum::<u128>();
    let fit = |count: &usize| blocks.windows(*count).all(|window| bytes(window) <= u128::from(memory));
    (1..=blocks.len()).rev().find(fit).unwrap_or(0)
}

/// The blocks that a joining server takes of a model that has so many; none if none fit.
pub fn choose(block_count: usize, joiner: &Joiner, others: &[Held]) -> Range<usize> {
    let length = joiner.fits.min(block_count);
    if length == 0 {
        return 0..0;
    }
    let mut now = vec![0.0; block_count];
    for held in others {
        let blocks = held.blocks.start.min(block_count)..held.blocks.end.min(block_count);
        let throughput = throughput(held.seconds_per_block, held.blocks.len());
        now[blocks].iter_mut().for_each(|block| *block += throughput);
    }
    let added = throughput(joiner.seconds_per_block, length);
    let raised = |start: usize| {
        let mut throughputs = now.clone();
        throughputs[start..start + length].iter_mut().for_each(|block| *block += added);
        throughputs.sort_by(f64::total_cmp);
        throughputs
    };
    let mut best = (0, raised(0));
    for start in 1..=block_count - length {
        let throughputs = raised(start);
        if weaker(&best.1, &throughputs) {
            best = (start, throughputs);
        }
    }
    best.0..best.0 + length
}

/// Where servers end up that join one after another.
pub fn place(block_count: usize, joiners: &[Joiner]) -> Vec<Range<usize>> {
    let mut placed: Vec<Held> = Vec::new();
    for joiner in joiners {
        let blocks = choose(block_count, joiner, &placed);
        placed.push(Held { blocks, seconds_per_block: joiner.seconds_per_block });
    }
    placed.into_iter().map(|held| held.blocks).collect()
}

/// Those of the records that a joining server has to count with: who serves, and who joins and does not have to yield to
/// it.
///
/// `before` are those that it heard of as joining before it said so itself. Of others, which joined at about the same
/// time, the smaller key goes first: only those are counted, and the others will count this one.
pub fn others<'a>(
    me: &PeerId,
    before: &BTreeSet<PeerId>,
    live: impl IntoIterator<Item = (PeerId, &'a Record)>,
) -> Vec<Held> {
    let counts = |peer: &PeerId, record: &Record| match record.state {
        _ if peer == me => false,
        ServerState::Serving => true,
        ServerState::Joining => before.contains(peer) || peer < me,
        ServerState::Leaving => false,
    };
    let counted = live.into_iter().filter(|(peer, record)| counts(peer, record));
    let held = counted.map(|(_, record)| Held {
        blocks: record.blocks.start as usize..record.blocks.end as usize,
        seconds_per_block: record.figures.decode_seconds_per_block.into(),
    });
    held.collect()
}

/// Tokens per second through all blocks of a server.
fn throughput(seconds_per_block: f64, blocks: usize) -> f64 {
    1.0 / (seconds_per_block.max(LEAST_SECONDS) * blocks.max(1) as f64)
}

/// Whether the first throughput that differs is smaller. What differs by less than a rounding error is equal.
fn weaker(one: &[f64], other: &[f64]) -> bool {
    let differ = |(one, other): &(&f64, &f64)| (*one - *other).abs() > 1e-9 * one.max(**other);
    one.iter().zip(other).find(differ).is_some_and(|(one, other)| one.total_cmp(other) == Ordering::Less)
}

#[cfg(test)]
mod tests;
