//! Who is asked for which blocks: what a session needs to know of routing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;

use crate::{Hop, Result};

/// A server of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which.
    pub peer: PeerId,
    /// Where it is.
    pub addresses: Vec<Multiaddr>,
    /// The blocks that it is to run.
    pub blocks: Range<usize>,
}

/// What is needed of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What for.
    pub purpose: Purpose,
    /// Tokens of cache.
    pub cache_tokens: u64,
    /// Tokens that a server is told before anything new.
    pub past_tokens: usize,
    /// Tokens that are computed at a time.
    pub tokens: usize,
}

/// What servers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session: a token should be back soon.
    Session,
    /// Whole sequences: much should go through.
    Pass,
}

/// Chooses servers, and learns how they do.
pub trait Guide: Send + Sync {
    /// Servers for these blocks, in order and without a gap; none of `without`. Those that are `kept`, which are in order as
    /// well, keep their blocks, unless nobody else has some of the others: a server is in a route once.
    ///
    /// # Errors
    /// [`SwarmError::Missing`](crate::SwarmError::Missing).
    fn route(&self, blocks: Range<usize>, kept: &[Hop], without: &BTreeSet<PeerId>, need: Need) -> Result<Vec<Stop>>;

    /// Whether there is such a route, for one that has another.
    fn has_route(&self, blocks: Range<usize>, without: &BTreeSet<PeerId>, need: Need) -> bool {
        self.route(blocks, &[], without, need).is_ok()
    }

    /// A server is slow, and is waited for because nobody else has these blocks; so long until now. Said again and again,
    /// until it [worked](Guide::worked) or [failed](Guide::failed).
    fn waits(&self, _peer: PeerId, _blocks: &Range<usize>, _waited: Duration) {}

    /// A server did not do what it was asked.
    fn failed(&self, peer: PeerId);

    /// A server did what it was asked.
    fn worked(&self, peer: PeerId);

    /// A server is asked to take so many tokens, times blocks, through its blocks. Returns what is under way there, this
    /// included.
    fn asked(&self, peer: PeerId, work: u64) -> u64;

    /// It is not at it any more; if it has answered, it took so long for all that was under way.
    fn answered(&self, peer: PeerId, work: u64, took: Option<(Duration, u64)>);
}
