//! What a model is: its configuration and family, its checkpoint, the one decoder block, the cache of keys and values,
//! the ends (embedding and head), and its tokenizer.
//!
//! ```text
//! text -> Tokenizer -> token_ids -> Embedding -> hidden states -> LocalSpan -> hidden states -> LmHead -> logits
//! ```
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`model`] | a model opened from a folder: the parts below, put together |
//! | [`spec`] | an architecture as data |
//! | [`config`] | `config.json`: settings read with bounds |
//! | [`families`] | a page per family: its configuration and its tensor names |
//! | [`checkpoint`] | tensors by name, from safetensors files in one piece or in shards, mapped into memory |
//! | [`inspect`] | what a checkpoint holds and needs, without loading it |
//! | [`gguf`] | models in GGUF files, read and written |
//! | [`mod@fingerprint`] | what decides the bits of a model's results, in a line |
//! | [`manifest`] | the list of the hashes of its parts, as machines pass it on |
//! | [`hash`] | of what is served, part by part |
//! | [`known_hashes`] | these, without reading a model twice |
//! | [`norm`] | a normalization with its parameters |
//! | [`load`] | from named tensors to the parts of a model |
//! | `linear` | a weight, its bias, and what an adapter adds |
//! | [`block`] | the decoder block, forward and backward |
//! | `kv_cache` | keys and values of a sequence |
//! | [`local`] | [`LocalSpan`]: blocks resident in this process |
//! | [`mod@encoding`] | weights as stored, or encoded when they are loaded |
//! | [`stored`] | how a folder says that its weights are encoded |
//! | `beside` | the files of a folder that are not weights |
//! | `rows` | rows of a weight in another type of numbers |
//! | `staging` | a folder that is being written, beside its name |
//! | [`mod@quantize`] | a folder whose weights are in codes, made from one with floats |
//! | [`floats`] | a folder whose weights are in floats, whatever they were in |
//! | [`mod@merge`] | a folder with an adapter folded into its weights |
//! | [`ends`] | embedding and head, with blocks beside them or elsewhere |
//! | [`mod@pooling`] | from hidden states to the embedding of a sentence |
//! | [`adapter`] | what has been learned on top, and the folder it rests in |
//! | [`random`] | models of published shapes with random weights |
//! | [`tokenizer`] | text to token ids and back |
//! | [`mod@chat_template`] | the turns of a conversation to text |
//! | [`generation_config`] | sampling defaults that a checkpoint ships with |
//!
//! ```
//! use std::sync::Arc;
//! use bouquet_kernels::Cpu;
//! use bouquet_model::{Encoding, Model, OpenOptions};
//! use bouquet_span::Pass;
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bloom-small-trained");
//! let options = OpenOptions::new(Cpu::new(2), 1 << 30, Encoding::Int8);
//! let model = Model::open(folder.as_ref(), &options)?;
//! let token_ids = model.tokenizer.encode("Once upon a time", true)?.ids;
//! let hidden = model.embedding.embed(&model.cpu, &[&token_ids])?;
//! let (hidden, _) = model.blocks.forward(hidden, &Pass::default())?;
//! let logits = model.head.logits(&model.cpu, hidden.values().view());
//! assert_eq!((logits.rows(), logits.cols()), (token_ids.len(), 8192));
//! # Ok::<(), bouquet_model::ModelError>(())
//! ```

#![deny(unsafe_code)]

pub mod adapter;
mod beside;
pub mod block;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod encoding;
pub mod ends;
pub mod error;
pub mod families;
mod files;
pub mod fingerprint;
pub mod floats;
mod form;
pub mod generation_config;
pub mod gguf;
pub mod hash;
pub mod inspect;
pub mod known_hashes;
mod kv_cache;
mod linear;
pub mod load;
pub mod local;
pub mod manifest;
pub mod merge;
pub mod model;
pub mod norm;
pub mod pooling;
pub mod quantize;
pub mod random;
mod rows;
pub mod spec;
mod staging;
pub mod stored;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, Message};
pub use encoding::Encoding;
pub use ends::Ends;
pub use error::{ModelError, Result};
pub use fingerprint::Fingerprint;
pub use gguf::is_gguf;
pub use hash::Hash;
pub use known_hashes::KnownHashes;
pub use local::LocalSpan;
pub use model::{Model, Network, OpenOptions};
pub use pooling::Pooling;
pub use spec::ModelSpec;
pub use stored::Stored;
pub use tokenizer::Tokenizer;
