//! Softmax of one row, for routers and samplers.

use crate::cpu::alone;
use crate::lanes;
use crate::math::exp;
use crate::simd::per_isa;

/// In place: `xᵢ = e^(xᵢ − max) / Σ`. A row of −∞ alone becomes NaN.
pub fn softmax(x: &mut [f32]) {
    forward(alone(), x);
}

/// `dx = p · (dp − Σ p dp)`, where `p` is the softmax; overwrites `dp` with `dx`. Panics when the lengths differ.
pub fn softmax_backward(p: &[f32], dp: &mut [f32]) {
    assert_eq!(p.len(), dp.len(), "probabilities and their gradient");
    backward(alone(), p, dp);
}

per_isa! {
    fn forward(x: &mut [f32]) {
        let max = lanes::max(x);
        for x in x.iter_mut() {
            *x = exp(*x - max);
        }
        let sum = lanes::sum(x.len(), |i| x[i]);
        for x in x {
            *x /= sum;
        }
    }
}

per_isa! {
    fn backward(p: &[f32], dp: &mut [f32]) {
        let inner = lanes::dot(p, dp);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - inner);
        }
    }
}
