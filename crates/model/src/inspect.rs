//! What a checkpoint holds and what running it needs, without loading it: names, shapes and sizes come from headers.

use std::collections::BTreeMap;

use bouquet_kernels::ops::attention::CacheEncoding;
use serde::Serialize;

use crate::checkpoint::TensorSource;
use crate::families::{self, Parameters};
use crate::load::Loader;
use crate::{ModelSpec, Result};

/// Lengths of context that memory is told for, as far as the model's positions go.
const CONTEXTS: [usize; 5] = [512, 2048, 8192, 32_768, 131_072];

/// A checkpoint seen from outside. What of it fits into a machine is for those who know the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// `model_type`.
    pub family: &'static str,
    /// Decoder blocks.
    pub num_blocks: usize,
    /// Channels between blocks.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest sequence that the positions are made for, where they set a limit.
    pub max_positions: Option<usize>,
    /// Whether the head is the embedding, rather than a tensor of its own.
    pub tied_head: bool,
    /// Numbers that the model has learned, by its configuration and its head.
    pub parameters: Parameters,
    /// Bytes of all tensors as they are stored.
    pub weight_bytes: u64,
    /// The same by type of number.
    pub weight_bytes_by_dtype: BTreeMap<String, u64>,
    /// Bytes of keys and values that a token takes in all blocks, in f32.
    pub kv_cache_bytes_per_token: u64,
    /// What one sequence needs by its length.
    pub memory: Vec<MemoryNeed>,
    /// All tensors, by name.
    pub tensors: Vec<TensorSummary>,
}

/// What one sequence needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryNeed {
    /// Its tokens.
    pub context: usize,
    /// Keys and values.
    pub kv_cache_bytes: u64,
    /// The same with all weights. What a step works in comes on top, and depends on how many tokens it takes.
    pub total_bytes: u64,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorSummary {
    /// Its name in the file.
    pub name: String,
    /// Type of its numbers, as safetensors calls it.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Bytes as stored.
    pub bytes: u64,
}

impl Inspection {
    /// Looks at a checkpoint and at the specification of its folder. Touches no weights.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(spec: &ModelSpec, source: &dyn TensorSource) -> Result<Inspection> {
        let spec = &ModelSpec { tied_head: Loader { source, spec, encoding: None }.tied_head()?, ..spec.clone() };
        let mut tensors = Vec::new();
        let mut weight_bytes_by_dtype: BTreeMap<String, u64> = BTreeMap::new();
        for name in source.names() {
            let Some(tensor) = source.tensor(name)? else { continue };
            let (dtype, bytes) = (tensor.dtype.to_string(), tensor.data.len() as u64);
            *weight_bytes_by_dtype.entry(dtype.clone()).or_default() += bytes;
            tensors.push(TensorSummary { name: name.to_owned(), dtype, shape: tensor.shape, bytes });
        }
        let weight_bytes = weight_bytes_by_dtype.values().sum();
        let per_token = spec.cache_bytes_per_token(CacheEncoding::F32);
        let need = |context: usize| {
            let kv_cache_bytes = per_token.saturating_mul(context as u64);
            MemoryNeed { context, kv_cache_bytes, total_bytes: kv_cache_bytes.saturating_add(weight_bytes) }
        };
        Ok(Inspection {
            family: spec.family,
            num_blocks: spec.num_blocks,
            hidden_size: spec.block.hidden_size,
            vocab_size: spec.vocab_size,
            max_positions: spec.max_positions,
            tied_head: spec.tied_head,
            // A specification that comes from a family has been counted before.
            parameters: families::parameters(spec).unwrap_or(Parameters { total: 0, embedding: 0, per_block: 0 }),
            weight_bytes,
            weight_bytes_by_dtype,
            kv_cache_bytes_per_token: per_token,
            memory: contexts(spec.max_positions).into_iter().map(need).collect(),
            tensors,
        })
    }
}

/// The usual lengths below the limit, and the limit.
fn contexts(limit: Option<usize>) -> Vec<usize> {
    match limit {
        None => CONTEXTS.to_vec(),
        Some(limit) => CONTEXTS.into_iter().filter(|&context| context < limit).chain([limit]).collect(),
    }
}
