//! A model's folder with an adapter folded into its weights: `W + scale · B A` for each linear that has a pair. Written as
//! [`quantize`](mod@crate::quantize) writes folders: beside its name, a few rows of a linear at a time, going on after an
//! interruption.

use std::collections::HashMap;
use std::sync::Arc;

use bouquet_kernels::{FloatEncoding, Matrix, product};
use bouquet_span::{Adapter, LinearId};
use half::{bf16, f16};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checkpoint::parts::{decode, wrong};
use crate::checkpoint::write::{Planned, Writer};
use crate::checkpoint::{Dtype, Tensor, TensorSource, find};
use crate::quantize::{AT_A_TIME, Change, Job, Piece, Plan};
use crate::{ModelError, ModelSpec, Result, Stored};

/// A pair that is added to a weight.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    adapter: Arc<Adapter>,
    linear: LinearId,
}

/// Plans the folder of a model with an adapter folded in. Floats stay what they are, or become `dtype`. Reads no weights.
///
/// # Errors
/// [`ModelError::NotFloats`] for weights in codes; an adapter of another model; whatever is wrong with the tensors.
pub fn plan(
    spec: &ModelSpec,
    source: &dyn TensorSource,
    adapter: &Arc<Adapter>,
    dtype: Option<Dtype>,
    max_shard_bytes: u64,
) -> Result<Plan> {
    if spec.stored != Stored::floats() {
        return Err(ModelError::NotFloats { stored: spec.stored.linears });
    }
    let shape = |site| spec.block.linear(site).map(|linear| [linear.outputs, linear.inputs]);
    adapter.check(0..spec.num_blocks, shape)?;
    let mut folds = HashMap::new();
    for &linear in adapter.pairs.keys() {
        if let Some(module) = spec.names.linear(linear) {
            let (name, _) = find(source, &spec.names, &format!("{module}.weight"))?;
            folds.insert(name, Fold { adapter: adapter.clone(), linear });
        }
    }
    let piece = |name: &str, tensor: &Tensor| {
        let fold = folds.get(name).cloned();
        let wanted = dtype.clone().filter(|_| is_float(&tensor.dtype)).unwrap_or_else(|| tensor.dtype.clone());
        let change = match fold.is_some() || wanted != tensor.dtype {
            true => Change::Folded(fold),
            false => Change::Copied,
        };
        Piece { source: name.to_owned(), change, tensors: vec![Planned::new(name, wanted, &tensor.shape)] }
    };
    let what = json!({ "adapter": digest(adapter), "dtype": dtype.as_ref().map(Dtype::name) });
    // The name that transformers has given the field since its release 4.56, and the one before.
    let fields = ["dtype", "torch_dtype"].map(str::to_owned);
    let config = dtype.iter().flat_map(|dtype| fields.clone().map(|field| (field, json!(of_torch(dtype))))).collect();
    let plan = Plan { stored: Stored::floats(), bytes_before: 0, shards: Vec::new(), what, config };
    plan.with_pieces(spec, source, max_shard_bytes, piece)
}

/// Writes a tensor of floats as `planned` has it, some rows at a time.
pub(crate) fn write(
    tensor: &Tensor,
    planned: &Planned,
    fold: Option<&Fold>,
    job: &Job<'_>,
    writer: &mut Writer,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let encoding = float_encoding(&tensor.dtype);
    let cols = tensor.shape.last().copied().unwrap_or(1).max(1);
    let row_bytes = cols * tensor.dtype.bytes().expect("floats") as usize;
    let rows_at_a_time = (AT_A_TIME / row_bytes).max(1);
    let mut written = 0;
    for (index, part) in tensor.data.chunks(rows_at_a_time * row_bytes).enumerate() {
        job.limits.check()?;
        let mut numbers = decode(encoding, part);
        if let Some(Fold { adapter, linear }) = fold {
            let (first, rows) = (index * rows_at_a_time, numbers.len() / cols);
            let pair = &adapter.pairs[linear];
            let mut share = Matrix::unset(rows, cols);
            product::product_backward(job.cpu, pair.b.slice(first..first + rows), pair.a.view(), share.view_mut());
            numbers.iter_mut().zip(share.data()).for_each(|(number, share)| *number += pair.scale * share);
        }
        let bytes = encode(&planned.dtype, &numbers);
        let of_planned = decode(float_encoding(&planned.dtype), &bytes);
        if let Some(place) = of_planned.iter().position(|number| !number.is_finite()) {
            let place = index * rows_at_a_time * cols + place;
            return wrong(&planned.name, format!("would have a number at index {place} that is not finite"));
        }
        writer.write(&planned.name, written, &bytes)?;
        written += bytes.len() as u64;
        job.source.release(part);
        progress(bytes.len() as u64);
    }
    Ok(())
}

fn is_float(dtype: &Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

fn float_encoding(dtype: &Dtype) -> FloatEncoding {
    match dtype {
        Dtype::F16 => FloatEncoding::F16,
        Dtype::Bf16 => FloatEncoding::Bf16,
        _ => FloatEncoding::F32,
    }
}

fn encode(dtype: &Dtype, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
        Dtype::Bf16 => numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}

/// What PyTorch calls a type.
fn of_torch(dtype: &Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        _ => "float32",
    }
}

/// What tells one adapter from another.
fn digest(adapter: &Adapter) -> String {
    let mut hash = Sha256::new();
    for (linear, pair) in &adapter.pairs {
        hash.update(linear.counter().to_le_bytes());
        hash.update(pair.scale.to_le_bytes());
        for matrix in [&pair.a, &pair.b] {
            hash.update((matrix.rows() as u64).to_le_bytes());
            matrix.data().iter().for_each(|number| hash.update(number.to_le_bytes()));
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
