//! `generation_config.json`: how the makers of a checkpoint want it sampled. Every field may be absent.
//!
//! `max_length` is not read: it counts the prompt as well, and says in most files how long a context the model has.

use std::path::Path;

use crate::config::{Bounds, Config};
use crate::files::{self, MAX_SETTINGS_BYTES};
use crate::gguf::is_gguf;
use crate::{ModelError, Result};

/// Sampling defaults of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to sample at all; greedy where absent or false.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keeps the best so many; all of them where it is 0. Where it is absent, transformers keeps 50.
    pub top_k: Option<usize>,
    /// Keeps the best with this share of the probability.
    pub top_p: Option<f32>,
    /// Keeps those with at least this share of the best one's probability.
    pub min_p: Option<f32>,
    /// Divides (or multiplies, when negative) the logits of what was said.
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Ids that end a text; one number or a list in the file. They may be outside of the model's vocabulary.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file of a model's folder; one that is not there is all defaults. Fields of other names are passed over.
    ///
    /// # Errors
    /// [`ModelError::GenerationConfig`] for a file that is not JSON, or for a value of the wrong kind or one that no
    /// sampler can follow.
    pub fn load(folder: &Path) -> Result<Self> {
        if is_gguf(folder) {
            return Ok(GenerationConfig::default());
        }
        match files::read(&folder.join("generation_config.json"), MAX_SETTINGS_BYTES)? {
            Some(bytes) => GenerationConfig::parse(&bytes),
            None => Ok(GenerationConfig::default()),
        }
    }

    /// The defaults from the bytes of the file.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let file = Config::parse_as(bytes, ModelError::GenerationConfig)?;
        let float = |field, min, max| -> Result<Option<f32>> {
            Ok(file.optional_float(field, min, max)?.map(|number| number as f32))
        };
        Ok(GenerationConfig {
            do_sample: file.optional_flag("do_sample")?,
            temperature: float("temperature", 0.0, 1e4)?,
            top_k: file.optional_number("top_k", Bounds { min: 0, max: 1 << 24 })?,
            top_p: float("top_p", 0.0, 1.0)?,
            min_p: float("min_p", 0.0, 1.0)?,
            repetition_penalty: float("repetition_penalty", 1e-4, 1e4)?,
            max_new_tokens: file.optional_number("max_new_tokens", Bounds::up_to(1 << 31))?,
            eos_token_ids: file.eos_token_ids()?,
        })
    }
}
