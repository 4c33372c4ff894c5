//! The loss of predicting the next token. Logits are large (a megabyte for each position of BLOOM), so head and
//! cross-entropy go through some positions at a time, forward and backward, and only through those that count.

use std::convert::Infallible;

use bouquet_kernels::ops::cross_entropy::{cross_entropy, cross_entropy_backward};
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_model::ends::LmHead;

/// Adds the losses at `targets`, positions of `normalized` in ascending order, to `loss`, one after another; returns the
/// gradient of `weight` times them, `[tokens, hidden_size]`.
pub fn next_token_loss(
    cpu: &Cpu,
    head: &LmHead,
    normalized: MatrixView<'_>,
    targets: &[(usize, u32)],
    weight: f32,
    loss: &mut f64,
) -> Matrix {
    let mut gradient = Matrix::zeros(normalized.rows(), normalized.cols());
    let weights = vec![weight; targets.len()];
    for_scored_logits(cpu, head, normalized, targets, |targets, logits| {
        let ids: Vec<u32> = targets.iter().map(|&(_, id)| id).collect();
        cross_entropy(cpu, logits, &ids).into_iter().for_each(|one| *loss += one);
        let mut d_logits = Matrix::unset(logits.rows(), logits.cols());
        cross_entropy_backward(cpu, logits, &ids, &weights[..ids.len()], d_logits.view_mut());
        let d_scored = head.project_backward(cpu, d_logits.view());
        for (row, &(position, _)) in targets.iter().enumerate() {
            gradient.row_mut(position).copy_from_slice(d_scored.row(row));
        }
    });
    gradient
}

/// The same without a gradient.
pub fn sum_of_losses(cpu: &Cpu, head: &LmHead, normalized: MatrixView<'_>, targets: &[(usize, u32)], loss: &mut f64) {
    for_scored_logits(cpu, head, normalized, targets, |targets, logits| {
        let ids: Vec<u32> = targets.iter().map(|&(_, id)| id).collect();
        cross_entropy(cpu, logits, &ids).into_iter().for_each(|one| *loss += one);
    });
}

/// Calls `work` with some targets at a time and the logits at their positions.
fn for_scored_logits(
    cpu: &Cpu,
    head: &LmHead,
    normalized: MatrixView<'_>,
    targets: &[(usize, u32)],
    mut work: impl FnMut(&[(usize, u32)], MatrixView<'_>),
) {
    let mut scored = Matrix::zeros(0, normalized.cols());
    for &(position, _) in targets {
        scored.push_rows(normalized.slice(position..position + 1));
    }
    let done: Result<(), Infallible> = head.for_logits(cpu, scored.view(), |first, logits| {
        work(&targets[first..first + logits.rows()], logits);
        Ok(())
    });
    if let Err(never) = done {
        match never {}
    }
}
