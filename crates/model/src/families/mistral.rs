//! Mistral (arXiv 2310.06825): Llama with a sliding window.

use super::limits;
use super::llama::{self, Defaults};
use crate::Result;
use crate::config::Config;
use crate::spec::ModelSpec;

/// The specification that a Mistral's `config.json` describes. Its window is that of the first version where the file does
/// not say, and there is none where it says null.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let defaults =
        Defaults { kv_heads: Some(8), head_dim: None, theta: 10_000.0, epsilon: 1e-6, max_positions: 4096 * 32 };
    let mut spec = llama::decoder("mistral", config, &defaults)?;
    spec.block.attention.window = match config.optional_number("sliding_window", limits::POSITIONS)? {
        None if config.mentions("sliding_window") => None,
        window => Some(window.unwrap_or(4096)),
    };
    Ok(spec)
}
