//! A model's folder with its weights in floats, made from one of any kind: floats of another size, codes, or the blocks of a
//! GGUF file, which are decoded. Written as [`quantize`](mod@crate::quantize) writes folders.

use std::collections::{BTreeMap, HashMap};

use bouquet_span::LinearId;
use serde_json::{Value, json};

use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource, find};
use crate::merge::Fold;
use crate::quantize::{Change, Piece, Plan};
use crate::spec::ModelSpec;
use crate::stored::FIELD;
use crate::{ModelError, Result, Stored};

/// What codes and blocks become where nobody says what: the floats that most models are published in.
pub(crate) const DECODED: Dtype = Dtype::F16;

/// Plans the folder of a model in floats of `dtype`; without one, floats stay what they are, and all else becomes F16. Reads
/// no weights.
///
/// # Errors
/// Whatever is wrong with the tensors.
pub fn plan(spec: &ModelSpec, source: &dyn TensorSource, dtype: Option<Dtype>, max_shard_bytes: u64) -> Result<Plan> {
    let what = json!({ "dtype": dtype.as_ref().map(Dtype::name) });
    folded(spec, source, dtype, &HashMap::new(), what, max_shard_bytes)
}

/// The same with something added to weights, by their names in the source. `what` tells it from others.
pub(crate) fn folded(
    spec: &ModelSpec,
    source: &dyn TensorSource,
    dtype: Option<Dtype>,
    folds: &HashMap<String, Fold>,
    what: Value,
    max_shard_bytes: u64,
) -> Result<Plan> {
    let matrices = matrices(spec, source)?;
    let piece = |name: &str, tensor: &Tensor| {
        let matrix = matrices.get(name).filter(|_| matches!(tensor.dtype, Dtype::I8 | Dtype::U8));
        let decoded = matrix.is_some() || matches!(tensor.dtype, Dtype::Blocks(_));
        if matrix.is_none() && is_beside_codes(name, &matrices, source) {
            return None;
        }
        let wanted = match (&dtype, decoded) {
            (None, true) => DECODED,
            (Some(dtype), true) => dtype.clone(),
            (Some(dtype), false) if is_float(&tensor.dtype) => dtype.clone(),
            _ => tensor.dtype.clone(),
        };
        let fold = folds.get(name).cloned();
        let change = match fold.is_some() || wanted != tensor.dtype {
            true => Change::Floats(fold),
            false => Change::Copied,
        };
        let shape = matrix.map_or(&tensor.shape[..], |shape| &shape[..]);
        Some(Piece { source: name.to_owned(), change, tensors: vec![Planned::new(name, wanted, shape)] })
    };
    let in_codes = spec.stored != Stored::floats();
    let said = dtype.clone().or(in_codes.then_some(DECODED));
    let config = config(said.as_ref()).into_iter().chain(in_codes.then(|| (FIELD.to_owned(), Value::Null))).collect();
    let plan = Plan { stored: Stored::floats(), bytes_before: 0, shards: Vec::new(), what, config };
    plan.with_pieces(spec, source, max_shard_bytes, piece)
}

/// What `config.json` says of floats of a type: by the name that transformers has given the field since its release 4.56, and
/// the one before.
pub(crate) fn config(dtype: Option<&Dtype>) -> Vec<(String, Value)> {
    let fields = ["dtype", "torch_dtype"].map(str::to_owned);
    dtype.into_iter().flat_map(|dtype| fields.clone().map(|field| (field, json!(of_torch(dtype))))).collect()
}

/// The matrices that may be in codes, by their names in the source, with their rows and columns.
pub(crate) fn matrices(spec: &ModelSpec, source: &dyn TensorSource) -> Result<BTreeMap<String, [usize; 2]>> {
    let mut modules = vec![
        (spec.names.embedding.to_owned(), [spec.vocab_size, spec.embedding_size]),
        (spec.names.head.to_owned(), [spec.vocab_size, spec.embedding_size]),
    ];
    if spec.projects() {
        let (hidden, embedding) = (spec.block.hidden_size, spec.embedding_size);
        modules.push((spec.names.project_in.to_owned(), [hidden, embedding]));
        modules.push((spec.names.project_out.to_owned(), [embedding, hidden]));
    }
    for block in 0..spec.num_blocks {
        for linear in spec.block.linears() {
            let module = spec.names.linear(LinearId::new(block, linear.site));
            modules.extend(module.map(|module| (module, [linear.outputs, linear.inputs])));
        }
    }
    let mut matrices = BTreeMap::new();
    for (module, shape) in modules {
        match find(source, &spec.names, &format!("{module}.weight")) {
            Ok((name, _)) => drop(matrices.insert(name, shape)),
            // A head that is the embedding; what else is missing is told by whoever loads it.
            Err(ModelError::MissingTensor { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(matrices)
}

/// Whether a tensor holds scales and the like of a matrix in codes.
pub(crate) fn is_beside_codes(name: &str, matrices: &BTreeMap<String, [usize; 2]>, source: &dyn TensorSource) -> bool {
    // `M.SCB`, `M.weight.absmax`: the longest name before a dot that is a matrix's.
    let mut ends = name.match_indices('.').map(|(end, _)| end);
    ends.any(|end| {
        let weight = format!("{}.weight", &name[..end]);
        weight != name
            && !name.ends_with(".bias")
            && matrices.contains_key(&weight)
            && matches!(source.tensor(&weight), Ok(Some(tensor)) if matches!(tensor.dtype, Dtype::I8 | Dtype::U8))
    })
}

fn is_float(dtype: &Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// What PyTorch calls a type.
fn of_torch(dtype: &Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        _ => "float32",
    }
}
