//! What a server says of itself: signed with its key, so that nobody else can, and soon out of date.
//!
//! Clocks need not agree. A record carries no time at which it ends, but how long it holds ([`Record::lifetime_ms`]),
//! counted from when its number was first heard of; who passes it on says how long ago that was
//! ([`registry`](crate::registry)).

use std::ops::Range;

use libp2p_identity::{Keypair, PeerId, PublicKey};
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::{Digest, Result, SwarmError};

/// Bytes that a signed record may have.
pub const MAX_RECORD_BYTES: usize = 4096;

/// Characters that a server's name may have.
pub const MAX_NAME_CHARS: usize = 64;

/// Addresses that a record may have.
pub const MAX_ADDRESSES: usize = 16;

/// How long a record may hold, at most.
pub const MAX_LIFETIME_MS: u32 = 120_000;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// A later record of the same server has a larger number.
    pub number: u64,
    /// For how long it holds, in milliseconds.
    pub lifetime_ms: u32,
    /// Fingerprint of the model as it is served.
    pub fingerprint: Digest,
    /// What its owner calls it.
    pub name: String,
    /// Where it is reached.
    pub addresses: Vec<Multiaddr>,
    /// What it is doing.
    pub state: ServerState,
    /// The blocks that it serves, or is loading.
    pub blocks: Range<u32>,
    /// How fast it is, and how busy.
    pub figures: Figures,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// It loads its blocks; others should choose theirs with it in mind.
    Joining,
    /// It takes requests.
    Serving,
    /// It takes no new sessions.
    Leaving,
}

/// Measured by the server itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds that one token of one session takes in one block.
    pub decode_seconds_per_block: f32,
    /// Seconds that a token of a long prompt takes in one block.
    pub prompt_seconds_per_block: f32,
    /// Tokens of cache, through all of its blocks, that are free.
    pub free_cache_tokens: u64,
    /// Tokens of cache in all.
    pub cache_tokens: u64,
    /// Seconds of work that wait to be done.
    pub queued_seconds: f32,
    /// Sessions that are open.
    pub sessions: u32,
}

impl Figures {
    /// Whether others should hear of these before their time, who know those before: of sessions or work that came or went,
    /// of cache that was taken or is free again.
    pub fn are_news(&self, before: &Figures) -> bool {
        let sessions = self.sessions.abs_diff(before.sessions);
        let cache = self.free_cache_tokens.abs_diff(before.free_cache_tokens);
        let queued = (self.queued_seconds - before.queued_seconds).abs();
        sessions > self.sessions.max(before.sessions) / 4
            || cache > self.cache_tokens / 8
            || queued > 0.25 + self.queued_seconds.min(before.queued_seconds)
    }
}

/// A record and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// The server's public key, as libp2p encodes it.
    pub key: Vec<u8>,
    /// The record, encoded.
    pub record: Vec<u8>,
    /// Of a fixed text and `record`.
    pub signature: Vec<u8>,
}

/// What is signed before a record, so that its signature is good for nothing else.
const CONTEXT: &[u8] = b"bouquet-swarm-record-1:";

impl Record {
    /// Signs it.
    ///
    /// # Errors
    /// [`SwarmError::Record`] for what nobody would accept.
    pub fn sign(&self, keypair: &Keypair) -> Result<SignedRecord> {
        self.check()?;
        let record = postcard::to_allocvec(self).map_err(|_| SwarmError::Record("it cannot be encoded"))?;
        let signature = keypair.sign(&signed(&record)).map_err(|_| SwarmError::Record("this key cannot sign"))?;
        let signed = SignedRecord { key: keypair.public().encode_protobuf(), record, signature };
        if signed.bytes() > MAX_RECORD_BYTES { Err(SwarmError::Record("it is too long")) } else { Ok(signed) }
    }

    fn check(&self) -> Result<()> {
        let Record { name, addresses, blocks, figures, lifetime_ms, .. } = self;
        let numbers = [figures.decode_seconds_per_block, figures.prompt_seconds_per_block, figures.queued_seconds];
        let problem = if name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            "its name is too long, or no text"
        } else if addresses.len() > MAX_ADDRESSES {
            "it has too many addresses"
        } else if blocks.start >= blocks.end {
            "it has no blocks"
        } else if numbers.iter().any(|number| !number.is_finite() || *number < 0.0) {
            "a speed or a load is no number"
        } else if !(1..=MAX_LIFETIME_MS).contains(lifetime_ms) {
            "it holds for too long, or not at all"
        } else {
            return Ok(());
        };
        Err(SwarmError::Record(problem))
    }
}

impl SignedRecord {
    /// The record, and whose it is, if that signed it.
    ///
    /// # Errors
    /// [`SwarmError::Record`].
    pub fn open(&self) -> Result<(PeerId, Record)> {
        if self.bytes() > MAX_RECORD_BYTES {
            return Err(SwarmError::Record("it is too long"));
        }
        let key = PublicKey::try_decode_protobuf(&self.key).map_err(|_| SwarmError::Record("its key is none"))?;
        if !key.verify(&signed(&self.record), &self.signature) {
            return Err(SwarmError::Record("its signature is of something else"));
        }
        let record: Record =
            postcard::from_bytes(&self.record).map_err(|_| SwarmError::Record("it is not a record"))?;
        record.check()?;
        Ok((key.to_peer_id(), record))
    }

    /// Bytes of its three parts.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.record.len() + self.signature.len()
    }
}

fn signed(record: &[u8]) -> Vec<u8> {
    [CONTEXT, record].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            number: 1,
            lifetime_ms: 20_000,
            fingerprint: Digest([7; 32]),
            name: "office".to_owned(),
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()],
            state: ServerState::Serving,
            blocks: 3..9,
            figures: Figures::default(),
        }
    }

    #[test]
    fn only_its_owner_can_say_it() {
        let keypair = Keypair::generate_ed25519();
        let signed = record().sign(&keypair).unwrap();
        assert_eq!(signed.open().unwrap(), (keypair.public().to_peer_id(), record()));
        for place in 0..signed.record.len() {
            let mut other = signed.clone();
            other.record[place] ^= 1;
            assert!(other.open().is_err());
        }
        let mut other = signed.clone();
        other.key = Keypair::generate_ed25519().public().encode_protobuf();
        assert!(other.open().is_err());
        other.key.truncate(3);
        assert!(other.open().is_err());
    }

    #[test]
    fn what_changed_a_lot_is_news() {
        let before = Figures { sessions: 8, cache_tokens: 800, free_cache_tokens: 400, ..Figures::default() };
        assert!(!before.are_news(&before));
        for (news, figures) in [
            (true, Figures { sessions: 11, ..before }),
            (false, Figures { sessions: 9, ..before }),
            (true, Figures { free_cache_tokens: 200, ..before }),
            (false, Figures { free_cache_tokens: 399, ..before }),
            (true, Figures { queued_seconds: 0.5, ..before }),
            (false, Figures { queued_seconds: 0.1, ..before }),
        ] {
            assert_eq!(figures.are_news(&before), news, "{figures:?}");
            assert_eq!(before.are_news(&figures), news, "{figures:?}");
        }
        assert!(Figures { sessions: 1, ..Figures::default() }.are_news(&Figures::default()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_both() {
        let keypair = Keypair::generate_ed25519();
        let cases: [fn(&mut Record); 6] = [
            |record| record.name = "x".repeat(65),
            |record| record.name = "a\u{1b}[2J".to_owned(),
            |record| record.blocks = 3..3,
            |record| record.figures.queued_seconds = f32::NAN,
            |record| record.lifetime_ms = MAX_LIFETIME_MS + 1,
            |record| record.addresses = vec![record.addresses[0].clone(); 17],
        ];
        for change in cases {
            let mut record = record();
            change(&mut record);
            assert!(record.sign(&keypair).is_err());
            let bytes = postcard::to_allocvec(&record).unwrap();
            let signature = keypair.sign(&super::signed(&bytes)).unwrap();
            let forged = SignedRecord { key: keypair.public().encode_protobuf(), record: bytes, signature };
            assert!(forged.open().is_err());
        }
    }
}
