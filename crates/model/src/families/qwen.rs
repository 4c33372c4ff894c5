//! Qwen2 (arXiv 2407.10671): Llama with biases on queries, keys and values, and a sliding window in some blocks. Qwen3
//! (arXiv 2505.09388): norms of the heads' queries and keys in place of the biases, and a head_dim of its own.

use super::limits;
use super::llama::{self, Defaults};
use crate::Result;
use crate::config::{Bounds, Config};
use crate::files::shown;
use crate::spec::{ModelSpec, TensorNames};

/// How Qwen3 calls its tensors.
const NAMES_3: TensorNames =
    TensorNames { query_norm: "self_attn.q_norm", key_norm: "self_attn.k_norm", ..llama::NAMES };

/// The specification that a Qwen2's `config.json` describes.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec_2(config: &Config) -> Result<ModelSpec> {
    let mut spec = llama::decoder("qwen2", config, &defaults(None))?;
    spec.block.attention.qkv_bias = true;
    read_windows(config, &mut spec)?;
    Ok(spec)
}

/// The specification that a Qwen3's `config.json` describes.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec_3(config: &Config) -> Result<ModelSpec> {
    let mut spec = llama::decoder("qwen3", config, &defaults(Some(128)))?;
    let bias = config.optional_flag("attention_bias")?.unwrap_or(false);
    let attention = &mut spec.block.attention;
    (attention.qkv_bias, attention.output_bias, attention.query_key_norm) = (bias, bias, true);
    spec.names = NAMES_3;
    read_windows(config, &mut spec)?;
    Ok(spec)
}

fn defaults(head_dim: Option<usize>) -> Defaults {
    Defaults { kv_heads: Some(32), head_dim, theta: 10_000.0, epsilon: 1e-6, max_positions: 32_768 }
}

/// The window, and the blocks without one: as `layer_types` lists them, or the first `max_window_layers`.
fn read_windows(config: &Config, spec: &mut ModelSpec) -> Result<()> {
    const FIELD: &str = "layer_types";
    if !config.optional_flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(());
    }
    let window = config.optional_number("sliding_window", limits::POSITIONS)?;
    if window.is_none() && config.mentions("sliding_window") {
        return Ok(());
    }
    spec.block.attention.window = Some(window.unwrap_or(4096));
    spec.full_attention = if config.has(FIELD) {
        let kinds = config.optional_texts(FIELD)?;
        if kinds.len() != spec.num_blocks {
            return Err(config.error(FIELD, format!("lists {} blocks of {}", kinds.len(), spec.num_blocks)));
        }
        if let Some(other) = kinds.iter().find(|kind| !["full_attention", "sliding_attention"].contains(&kind.as_str()))
        {
            let problem = format!("has {}, but only full_attention and sliding_attention are known", shown(other));
            return Err(config.error(FIELD, problem));
        }
        (0..spec.num_blocks).filter(|&block| kinds[block] == "full_attention").collect()
    } else {
        let bounds = Bounds { min: 0, ..limits::BLOCKS };
        let first = config.optional_number("max_window_layers", bounds)?.unwrap_or(28);
        (0..spec.num_blocks.min(first)).collect()
    };
    Ok(())
}
