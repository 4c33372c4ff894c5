//! Attention with linear biases (Press et al. 2021, arXiv 2108.12409): a head adds `slope · (key − query)` to each
//! score. (Implementations that add `slope · key` differ by a constant per query, which softmax removes, but for rounding.)

use super::rounding::nearest_bf16;
use crate::math::pow;

/// The linear biases of all heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Alibi {
    /// A slope for each query head.
    pub slopes: Vec<f32>,
    /// How they become biases.
    pub kind: AlibiKind,
}

/// How a slope becomes the bias of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlibiKind {
    /// `score = q·k · scale + slope · (key − query)`.
    Distances,
    /// `score = (q·k + slope · key) · scale`, where the slope, the key's position and their product are bf16 numbers: what
    /// Falcon's checkpoints were trained with, and what transformers computes. From position 256 on keys share biases.
    Bf16Positions,
}

/// The bias of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadBias {
    slope: f32,
    kind: AlibiKind,
}

impl Alibi {
    /// The usual [`slopes`] for so many heads.
    pub fn new(heads: usize, kind: AlibiKind) -> Self {
        Alibi { slopes: slopes(heads), kind }
    }

    /// The bias of a query head.
    pub(super) fn of_head(&self, head: usize) -> HeadBias {
        HeadBias { slope: self.slopes[head], kind: self.kind }
    }
}

impl HeadBias {
    /// Turns the dot products of a query with keys from position `key` on into scores. `distance` is key − query of the
    /// first.
    #[inline(always)]
    pub(super) fn add(self, dots: &mut [f32], scale: f32, key: usize, distance: i32) {
        let slope = self.slope;
        match self.kind {
            AlibiKind::Distances => {
                for (i, score) in dots.iter_mut().enumerate() {
                    *score = *score * scale + slope * (distance + i as i32) as f32;
                }
            }
            AlibiKind::Bf16Positions => {
                let slope = nearest_bf16(slope);
                for (i, score) in dots.iter_mut().enumerate() {
                    *score = (*score + nearest_bf16(slope * nearest_bf16((key + i) as f32))) * scale;
                }
            }
        }
    }
}

/// The slope of each head. With `p` the largest power of two up to `heads`: head `h < p` has `2^(−8(h+1)/p)`; the
/// others take, in order, every second slope of the row for `2p` heads, starting with its first. Rounded where
/// transformers rounds them to f32: first `2^(−8/p)`, then its power. A distance multiplies what they are off, so a
/// better rounding would be further from the model that was trained.
pub fn slopes(heads: usize) -> Vec<f32> {
    if heads == 0 {
        return Vec::new();
    }
    let power = 1 << heads.ilog2();
    let slope = |head: usize, heads: usize| {
        let base = pow(2.0, -8.0 / heads as f64) as f32;
        pow(f64::from(base), (head + 1) as f64) as f32
    };
    let first = (0..power).map(|head| slope(head, power));
    let others = (0..heads - power).map(|head| slope(2 * head, 2 * power));
    first.chain(others).collect()
}
