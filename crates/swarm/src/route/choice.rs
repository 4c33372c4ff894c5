//! What a path costs, and the choices that follow: for one request, and for many that run side by side.

use std::ops::Range;

use libp2p_identity::PeerId;

use super::path::{Leg, Search};
use super::{HOP_SECONDS, Hop, Need, Server, Servers};
use crate::Result;

/// A server without room for the session's cache counts as if it took so many seconds more: records are some seconds old,
/// so that it may have room by now, but it is asked only where there is no other way.
const FULL_CACHE_SECONDS: f64 = 600.0;

/// In a search for a route whose slowest hop is faster, by how much faster it is to be.
const FASTER: f64 = 0.95;

/// Searches for a route whose slowest hop is faster, at most.
const SEARCHES: usize = 48;

/// Why there is a path.
const ALL_SERVED: &str = "a path through blocks that are all served";

/// Blocks to find servers for, and what is on either side: a server that stays, or the client.
pub(super) struct Gap {
    pub blocks: Range<usize>,
    pub from: Option<PeerId>,
    pub to: Option<PeerId>,
    /// What each hop costs besides.
    pub each_hop: f64,
}

impl Servers<'_> {
    /// The route on which a need is met soonest. It covers exactly the blocks, in order, and has no server twice.
    ///
    /// # Errors
    /// [`SwarmError::Missing`](crate::SwarmError::Missing).
    pub fn fastest(&self, blocks: Range<usize>, need: &Need) -> Result<Vec<Hop>> {
        self.covered(std::slice::from_ref(&blocks))?;
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let gap = Gap { blocks, from: None, to: None, each_hop: 0.0 };
        Ok(self.fill(&gap, need))
    }

    /// A route for each of many requests that run side by side and keep nothing, such as the micro-batches of a training
    /// step, given the tokens of each. They share the servers in proportion to what each of those can do: a request waits
    /// behind all that went before it, and takes the way on which it waits and works least (as in SWARM parallelism,
    /// Ryabinin et al. 2023, arXiv 2301.11913).
    ///
    /// # Errors
    /// [`SwarmError::Missing`](crate::SwarmError::Missing).
    pub fn spread(&self, blocks: Range<usize>, tokens: &[usize]) -> Result<Vec<Vec<Hop>>> {
        self.covered(std::slice::from_ref(&blocks))?;
        if blocks.is_empty() {
            return Ok(vec![Vec::new(); tokens.len()]);
        }
        let mut busy: Vec<f64> = self.servers.iter().map(|server| server.queued).collect();
        let mut routes = Vec::with_capacity(tokens.len());
        for &tokens in tokens {
            let work = |server: usize, blocks: &Range<usize>| self.servers[server].chunk(tokens, blocks.len());
            let hop = |server: usize, blocks: &Range<usize>| {
                self.servers[server].taste * (HOP_SECONDS + busy[server] + work(server, blocks))
            };
            let gap = Gap { blocks: blocks.clone(), from: None, to: None, each_hop: 0.0 };
            let (_, legs) = self.search(&gap, 1.0, hop).expect(ALL_SERVED);
            for (server, blocks) in &legs {
                busy[*server] += work(*server, blocks);
            }
            routes.push(self.hops(legs));
        }
        Ok(routes)
    }

    /// The hops through a gap on which a need is met soonest. All of its blocks have to be served.
    ///
    /// A path's cost adds up but for one thing: each chunk of a prompt after the first waits for the slowest hop. So the
    /// best path is sought again and again, each time without hops as slow as the slowest of the last.
    pub(super) fn fill(&self, gap: &Gap, need: &Need) -> Vec<Hop> {
        let later_chunks = (need.chunks() - 1.0).max(0.0);
        let mut best: Option<(f64, Vec<Leg>)> = None;
        let mut limit = f64::INFINITY;
        for _ in 0..SEARCHES {
            let chunk = |server: usize, blocks: &Range<usize>| {
                HOP_SECONDS + self.servers[server].chunk(need.chunk(), blocks.len())
            };
            let hop = |server: usize, blocks: &Range<usize>| {
                if later_chunks > 0.0 && chunk(server, blocks) >= limit {
                    return f64::INFINITY;
                }
                gap.each_hop + self.servers[server].seconds(need, blocks.len())
            };
            let Some((cost, legs)) = self.search(gap, need.rounds(), hop) else { break };
            let slowest = legs.iter().map(|(server, blocks)| chunk(*server, blocks)).fold(0.0, f64::max);
            let least = best.as_ref().map_or(f64::INFINITY, |(seconds, _)| *seconds);
            if cost + later_chunks * slowest < least {
                best = Some((cost + later_chunks * slowest, legs));
            }
            // What has no hop so slow costs no less in all else.
            if later_chunks == 0.0 || cost >= least {
                break;
            }
            limit = FASTER * slowest;
        }
        self.hops(best.expect(ALL_SERVED).1)
    }

    /// The path through a gap of least cost, where each leg of the ring is gone so many times.
    fn search(&self, gap: &Gap, rounds: f64, hop: impl Fn(usize, &Range<usize>) -> f64) -> Option<(f64, Vec<Leg>)> {
        let leg = |round_trip: f64| rounds * round_trip / 2.0;
        let end = |server: &Server, neighbour: Option<PeerId>| leg(self.to(server, neighbour));
        Search {
            blocks: gap.blocks.clone(),
            spans: &self.servers.iter().map(|server| server.blocks.clone()).collect::<Vec<_>>(),
            entry: &self.servers.iter().map(|server| end(server, gap.from)).collect::<Vec<_>>(),
            exit: &self.servers.iter().map(|server| end(server, gap.to)).collect::<Vec<_>>(),
            between: |one, other| leg(self.between(one, other)),
            hop,
        }
        .shortest()
    }

    fn hops(&self, legs: Vec<Leg>) -> Vec<Hop> {
        legs.into_iter().map(|(server, blocks)| Hop { peer: self.servers[server].peer, blocks }).collect()
    }
}

impl Server {
    /// Seconds of a chunk of a prompt in so many blocks.
    pub(super) fn chunk(&self, tokens: usize, blocks: usize) -> f64 {
        tokens as f64 * blocks as f64 * self.prompt
    }

    /// Seconds of one decoded token in so many blocks, and of what waits before it.
    pub(super) fn token(&self, blocks: usize) -> f64 {
        HOP_SECONDS + self.queued + blocks as f64 * self.decode
    }

    /// Whether it has room for so many tokens of cache in some of its blocks.
    pub(super) fn fits(&self, cache_tokens: u64, blocks: usize) -> bool {
        u128::from(cache_tokens) * blocks as u128 <= u128::from(self.free_cache_tokens) * self.blocks.len() as u128
    }

    /// What all tokens of a need take in so many blocks, but for the chunks after the first.
    fn seconds(&self, need: &Need, blocks: usize) -> f64 {
        let first =
            if need.prompt_tokens > 0 { HOP_SECONDS + self.queued + self.chunk(need.chunk(), blocks) } else { 0.0 };
        let full = if self.fits(need.cache_tokens, blocks) { 0.0 } else { FULL_CACHE_SECONDS };
        self.taste * (first + need.new_tokens as f64 * self.token(blocks) + full)
    }
}

impl Need {
    /// One token, in a session with so much cache.
    pub fn token(cache_tokens: u64) -> Need {
        Need { new_tokens: 1, cache_tokens, ..Need::default() }
    }

    /// Tokens of a chunk.
    fn chunk(&self) -> usize {
        if self.chunk_tokens == 0 { self.prompt_tokens } else { self.chunk_tokens.min(self.prompt_tokens) }
    }

    fn chunks(&self) -> f64 {
        if self.prompt_tokens == 0 { 0.0 } else { self.prompt_tokens.div_ceil(self.chunk()) as f64 }
    }

    /// How often each leg of the ring is gone one after another.
    fn rounds(&self) -> f64 {
        self.new_tokens as f64 + if self.prompt_tokens > 0 { 1.0 } else { 0.0 }
    }
}
