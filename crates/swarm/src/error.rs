//! What can go wrong between machines.

use std::ops::Range;
use std::time::Duration;

use bouquet_span::SpanError;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::wire::fault::Fault;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, SwarmError>;

/// Why a swarm did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// A text that is no invite.
    #[error("this is no invite: {0}")]
    Invite(&'static str),
    /// Bytes that are no message of this protocol.
    #[error("{peer} sent what is no message of this protocol: {problem}")]
    Garbage {
        /// Who sent them.
        peer: PeerId,
        /// What is wrong.
        problem: String,
    },
    /// A record that its signature does not cover, or that lies.
    #[error("a record is not valid: {0}")]
    Record(&'static str),
    /// A machine that cannot be reached, or no longer.
    #[error("{peer} does not answer: {problem}")]
    Unreachable {
        /// Which.
        peer: PeerId,
        /// Why.
        problem: String,
    },
    /// A machine that says for a long time that it is at it, and does not get on.
    #[error("{peer} has been at {} for {} s and does not get on", named(std::slice::from_ref(.blocks)), .waited.as_secs())]
    Stalled {
        /// Which.
        peer: PeerId,
        /// The blocks that it was asked to run.
        blocks: Range<usize>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A machine that serves something else.
    #[error("{peer} serves another model: its fingerprint is {}, and this swarm's is {}", fingerprints[1], fingerprints[0])]
    OtherModel {
        /// Which.
        peer: PeerId,
        /// Of this swarm, and what it says of itself.
        fingerprints: Box<[Digest; 2]>,
    },
    /// A machine that refuses a request.
    #[error("{peer} refuses: {refusal}")]
    Refused {
        /// Which.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// Nobody serves these blocks.
    #[error("nobody serves {}", named(.0))]
    Missing(Vec<Range<usize>>),
    /// The local network, or what was asked of it.
    #[error("{0}")]
    Network(String),
}

/// Why a server does not do what it was asked; as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No room for what it would keep of a session.
    #[error("a session of {needed} bytes does not fit: {available} are left for it")]
    CacheFull {
        /// Bytes that it would take.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// Its blocks refuse.
    #[error("its blocks refuse: {}", SpanError::from(.0.clone()))]
    Span(Fault),
    /// Blocks that it does not serve.
    #[error("it does not serve blocks {}:{}", .0.start, .0.end)]
    NotServed(Range<u32>),
    /// A session that it does not have, or no longer.
    #[error("it has no such session")]
    NoSession,
    /// It is about to leave.
    #[error("it is leaving")]
    Leaving,
    /// It has too much to do.
    #[error("it is busy")]
    Busy,
    /// An adapter that it was told by its hash, and does not have.
    #[error("it does not have that adapter")]
    NoAdapter,
    /// A request that no server would answer; asking another is of no use.
    #[error("{0}")]
    Wrong(String),
    /// The blocks could not be computed, which another server may manage.
    #[error("{0}")]
    Failed(String),
}

/// A SHA-256: of a fingerprint, a block, a file, an adapter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl From<SwarmError> for SpanError {
    fn from(error: SwarmError) -> SpanError {
        match error {
            SwarmError::Refused { refusal: Refusal::CacheFull { needed, available }, .. } => {
                SpanError::CacheFull { needed, available }
            }
            SwarmError::Refused { refusal: Refusal::Span(fault), .. } => fault.into(),
            SwarmError::Refused { refusal: Refusal::Wrong(problem), .. } => SpanError::Failed(problem),
            other => SpanError::Unavailable(other.to_string()),
        }
    }
}

/// `block 3`, `blocks 3:9 and 12:14`, as they are typed.
pub fn named(ranges: &[Range<usize>]) -> String {
    let one = |range: &Range<usize>| match range.len() {
        1 => range.start.to_string(),
        _ => format!("{}:{}", range.start, range.end),
    };
    let names: Vec<String> = ranges.iter().map(one).collect();
    let single = matches!(ranges, [range] if range.len() == 1);
    format!("{} {}", if single { "block" } else { "blocks" }, names.join(" and "))
}
