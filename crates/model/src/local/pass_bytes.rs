//! What a pass over whole sequences or a step takes, counted before anything is allocated. What is kept for a backward is
//! counted exactly; what a block works in is the most that lives at once, matrix by matrix, as `block/mod.rs` and what it
//! calls go forward and backward. What a thread keeps for its kernels, a few megabytes, is not counted, nor are vectors.

use std::ops::Range;

use bouquet_span::{Keep, LinearId, Pass, Site};

use crate::spec::{BlockSpec, ExpertSpec, Positions, QkvLayout, Wiring};

/// Counts for some blocks and some tokens of one pass.
#[derive(Clone, Copy, Debug)]
pub struct PassBytes {
    /// Activations and caches of one block.
    activations: u64,
    /// The input of a block.
    input: u64,
    /// What one block works in, forward, its input and activations included.
    forward: u64,
    /// What one block works in, backward, besides its activations.
    backward: u64,
    blocks: u64,
    /// Gradients of what the pass brought, for all leaves.
    leaves: u64,
}

impl PassBytes {
    /// For `blocks` over sequences of `lengths`. What is too large to count saturates.
    pub fn new(spec: &BlockSpec, blocks: Range<usize>, lengths: &[usize], pass: &Pass) -> Self {
        let tokens = sum(lengths);
        let leaf = lengths.chunks(pass.leaf.max(1)).map(sum).max().unwrap_or(0);
        let leaves = lengths.len().div_ceil(pass.leaf.max(1)) as u64;
        let numbers = Numbers::new(spec, blocks.clone(), pass);
        let bytes = |numbers: u64| tokens.saturating_mul(4 * numbers);
        PassBytes {
            activations: tokens.saturating_mul(4 * numbers.activations() + numbers.expert_share_bytes()),
            input: bytes(numbers.hidden),
            forward: bytes(numbers.forward()).saturating_add(tokens.saturating_mul(numbers.expert_share_bytes())),
            backward: bytes(numbers.backward()).saturating_add(leaf.saturating_mul(4 * numbers.adapter_backward)),
            blocks: blocks.len() as u64,
            leaves: leaves.saturating_mul(leaf_bytes(blocks, pass)),
        }
    }

    /// What a step works in that adds so many tokens to each sequence; their keys and values were reserved with the session.
    /// An adapter's share is left out.
    pub(super) fn of_step(spec: &BlockSpec, lengths: &[usize]) -> u64 {
        let numbers = Numbers::new(spec, 0..0, &Pass::default());
        sum(lengths).saturating_mul(4 * numbers.forward() + numbers.expert_share_bytes())
    }

    /// The most that a forward holds at once, with what it keeps.
    pub fn forward(&self, keep: Keep) -> u64 {
        let kept = self.blocks_kept(keep);
        let before_last = match keep {
            Keep::Nothing => 0,
            // The last block's activations, which it works in, are kept; its input is copied before that is known.
            Keep::Activations { .. } if kept == self.blocks => {
                self.kept(keep).saturating_sub(self.activations).saturating_add(self.input)
            }
            Keep::Input | Keep::BlockInputs | Keep::Activations { .. } => self.kept(keep),
        };
        before_last.saturating_add(self.forward)
    }

    /// Activations and caches of one block, which are kept or not.
    pub fn activations(&self) -> u64 {
        self.activations
    }

    /// What is kept for a backward.
    pub fn kept(&self, keep: Keep) -> u64 {
        let kept = self.blocks_kept(keep);
        match keep {
            Keep::Nothing => 0,
            Keep::Input => self.input,
            Keep::BlockInputs | Keep::Activations { .. } => {
                let inputs = (self.blocks - kept).saturating_mul(self.input);
                inputs.saturating_add(kept.saturating_mul(self.activations))
            }
        }
    }

    /// The most that a backward holds at once, besides what was kept: inputs and activations that are made again, the
    /// gradients of a block, gradients of what the pass brought.
    pub fn backward(&self, keep: Keep) -> u64 {
        let inputs = match keep {
            Keep::Nothing | Keep::Input => self.blocks.saturating_sub(1).saturating_mul(self.input),
            Keep::BlockInputs | Keep::Activations { .. } => 0,
        };
        let again = if self.blocks_kept(keep) == self.blocks {
            self.backward
        } else {
            // The input is part of the activations, and was kept.
            self.forward.max((self.activations - self.input).saturating_add(self.backward))
        };
        inputs.saturating_add(again).saturating_add(self.leaves)
    }

    /// Blocks whose activations are kept.
    fn blocks_kept(&self, keep: Keep) -> u64 {
        match keep {
            Keep::Nothing | Keep::Input | Keep::BlockInputs => 0,
            Keep::Activations { bytes } => bytes.checked_div(self.activations).unwrap_or(self.blocks).min(self.blocks),
        }
    }
}

/// Numbers of 4 bytes that a token takes in a block.
struct Numbers {
    hidden: u64,
    /// Of the queries, and of the context.
    queries: u64,
    /// Of the keys, and of the values.
    keys: u64,
    /// Of queries and keys before their norms, where they have norms.
    unnormed: u64,
    fused: bool,
    /// Sums of the block that are kept.
    sums: u64,
    /// Channels inside the feed-forward, or inside one expert.
    inner: u64,
    /// 1 where a gate multiplies.
    gates: u64,
    experts: Option<ExpertSpec>,
    /// Of the rotation of a token, where positions rotate, of the words that say whose row it is, and of two bytes for each
    /// channel of the widest matrix, which products with integers take.
    row: u64,
    /// Copied for an adapter, forward: for queries, keys and values; for the output matrix; for the feed-forward.
    adapter: [u64; 3],
    /// And backward, for a token of a leaf.
    adapter_backward: u64,
    /// 1 where an adapter reads the output of a nonlinearity.
    adapts_down: u64,
}

impl Numbers {
    fn new(spec: &BlockSpec, blocks: Range<usize>, pass: &Pass) -> Self {
        let attention = &spec.attention;
        let head = attention.head_dim as u64;
        let rotation = if matches!(attention.positions, Positions::Rope(_)) { head } else { 0 };
        let rank = |site: Site| {
            let pairs = pass.adapter.iter().map(|adapter| &adapter.pairs);
            let of_blocks = pairs.flat_map(|pairs| blocks.clone().map(|block| pairs.get(&LinearId::new(block, site))));
            of_blocks.flatten().map(|pair| pair.rank() as u64).max()
        };
        let widest = spec.linears().iter().map(|linear| linear.inputs.max(linear.outputs) as u64).max().unwrap_or(0);
        let mut adapter = [0; 3];
        let (mut adapter_backward, mut adapts_down) = (0, 0);
        for linear in spec.linears() {
            let Some(rank) = rank(linear.site) else { continue };
            let place = match linear.site {
                Site::Qkv | Site::Q | Site::K | Site::V => 0,
                Site::O => 1,
                _ => 2,
            };
            adapter[place] = (linear.inputs as u64 + rank).max(adapter[place]);
            adapter_backward = adapter_backward.max(2 * (linear.inputs as u64 + rank));
            adapts_down |= u64::from(matches!(linear.site, Site::Down | Site::ExpertDown(_)));
        }
        Numbers {
            hidden: spec.hidden_size as u64,
            queries: attention.heads as u64 * head,
            keys: attention.kv_heads as u64 * head,
            unnormed: if attention.query_key_norm { (attention.heads + attention.kv_heads) as u64 * head } else { 0 },
            fused: attention.qkv == QkvLayout::Fused,
            sums: match spec.wiring {
                Wiring::PreNorm | Wiring::NormedResidual => 1,
                Wiring::PostNorm => 2,
                Wiring::Parallel => 0,
            },
            inner: spec.feed_forward.intermediate_size as u64,
            gates: u64::from(spec.feed_forward.gated),
            experts: spec.feed_forward.experts,
            row: rotation + 8 + widest / 2,
            adapter,
            adapter_backward,
            adapts_down,
        }
    }

    /// What the backward of a block needs again: its input, sums, queries, context, keys and values, and
    /// the inputs of nonlinearities.
    fn activations(&self) -> u64 {
        let feed_forward = match self.experts {
            None => self.nonlinearity(),
            Some(experts) => experts.count as u64 + experts.per_token as u64 * (self.nonlinearity() + self.hidden),
        };
        (1 + self.sums) * self.hidden + 2 * self.queries + 2 * self.keys + self.unnormed + feed_forward
    }

    /// What an expert holds for its tokens besides numbers: a row and a weight.
    fn expert_share_bytes(&self) -> u64 {
        self.experts.map_or(0, |experts| (experts.per_token * (size_of::<usize>() + size_of::<f32>())) as u64)
    }

    /// The inputs of one nonlinearity.
    fn nonlinearity(&self) -> u64 {
        (1 + self.gates) * self.inner
    }

    /// The most at once, the activations included.
    fn forward(&self) -> u64 {
        let Numbers { hidden, queries, keys, unnormed, inner, .. } = *self;
        let [adapter_in, adapter_out, adapter_feed_forward] = self.adapter;
        let projected = queries + 2 * keys;
        // The input and its norm; queries, keys and values in one matrix, and then an adapter or the same apart.
        let projection = 2 * hidden + projected + adapter_in.max(if self.fused { projected } else { 0 });
        // Keys and values are in the cache as well.
        let attention = 2 * hidden + projected + unnormed + 2 * keys + queries + hidden + adapter_out;
        // Both norms, and what attention made where it is not part of a sum yet; the input of the last matrix, its output, and
        // an adapter.
        let mut feed_forward = self.activations() + 3 * hidden + inner + hidden + adapter_feed_forward;
        if self.sums == 1 {
            feed_forward -= hidden;
        }
        if self.experts.is_some() {
            // All tokens may choose the same expert: their inputs again.
            feed_forward += hidden + 8;
        }
        self.row + projection.max(attention).max(feed_forward)
    }

    /// The most at once, without the activations and what an adapter takes.
    fn backward(&self) -> u64 {
        let Numbers { hidden, queries, keys, unnormed, inner, gates, adapts_down, .. } = *self;
        let projected = queries + 2 * keys;
        // Gradients of the output and of the input, a norm; the input of the last matrix, if an adapter reads it, its
        // gradient, those of the nonlinearity; where there is a gate, the gradient that comes through it.
        let mut feed_forward = 3 * hidden + (2 + gates + adapts_down) * inner + gates * hidden;
        if let Some(experts) = self.experts {
            feed_forward += 3 * hidden + experts.count as u64 + 8;
        }
        // Both norms, the gradient of the sum, of the context, of queries, keys and values, the same in one matrix, of the
        // input.
        let parts = if self.fused { projected } else { hidden };
        let attention = 4 * hidden + queries + projected + unnormed + parts;
        let norms = 5 * hidden;
        self.row + feed_forward.max(attention).max(norms)
    }
}

fn sum(lengths: &[usize]) -> u64 {
    lengths.iter().fold(0u64, |sum, &length| sum.saturating_add(length as u64))
}

/// Bytes of the gradients of one leaf.
fn leaf_bytes(blocks: Range<usize>, pass: &Pass) -> u64 {
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
            assert_eq!([bytes.forward(keep), bytes.kept(keep), bytes.backward(keep)], [u64::MAX; 3]);
        }
    }

    #[test]
    fn what_is_kept_grows_with_what_is_asked_for() {
        let bytes = PassBytes::new(&spec(), 0..2, &[3, 5], &Pass::default());
        let kept = |keep| bytes.kept(keep);
        // Input, sum, queries, context, keys and values, and four times as much inside the feed-forward.
        let (input, block) = (8 * 64 * 4, 8 * 64 * 4 * 10);
        assert_eq!((kept(Keep::Nothing), kept(Keep::Input), kept(Keep::BlockInputs)), (0, input, 2 * input));
        let some = |bytes| kept(Keep::Activations { bytes });
        assert_eq!([block - 1, block, 2 * block].map(some), [2 * input, input + block, 2 * block]);
    }
}
