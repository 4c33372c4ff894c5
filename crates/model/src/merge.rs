//! A model's folder with an adapter folded into its weights: `W + scale · B A` for each linear that has a pair. Written as
//! [`quantize`](mod@crate::quantize) writes folders: beside its name, a few rows of a linear at a time, going on after an
//! interruption.

use std::collections::HashMap;
use std::sync::Arc;

use bouquet_kernels::{Cpu, Matrix, product};
use bouquet_span::{Adapter, LinearId};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Dtype, TensorSource, find};
use crate::quantize::Plan;
use crate::{Encoding, ModelError, ModelSpec, Result, floats};

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
    if spec.stored.linears != Encoding::F32 {
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
    let what = json!({ "adapter": digest(adapter), "dtype": dtype.as_ref().map(Dtype::name) });
    floats::folded(spec, source, dtype, &folds, what, max_shard_bytes)
}

impl Fold {
    /// Adds the share of the pair to rows of the weight, from the one of a number on.
    pub(crate) fn add(&self, cpu: &Cpu, first: usize, numbers: &mut Matrix) {
        let pair = &self.adapter.pairs[&self.linear];
        let (rows, cols) = (numbers.rows(), numbers.cols());
        let mut share = Matrix::unset(rows, cols);
        product::product_backward(cpu, pair.b.slice(first..first + rows), pair.a.view(), share.view_mut());
        numbers.data_mut().iter_mut().zip(share.data()).for_each(|(number, share)| *number += pair.scale * share);
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
