//! What of a model a machine can host: bytes of its parts as a server holds them, and how a server's memory is shared out
//! between weights, what it keeps of sessions, and what requests take that have none.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::load::Loader;
use bouquet_model::{Encoding, ModelSpec};
use bouquet_swarm::balance;
use bouquet_swarm::server::ARRIVING_BYTES;

use crate::errors::wrong;
use crate::{output, system};

/// Tokens of sessions that a server makes room for when it chooses how many blocks to take.
pub(crate) const USUAL_TOKENS: u64 = 8192;

/// Fewer than these are of no use to anybody.
const LEAST_TOKENS: u64 = 512;

/// What a server takes besides all that is counted: the program, its connections, what a step works in, and rows that wait
/// to be computed.
const BESIDES: u64 = 50_000_000 + ARRIVING_BYTES;

/// Where nobody says how much memory is free.
const MEMORY_IF_UNKNOWN: u64 = 4 << 30;

/// Bytes of a model's parts as a server holds them.
#[derive(Clone, Debug)]
pub(crate) struct PartBytes {
    /// Embedding and head, which clients keep.
    pub(crate) ends: u64,
    /// The weights of each block.
    pub(crate) blocks: Vec<u64>,
    /// What a token of a session takes in the cache of one block.
    pub(crate) cache: u64,
    /// One token between two blocks, in f32.
    pub(crate) row: u64,
}

/// How a server's memory is shared out, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Of its blocks.
    pub(crate) weights: u64,
    /// Tokens of sessions, through all of its blocks.
    pub(crate) tokens: u64,
    /// Caches of these, and what requests work in.
    pub(crate) span: u64,
    /// Caches of these, and what was passed on for them.
    pub(crate) sessions: u64,
    /// What requests bring that have no session. Adapters that clients send may take as much again.
    pub(crate) passes: u64,
}

impl PartBytes {
    /// Those of a model; reads headers only.
    ///
    /// # Errors
    /// Whatever is wrong with the model's files.
    pub(crate) fn of(model: &Path, spec: &ModelSpec, encoding: Encoding) -> Result<PartBytes> {
        let checkpoint = Checkpoint::open(model)?;
        let loader = Loader { source: &checkpoint, spec, encoding: None };
        let block = |index| Ok(loader.bytes_of_block(index, encoding)?.total());
        Ok(PartBytes {
            ends: loader.bytes_of_ends(encoding)?.total(),
            blocks: (0..spec.num_blocks).map(block).collect::<Result<_>>()?,
            cache: spec.cache_bytes_per_token(CacheEncoding::F32) / spec.num_blocks.max(1) as u64,
            row: 4 * spec.block.hidden_size as u64,
        })
    }

    /// How many blocks fit, wherever in the model they are, with the usual room for sessions.
    pub(crate) fn fit(&self, memory: u64) -> usize {
        balance::how_many(memory, BESIDES + with_requests(self.row), &self.blocks, with_requests(self.cache))
    }

    /// What one block more takes, with its sessions.
    pub(crate) fn per_block(&self) -> u64 {
        self.blocks.iter().max().copied().unwrap_or(0) + with_requests(self.cache)
    }

    /// What a server of one block takes.
    pub(crate) fn least(&self) -> u64 {
        self.per_block() + with_requests(self.row) + BESIDES
    }

    /// Shares out so much memory over some blocks.
    ///
    /// # Errors
    /// Blocks that do not fit.
    pub(crate) fn share(&self, memory: u64, blocks: Range<usize>) -> Result<Shares> {
        let cache = self.cache * blocks.len() as u64;
        let weights = self.blocks.get(blocks.clone()).unwrap_or_default().iter().sum::<u64>();
        let left = memory.saturating_sub(BESIDES).saturating_sub(weights);
        let sessions = left / 4 * 3;
        let tokens = sessions / (cache + self.row).max(1);
        if tokens < LEAST_TOKENS {
            let least = weights + BESIDES + (cache + self.row) * LEAST_TOKENS / 3 * 4;
            let [least, memory] = [least, memory].map(output::bytes);
            let named = format!("{}:{}", blocks.start, blocks.end);
            let message = format!("hosting blocks {named} takes at least {least}, and there are {memory} for it");
            return Err(wrong(message, "give more with --memory, fewer --blocks, or --encoding int4"));
        }
        let passes = (left - sessions) / 4;
        Ok(Shares { weights, tokens, span: tokens * cache + 2 * passes, sessions: tokens * (cache + self.row), passes })
    }
}

/// Bytes of embedding and head, which are all that a client has of a swarm's model.
///
/// # Errors
/// Whatever is wrong with the model's files.
pub(crate) fn ends_bytes(model: &Path, spec: &ModelSpec, encoding: Encoding) -> Result<u64> {
    let checkpoint = Checkpoint::open(model)?;
    Ok(Loader { source: &checkpoint, spec, encoding: None }.bytes_of_ends(encoding)?.total())
}

/// What the usual sessions take of which a token takes so much, and a third of it for requests without a session.
fn with_requests(bytes: u64) -> u64 {
    let sessions = bytes * USUAL_TOKENS;
    // And what is lost when it is shared out in whole numbers.
    sessions + sessions / 3 + 8
}

/// Memory that a server may take: what was given for it, as far as it is there; else three quarters of what is free.
pub(crate) fn memory(given: Option<u64>) -> u64 {
    let free = system::available_memory_bytes();
    match (given, free) {
        (Some(given), Some(free)) => given.min(free),
        (Some(given), None) => given,
        (None, Some(free)) => free / 4 * 3,
        (None, None) => MEMORY_IF_UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> PartBytes {
        PartBytes { ends: 500 << 20, blocks: vec![100 << 20; 10], cache: 4096, row: 4096 }
    }

    /// All of it, at most.
    fn total(shares: &Shares) -> u64 {
        shares.weights + shares.sessions + 4 * shares.passes + BESIDES
    }

    #[test]
    fn nothing_is_promised_twice() {
        let parts = parts();
        for memory in (200..4000).step_by(50).map(|mebibytes| mebibytes << 20) {
            let fits = parts.fit(memory);
            for count in 1..=10 {
                match parts.share(memory, 0..count) {
                    Ok(shares) => assert!(total(&shares) <= memory, "{memory} {shares:?}"),
                    Err(_) => assert!(count > fits, "{memory}: {count} should fit"),
                }
            }
            if fits > 0 {
                assert!(parts.share(memory, 0..fits).unwrap().tokens >= USUAL_TOKENS, "{memory}: {fits}");
            }
        }
        assert_eq!((parts.fit(100 << 20), parts.fit(1 << 40)), (0, 10));
    }

    #[test]
    fn what_does_not_fit_says_how_much_it_takes() {
        let error = parts().share(300 << 20, 3..6).unwrap_err().to_string();
        assert!(error.contains("blocks 3:6 takes at least 3") && error.contains("there are 300 MiB"), "{error}");
    }
}
