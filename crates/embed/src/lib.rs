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
//! | [`export`] | the files of a folder of sentence-transformers |

#![forbid(unsafe_code)]

pub mod correlation;
pub mod embedder;
pub mod export;

pub use embedder::Embedder;
