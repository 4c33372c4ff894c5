//! A page per family: what its `config.json` means, and how it calls its tensors. A new family is a page and a line in
//! [`FAMILIES`].

use std::path::Path;

use bouquet_kernels::ops::activation::Activation;

use crate::config::{Bounds, Config};
use crate::files::shown;
use crate::form::Form;
use crate::spec::{BlockSpec, ModelSpec};
use crate::stored::Stored;
use crate::{ModelError, Result};

pub mod bloom;
pub mod falcon;
pub mod llama;
pub mod mistral;
pub mod mixtral;
pub mod opt;
pub mod qwen;
mod rope;

/// Reads a family's `config.json`.
type ReadSpec = fn(&Config) -> Result<ModelSpec>;

/// Every family by its `model_type`.
pub const FAMILIES: [(&str, ReadSpec); 8] = [
    ("bloom", bloom::spec),
    ("falcon", falcon::spec),
    ("llama", llama::spec),
    ("mistral", mistral::spec),
    ("mixtral", mixtral::spec),
    ("opt", opt::spec),
    ("qwen2", qwen::spec_2),
    ("qwen3", qwen::spec_3),
];

/// Largest numbers of a model. Generous to what exists, and small enough that nothing overflows or is reserved in vain.
pub(crate) mod limits {
    use super::Bounds;

    pub(crate) const HIDDEN_SIZE: Bounds = Bounds::up_to(1 << 20);
    pub(crate) const BLOCKS: Bounds = Bounds::up_to(10_000);
    pub(crate) const HEADS: Bounds = Bounds::up_to(1 << 16);
    pub(crate) const HEAD_DIM: Bounds = Bounds::up_to(1 << 14);
    pub(crate) const INTERMEDIATE_SIZE: Bounds = Bounds::up_to(1 << 24);
    pub(crate) const VOCAB_SIZE: Bounds = Bounds::up_to(1 << 24);
    pub(crate) const EXPERTS: Bounds = Bounds::up_to(4096);
    pub(crate) const POSITIONS: Bounds = Bounds::up_to(1 << 32);
    /// Parameters of a whole model: what can be addressed in f32 with room to spare.
    pub(crate) const PARAMETERS: u64 = 1 << 48;
}

/// The specification of the model in a folder, or in a GGUF file.
///
/// # Errors
/// Those of [`spec`], and a `config.json` that is missing or cannot be read.
pub fn load_spec(folder: &Path) -> Result<ModelSpec> {
    spec_of(&Form::open(folder)?)
}

/// As [`load_spec`].
pub(crate) fn spec_of(model: &Form) -> Result<ModelSpec> {
    match model {
        Form::Folder(folder) => spec(&Config::load(folder)?),
        Form::Gguf(file) => file.spec(),
    }
}

/// The specification that a `config.json` describes.
///
/// # Errors
/// [`ModelError::UnknownFamily`], or [`ModelError::Config`] for numbers that no model can have and for what Bouquet does
/// not do.
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let known = || FAMILIES.map(|(family, _)| family).join(", ");
    let Some(family) = config.optional_text("model_type")? else {
        return Err(config.error("model_type", format!("is missing (known families: {})", known())));
    };
    let Some((_, read)) = FAMILIES.iter().find(|(known, _)| *known == family) else {
        return Err(ModelError::UnknownFamily { family: family.chars().take(100).collect(), known: known() });
    };
    let spec = ModelSpec { stored: Stored::read(config)?, ..read(config)? };
    check_size(config, &spec)?;
    if let Some(id) = spec.eos_token_ids.iter().find(|&&id| id as usize >= spec.vocab_size) {
        let problem = format!("has {id}, which is outside of the vocabulary of {}", spec.vocab_size);
        return Err(config.error("eos_token_id", problem));
    }
    Ok(spec)
}

/// The nonlinearity of a feed-forward, by the names that transformers has for it.
fn activation(config: &Config, field: &str, default: Activation) -> Result<Activation> {
    Ok(match config.optional_text(field)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some(other) => {
            let known = "silu, gelu, gelu_new, gelu_pytorch_tanh and relu";
            return Err(config.error(field, format!("is {}, but only {known} are known", shown(other))));
        }
    })
}

/// Channels of each of `heads` heads that share the hidden states among them.
fn head_dim(config: &Config, heads: usize, hidden_size: usize) -> Result<usize> {
    if hidden_size.is_multiple_of(heads) {
        return Ok(hidden_size / heads);
    }
    let problem = format!("is {heads}, which does not divide the hidden_size of {hidden_size}");
    Err(config.error("num_attention_heads", problem))
}

/// Whether all parameters together can be counted and addressed.
fn check_size(config: &Config, spec: &ModelSpec) -> Result<()> {
    match parameters(spec) {
        Some(count) if count.total <= limits::PARAMETERS => Ok(()),
        _ => {
            let problem = format!("and other numbers make a model of more than {} parameters", limits::PARAMETERS);
            Err(config.error("hidden_size", problem))
        }
    }
}

/// Numbers that a model has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Parameters {
    /// All of them; a head that shares the embedding is counted once.
    pub total: u64,
    /// Of the embedding, without its norm.
    pub embedding: u64,
    /// Of each block.
    pub per_block: u64,
}

/// The number of parameters of a specification; `None` when they cannot be counted.
pub fn parameters(spec: &ModelSpec) -> Option<Parameters> {
    let block: &BlockSpec = &spec.block;
    let hidden = block.hidden_size as u64;
    let norm = hidden * block.norm.vectors();
    let mut per_block = if spec.names.attention_norm == spec.names.feed_forward_norm { norm } else { 2 * norm };
    if block.attention.query_key_norm {
        per_block += 2 * block.attention.head_dim as u64;
    }
    for linear in block.linears() {
        let weight = (linear.outputs as u64).checked_mul(linear.inputs as u64)?;
        let bias = if linear.bias { linear.outputs as u64 } else { 0 };
        per_block = per_block.checked_add(weight)?.checked_add(bias)?;
    }
    let embedding_size = spec.embedding_size as u64;
    let embedding = (spec.vocab_size as u64).checked_mul(embedding_size)?;
    let projections = if spec.projects() { 2 * embedding_size.checked_mul(hidden)? } else { 0 };
    let positions = (spec.position_rows().unwrap_or(0) as u64).checked_mul(hidden)?;
    let matrices = embedding.checked_mul(if spec.tied_head { 1 } else { 2 })?;
    let matrices = matrices.checked_add(projections)?.checked_add(positions)?;
    let norms = norm * (u64::from(spec.embedding_norm) + u64::from(spec.final_norm));
    let total = per_block.checked_mul(spec.num_blocks as u64)?.checked_add(matrices)?.checked_add(norms)?;
    Some(Parameters { total, embedding, per_block })
}
