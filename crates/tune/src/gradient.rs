//! The gradient of a batch: forward, loss, backward, through passes of whole leaves. How the batch is cut into passes and
//! what they keep is a question of memory and of time; the bits are the same.
//!
//! A loss of sentences needs the embeddings of the whole batch before any gradient. So all passes go forward first, and
//! keep what memory allows; then all go backward. What was not kept is computed again (cached gradients: GradCache,
//! arXiv 2101.06983).

use std::ops::Range;

use bouquet_kernels::Matrix;
use bouquet_model::adapter::Learned;
use bouquet_model::{Network, Pooling, Result};
use bouquet_span::{Dropout, HiddenStates, Keep, Limits, Pass, PassGrad, Saved};

use crate::objective::causal::{next_token_loss, sum_of_losses};
use crate::objective::sentences::SentenceLoss;
use crate::parameters::Gradients;

/// What a step learns from, as token ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// Some views of as many rows each, one view after another.
    Sentences {
        /// `[views · rows]` sequences, none of them empty.
        sequences: Vec<Vec<u32>>,
        /// Rows of each view.
        rows: usize,
        /// One for each row where the loss needs them.
        scores: Vec<f32>,
    },
    /// Texts whose tokens are predicted.
    Texts {
        /// The texts, none of them empty.
        sequences: Vec<Vec<u32>>,
        /// For each token whether it is learned; the first of a text never is, since nothing comes before it.
        learned: Vec<Vec<bool>>,
    },
}

/// How a batch is put through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassPlan {
    /// Sequences in a leaf: part of what decides the bits.
    pub leaf: usize,
    /// Tokens of a pass, at least one leaf.
    pub tokens_per_pass: usize,
    /// What is kept from the forward of a batch to its backward: block inputs and so many bytes of activations, in all;
    /// or nothing, so that every pass is computed again for its backward, and its blocks once more.
    pub kept_bytes: Option<u64>,
}

/// What is trained, and the step that it is trained in.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// The frozen model.
    pub network: &'a Network,
    /// What is learned.
    pub learned: &'a Learned,
    /// For batches of sentences: how they are pooled, and the loss.
    pub sentences: (Pooling, SentenceLoss),
    /// How batches go through the model.
    pub plan: PassPlan,
    /// The key of dropout: seed of the run, number of the step.
    pub draw: (u64, u64),
    /// When to give up.
    pub limits: &'a Limits,
}

/// The loss of a batch and the gradient of all that is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchGradient {
    /// Mean over rows, or over the tokens that are learned.
    pub loss: f64,
    /// Of the loss.
    pub gradients: Gradients,
    /// Tokens that went through the model.
    pub tokens: usize,
}

impl Batch {
    /// All sequences.
    pub fn sequences(&self) -> &[Vec<u32>] {
        match self {
            Batch::Sentences { sequences, .. } | Batch::Texts { sequences, .. } => sequences,
        }
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences().iter().map(Vec::len).sum()
    }
}

impl PassPlan {
    /// The sequences of each pass: whole leaves, as many as have no more than so many tokens, at least one.
    pub fn passes(&self, lengths: &[usize]) -> Vec<Range<usize>> {
        let leaf = self.leaf.max(1);
        let (mut passes, mut tokens): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        for first in (0..lengths.len()).step_by(leaf) {
            let sequences = first..(first + leaf).min(lengths.len());
            let more: usize = lengths[sequences.clone()].iter().sum();
            match passes.last_mut() {
                Some(pass) if tokens + more <= self.tokens_per_pass => {
                    pass.end = sequences.end;
                    tokens += more;
                }
                _ => {
                    passes.push(sequences);
                    tokens = more;
                }
            }
        }
        passes
    }

    /// What a pass of `own` tokens of `all` keeps: its share of what the batch may.
    pub(crate) fn keep(bytes: u64, own: usize, all: usize) -> Keep {
        let share = u128::from(bytes) * own as u128 / all.max(1) as u128;
        Keep::Activations { bytes: share as u64 }
    }
}

/// The final hidden states of a pass, without those of a soft prompt, and what its backward needs.
struct Forwarded {
    /// The output of the blocks for the text's tokens.
    hidden: HiddenStates,
    /// With the soft prompt.
    lengths: Vec<usize>,
    saved: Saved,
}

impl Training<'_> {
    /// The loss and the gradient of a batch. Panics on one without sequences.
    ///
    /// # Errors
    /// What the blocks refuse: numbers that are not finite, too little memory, a cancelled run.
    pub fn gradient(&self, batch: &Batch) -> Result<BatchGradient> {
        let (loss, gradients) = match batch {
            Batch::Sentences { sequences, rows, scores } => self.of_sentences(sequences, *rows, scores)?,
            Batch::Texts { sequences, learned } => self.of_texts(sequences, learned)?,
        };
        Ok(BatchGradient { loss, gradients, tokens: batch.tokens() })
    }

    fn of_sentences(&self, sequences: &[Vec<u32>], rows: usize, scores: &[f32]) -> Result<(f64, Gradients)> {
        let Network { cpu, head, spec, .. } = self.network;
        let (pooling, loss) = self.sentences;
        let passes = self.plan.passes(&self.lengths(sequences));
        let mut embeddings = Matrix::zeros(0, spec.embedding_size);
        let mut kept = Vec::with_capacity(passes.len());
        for pass in &passes {
            let forwarded = self.forward(sequences, pass, self.keep(sequences, pass))?;
            let normalized = head.normalize(cpu, forwarded.hidden.values().view());
            embeddings.push_rows(pooling.forward(normalized.view(), forwarded.hidden.lengths()).view());
            kept.push(self.plan.kept_bytes.map(|_| forwarded));
        }
        let (loss, d_embeddings) = loss.of(cpu, embeddings.view(), rows, scores);
        let mut gradients = Gradients::zeros(self.learned);
        for (pass, kept) in passes.iter().zip(kept) {
            let forwarded = kept.map_or_else(|| self.forward(sequences, pass, Keep::BlockInputs), Ok)?;
            let d_normalized = pooling.backward(d_embeddings.slice(pass.clone()), forwarded.hidden.lengths());
            self.backward(pass, forwarded, d_normalized, &mut gradients)?;
        }
        Ok((loss, gradients))
    }

    fn of_texts(&self, sequences: &[Vec<u32>], learned: &[Vec<bool>]) -> Result<(f64, Gradients)> {
        let Network { cpu, head, .. } = self.network;
        let count: usize = learned.iter().map(|learned| learned[1..].iter().filter(|learned| **learned).count()).sum();
        let weight = 1.0 / count.max(1) as f32;
        let (mut loss, mut gradients) = (0.0, Gradients::zeros(self.learned));
        for pass in self.plan.passes(&self.lengths(sequences)) {
            // One pass after the other: each may keep all that there is room for.
            let keep = self.plan.kept_bytes.map_or(Keep::BlockInputs, |bytes| Keep::Activations { bytes });
            let forwarded = self.forward(sequences, &pass, keep)?;
            let normalized = head.normalize(cpu, forwarded.hidden.values().view());
            let targets = next_tokens(sequences, learned, &pass, &forwarded.hidden);
            let d_normalized = next_token_loss(cpu, head, normalized.view(), &targets, weight, &mut loss);
            self.backward(&pass, forwarded, d_normalized, &mut gradients)?;
        }
        Ok((loss / count.max(1) as f64, gradients))
    }

    /// The mean loss of texts, without a gradient and without dropout.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    pub fn loss_of_texts(&self, sequences: &[Vec<u32>], learned: &[Vec<bool>]) -> Result<f64> {
        let Network { cpu, head, .. } = self.network;
        let (mut loss, mut count) = (0.0, 0);
        for range in self.plan.passes(&self.lengths(sequences)) {
            let hidden =
                self.hidden(sequences, &range, Pass { dropout: None, ..self.pass(&range, Keep::Nothing) })?.hidden;
            let normalized = head.normalize(cpu, hidden.values().view());
            let targets = next_tokens(sequences, learned, &range, &hidden);
            count += targets.len();
            sum_of_losses(cpu, head, normalized.view(), &targets, &mut loss);
        }
        Ok(loss / count.max(1) as f64)
    }

    /// Of all sequences, with the soft prompt.
    fn lengths(&self, sequences: &[Vec<u32>]) -> Vec<usize> {
        let prompt = self.learned.prompt_tokens();
        sequences.iter().map(|ids| prompt + ids.len()).collect()
    }

    /// What a pass keeps until all others went forward.
    fn keep(&self, sequences: &[Vec<u32>], pass: &Range<usize>) -> Keep {
        let Some(bytes) = self.plan.kept_bytes else { return Keep::Nothing };
        let lengths = self.lengths(sequences);
        PassPlan::keep(bytes, lengths[pass.clone()].iter().sum(), lengths.iter().sum())
    }

    fn pass(&self, sequences: &Range<usize>, keep: Keep) -> Pass {
        let (seed, step) = self.draw;
        let dropout = Dropout { seed, step, view: 0, first_sequence: sequences.start as u64 };
        let pass = Pass { dropout: Some(dropout), keep, leaf: self.plan.leaf.max(1), ..Pass::default() };
        self.learned.with(Pass { limits: self.limits.clone(), ..pass })
    }

    fn forward(&self, sequences: &[Vec<u32>], range: &Range<usize>, keep: Keep) -> Result<Forwarded> {
        self.hidden(sequences, range, self.pass(range, keep))
    }

    fn hidden(&self, sequences: &[Vec<u32>], range: &Range<usize>, pass: Pass) -> Result<Forwarded> {
        let Network { cpu, embedding, blocks, .. } = self.network;
        let ids: Vec<&[u32]> = sequences[range.clone()].iter().map(Vec::as_slice).collect();
        let hidden = embedding.embed_after(cpu, self.learned.soft_prompt.as_ref(), &ids)?;
        let (hidden, saved) = blocks.forward(hidden, &pass)?;
        let lengths = hidden.lengths().to_vec();
        let hidden = self.learned.without_prompt(hidden)?;
        Ok(Forwarded { hidden, lengths, saved })
    }

    fn backward(
        &self,
        range: &Range<usize>,
        forwarded: Forwarded,
        d_normalized: Matrix,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let Network { cpu, embedding, blocks, head, .. } = self.network;
        let Forwarded { hidden, lengths, saved } = forwarded;
        let d_text = head.normalize_backward(cpu, hidden.values().view(), d_normalized.view());
        let d_hidden = self.learned.behind_prompt(HiddenStates::new(d_text, hidden.lengths().to_vec())?, &lengths)?;
        let (d_input, PassGrad { leaves }) = blocks.backward(saved, d_hidden, &self.pass(range, Keep::Nothing))?;
        for leaf in &leaves {
            gradients.add_leaf(leaf);
        }
        if let Some(prompt) = &self.learned.soft_prompt {
            let rows: Vec<Range<usize>> = d_input.rows().collect();
            for leaf in rows.chunks(self.plan.leaf.max(1)) {
                let mut sum = Matrix::zeros(prompt.rows(), prompt.cols());
                for rows in leaf {
                    let gradient = embedding.prompt_backward(cpu, prompt, d_input.values().slice(rows.clone()));
                    sum.data_mut().iter_mut().zip(gradient.data()).for_each(|(sum, more)| *sum += more);
                }
                gradients.add_soft_prompt(&sum);
            }
        }
        Ok(())
    }
}

/// The positions of a pass whose next token is learned, and that token.
fn next_tokens(
    sequences: &[Vec<u32>],
    learned: &[Vec<bool>],
    pass: &Range<usize>,
    hidden: &HiddenStates,
) -> Vec<(usize, u32)> {
    let mut targets = Vec::new();
    for (sequence, rows) in pass.clone().zip(hidden.rows()) {
        let next = (1..rows.len()).filter(|&token| learned[sequence][token]);
        targets.extend(next.map(|token| (rows.start + token - 1, sequences[sequence][token])));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_whole_leaves() {
        let plan = |leaf, tokens_per_pass| PassPlan { leaf, tokens_per_pass, kept_bytes: None };
        let lengths = [3, 3, 3, 3, 9, 1, 1];
        assert_eq!(plan(2, 12).passes(&lengths), [0..4, 4..7]);
        assert_eq!(plan(2, 1).passes(&lengths), [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(plan(4, 1000).passes(&lengths).len(), 1);
        assert_eq!(plan(0, 0).passes(&[1, 1]), [0..1, 1..2]);
    }
}
