//! Spans over a network: machines that each hold some blocks of a model serve it together, to many clients, and may come
//! and go. A route over them is a [`Span`](bouquet_span::Span), so whatever stands on that trait works through a swarm.
//! Nothing here knows a model: blocks are spans, and files are bytes with a hash.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`invite`] | the word that lets a machine in |
//! | [`record`] | what a server says of itself, signed |
//! | [`transport`] | what is needed of a network |
//! | [`wire`] | frames, messages, and hidden states as bytes |

#![forbid(unsafe_code)]

pub mod error;
pub mod invite;
pub mod record;
pub mod transport;
pub mod wire;

pub use error::{Digest, Refusal, Result, SwarmError};
pub use invite::Invite;
pub use record::{Figures, Record, ServerState, SignedRecord};
pub use transport::{Stream, Transport};
pub use wire::Wire;
