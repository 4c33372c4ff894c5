//! Weights in codes: the tensors that one is made of. `M` is the name of a linear, or of the embedding or the head.
//!
//! | encoding | tensors | whose layout |
//! |---|---|---|
//! | int8 | `M.weight` I8 `[rows, cols]`, `M.SCB` F32 `[rows]`, `M.weight_format` U8 `[]`, which is 0 | bitsandbytes |
//! | int4 | `M.weight` U8 `[rows, groups * 32]`, `M.group_scales` U8 `[rows, groups]`, `M.row_scales` F32 `[rows]` | Bouquet |
//!
//! What the numbers mean is told beside the kernels. Codes are used where they lie; scales are copied and checked.

pub(crate) mod int4;
pub(crate) mod int8;

use bouquet_kernels::Weight;
use bytes::Bytes;

use super::write::Planned;
use super::{Dtype, Tensor, TensorSource};
use crate::Result;
use crate::checkpoint::parts::{check, decode, wrong};

/// Whether a tensor of codes is what it should be, and the weight that it makes with those beside it.
pub(super) fn load(source: &dyn TensorSource, name: &str, tensor: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    match tensor.dtype {
        Dtype::I8 => int8::load(source, name, tensor, rows, cols),
        _ => int4::load(source, name, tensor, rows, cols),
    }
}

/// The tensors of an encoded weight, `module` being its name without `.weight`. Panics for floats.
pub(crate) fn tensors(module: &str, weight: &Weight) -> Vec<(Planned, Bytes)> {
    match weight {
        Weight::Float(_) | Weight::Nf4(_) => unreachable!("{module} has no layout of codes"),
        Weight::Int8(weight, _) => int8::tensors(module, weight),
        Weight::Int4(weight, _) => int4::tensors(module, weight),
    }
}

/// A tensor beside the codes called `codes`, of this type and shape.
fn beside(source: &dyn TensorSource, codes: &str, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Tensor> {
    match source.tensor(name)? {
        Some(tensor) => {
            check(name, &tensor, &[dtype], shape)?;
            Ok(tensor)
        }
        None => wrong(codes, format!("holds codes, but {} that belongs to it is missing", crate::files::shown(name))),
    }
}

/// Scales: F32 numbers beside the codes, none of them negative.
fn scales(source: &dyn TensorSource, codes: &str, name: &str, length: usize) -> Result<Vec<f32>> {
    let numbers = floats(source, codes, name, length)?;
    match numbers.iter().position(|&number| number < 0.0) {
        None => Ok(numbers),
        Some(index) => wrong(name, format!("has {} at index {index}, but scales are not negative", numbers[index])),
    }
}

/// F32 numbers beside the codes, all of them finite.
fn floats(source: &dyn TensorSource, codes: &str, name: &str, length: usize) -> Result<Vec<f32>> {
    let tensor = beside(source, codes, name, Dtype::F32, &[length])?;
    let numbers = decode(bouquet_kernels::FloatEncoding::F32, &tensor.data);
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(numbers),
        Some(index) => wrong(name, format!("has {} at index {index}", numbers[index])),
    }
}

/// A vector of F32 numbers to write.
fn vector(name: String, numbers: &[f32]) -> (Planned, Bytes) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    (Planned::new(name, Dtype::F32, &[numbers.len()]), bytes.into())
}

/// The name of a module whose weight has this name.
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
