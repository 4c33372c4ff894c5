//! What is learned on top of frozen weights, and its gradients. Both kinds travel with the request: blocks and
//! encodings know nothing of them beyond adding their share.

use std::collections::BTreeMap;

use bouquet_kernels::Matrix;

use crate::LinearId;

/// A low-rank adapter (LoRA, Hu et al. 2021, arXiv 2106.09685): `y = x Wᵀ + scale · (dropout(x) Aᵀ) Bᵀ`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// The pair of each adapted linear.
    pub pairs: BTreeMap<LinearId, LowRank>,
    /// Probability with which a channel of `x` is dropped in training: 0 ≤ rate < 1. Used only where the pass has a
    /// [`Dropout`](crate::Dropout) key.
    pub dropout: f32,
}

/// The two matrices of one adapted linear.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `A`, `[rank, inputs]`.
    pub a: Matrix,
    /// `B`, `[outputs, rank]`.
    pub b: Matrix,
    /// Factor of the product: `alpha / rank`, or `alpha / √rank` (rsLoRA, arXiv 2312.03732).
    pub scale: f32,
}

/// Deep prompts (prefix tuning as Petals has it): added to the hidden states of the first positions of each sequence,
/// at the input of a block. Prompts before the first token need nothing of a span: they are rows of the hidden states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// `[prompt tokens, hidden_size]` for each block that has some.
    pub blocks: BTreeMap<usize, Matrix>,
}

/// Gradients of what the caller passed in besides hidden states: one for each leaf (a fixed number of sequences, see
/// [`Pass::leaf`](crate::Pass::leaf)), never a sum over leaves, so that any cut of the batch at leaf borders and any
/// route gives the same bits. Only the caller adds them, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassGrad {
    /// In order of the sequences.
    pub leaves: Vec<LeafGrad>,
}

/// The gradients of one leaf, summed token by token in order: for everything that the pass brought along for the span's
/// blocks, zeros where no token reached it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeafGrad {
    /// Of each adapted linear.
    pub adapter: BTreeMap<LinearId, LowRankGrad>,
    /// Of each block's prompts.
    pub prompts: BTreeMap<usize, Matrix>,
}

/// The gradients of one [`LowRank`] pair, in its shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRankGrad {
    /// Of `A`.
    pub a: Matrix,
    /// Of `B`.
    pub b: Matrix,
}

impl LowRank {
    /// Rows of `A`.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }
}

impl PassGrad {
    /// Gradients of other blocks for the same leaves, put beside these. Panics when the leaves differ in number.
    pub fn extend(&mut self, other: PassGrad) {
        if self.leaves.is_empty() {
            *self = other;
            return;
        }
        assert_eq!(self.leaves.len(), other.leaves.len(), "leaves of two gradients of one pass");
        for (leaf, more) in self.leaves.iter_mut().zip(other.leaves) {
            leaf.adapter.extend(more.adapter);
            leaf.prompts.extend(more.prompts);
        }
    }
}
