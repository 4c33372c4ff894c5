//! Cross-entropy of next-token prediction, one row of logits per token.

use crate::{Cpu, MatrixView, MatrixViewMut};

/// `−ln softmax(logits)[target]` per row, in f64 from an f32 softmax sum. Panics when a target is not a column.
pub fn cross_entropy(cpu: &Cpu, logits: MatrixView<'_>, targets: &[u32]) -> Vec<f64> {
    let _ = (cpu, logits, targets);
    todo!()
}

/// The gradient: `d_logits = weight · (softmax(logits) − onehot(target))`, with a weight for each row (`1 / count` for
/// the mean; 0 for a row that is not scored).
pub fn cross_entropy_backward(
    cpu: &Cpu,
    logits: MatrixView<'_>,
    targets: &[u32],
    weights: &[f32],
    d_logits: MatrixViewMut<'_>,
) {
    let _ = (cpu, logits, targets, weights, d_logits);
    todo!()
}
