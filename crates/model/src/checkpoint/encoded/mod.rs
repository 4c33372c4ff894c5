//! Weights in codes: the tensors that one is made of. `M` is the name of a linear, or of the embedding or the head.
//!
//! | encoding | tensors | whose layout |
//! |---|---|---|
//! | int8 | `M.weight` I8 `[rows, cols]`, `M.SCB` F32 `[rows]`, `M.weight_format` U8 `[]`, which is 0 | bitsandbytes |
//! | nf4 | `M.weight` U8 `[rows * cols / 2, 1]`, and beside it `.absmax` F32 `[blocks]`, `.quant_map` F32 `[16]`, `.quant_state.bitsandbytes__nf4`, an object in JSON | bitsandbytes |
//! | nf4, double | the same with `.absmax` U8 `[blocks]`, `.nested_absmax` F32 `[blocks / 256]`, `.nested_quant_map` F32 `[256]` | bitsandbytes |
//! | int4 | `M.weight` U8 `[rows, groups * 32]`, `M.group_scales` I8 `[rows, groups]`, `M.row_scales` F32 `[rows]` | Bouquet |
//!
//! What the numbers mean is told beside the kernels. Codes are used where they lie; scales are copied and checked.

mod int4;
mod int8;
mod nf4;

use bouquet_kernels::{FloatEncoding, Weight};
use bytes::Bytes;

use super::write::Planned;
use super::{Dtype, Tensor, TensorSource};
use crate::checkpoint::parts::{check, decode, wrong};
use crate::files::shown;
use crate::{Encoding, Result};

/// How a weight is stored, as far as that decides its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which codes.
    pub encoding: Encoding,
    /// nf4 with magnitudes in 8 bits.
    pub double: bool,
}

/// Whether a tensor of codes is what it should be, and the weight that it makes with those beside it.
pub(super) fn load(source: &dyn TensorSource, name: &str, tensor: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    if tensor.dtype == Dtype::I8 {
        return int8::load(source, name, tensor, rows, cols);
    }
    let (nf4, int4) = (format!("{name}{}", nf4::STATE), format!("{}{}", module(name), int4::GROUP_SCALES));
    if source.tensor(&nf4)?.is_some() {
        nf4::load(source, name, tensor, rows, cols)
    } else if source.tensor(&int4)?.is_some() {
        int4::load(source, name, tensor, rows, cols)
    } else {
        let [nf4, int4] = [nf4, int4].map(|name| shown(&name));
        wrong(name, format!("holds codes, but neither {nf4} nor {int4} is there to say what they mean"))
    }
}

impl Layout {
    /// The tensors of a weight of this shape, `module` being its name without `.weight`. Panics for floats.
    pub fn tensors(self, module: &str, rows: usize, cols: usize) -> Vec<Planned> {
        match self.encoding {
            Encoding::F32 | Encoding::Stored => unreachable!("{module} has no layout of codes"),
            Encoding::Int8 => int8::layout(module, rows, cols),
            Encoding::Int4 => int4::layout(module, rows, cols),
            Encoding::Nf4 => nf4::layout(module, rows, cols, self.double),
        }
    }

    /// The bytes of each of them. `was` is what the weight was encoded from, which some readers decode it to. Panics for
    /// floats.
    pub fn contents(self, weight: &Weight, was: FloatEncoding) -> Vec<Bytes> {
        match weight {
            Weight::Float(_) => unreachable!("floats have no codes"),
            Weight::Blocks(..) => unreachable!("blocks are in files of their own kind"),
            Weight::Int8(weight, _) => int8::contents(weight),
            Weight::Int4(weight, _) => int4::contents(weight),
            Weight::Nf4(weight) => nf4::contents(weight, self.double, was),
        }
    }
}

/// A tensor beside the codes called `codes`, of this type and shape.
fn beside(source: &dyn TensorSource, codes: &str, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Tensor> {
    match source.tensor(name)? {
        Some(tensor) => {
            check(name, &tensor, &[dtype], shape)?;
            Ok(tensor)
        }
        None => wrong(codes, format!("holds codes, but {} that belongs to it is missing", shown(name))),
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
    let numbers = decode(FloatEncoding::F32, &tensor.data);
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(numbers),
        Some(index) => wrong(name, format!("has {} at index {index}", numbers[index])),
    }
}

/// F32 numbers to write.
fn vector_bytes(numbers: &[f32]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// What PyTorch calls them.
fn floats_of(encoding: FloatEncoding) -> &'static str {
    match encoding {
        FloatEncoding::F32 => "float32",
        FloatEncoding::F16 => "float16",
        FloatEncoding::Bf16 => "bfloat16",
    }
}

/// The name of a module whose weight has this name.
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
