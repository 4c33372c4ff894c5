//! `generation_config.json`: how the makers of a checkpoint want it sampled. Every field may be absent.

use std::path::Path;

use crate::Result;

/// Sampling defaults of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to sample at all; greedy where absent or false.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keeps the best so many.
    pub top_k: Option<usize>,
    /// Keeps the best with this share of the probability.
    pub top_p: Option<f32>,
    /// Keeps those with at least this share of the best one's probability.
    pub min_p: Option<f32>,
    /// Divides (or multiplies, when negative) the logits of what was said.
    pub repetition_penalty: Option<f32>,
    /// Ids that end a text; one number or a list in the file.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file of a model's folder; one that is not there is all defaults.
    ///
    /// # Errors
    /// A file that is not JSON or has values of the wrong kind.
    pub fn load(folder: &Path) -> Result<Self> {
        let _ = folder;
        todo!()
    }
}
