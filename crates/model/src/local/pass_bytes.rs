//! What a pass over whole sequences or a step takes, counted before anything is allocated: the keys and values of one
//! block, the rows that a block works in, and what is kept for a backward. An upper bound: it adds up what is never held all at once,
//! and was about twice what a small BLOOM used.

use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_span::{Keep, Pass};

use crate::kv_cache::CacheShape;
use crate::spec::BlockSpec;

/// Counts for some blocks and some tokens of one pass.
#[derive(Clone, Copy, Debug)]
pub struct PassBytes {
    /// Rows and keys of one block.
    block: u64,
    /// The input of a block.
    input: u64,
    blocks: u64,
    /// Gradients of what the pass brought, for all leaves.
    leaves: u64,
}

impl PassBytes {
    /// For `blocks` blocks over sequences of `lengths`. What is too large to count saturates.
    pub fn new(spec: &BlockSpec, blocks: std::ops::Range<usize>, lengths: &[usize], pass: &Pass) -> Self {
        let tokens = lengths.iter().fold(0u64, |sum, &length| sum.saturating_add(length as u64));
        let keys = CacheShape::new(spec, CacheEncoding::F32).bytes_per_token();
        PassBytes {
            block: tokens.saturating_mul(keys + 4 * numbers_per_token(spec, pass.adapter.is_some())),
            input: tokens.saturating_mul(4 * spec.hidden_size as u64),
            blocks: blocks.len() as u64,
            leaves: (lengths.len().div_ceil(pass.leaf.max(1)) as u64).saturating_mul(leaf_bytes(blocks, pass)),
        }
    }

    /// What a step works in that adds so many tokens to each sequence; their keys and values were reserved with the session.
    /// An adapter's share is left out.
    pub(super) fn of_step(spec: &BlockSpec, lengths: &[usize]) -> u64 {
        let tokens = lengths.iter().fold(0u64, |sum, &length| sum.saturating_add(length as u64));
        tokens.saturating_mul(4 * numbers_per_token(spec, false))
    }

    /// What a forward works in, besides what it keeps.
    pub fn forward(&self) -> u64 {
        self.block
    }

    /// The most that is kept for a backward.
    pub fn kept(&self, keep: Keep) -> u64 {
        let inputs = self.blocks.saturating_mul(self.input);
        match keep {
            Keep::Nothing => 0,
            Keep::Input => self.input,
            Keep::BlockInputs => inputs,
            Keep::Activations { bytes } => inputs.saturating_add(bytes.min(self.blocks.saturating_mul(self.block))),
        }
    }

    /// What a backward works in, besides what was kept: activations that are made again, a gradient for each of them,
    /// inputs that are made again, gradients of what the pass brought.
    pub fn backward(&self) -> u64 {
        let inputs = self.blocks.saturating_mul(self.input);
        self.block.saturating_mul(2).saturating_add(inputs).saturating_add(self.leaves)
    }
}

/// Numbers of 4 bytes that a block holds for a token at a time, without its cache.
fn numbers_per_token(spec: &BlockSpec, adapted: bool) -> u64 {
    let attention = &spec.attention;
    let (hidden, head) = (spec.hidden_size as u64, attention.head_dim as u64);
    let (queries, keys) = (attention.heads as u64 * head, attention.kv_heads as u64 * head);
    // Input, output, the sum between, and both norms; the angles of a head; which sequence a token is of.
    let rows = 5 * hidden + head + 8;
    // Queries, keys and values, in one matrix and apart; the context.
    let attention = 2 * (queries + 2 * keys) + queries;
    let (inner, experts) = (spec.feed_forward.intermediate_size as u64, spec.feed_forward.experts);
    let feed_forward = match experts {
        // The inputs and the output of the nonlinearity.
        None => 3 * inner,
        // Of each expert that a token uses; its input and its output; the router's probabilities and their order.
        Some(experts) => (experts.per_token as u64) * (3 * inner + 2 * hidden + 8) + 5 * experts.count as u64,
    };
    // An adapter copies the input of a linear and, backward, makes a gradient of its own.
    let width = |linear: crate::spec::LinearShape| (linear.inputs + linear.outputs) as u64;
    let adapter = if adapted { spec.linears().into_iter().map(width).max().unwrap_or(0) } else { 0 };
    rows + attention + feed_forward + adapter
}

/// Bytes of the gradients of one leaf.
fn leaf_bytes(blocks: std::ops::Range<usize>, pass: &Pass) -> u64 {
    let pairs = pass.adapter.iter().flat_map(|adapter| &adapter.pairs);
    let pairs = pairs.filter(|(linear, _)| blocks.contains(&linear.block));
    let prompts = pass.prompts.iter().flat_map(|prompts| &prompts.blocks).filter(|(block, _)| blocks.contains(block));
    let numbers = pairs.map(|(_, pair)| pair.a.data().len() + pair.b.data().len()).sum::<usize>()
        + prompts.map(|(_, prompt)| prompt.data().len()).sum::<usize>();
    (4 * numbers + size_of::<bouquet_span::LeafGrad>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::families;

    fn spec() -> BlockSpec {
        let config = Config::parse(
            br#"{"model_type": "bloom", "hidden_size": 64, "n_head": 4, "n_layer": 2, "vocab_size": 128}"#,
        );
        families::spec(&config.unwrap()).unwrap().block
    }

    #[test]
    fn absurd_lengths_saturate() {
        let keep = Keep::Activations { bytes: u64::MAX };
        for lengths in [vec![usize::MAX], vec![usize::MAX; 3], vec![1 << 60, 1 << 61]] {
            let bytes = PassBytes::new(&spec(), 0..2, &lengths, &Pass::default());
            assert_eq!((bytes.forward(), bytes.kept(keep), bytes.backward()), (u64::MAX, u64::MAX, u64::MAX));
        }
    }

    #[test]
    fn what_is_kept_grows_with_what_is_asked_for() {
        let bytes = PassBytes::new(&spec(), 0..2, &[3, 5], &Pass::default());
        let kept = |keep| bytes.kept(keep);
        let input = 8 * 64 * 4;
        assert_eq!((kept(Keep::Nothing), kept(Keep::Input), kept(Keep::BlockInputs)), (0, input, 2 * input));
        assert_eq!(kept(Keep::Activations { bytes: 5 }), 2 * input + 5);
    }
}
