//! The GGUF container, the one file in which llama.cpp and its kin keep a model: metadata by key, and tensors by name.
//! Before the data path begins: this room knows the container, and nothing of what a key or a tensor means.
//!
//! ```text
//! | "GGUF" | version | tensors, entries: how many | metadata: key, type, value | tensors: name, dimensions, kind, offset |
//! | zeros up to a multiple of the alignment | data: tensors, each at such a multiple |
//! ```
//!
//! Versions 2 and 3 of the specification (`docs/gguf.md` of the ggml project), which differ in nothing but that 3 may be
//! big-endian. Such files are refused, as is version 1, each by name.
//!
//! Nothing that a file says is taken on trust: counts and lengths are checked against the limits below and against the
//! bytes that are left before anything is reserved, and tensors lie inside of the file, aligned, each where no other is.
//! What is wrong is told in a sentence that names the key or the tensor.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | `read` | bytes to [`Gguf`] |
//! | `metadata` | [`Metadata`]: values by key, in the order of the file |
//! | `value` | [`Value`] and [`Array`] |
//! | `tensor` | [`TensorInfo`], [`TensorKind`] |
//! | `write` | [`Writer`] |
//! | `split` | models in several files |
//!
//! ```
//! use bouquet_gguf::{Gguf, Metadata, Planned, TensorKind, Writer};
//! let mut metadata = Metadata::default();
//! metadata.set("general.architecture", "bloom");
//! let tensors = [Planned::new("token_embd_norm.weight", &[2], TensorKind::F32)];
//! let mut writer = Writer::begin(Vec::new(), &metadata, &tensors)?;
//! writer.write("token_embd_norm.weight", &[0; 8])?;
//! let bytes = writer.finish()?;
//!
//! let file = Gguf::parse(&bytes)?;
//! assert_eq!(file.metadata.text("general.architecture")?, "bloom");
//! assert_eq!(file.tensor("token_embd_norm.weight").expect("it was written").shape, [2]);
//! # Ok::<(), bouquet_gguf::GgufError>(())
//! ```

#![forbid(unsafe_code)]

mod error;
mod metadata;
mod read;
pub mod split;
mod tensor;
mod value;
mod write;

pub use error::{GgufError, Result};
pub use metadata::Metadata;
pub use read::Gguf;
pub use tensor::{TensorInfo, TensorKind};
pub use value::{Array, Value};
pub use write::{MAGIC, Planned, Writer};

/// Bytes that all before the data may have. Those of large vocabularies have some 15 MB.
pub const MAX_HEADER_BYTES: usize = 128 << 20;

/// Entries that the metadata may have; models have less than a hundred.
pub const MAX_ENTRIES: usize = 1 << 16;

/// Tensors that a file may have; large mixtures of experts have some fifty thousand when each expert is a tensor.
pub const MAX_TENSORS: usize = 1 << 18;

/// Bytes of a key, by the specification, and of a tensor's name.
pub const MAX_NAME_BYTES: usize = 65_535;

/// Dimensions of a tensor, by the specification.
pub const MAX_DIMENSIONS: usize = 4;

/// Where no `general.alignment` says otherwise, the data of each tensor begins at a multiple of as many bytes.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// Powers of two that an alignment may be.
pub const ALIGNMENTS: std::ops::RangeInclusive<usize> = 8..=1 << 20;
