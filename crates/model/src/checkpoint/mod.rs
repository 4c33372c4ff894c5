//! Tensors by name. A checkpoint is whatever can answer [`TensorSource`]: the safetensors files of a folder or a GGUF file
//! ([`Checkpoint`]), tensors made by a program ([`InMemory`]). Nothing is copied: a tensor's
//! bytes are a piece of a mapped file.
//!
//! | module | job |
//! |---|---|
//! | [`folder`] | a folder of safetensors: one file, or shards and their index |
//! | [`safetensors`] | one file: its header, and every lie that a header can tell |
//! | `mmap` | a file as bytes |
//! | [`parts`] | a weight or a vector of a model, checked against what it should be |
//! | [`encoded`] | a weight in codes: the tensors that it is made of |
//! | [`in_memory`] | tensors in memory |
//! | [`mod@write`] | a file written a piece at a time |
//! | [`new_file`] | a file that gets its name when all of it is on the disk |

use std::fmt;
use std::path::Path;

use bouquet_kernels::weight::BlockFormat;
use bytes::Bytes;

use crate::{ModelError, Result};

pub mod encoded;
pub mod folder;
pub mod in_memory;
pub(crate) mod mmap;
pub mod new_file;
pub mod parts;
pub mod safetensors;
mod unique;
pub mod write;

pub use folder::Checkpoint;
pub use in_memory::InMemory;
pub use parts::{find, load_vector, load_weight};

/// Named tensors.
pub trait TensorSource {
    /// Where they are: a folder, for messages.
    fn location(&self) -> &Path;

    /// All names, sorted.
    fn names(&self) -> Vec<&str>;

    /// The tensor of that exact name; `Ok(None)` when there is none.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;

    /// That there is no tensor of that name, in the words of where it should be.
    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor { name: name.to_owned(), folder: self.location().to_owned() }
    }

    /// Says that a part of a tensor is not needed for a while, so that it need not be held in memory. It stays what it is.
    fn release(&self, _data: &[u8]) {}
}

/// One tensor, as stored.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its numbers, row-major, little-endian; exactly as many as `dtype` and `shape` say.
    pub data: Bytes,
}

/// Types of numbers that a tensor can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// 8 bytes, with a sign.
    I64,
    /// 4 bytes, with a sign.
    I32,
    /// 1 byte, with a sign.
    I8,
    /// 1 byte.
    U8,
    /// Blocks of a GGUF file.
    Blocks(BlockFormat),
    /// Any other, as a safetensors header calls it.
    Other(String),
}

impl Dtype {
    /// Those with a name of their own here.
    const KNOWN: [Dtype; 7] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I64, Dtype::I32, Dtype::I8, Dtype::U8];

    /// The type of that name in a safetensors header.
    pub fn of_name(name: &str) -> Self {
        let known = Dtype::KNOWN.into_iter().find(|dtype| dtype.name() == name);
        known.unwrap_or_else(|| Dtype::Other(name.to_owned()))
    }

    /// As a safetensors header has it.
    pub fn name(&self) -> &str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::I8 => "I8",
            Dtype::U8 => "U8",
            Dtype::Blocks(format) => format.name(),
            Dtype::Other(name) => name,
        }
    }

    /// Bytes of a number; `None` for [`Other`](Self::Other), and where several numbers share bytes.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Dtype::I64 => Some(8),
            Dtype::F32 | Dtype::I32 => Some(4),
            Dtype::F16 | Dtype::Bf16 => Some(2),
            Dtype::I8 | Dtype::U8 => Some(1),
            Dtype::Blocks(_) | Dtype::Other(_) => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
