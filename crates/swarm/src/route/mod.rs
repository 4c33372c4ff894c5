//! Which servers a client goes through: pure functions of what servers say ([`Record`]), what the client has
//! [measured](Measured), and who has [failed](Health).
//!
//! Hidden states go round a ring: client, first server, ..., last server, client. A token that is decoded costs each leg of
//! the ring once, half a round trip, and in each server what waits there and its blocks. Chunks of a prompt follow each
//! other through the ring, so that a long one costs what the slowest server takes for each chunk. [`Servers::fastest`]
//! finds the route on which a [`Need`] is met soonest; any server may be left at any block, and spans be used in part.
//!
//! Two clients do not run to the same server when several are about equally good: to each, every server seems slower by a
//! small share that follows from the two keys.
//!
//! | module | job |
//! |---|---|
//! | [`measured`] | what one machine has measured of others |
//! | `path` | the path of least cost, on numbers |
//! | `choice` | what a path costs, and the choices that follow |
//! | `replace` | other servers in place of those that failed |
//! | [`plan`] | where the time of a route goes |

pub mod measured;
pub mod plan;

mod choice;
mod path;
mod replace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use libp2p_identity::PeerId;
use sha2::{Digest as _, Sha256};

pub use measured::Measured;
pub use plan::{HopTimes, Plan};

use crate::{Health, Record, Result, ServerState, SwarmError};

/// The round trip to a machine that has not been measured: slower than most, so that what is known is preferred, but not
/// so slow that a newcomer is never tried.
const UNKNOWN_ROUND_TRIP: f64 = 0.05;

/// What a hop costs beyond its blocks, in seconds: a frame read, a batch formed, a frame written.
const HOP_SECONDS: f64 = 0.0005;

/// Each other session on a server slows a step by this share: eight that are stepped together take twice as long as one.
pub(crate) const SESSION_SHARE: f64 = 1.0 / 8.0;

/// By how much at most a server seems slower to one client than to another.
const TASTE: f64 = 0.05;

/// A part of a route: a server, and which of its blocks it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The server.
    pub peer: PeerId,
    /// Its blocks, which need not be all that it serves.
    pub blocks: Range<usize>,
}

/// What is to be sent through a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Tokens that go through before the first new one: a prompt, or what a successor has to be told again.
    pub prompt_tokens: usize,
    /// How many of them go at a time; 0 is all at once.
    pub chunk_tokens: usize,
    /// Tokens that are decoded then, one by one.
    pub new_tokens: usize,
    /// Tokens of cache that the session reserves, those of all its sequences together.
    pub cache_tokens: u64,
}

/// The servers that a client may use, and what it thinks of each. A view of one moment: it is made anew for each choice.
#[derive(Clone, Debug)]
pub struct Servers<'a> {
    servers: Vec<Server>,
    /// Round trips between servers that are known, by their places, the smaller first.
    between: BTreeMap<(usize, usize), f64>,
    measured: &'a Measured,
}

/// A server as one client sees it. All times in seconds.
#[derive(Clone, Debug)]
struct Server {
    peer: PeerId,
    blocks: Range<usize>,
    round_trip: f64,
    queued: f64,
    /// Of a decoded token in one block, beside the sessions that it has.
    decode: f64,
    /// Of a token of a prompt in one block.
    prompt: f64,
    free_cache_tokens: u64,
    /// 1, and a bit more by the taste of this client.
    taste: f64,
}

impl<'a> Servers<'a> {
    /// Those of the records that can be used at this moment, as a client sees them: servers that take sessions and are not
    /// banned.
    pub fn new<'r>(
        client: PeerId,
        live: impl IntoIterator<Item = (PeerId, &'r Record)>,
        measured: &'a Measured,
        health: &Health,
        now: Duration,
    ) -> Servers<'a> {
        let mut servers = Vec::new();
        let serving = live.into_iter().filter(|(_, record)| record.state == ServerState::Serving);
        for (peer, record) in serving {
            if health.banned_until(&peer, now).is_some() {
                continue;
            }
            let blocks = record.blocks.start as usize..record.blocks.end as usize;
            let figures = &record.figures;
            let busy = 1.0 + SESSION_SHARE * f64::from(figures.sessions);
            let prompt = measured.pace(&peer, figures.prompt_seconds_per_block.into(), now);
            servers.push(Server {
                peer,
                blocks,
                round_trip: measured.seconds_to(&peer).unwrap_or(UNKNOWN_ROUND_TRIP),
                queued: f64::from(figures.queued_seconds) + prompt * measured.under_way(&peer) as f64,
                decode: busy * f64::from(figures.decode_seconds_per_block),
                prompt,
                free_cache_tokens: figures.free_cache_tokens,
                taste: 1.0 + TASTE * draw(&client, &peer),
            });
        }
        servers.sort_by_key(|server| server.peer);
        Servers { between: places(&servers, measured), servers, measured }
    }

    /// Those of the blocks that nobody serves.
    pub fn missing(&self, blocks: &Range<usize>) -> Vec<Range<usize>> {
        let mut spans: Vec<&Range<usize>> = self.servers.iter().map(|server| &server.blocks).collect();
        spans.sort_by_key(|span| span.start);
        let mut missing = Vec::new();
        let mut reached = blocks.start;
        for span in spans {
            if span.start.min(blocks.end) > reached {
                missing.push(reached..span.start.min(blocks.end));
            }
            reached = reached.max(span.end);
        }
        if reached < blocks.end {
            missing.push(reached..blocks.end);
        }
        missing
    }

    /// The same without some servers.
    fn without(&self, peers: &[PeerId]) -> Servers<'a> {
        let servers: Vec<Server> =
            self.servers.iter().filter(|server| !peers.contains(&server.peer)).cloned().collect();
        Servers { between: places(&servers, self.measured), servers, measured: self.measured }
    }

    fn covered(&self, blocks: &[Range<usize>]) -> Result<()> {
        let missing: Vec<Range<usize>> = blocks.iter().flat_map(|range| self.missing(range)).collect();
        if missing.is_empty() { Ok(()) } else { Err(SwarmError::Missing(missing)) }
    }

    fn server(&self, peer: &PeerId) -> Option<&Server> {
        self.servers.binary_search_by_key(peer, |server| server.peer).ok().map(|place| &self.servers[place])
    }

    /// A round trip between two servers: measured, or guessed as that of the client to the farther one.
    fn between(&self, one: usize, other: usize) -> f64 {
        let known = self.between.get(&(one.min(other), one.max(other)));
        known.copied().unwrap_or_else(|| self.servers[one].round_trip.max(self.servers[other].round_trip))
    }

    /// A round trip between a server and another one, which need not be of these, or the client.
    fn to(&self, server: &Server, other: Option<PeerId>) -> f64 {
        let Some(other) = other else { return server.round_trip };
        let known = self.measured.seconds_between(server.peer, other);
        let farther = || server.round_trip.max(self.measured.seconds_to(&other).unwrap_or(UNKNOWN_ROUND_TRIP));
        known.unwrap_or_else(farther)
    }
}

/// The measured pairs of which both are servers, by their places.
fn places(servers: &[Server], measured: &Measured) -> BTreeMap<(usize, usize), f64> {
    let place = |peer: &PeerId| servers.binary_search_by_key(peer, |server| server.peer).ok();
    let pairs = measured.pairs().filter_map(|((one, other), seconds)| Some(((place(one)?, place(other)?), seconds)));
    pairs.collect()
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// From 0 to 1, the same for the same two machines and else without a pattern.
fn draw(client: &PeerId, peer: &PeerId) -> f64 {
    let hash = Sha256::new().chain_update(client.to_bytes()).chain_update(peer.to_bytes()).finalize();
    f64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])) / f64::from(u32::MAX)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
