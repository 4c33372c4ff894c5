//! How much memory a run takes, before its weights are loaded, and how its batches go through the model in what there is.

use std::collections::HashSet;

use anyhow::Result;
use bouquet_model::families;
use bouquet_tune::gradient::{Batch, PassPlan};
use bouquet_tune::plan::{MemoryPlan, Predicted, Request};
use bouquet_tune::trainer::BatchSource;

use super::FinetuneArgs;
use super::prepare::{Examples, Prepared};
use super::whiten;
use crate::errors::wrong;
use crate::{open, output, system};

/// Bytes of a file that come into memory where one of them is read, on most systems.
const MAPPED_AT_ONCE: u64 = 64 << 10;

/// The batch that takes most memory.
struct LargestBatch {
    /// Tokens of its sequences, with the soft prompt.
    lengths: Vec<usize>,
    /// Of texts, how many tokens of each are predicted.
    predicted: Option<Vec<usize>>,
    /// Whether all other batches have as many tokens.
    alike: bool,
}

impl Prepared {
    /// How batches go through the model, and what all of it takes.
    ///
    /// # Errors
    /// Too little memory for any plan.
    pub(super) fn plan(&self, args: &FinetuneArgs) -> Result<(PassPlan, MemoryPlan)> {
        let optimizer = self.config.optimizer.begin(&self.learned);
        let held = system::memory_bytes().unwrap_or(0).saturating_add(self.weight_bytes()?);
        let LargestBatch { lengths, predicted, alike } = self.largest_batch();
        let request = Request {
            held,
            block: &self.spec.block,
            blocks: self.spec.num_blocks,
            learned: &self.learned,
            optimizer: optimizer.as_ref(),
            keeps_best: !self.config.eval_data.is_empty(),
            lengths: &lengths,
            alike,
            leaf: self.config.leaf,
            predicted: predicted.as_deref().map(|tokens| Predicted { vocab_size: self.spec.vocab_size, tokens }),
            evaluated: self.held.tokens().max(whiten::tokens(&self.whitened_by)),
            vectors: self.held.vectors().max(self.whitened_by.len()),
            afterwards: whiten::bytes(&self.whitened_by, &self.spec),
        };
        // What is held already is no longer free.
        let free =
            system::available_memory_bytes().map(|free| free.saturating_add(system::memory_bytes().unwrap_or(0)));
        let budget = match (args.memory, free) {
            (Some(asked), Some(free)) => asked.min(free),
            (asked, free) => asked.or(free).unwrap_or(u64::MAX),
        };
        request.plan(budget).map_err(|error| {
            let [needed, budget] = [error.needed, error.budget].map(output::bytes);
            let hint = "give a smaller --batch-size or --leaf, shorter sentences with --max-tokens, or --encoding int4";
            wrong(format!("the run needs at least {needed}, and may take {budget}"), hint)
        })
    }

    /// Bytes of the weights that are held. Of a vocabulary that stays in its file, those are the rows that are used: sentences
    /// need no logits.
    fn weight_bytes(&self) -> Result<u64> {
        let (spec, encoding) = (&self.spec, self.config.encoding);
        let all = open::weight_bytes(&self.folder, spec, encoding)?;
        let in_file = spec.stored.embedding == encoding.of_vocabulary();
        let Examples::Sentences(sentences) = &self.examples else { return Ok(all) };
        let Some(parameters) = families::parameters(spec).filter(|_| in_file) else { return Ok(all) };
        let numbers = (spec.vocab_size * spec.embedding_size) as u64;
        let embedding = encoding.of_vocabulary().bytes(spec.vocab_size, spec.embedding_size).unwrap_or_else(|| {
            // Floats are all of one kind, nearly always.
            (u128::from(all) * u128::from(numbers) / u128::from(parameters.total.max(1))) as u64
        });
        let texts = sentences.rows.iter().flatten().chain(self.held.sequences());
        let ids: HashSet<u32> = texts.flatten().copied().collect();
        let vocabulary = embedding * if spec.tied_head { 1 } else { 2 };
        Ok(all.saturating_sub(vocabulary) + embedding.min(ids.len() as u64 * MAPPED_AT_ONCE))
    }

    /// The largest batch of the run.
    fn largest_batch(&self) -> LargestBatch {
        let mut source = self.source();
        let batches = self.config.steps * self.config.accumulation as u64;
        // The batches of one more epoch would be others, but not much larger.
        let looked_at = batches.min(source.batches.steps_until(1).max(1));
        let tokens: Vec<usize> = (0..looked_at).map(|number| source.tokens(number)).collect();
        let Some(largest) = (0..looked_at).max_by_key(|&number| tokens[number as usize]) else {
            return LargestBatch { lengths: Vec::new(), predicted: None, alike: true };
        };
        let alike = tokens.iter().all(|&tokens_of_one| tokens_of_one == tokens[largest as usize]);
        let largest = source.batch(largest).0;
        let prompt = self.learned.prompt_tokens();
        let lengths = largest.sequences().iter().map(|ids| prompt + ids.len()).collect();
        let count = |learned: &Vec<bool>| learned[1..].iter().filter(|learned| **learned).count();
        let predicted = match &largest {
            Batch::Sentences { .. } => None,
            Batch::Texts { learned, .. } => Some(learned.iter().map(count).collect()),
        };
        LargestBatch { lengths, predicted, alike }
    }
}
