//! A model with what has been learned on top of it: what all of this crate computes with. A [`Model`] alone becomes one by
//! itself.

use bouquet_model::adapter::Learned;
use bouquet_model::{Model, Result};
use bouquet_span::{HiddenStates, Pass};

/// A model, and an adapter where there is one.
#[derive(Clone, Copy)]
pub struct Adapted<'a> {
    /// The model.
    pub model: &'a Model,
    /// What has been learned on top.
    pub learned: Option<&'a Learned>,
}

impl<'a> From<&'a Model> for Adapted<'a> {
    fn from(model: &'a Model) -> Self {
        Adapted { model, learned: None }
    }
}

impl Adapted<'_> {
    /// Positions that the soft prompt takes before each text.
    pub fn prompt_tokens(&self) -> usize {
        self.learned.map_or(0, Learned::prompt_tokens)
    }

    /// `pass` with the adapter.
    pub fn pass(&self, pass: Pass) -> Pass {
        match self.learned {
            Some(learned) => learned.with(pass),
            None => pass,
        }
    }

    /// The hidden states of texts from their beginning, each behind the soft prompt.
    ///
    /// # Errors
    /// Those of [`Embedding::embed_after`](bouquet_model::ends::Embedding::embed_after).
    pub fn embed(&self, sequences: &[&[u32]]) -> Result<HiddenStates> {
        let prompt = self.learned.and_then(|learned| learned.soft_prompt.as_ref());
        self.model.embedding.embed_after(&self.model.cpu, prompt, sequences)
    }
}
