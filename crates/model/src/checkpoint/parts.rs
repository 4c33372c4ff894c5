//! A weight or a vector of a model: found by its name with and without prefix, checked against what it should be.

use bouquet_kernels::{FloatEncoding, Weight};
use half::{bf16, f16};

use super::{Dtype, Tensor, TensorSource};
use crate::files::shown;
use crate::spec::TensorNames;
use crate::{ModelError, Result};

/// A tensor by its name without prefix, and its name in the file: with `prefix` where that is there, else as it is.
///
/// # Errors
/// [`ModelError::MissingTensor`], and those of the source.
pub fn find(source: &dyn TensorSource, prefix: &str, name: &str) -> Result<(String, Tensor)> {
    for full_name in [format!("{prefix}{name}"), name.to_owned()] {
        if let Some(tensor) = source.tensor(&full_name)? {
            return Ok((full_name, tensor));
        }
    }
    Err(ModelError::MissingTensor { name: name.to_owned(), folder: source.location().to_owned() })
}

/// The weight `[outputs, inputs]` of a name without prefix, as stored; its bytes stay where they are. Its numbers are not
/// looked at: what is not finite among them shows in the first output of its block.
///
/// # Errors
/// [`ModelError::MissingTensor`]; [`ModelError::Tensor`] for another shape, or for numbers that are not floats.
pub fn load_weight(
    source: &dyn TensorSource,
    names: &TensorNames,
    name: &str,
    outputs: usize,
    inputs: usize,
) -> Result<Weight> {
    let (name, tensor) = find(source, names.prefix, name)?;
    let encoding = check(&name, &tensor, &[outputs, inputs])?;
    Ok(Weight::from_bytes(encoding, outputs, inputs, tensor.data))
}

/// The vector of a name without prefix (a bias, a norm's weight), decoded.
///
/// # Errors
/// Those of [`load_weight`]; [`ModelError::Tensor`] for a number that is not finite.
pub fn load_vector(source: &dyn TensorSource, names: &TensorNames, name: &str, length: usize) -> Result<Vec<f32>> {
    let (name, tensor) = find(source, names.prefix, name)?;
    let encoding = check(&name, &tensor, &[length])?;
    let numbers = decode(encoding, &tensor.data);
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(numbers),
        Some(index) => wrong(&name, format!("has {} at index {index}", numbers[index])),
    }
}

/// How the numbers of a tensor are stored, when it has this shape and holds floats.
fn check(name: &str, tensor: &Tensor, shape: &[usize]) -> Result<FloatEncoding> {
    if tensor.shape != shape {
        return wrong(name, format!("should have shape {shape:?}, but has {:?}", tensor.shape));
    }
    let encoding = match tensor.dtype {
        Dtype::F32 => FloatEncoding::F32,
        Dtype::F16 => FloatEncoding::F16,
        Dtype::Bf16 => FloatEncoding::Bf16,
        ref other => {
            return wrong(name, format!("should hold F32, F16 or BF16 numbers, but holds {other}"));
        }
    };
    let expected = shape.iter().product::<usize>() * encoding.bytes();
    if tensor.data.len() != expected {
        return wrong(name, format!("should have {expected} bytes, but has {}", tensor.data.len()));
    }
    Ok(encoding)
}

fn decode(encoding: FloatEncoding, bytes: &[u8]) -> Vec<f32> {
    match encoding {
        FloatEncoding::F32 => bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect(),
        FloatEncoding::F16 => bytes.as_chunks().0.iter().map(|&number| f16::from_le_bytes(number).to_f32()).collect(),
        FloatEncoding::Bf16 => bytes.as_chunks().0.iter().map(|&number| bf16::from_le_bytes(number).to_f32()).collect(),
    }
}

fn wrong<T>(name: &str, problem: String) -> Result<T> {
    Err(ModelError::Tensor { name: shown(name), problem })
}
