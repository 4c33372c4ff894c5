//! What is said: the headers of frames. A stream begins with a [`Greeting`] of whoever opened it, which says what it is for.

use std::ops::Range;

use bouquet_span::Dropout;
use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use super::Wire;
use super::fault::Fault;
use crate::ledger::{Edit, Rows, Standing};
use crate::registry::{News, Summary};
use crate::{Digest, Refusal};

/// Sequences that a session or a pass may have.
pub const MAX_SEQUENCES: usize = 4096;

/// The first frame of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
    pub version: u32,
    /// Of the model that the swarm serves.
    pub fingerprint: Digest,
    /// What the stream is for.
    pub request: Request,
}

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A client's session: [`ToServer`] and [`ToClient`] follow. The body has the tensors of the pass.
    Session(OpenSession),
    /// A client comes back to its session, after its stream broke.
    Resume(SessionId),
    /// The machine before in the ring: [`Pushed`] follows.
    Push {
        /// The session.
        id: SessionId,
        /// The block that the rows go into.
        block: u32,
    },
    /// What the opener's table of records has: [`Tables`] follow, one from each.
    Exchange(Summary),
    /// Whole sequences forward or backward through some blocks: [`Answer`] follows.
    Pass(PassRequest),
    /// What files the server has: [`Answer`] follows, with a list of [`FileInfo`](crate::shelf::FileInfo).
    Files,
    /// A piece of a file: [`Answer`] follows.
    File {
        /// Which.
        name: String,
        /// Where the piece begins, in bytes.
        offset: u64,
    },
    /// Bytes of an adapter, in parts, which the server may keep under their hash: [`Answer`] follows.
    Adapter {
        /// Their hash.
        digest: Digest,
        /// How many.
        bytes: u64,
    },
}

/// What two machines tell each other of the records that they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tables {
    /// What the opener lacks, and what the other one has.
    News(News, Summary),
    /// What the other one lacked.
    Thanks(News),
    /// The other one is of another swarm.
    Other(Digest),
}

/// A request without a session. In parts follow the prompts of the pass, the rows as the wire has them, and for a backward
/// the gradient in f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassRequest {
    /// The blocks to run, some of the server's.
    pub blocks: Range<u32>,
    /// The length of each sequence.
    pub lengths: Vec<u32>,
    /// Whether gradients are asked for.
    pub backward: bool,
    /// What the pass carries.
    pub pass: PassHeader,
    /// Bytes that follow.
    pub bytes: u64,
}

/// The answer to a request without a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is being worked on.
    Beat,
    /// So many bytes follow, in parts: rows as the wire has them, or gradients in f32.
    Done {
        /// How many.
        bytes: u64,
    },
    /// It is not done.
    Refused(Refusal),
}

/// A session's name, drawn at random by its client. Who knows it may take part in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// A session that begins, or that goes on here from nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Its name.
    pub id: SessionId,
    /// The blocks to run, some of the server's.
    pub blocks: Range<u32>,
    /// Sequences.
    pub sequences: u32,
    /// The longest that each may become.
    pub max_tokens: u32,
    /// The revision that it stands at.
    pub revision: u64,
    /// What led to that, for whoever comes after this server and is not there yet.
    pub edits: Vec<Edit>,
    /// What every step carries.
    pub pass: PassHeader,
}

/// What a request carries besides hidden states; its tensors are in the body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PassHeader {
    /// The low-rank matrices for these blocks, by the hash of what says them.
    pub adapter: Option<Digest>,
    /// Rows of each block's prompts, in the body one after another.
    pub prompts: Vec<(u32, u32)>,
    /// The key of dropout: seed, step, view, first sequence.
    pub dropout: Option<(u64, u64, u32, u64)>,
    /// The length that positions are made for.
    pub reserved_tokens: Option<u64>,
    /// Sequences in a leaf.
    pub leaf: u64,
    /// How the output of each block is rounded, as a wire would; on one that rounds, as that does.
    pub rounding: Wire,
}

impl PassHeader {
    /// The key of dropout as a pass has it.
    pub fn dropout(&self) -> Option<Dropout> {
        self.dropout.map(|(seed, step, view, first_sequence)| Dropout { seed, step, view, first_sequence })
    }
}

/// What a client says in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToServer {
    /// Who gets this server's output from now on.
    Steer(Next),
    /// Rows for the first machine of the ring.
    Rows(Rows),
    /// Asks where the server stands.
    Report,
    /// It is still there.
    Beat,
    /// The session is over.
    Close,
}

/// Who comes after a machine in the ring, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// The client.
    Client(Standing),
    /// Another server.
    Server {
        /// Which.
        peer: PeerId,
        /// Where it is.
        addresses: Vec<Multiaddr>,
        /// Where it stands.
        standing: Standing,
    },
}

/// What the machine before in the ring says, and what it hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pushed {
    /// Rows, whose numbers are in the body.
    Rows(Rows),
    /// It is still there: both say so.
    Beat,
}

/// What a server says in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// Where it stands: the answer to a request, and to [`ToServer::Report`].
    Standing(Standing),
    /// The output of the last block.
    Rows(Rows),
    /// The session could not be opened, or is no more.
    Refused(Refusal),
    /// Rows could not be computed; the session is where it was.
    Failed {
        /// Of which revision.
        revision: u64,
        /// The position of the first row of each sequence.
        starts: Vec<u32>,
        /// Rows of each sequence.
        lengths: Vec<u32>,
        /// Why.
        fault: Fault,
    },
    /// Rows came that do not follow where it stands.
    Gap(Standing),
    /// The next machine does not take what it is sent.
    Lost(PeerId),
    /// It is about to leave, and the client should go elsewhere.
    Leaving,
    /// It is still there, and stands there.
    Beat(Standing),
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Enough to tell sessions apart, and not enough to take part in one.
        write!(f, "session {:02x}{:02x}", self.0[0], self.0[1])
    }
}
