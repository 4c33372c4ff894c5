//! A weight or a vector of a model: found by its name with and without prefix, checked against what it should be.

use bouquet_kernels::weight::{BlockFormat, BlockWeight};
use bouquet_kernels::{Arithmetic, FloatEncoding, Weight};
use bouquet_span::counted;
use half::{bf16, f16};

use super::{Dtype, Tensor, TensorSource, encoded};
use crate::spec::TensorNames;
use crate::{ModelError, Result};

/// A tensor by its name without prefix, and its name in the file: with the prefix where that is there, else as it is.
///
/// # Errors
/// [`ModelError::MissingTensor`], and those of the source.
pub fn find(source: &dyn TensorSource, names: &TensorNames, name: &str) -> Result<(String, Tensor)> {
    for full_name in [format!("{}{name}", names.prefix), name.to_owned()] {
        if let Some(tensor) = source.tensor(&full_name)? {
            return Ok((full_name, tensor));
        }
    }
    Err(source.missing(&names.full_name(name)))
}

/// The weight `[outputs, inputs]` of a name without prefix, as stored, and its name in the file; its bytes stay where they
/// are. Its numbers are not looked at: what is not finite among them shows in the first output of its block. Codes ([`encoded`]) are known by
/// their type, and decoded where they are used until somebody asks for something else.
///
/// # Errors
/// [`ModelError::MissingTensor`]; [`ModelError::Tensor`] for another shape, for numbers that are neither floats nor
/// codes, and for codes that miss what belongs to them.
pub fn load_weight(
    source: &dyn TensorSource,
    names: &TensorNames,
    name: &str,
    outputs: usize,
    inputs: usize,
) -> Result<(String, Weight)> {
    let (name, tensor) = find(source, names, name)?;
    let weight = weight(source, &name, tensor, outputs, inputs)?;
    Ok((name, weight))
}

/// The weight of a tensor that has been found.
///
/// # Errors
/// Those of [`load_weight`], but that it is missing.
pub(crate) fn weight(
    source: &dyn TensorSource,
    name: &str,
    tensor: Tensor,
    outputs: usize,
    inputs: usize,
) -> Result<Weight> {
    if matches!(tensor.dtype, Dtype::I8 | Dtype::U8) {
        return encoded::load(source, name, tensor, outputs, inputs);
    }
    if let Dtype::Blocks(format) = tensor.dtype {
        return blocks(name, format, tensor, outputs, inputs);
    }
    let encoding = check_floats(name, &tensor, &[outputs, inputs])?;
    Ok(Weight::from_bytes(encoding, outputs, inputs, tensor.data))
}

/// A weight in blocks, of which each row is a whole number.
fn blocks(name: &str, format: BlockFormat, tensor: Tensor, rows: usize, cols: usize) -> Result<Weight> {
    if tensor.shape != [rows, cols] {
        return wrong(name, format!("should have shape {:?}, but has {:?}", [rows, cols], tensor.shape));
    }
    let expected =
        rows.checked_mul(cols / format.block_size()).and_then(|blocks| blocks.checked_mul(format.block_bytes()));
    if !cols.is_multiple_of(format.block_size()) || expected != Some(tensor.data.len()) {
        return wrong(name, format!("is not made of whole blocks of {format:?} by rows"));
    }
    Ok(Weight::Blocks(BlockWeight::new(format, rows, cols, tensor.data), Arithmetic::Float))
}

/// The vector of a name without prefix (a bias, a norm's weight), decoded.
///
/// # Errors
/// Those of [`load_weight`]; [`ModelError::Tensor`] for a number that is not finite.
pub fn load_vector(source: &dyn TensorSource, names: &TensorNames, name: &str, length: usize) -> Result<Vec<f32>> {
    let (name, tensor) = find(source, names, name)?;
    let encoding = check_floats(&name, &tensor, &[length])?;
    let numbers = decode(encoding, &tensor.data);
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(numbers),
        Some(index) => wrong(&name, format!("has {} at index {index}", numbers[index])),
    }
}

/// How the numbers of a tensor are stored, when it has this shape and holds floats.
pub(crate) fn check_floats(name: &str, tensor: &Tensor, shape: &[usize]) -> Result<FloatEncoding> {
    check(name, tensor, &[Dtype::F32, Dtype::F16, Dtype::Bf16], shape)?;
    Ok(match tensor.dtype {
        Dtype::F16 => FloatEncoding::F16,
        Dtype::Bf16 => FloatEncoding::Bf16,
        _ => FloatEncoding::F32,
    })
}

/// Whether a tensor has this shape, and numbers of one of these types.
pub(super) fn check(name: &str, tensor: &Tensor, dtypes: &[Dtype], shape: &[usize]) -> Result<()> {
    if tensor.shape != shape {
        return wrong(name, format!("should have shape {shape:?}, but has {:?}", tensor.shape));
    }
    if !dtypes.contains(&tensor.dtype) {
        let (last, others) = dtypes.split_last().expect("a type to have");
        let others = others.iter().map(Dtype::name).collect::<Vec<_>>().join(", ");
        let or = if others.is_empty() { "" } else { " or " };
        return wrong(name, format!("should hold {others}{or}{last} numbers, but holds {}", tensor.dtype));
    }
    let expected = shape.iter().product::<usize>() as u64 * tensor.dtype.bytes().expect("the type is known");
    if tensor.data.len() as u64 != expected {
        let (expected, found) = (counted(expected, "byte"), tensor.data.len());
        return wrong(name, format!("should have {expected}, but has {found}"));
    }
    Ok(())
}

pub(crate) fn decode(encoding: FloatEncoding, bytes: &[u8]) -> Vec<f32> {
    match encoding {
        FloatEncoding::F32 => bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect(),
        FloatEncoding::F16 => bytes.as_chunks().0.iter().map(|&number| f16::from_le_bytes(number).to_f32()).collect(),
        FloatEncoding::Bf16 => bytes.as_chunks().0.iter().map(|&number| bf16::from_le_bytes(number).to_f32()).collect(),
    }
}

/// The place of the first number that is not finite; `None` where all are, and for what are no floats.
pub(crate) fn not_finite(dtype: &Dtype, bytes: &[u8]) -> Option<usize> {
    // Of such numbers, all bits of the exponent are set.
    fn in_16_bits(bytes: &[u8], exponent: u16) -> Option<usize> {
        bytes.as_chunks().0.iter().position(|&number| u16::from_le_bytes(number) & exponent == exponent)
    }
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().position(|&number| !f32::from_le_bytes(number).is_finite()),
        Dtype::F16 => in_16_bits(bytes, 0x7c00),
        Dtype::Bf16 => in_16_bits(bytes, 0x7f80),
        _ => None,
    }
}

pub(crate) fn wrong<T>(name: &str, problem: String) -> Result<T> {
    Err(ModelError::Tensor { name: name.to_owned(), problem })
}
