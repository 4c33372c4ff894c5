//! Cross-entropy of next-token prediction, one row of logits per token.

use crate::math::{exp, ln};
use crate::simd::per_isa;
use crate::{Cpu, MatrixView, MatrixViewMut, lanes};

/// `−ln softmax(logits)[target]` per row, in f64 from an f32 softmax sum. Panics when a target is not a column.
pub fn cross_entropy(cpu: &Cpu, logits: MatrixView<'_>, targets: &[u32]) -> Vec<f64> {
    assert_targets(logits, targets);
    // Two f32 halves carry the f64 of each row through the one door that splits rows over threads.
    let mut losses = vec![0.0f64; targets.len()];
    let halves = MatrixViewMut::new(targets.len(), 2, bytemuck::cast_slice_mut(&mut losses));
    cpu.for_each_costly_row(halves, logits.cols(), |row, loss| {
        let target = logits.row(row)[targets[row] as usize];
        let (max, sum) = max_and_sum(cpu, logits.row(row));
        let value = ln(f64::from(sum)) + (f64::from(max) - f64::from(target));
        loss.copy_from_slice(bytemuck::cast_slice(&[value]));
    });
    losses
}

/// The gradient: `d_logits = weight · (softmax(logits) − onehot(target))`, with a weight for each row (`1 / count` for
/// the mean; 0 for a row that is not scored, whatever its logits are).
pub fn cross_entropy_backward(
    cpu: &Cpu,
    logits: MatrixView<'_>,
    targets: &[u32],
    weights: &[f32],
    d_logits: MatrixViewMut<'_>,
) {
    assert_targets(logits, targets);
    assert_eq!(weights.len(), targets.len(), "weights of the rows");
    assert_eq!((d_logits.rows(), d_logits.cols()), (logits.rows(), logits.cols()), "the shape of d_logits");
    cpu.for_each_row(d_logits, |row, d_logits| {
        if weights[row] == 0.0 {
            d_logits.fill(0.0);
        } else {
            let (max, sum) = max_and_sum(cpu, logits.row(row));
            backward_row(cpu, logits.row(row), max, sum, targets[row] as usize, weights[row], d_logits);
        }
    });
}

fn assert_targets(logits: MatrixView<'_>, targets: &[u32]) {
    assert_eq!(logits.rows(), targets.len(), "rows of logits and targets");
    for &target in targets {
        assert!((target as usize) < logits.cols(), "target {target} of {} logits", logits.cols());
    }
}

per_isa! {
    /// The largest logit, and `Σ e^(logit − max)`.
    fn max_and_sum(logits: &[f32]) -> (f32, f32) {
        let max = lanes::max(logits);
        (max, lanes::sum(logits.len(), |i| exp(logits[i] - max)))
    }
}

per_isa! {
    fn backward_row(logits: &[f32], max: f32, sum: f32, target: usize, weight: f32, d_logits: &mut [f32]) {
        for (d, x) in d_logits.iter_mut().zip(logits) {
            *d = weight * (exp(x - max) / sum);
        }
        d_logits[target] = weight * (exp(logits[target] - max) / sum - 1.0);
    }
}
