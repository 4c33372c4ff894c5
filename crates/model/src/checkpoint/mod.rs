//! Tensors by name. A checkpoint is whatever can answer [`TensorSource`]: safetensors files here, other formats and
//! tests elsewhere. Nothing is copied: a tensor's bytes are a piece of a mapped file.

use bytes::Bytes;

use crate::Result;

/// Named tensors.
pub trait TensorSource {
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
    Other(safetensors::Dtype),
}
