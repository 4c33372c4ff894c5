//! The loss of predicting the next token. Logits are large (a megabyte for each position of BLOOM), so head and
//! cross-entropy go through some positions at a time, forward and backward, and only through those that count.

use bouquet_kernels::ops::cross_entropy::{cross_entropy, cross_entropy_backward};
use bouquet_kernels::{Cpu, Matrix, MatrixView};
use bouquet_model::ends::LmHead;

/// Positions whose next token is scored, and that token.
pub type Targets = Vec<(usize, u32)>;

/// The sum of the losses at `targets`, positions of `normalized` in ascending order, and the gradient of `weight` times
/// it, `[tokens, hidden_size]`.
pub fn next_token_loss(
    cpu: &Cpu,
    head: &LmHead,
    normalized: MatrixView<'_>,
    targets: &[(usize, u32)],
    weight: f32,
) -> (f64, Matrix) {
    let (mut loss, mut gradient) = (0.0, Matrix::zeros(normalized.rows(), normalized.cols()));
    let mut scored = Matrix::zeros(0, normalized.cols());
    for &(position, _) in targets {
        scored.push_rows(normalized.slice(position..position + 1));
    }
    let all_weights = vec![weight; targets.len()];
    let done: Result<(), std::convert::Infallible> = head.for_logits(cpu, scored.view(), |first, logits| {
        let targets = &targets[first..first + logits.rows()];
        let ids: Vec<u32> = targets.iter().map(|&(_, id)| id).collect();
        loss = cross_entropy(cpu, logits, &ids).into_iter().fold(loss, |sum, loss| sum + loss);
        let mut d_logits = Matrix::unset(logits.rows(), logits.cols());
        cross_entropy_backward(cpu, logits, &ids, &all_weights[..ids.len()], d_logits.view_mut());
        let d_scored = head.project_backward(cpu, d_logits.view());
        for (row, &(position, _)) in targets.iter().enumerate() {
            gradient.row_mut(position).copy_from_slice(d_scored.row(row));
        }
        Ok(())
    });
    match done {
        Ok(()) => (loss, gradient),
        Err(never) => match never {},
    }
}
