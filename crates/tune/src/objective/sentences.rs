//! Losses of sentence embeddings, as pooled, with their gradients. A batch has some views of the same number of rows, one
//! view after another: anchors, positives, negatives.

use bouquet_kernels::ops::cross_entropy::{cross_entropy, cross_entropy_backward};
use bouquet_kernels::{Cpu, Matrix, MatrixView, product};
use bouquet_model::pooling::{unit_rows, unit_rows_backward};

/// A loss of sentence embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SentenceLoss {
    /// Multiple negatives ranking (arXiv 1705.00652; InfoNCE): cross-entropy of `scale · cosine` of each anchor with all
    /// positives and negatives of the batch, its own positive being right. Two views, and one more for each negative.
    Contrastive {
        /// 1 over the temperature.
        scale: f32,
        /// Whether positives have to find their anchors as well; the loss is then the mean of both directions.
        symmetric: bool,
    },
    /// Mean square of cosine minus score, of two views.
    Cosine,
}

impl SentenceLoss {
    /// The loss of embeddings `[views · rows, hidden_size]`, and the gradient for them. `scores` has one for each row
    /// where the loss is [`Cosine`](Self::Cosine). Panics on shapes that do not fit.
    pub fn of(self, cpu: &Cpu, embeddings: MatrixView<'_>, rows: usize, scores: &[f32]) -> (f64, Matrix) {
        assert!(rows > 0 && embeddings.rows().is_multiple_of(rows), "views of as many rows each");
        assert!(embeddings.rows() >= 2 * rows, "at least two views");
        let units = unit_rows(embeddings);
        let (loss, gradient) = match self {
            SentenceLoss::Contrastive { scale, symmetric } => contrastive(cpu, &units, rows, scale, symmetric),
            SentenceLoss::Cosine => cosine(&units, rows, scores),
        };
        (loss, unit_rows_backward(embeddings, gradient.view()))
    }
}

fn contrastive(cpu: &Cpu, units: &Matrix, rows: usize, scale: f32, symmetric: bool) -> (f64, Matrix) {
    let mut gradient = Matrix::zeros(units.rows(), units.cols());
    let (anchors, others) = (0..rows, rows..units.rows());
    let share = if symmetric { 0.5 } else { 1.0 };
    let mut loss = f64::from(share) * rank(cpu, units, anchors.clone(), others, scale, share, &mut gradient);
    if symmetric {
        loss += f64::from(share) * rank(cpu, units, rows..2 * rows, anchors, scale, share, &mut gradient);
    }
    (loss, gradient)
}

/// The mean cross-entropy of each query's scores with all candidates, the candidate of its own number being right; adds
/// `share` of its gradient.
fn rank(
    cpu: &Cpu,
    units: &Matrix,
    queries: std::ops::Range<usize>,
    candidates: std::ops::Range<usize>,
    scale: f32,
    share: f32,
    gradient: &mut Matrix,
) -> f64 {
    let rows = queries.len();
    let (query, candidate) = (units.slice(queries.clone()), units.slice(candidates.clone()));
    let mut scores = Matrix::zeros(rows, candidates.len());
    product::product(cpu, query, candidate, scores.view_mut());
    scores.data_mut().iter_mut().for_each(|score| *score *= scale);

    let targets: Vec<u32> = (0..rows as u32).collect();
    let loss = cross_entropy(cpu, scores.view(), &targets).iter().sum::<f64>() / rows as f64;
    let mut d_scores = Matrix::zeros(rows, candidates.len());
    let weights = vec![share * scale / rows as f32; rows];
    cross_entropy_backward(cpu, scores.view(), &targets, &weights, d_scores.view_mut());

    let mut d_query = Matrix::zeros(rows, units.cols());
    product::product_backward(cpu, d_scores.view(), candidate, d_query.view_mut());
    add_rows(&d_query, gradient, queries.start);
    let mut d_candidate = Matrix::zeros(candidates.len(), units.cols());
    product::weight_gradient(cpu, d_scores.view(), query, d_candidate.view_mut());
    add_rows(&d_candidate, gradient, candidates.start);
    loss
}

fn cosine(units: &Matrix, rows: usize, scores: &[f32]) -> (f64, Matrix) {
    assert_eq!((units.rows(), scores.len()), (2 * rows, rows), "two views, and a score for each row");
    let mut gradient = Matrix::zeros(units.rows(), units.cols());
    let mut loss = 0.0;
    for (row, score) in scores.iter().enumerate() {
        let (first, second) = (units.row(row), units.row(rows + row));
        let cosine = first.iter().zip(second).fold(0.0, |sum, (a, b)| sum + a * b);
        let difference = cosine - score;
        loss += f64::from(difference) * f64::from(difference) / rows as f64;
        let factor = 2.0 * difference / rows as f32;
        gradient.row_mut(row).iter_mut().zip(second).for_each(|(d, b)| *d = factor * b);
        gradient.row_mut(rows + row).iter_mut().zip(first).for_each(|(d, a)| *d = factor * a);
    }
    (loss, gradient)
}

fn add_rows(more: &Matrix, sum: &mut Matrix, first: usize) {
    for row in 0..more.rows() {
        sum.row_mut(first + row).iter_mut().zip(more.row(row)).for_each(|(sum, more)| *sum += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize, cols: usize) -> Matrix {
        Matrix::from_vec(rows, cols, (0..rows * cols).map(|i| ((i * 37 % 29) as f32 - 13.0) / 8.0).collect())
    }

    #[test]
    fn gradients_are_finite_differences() {
        let cpu = Cpu::new(2);
        let contrastive = |symmetric| SentenceLoss::Contrastive { scale: 5.0, symmetric };
        for (loss, views) in
            [(contrastive(false), 2), (contrastive(false), 4), (contrastive(true), 3), (SentenceLoss::Cosine, 2)]
        {
            let (rows, scores) = (3, [0.1, 0.9, 0.4]);
            let embeddings = sample(views * rows, 4);
            let of = |embeddings: &Matrix| loss.of(&cpu, embeddings.view(), rows, &scores);
            let gradient = of(&embeddings).1;
            for index in 0..embeddings.data().len() {
                let moved = |by: f32| {
                    let mut moved = embeddings.clone();
                    moved.data_mut()[index] += by;
                    of(&moved).0
                };
                let difference = (moved(0.01) - moved(-0.01)) / 0.02;
                let found = f64::from(gradient.data()[index]);
                assert!((difference - found).abs() < 2e-3, "{loss:?} {index}: {found}, not {difference}");
            }
        }
    }

    #[test]
    fn the_loss_of_embeddings_that_are_all_alike_is_that_of_guessing() {
        let embeddings = Matrix::from_vec(8, 2, vec![1.0; 16]);
        let loss = SentenceLoss::Contrastive { scale: 20.0, symmetric: true };
        let (loss, _) = loss.of(&Cpu::new(1), embeddings.view(), 4, &[]);
        assert!((loss - 4f64.ln()).abs() < 1e-6);
    }
}
