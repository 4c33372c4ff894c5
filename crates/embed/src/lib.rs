//! Sentence embeddings: from texts to vectors, how good they are, and how to search in them.
//!
//! ```text
//! token_ids -> Embedding -> Span -> hidden states -> final norm -> Pooling -> vectors -> {similarity, search}
//! ```
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`embedder`] | texts to vectors, in batches of even length |

#![forbid(unsafe_code)]

pub mod embedder;

pub use embedder::Embedder;
