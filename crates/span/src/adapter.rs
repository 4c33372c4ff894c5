//! What is learned on top of frozen weights, and its gradients. Both kinds travel with the request: blocks and
//! encodings know nothing of them beyond adding their share.

use std::collections::BTreeMap;
use std::ops::Range;

use bouquet_kernels::Matrix;

use crate::{Gradient, LinearId, Result, Site, SpanError};

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

impl Adapter {
    /// Whether each pair of `blocks` suits its linear, and the rate is one that dropout can have. `shape` is that of the
    /// weight at a site, `[outputs, inputs]`; `None` where the blocks have no such linear.
    ///
    /// # Errors
    /// [`SpanError::Adapter`] for the first that does not.
    pub fn check(&self, blocks: Range<usize>, shape: impl Fn(Site) -> Option<[usize; 2]>) -> Result<()> {
        self.check_dropout(blocks.clone())?;
        for (&linear, pair) in self.pairs.iter().filter(|(linear, _)| blocks.contains(&linear.block)) {
            let refuse = |problem| Err(SpanError::Adapter { linear, problem });
            let Some([outputs, inputs]) = shape(linear.site) else {
                return refuse("the model has no such linear".into());
            };
            let LowRank { a, b, .. } = pair;
            let rank = pair.rank();
            if a.cols() != inputs || b.rows() != outputs || b.cols() != rank || rank == 0 {
                return refuse(format!(
                    "A is [{rank}, {}] and B is [{}, {}], but the weight is [{outputs}, {inputs}]",
                    a.cols(),
                    b.rows(),
                    b.cols()
                ));
            }
        }
        Ok(())
    }
}

impl Adapter {
    /// Whether the rate is one that dropout can have, where there is a pair of `blocks` that it is for.
    ///
    /// # Errors
    /// [`SpanError::Adapter`].
    pub fn check_dropout(&self, blocks: Range<usize>) -> Result<()> {
        match self.pairs.keys().find(|linear| blocks.contains(&linear.block)) {
            Some(&linear) if !(0.0..1.0).contains(&self.dropout) => {
                let problem = format!("dropout should be from 0 to below 1, not {}", self.dropout);
                Err(SpanError::Adapter { linear, problem })
            }
            _ => Ok(()),
        }
    }
}

impl Prompts {
    /// Whether those of `blocks` have as many channels as the hidden states.
    ///
    /// # Errors
    /// [`SpanError::Shape`].
    pub fn check(&self, blocks: Range<usize>, hidden_size: usize) -> Result<()> {
        match self.blocks.iter().find(|(block, prompt)| blocks.contains(block) && prompt.cols() != hidden_size) {
            Some((_, prompt)) => {
                let (expected, found) = (hidden_size, prompt.cols());
                Err(SpanError::Shape { what: "the width of the prompts", expected, found })
            }
            None => Ok(()),
        }
    }
}

impl PassGrad {
    /// Gradients of other blocks for the same leaves, put beside these.
    ///
    /// # Errors
    /// [`SpanError::Shape`] for another number of leaves, [`SpanError::Foreign`] for a gradient that is there already;
    /// these are then as they were.
    pub fn extend(&mut self, other: PassGrad) -> Result<()> {
        let (expected, found) = (self.leaves.len(), other.leaves.len());
        if expected != found {
            return Err(SpanError::Shape { what: "the number of leaves", expected, found });
        }
        let twice = |(leaf, more): (&LeafGrad, &LeafGrad)| {
            more.adapter.keys().any(|linear| leaf.adapter.contains_key(linear))
                || more.prompts.keys().any(|block| leaf.prompts.contains_key(block))
        };
        if self.leaves.iter().zip(&other.leaves).any(twice) {
            return Err(SpanError::Foreign("a gradient of the pass"));
        }
        for (leaf, more) in self.leaves.iter_mut().zip(other.leaves) {
            leaf.adapter.extend(more.adapter);
            leaf.prompts.extend(more.prompts);
        }
        Ok(())
    }
}

impl LeafGrad {
    /// For implementations, after the backward of a block: whether its gradients are finite.
    ///
    /// # Errors
    /// [`SpanError::GradientNotFinite`] for the first that is not.
    pub fn check_finite(&self, block: usize) -> Result<()> {
        let finite = |matrix: &Matrix| matrix.data().iter().all(|value| value.is_finite());
        let wrong = |grad: &LowRankGrad| !finite(&grad.a) || !finite(&grad.b);
        let pair = self.adapter.iter().find(|(linear, grad)| linear.block == block && wrong(grad));
        let gradient = match pair {
            Some((linear, _)) => Gradient::Adapter(linear.site),
            None if self.prompts.get(&block).is_none_or(finite) => return Ok(()),
            None => Gradient::Prompts,
        };
        Err(SpanError::GradientNotFinite { block, gradient })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grad(leaves: usize, block: usize) -> PassGrad {
        let prompts = BTreeMap::from([(block, Matrix::zeros(1, 2))]);
        PassGrad { leaves: vec![LeafGrad { prompts, ..LeafGrad::default() }; leaves] }
    }

    #[test]
    fn gradients_that_do_not_belong_together_are_refused_and_change_nothing() {
        let mut sum = grad(2, 0);
        sum.extend(grad(2, 1)).unwrap();
        let before = sum.clone();
        assert!(matches!(sum.extend(grad(1, 2)), Err(SpanError::Shape { expected: 2, found: 1, .. })));
        assert!(matches!(sum.extend(grad(0, 2)), Err(SpanError::Shape { expected: 2, found: 0, .. })));
        assert!(matches!(sum.extend(grad(2, 1)), Err(SpanError::Foreign(_))));
        assert_eq!(sum, before);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let mut leaf = grad(1, 3).leaves.remove(0);
        let matrix = |value| Matrix::from_vec(1, 1, vec![value]);
        let linear = LinearId::new(4, Site::O);
        leaf.adapter.insert(linear, LowRankGrad { a: matrix(0.0), b: matrix(f32::INFINITY) });
        assert!(leaf.check_finite(3).is_ok());
        let message = leaf.check_finite(4).unwrap_err().to_string();
        assert_eq!(message, "the gradient for the adapter at o of block 4 is not finite");
        leaf.prompts.insert(3, matrix(f32::NAN));
        assert!(matches!(
            leaf.check_finite(3),
            Err(SpanError::GradientNotFinite { block: 3, gradient: Gradient::Prompts })
        ));
    }
}
