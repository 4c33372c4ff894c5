//! What has been learned on top of a model: low-rank pairs, and prompts. How it travels with a request says the crate
//! `span`; here is what it is as a whole, with the settings it was made by, and the folder it rests in.
//!
//! The folder is one of PEFT, which opens what is written here and writes what is opened here. It holds pairs or a soft
//! prompt, and has no place for prompts at the input of blocks; so what is left over lies beside, in two files of ours,
//! which PEFT passes over:
//!
//! ```text
//! adapter_config.json           LORA or PROMPT_TUNING
//! adapter_model.safetensors     the pairs, or the soft prompt
//! bouquet_prompts.json          {"version": 1, "task_type": ..., "base_model_name_or_path": ...}
//! bouquet_prompts.safetensors   soft_prompt      [prompt tokens, hidden_size], where there are pairs as well
//!                               deep_prompts.I   [prompt tokens, hidden_size], for each block I that has some
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`targets`] | which linears get a pair, as users name them |
//! | [`mod@initial`] | what training begins with |
//! | `settings` | `adapter_config.json` |
//! | `keys` | how tensors are called |
//! | `prompts` | the two files of ours |
//! | `open`, `write` | the folder as a whole |

pub mod initial;
mod keys;
mod open;
mod prompts;
mod settings;
pub mod targets;
mod write;

use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Adapter, HiddenStates, Pass, Prompts, Site, SpanError};

use crate::Result;

/// All that can be learned on top of frozen weights. What is not there is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Pairs of low rank, and the dropout of their inputs.
    pub low_rank: Arc<Adapter>,
    /// Rows before the first token of each sequence, `[prompt tokens, hidden_size]`, as if they came from the embedding
    /// (prompt tuning, arXiv 2104.08691).
    pub soft_prompt: Option<Matrix>,
    /// Rows added to the first positions at the input of blocks.
    pub deep_prompts: Arc<Prompts>,
}

/// How an adapter was made: what its `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rows of each `A`; 0 where there are no pairs.
    pub rank: usize,
    /// The pairs' share is scaled by `alpha / rank`, or `alpha / √rank`.
    pub alpha: f32,
    /// rsLoRA (arXiv 2312.03732): whether the scale has the root of the rank.
    pub rank_stabilized: bool,
    /// Probability with which a channel is dropped in training.
    pub dropout: f32,
    /// The linears that have a pair, in every block.
    pub targets: Vec<Site>,
    /// What it is for.
    pub task: Task,
    /// The model that it was made for: a name of the hub, or a folder.
    pub base_model: String,
}

/// What an adapter is for, which decides how its tensors are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Going on from a text: the base is the model with its head (`CAUSAL_LM`).
    Causal,
    /// Embeddings: the base is the model without its head (`FEATURE_EXTRACTION`).
    FeatureExtraction,
}

impl Settings {
    /// The factor of each pair.
    pub fn scale(&self) -> f32 {
        scale(f64::from(self.alpha), self.rank, self.rank_stabilized)
    }
}

/// The factor of a pair, computed as Python does.
fn scale(alpha: f64, rank: usize, rank_stabilized: bool) -> f32 {
    let rank = rank.max(1) as f64;
    (alpha / if rank_stabilized { rank.sqrt() } else { rank }) as f32
}

impl Task {
    /// Each with PEFT's name of it.
    const NAMES: [(Task, &str); 2] = [(Task::Causal, "CAUSAL_LM"), (Task::FeatureExtraction, "FEATURE_EXTRACTION")];

    /// As PEFT calls it: `CAUSAL_LM`.
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|&(task, _)| task == self).expect("all have a name").1
    }

    /// The task of that name.
    pub fn of_name(name: &str) -> Option<Task> {
        Self::NAMES.into_iter().find(|&(_, known)| known == name).map(|(task, _)| task)
    }
}

impl Learned {
    /// `pass` with what of this travels along: all but the soft prompt, whose rows are hidden states.
    pub fn with(&self, pass: Pass) -> Pass {
        let adapter = (!self.low_rank.pairs.is_empty()).then(|| self.low_rank.clone());
        let prompts = (!self.deep_prompts.blocks.is_empty()).then(|| self.deep_prompts.clone());
        Pass { adapter, prompts, ..pass }
    }

    /// The positions of the text alone: without those of the soft prompt at the beginning of each sequence.
    ///
    /// # Errors
    /// [`SpanError::Shape`] for a sequence shorter than the prompt.
    pub fn without_prompt(&self, hidden: HiddenStates) -> Result<HiddenStates> {
        let prompt = self.prompt_tokens();
        if prompt == 0 {
            return Ok(hidden);
        }
        let mut values = Matrix::zeros(0, hidden.hidden_size());
        for rows in hidden.rows() {
            if rows.len() < prompt {
                let (expected, found) = (prompt, rows.len());
                return Err(SpanError::Shape { what: "the length of a sequence", expected, found }.into());
            }
            values.push_rows(hidden.values().slice(rows.start + prompt..rows.end));
        }
        let lengths = hidden.lengths().iter().map(|length| length - prompt).collect();
        Ok(HiddenStates::new(values, lengths)?)
    }

    /// The reverse for a gradient: rows of zeros where the soft prompt was. `lengths` are those with the prompt.
    ///
    /// # Errors
    /// [`SpanError::Shape`] for lengths that do not fit.
    pub fn behind_prompt(&self, gradient: HiddenStates, lengths: &[usize]) -> Result<HiddenStates> {
        if self.prompt_tokens() == 0 {
            return Ok(gradient);
        }
        let zeros = Matrix::zeros(self.prompt_tokens(), gradient.hidden_size());
        let mut values = Matrix::zeros(0, gradient.hidden_size());
        for rows in gradient.rows() {
            values.push_rows(zeros.view());
            values.push_rows(gradient.values().slice(rows));
        }
        Ok(HiddenStates::new(values, lengths.to_vec())?)
    }

    /// Tokens that the soft prompt puts before each sequence.
    pub fn prompt_tokens(&self) -> usize {
        self.soft_prompt.as_ref().map_or(0, Matrix::rows)
    }
}
