//! Spans over a network: machines that each hold some blocks of a model serve it together, to many clients, and may come
//! and go. A route over them is a [`Span`](bouquet_span::Span), so whatever stands on that trait works through a swarm.
//! Nothing here knows a model: blocks are spans, and files are bytes with a hash.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`identity`] | who a machine is: a key pair in a file |
//! | [`invite`] | the word that lets a machine in |
//! | [`ledger`] | where a session stands, and what was passed on for it |
//! | [`network`] | the network as it is, over libp2p |
//! | [`record`] | what a server says of itself, signed |
//! | [`client`] | a session over several servers, mended when one is lost |
//! | [`server`] | blocks that others run |
//! | [`compute`] | where blocks are computed |
//! | [`registry`] | the table of records that everybody has, and how two tables become one |
//! | [`health`] | who has failed, and when to try it again |
//! | [`route`](mod@route) | which servers a client goes through |
//! | [`directory`] | what a machine knows of its swarm, and how it hears more |
//! | [`member`] | a server's life in a swarm |
//! | [`balance`] | which blocks a server takes |
//! | [`shelf`] | files that servers hand on |
//! | [`transport`] | what is needed of a network |
//! | [`simulated`] | a network that is not there, for tests |
//! | [`wire`] | frames, messages, and hidden states as bytes |

#![forbid(unsafe_code)]

pub mod balance;
pub mod client;
pub mod compute;
pub mod directory;
pub mod error;
pub mod health;
pub mod identity;
pub mod invite;
pub mod ledger;
pub mod member;
pub mod network;
pub mod record;
pub mod registry;
pub mod route;
pub mod server;
pub mod shelf;
pub mod simulated;
pub mod transport;
pub mod wire;

pub use error::{Digest, Refusal, Result, SwarmError};
pub use health::Health;
pub use invite::Invite;
pub use network::Network;
pub use record::{Figures, Record, ServerState, SignedRecord};
pub use registry::Registry;
pub use route::{Hop, Measured, Need, Servers};
pub use transport::{Stream, Transport};
pub use wire::Wire;
