//! Softmax of rows, for routers and samplers.

use crate::math::exp;
use crate::simd::per_isa;
use crate::{Cpu, MatrixView, MatrixViewMut, lanes};

/// In place, for each row: `xᵢ = e^(xᵢ − max) / Σ`. A row of −∞ alone becomes NaN.
pub fn softmax(cpu: &Cpu, x: MatrixViewMut<'_>) {
    cpu.for_each_row(x, |_, x| softmax_row(cpu, x));
}

/// `dx = p · (dp − Σ p dp)` for each row, where `p` is the softmax; overwrites `dp` with `dx`. Panics when the shapes
/// differ.
pub fn softmax_backward(cpu: &Cpu, p: MatrixView<'_>, dp: MatrixViewMut<'_>) {
    assert_eq!((p.rows(), p.cols()), (dp.rows(), dp.cols()), "probabilities and their gradient");
    cpu.for_each_row(dp, |row, dp| softmax_backward_row(cpu, p.row(row), dp));
}

per_isa! {
    fn softmax_row(x: &mut [f32]) {
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
    fn softmax_backward_row(p: &[f32], dp: &mut [f32]) {
        let inner = lanes::dot(p, dp);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - inner);
        }
    }
}
