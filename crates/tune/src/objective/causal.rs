//! The loss of predicting the next token. Logits are large (a megabyte for each position of BLOOM), so head and
//! cross-entropy go through some positions at a time, forward and backward, and only through those that count.

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
    let mut scored = Matrix::zeros(0, normalized.cols());
    for &(position, _) in targets {
        scored.push_rows(normalized.slice(position..position + 1));
    }
    let all_weights = vec![weight; targets.len()];
    let done: Result<(), std::convert::Infallible> = head.for_logits(cpu, scored.view(), |first, logits| {
        let targets = &targets[first..first + logits.rows()];
        let ids: Vec<u32> = targets.iter().map(|&(_, id)| id).collect();
        cross_entropy(cpu, logits, &ids).into_iter().for_each(|one| *loss += one);
        let mut d_logits = Matrix::unset(logits.rows(), logits.cols());
        cross_entropy_backward(cpu, logits, &ids, &all_weights[..ids.len()], d_logits.view_mut());
        let d_scored = head.project_backward(cpu, d_logits.view());
        for (row, &(position, _)) in targets.iter().enumerate() {
            gradient.row_mut(position).copy_from_slice(d_scored.row(row));
        }
        Ok(())
    });
    match done {
        Ok(()) => gradient,
        Err(never) => match never {},
    }
}
