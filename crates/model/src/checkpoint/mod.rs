//! Tensors by name. A checkpoint is whatever can answer [`TensorSource`]: the safetensors files of a folder
//! ([`Checkpoint`]), tensors made by a program ([`Memory`]), other formats elsewhere. Nothing is copied: a tensor's bytes
//! are a piece of a mapped file.
//!
//! | module | job |
//! |---|---|
//! | [`folder`] | a folder of safetensors: one file, or shards and their index |
//! | [`safetensors`] | one file: its header, and every lie that a header can tell |
//! | `mmap` | a file as bytes |
//! | [`parts`] | a weight or a vector of a model, checked against what it should be |
//! | [`memory`] | tensors in memory |

use std::fmt;
use std::path::Path;

use ::safetensors::Dtype as Stored;
use bytes::Bytes;

use crate::Result;

pub mod folder;
pub mod memory;
mod mmap;
pub mod parts;
pub mod safetensors;
mod unique;

pub use folder::Checkpoint;
pub use memory::Memory;
pub use parts::{find, load_vector, load_weight};

/// Named tensors.
pub trait TensorSource {
    /// Where they are: a folder, for messages.
    fn location(&self) -> &Path;

    /// All names, sorted.
    fn names(&self) -> Vec<&str>;

    /// The tensor of that exact name; `Ok(None)` when there is none.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// Any other, which no part of a model is read from yet.
    Other(Stored),
}

impl From<Stored> for Dtype {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            other => Dtype::Other(other),
        }
    }
}

impl fmt::Display for Dtype {
    /// As a safetensors header has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dtype::F32 => write!(f, "F32"),
            Dtype::F16 => write!(f, "F16"),
            Dtype::Bf16 => write!(f, "BF16"),
            Dtype::Other(other) => write!(f, "{other}"),
        }
    }
}
