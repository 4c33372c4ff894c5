//! Sentence embeddings: from texts to vectors, how good they are, and how to search in them.
//!
//! ```text
//! token_ids -> Embedding -> Span -> hidden states -> final norm -> Pooling (-> Dense) -> vectors -> {similarity, search}
//! ```
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`texts`] | texts out of files, one after another |
//! | [`text_embedder`] | texts to vectors |
//! | [`embedder`] | token ids to vectors, in batches of even length |
//! | [`dense`] | a linear map behind the pooling |
//! | [`whitening`] | such a map that makes all directions of embeddings count, fitted on some |
//! | [`sentence_transformers`] | what a folder of that library says about embeddings |
//! | [`export`] | the files of such a folder |
//! | [`sts`] | pairs of sentences with scores, and how well vectors agree with them |
//! | [`retrieval`] | parallel sentences, and how often one finds the other |
//! | [`vectors`] | files of vectors |
//! | [`parquet_claims`] | what a Parquet file claims, checked before it is believed |
//! | [`search`] | the nearest vectors of a query, all compared |
//! | [`hnsw`] | an index for many searches, approximate |
//! | [`mod@correlation`] | Pearson and Spearman |
//!
//! ```
//! use bouquet_embed::sts::cosine;
//! use bouquet_embed::{Embedder, TextEmbedder};
//! use bouquet_kernels::Cpu;
//! use bouquet_model::adapter::Learned;
//! use bouquet_model::{Encoding, Model, OpenOptions, Pooling};
//! use bouquet_span::Pass;
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bloom-small-trained");
//! let model = Model::open(folder.as_ref(), &OpenOptions::new(Cpu::new(2), 1 << 30, Encoding::Int8))?;
//! let (learned, pass) = (Learned::default(), Pass::default());
//! let embedder = TextEmbedder {
//!     tokenizer: &model.tokenizer,
//!     embedder: Embedder::new(&model, &learned, Pooling::Mean),
//!     max_tokens: 512,
//!     prefix: "",
//!     normalize: false,
//! };
//! let vectors = embedder.embed(&["Two cats.", "Two cats sleep.", "The law of the state."], &pass)?.vectors;
//! assert!(cosine(vectors.row(0), vectors.row(1)) > cosine(vectors.row(0), vectors.row(2)));
//! # Ok::<(), bouquet_embed::EmbedError>(())
//! ```

#![forbid(unsafe_code)]

pub mod correlation;
pub mod dense;
pub mod embedder;
pub mod error;
pub mod export;
pub mod hnsw;
pub mod parquet_claims;
pub mod retrieval;
pub mod search;
pub mod sentence_transformers;
pub mod sts;
pub mod text_embedder;
pub mod texts;
pub mod vectors;
pub mod whitening;

pub use dense::Dense;
pub use embedder::Embedder;
pub use error::{EmbedError, Result};
pub use text_embedder::TextEmbedder;
