//! Sentence embeddings from hidden states: the tokens of a sequence become one vector, forward and backward. Sums go over
//! the tokens of a sequence in order, so that no batch changes a bit.

use std::fmt;
use std::str::FromStr;

use bouquet_kernels::{Matrix, MatrixView};

/// How the normalized hidden states of a sequence become its embedding. The names are those of sentence-transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// Their mean weighted by position, counted from 1: later tokens of a causal model have seen more (SGPT,
    /// arXiv 2202.08904).
    WeightedMean,
    /// That of the last token.
    LastToken,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::WeightedMean, Pooling::LastToken];

    /// As it is typed, and as sentence-transformers calls it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::WeightedMean => "weightedmean",
            Pooling::LastToken => "lasttoken",
        }
    }

    /// `[tokens, hidden_size]`, packed sequences of `lengths`, to `[sequences, hidden_size]`. A sequence without tokens
    /// becomes zeros. Panics when the lengths do not add up.
    pub fn forward(self, hidden: MatrixView<'_>, lengths: &[usize]) -> Matrix {
        assert_eq!(lengths.iter().sum::<usize>(), hidden.rows(), "the sum of the lengths");
        let mut pooled = Matrix::zeros(lengths.len(), hidden.cols());
        let mut first = 0;
        for (sequence, &length) in lengths.iter().enumerate() {
            let sum = pooled.row_mut(sequence);
            for position in 0..length {
                let Some(weight) = self.weight(position, length) else { continue };
                for (sum, x) in sum.iter_mut().zip(hidden.row(first + position)) {
                    *sum += weight * x;
                }
            }
            let total = self.total(length);
            sum.iter_mut().for_each(|sum| *sum /= total);
            first += length;
        }
        pooled
    }

    /// The gradient for `hidden`, `[tokens, hidden_size]`, from that of [`forward`](Self::forward).
    pub fn backward(self, gradient: MatrixView<'_>, lengths: &[usize]) -> Matrix {
        assert_eq!(lengths.len(), gradient.rows(), "the number of sequences");
        let mut hidden = Matrix::zeros(lengths.iter().sum(), gradient.cols());
        let mut first = 0;
        for (sequence, &length) in lengths.iter().enumerate() {
            let total = self.total(length);
            for position in 0..length {
                let Some(weight) = self.weight(position, length) else { continue };
                let row = hidden.row_mut(first + position);
                for (x, gradient) in row.iter_mut().zip(gradient.row(sequence)) {
                    *x = weight * gradient / total;
                }
            }
            first += length;
        }
        hidden
    }

    /// What a token counts; `None` where it does not.
    fn weight(self, position: usize, length: usize) -> Option<f32> {
        match self {
            Pooling::Mean => Some(1.0),
            Pooling::WeightedMean => Some((position + 1) as f32),
            Pooling::LastToken => (position + 1 == length).then_some(1.0),
        }
    }

    /// What the tokens of a sequence count together.
    fn total(self, length: usize) -> f32 {
        match self {
            Pooling::Mean => length.max(1) as f32,
            Pooling::WeightedMean => (length * (length + 1) / 2).max(1) as f32,
            Pooling::LastToken => 1.0,
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no way to pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to pool (mean, weightedmean, lasttoken)")]
pub struct UnknownPooling(String);

impl FromStr for Pooling {
    type Err = UnknownPooling;

    fn from_str(name: &str) -> Result<Self, UnknownPooling> {
        let known = Pooling::ALL.into_iter().find(|pooling| pooling.name() == name);
        known.ok_or_else(|| UnknownPooling(name.chars().take(100).collect()))
    }
}

/// Rows of length 1 in the same directions; zeros stay zeros.
pub fn unit_rows(rows: MatrixView<'_>) -> Matrix {
    let mut units = rows.to_matrix();
    for row in 0..units.rows() {
        let norm = norm(units.row(row));
        if norm > 0.0 {
            units.row_mut(row).iter_mut().for_each(|value| *value /= norm);
        }
    }
    units
}

/// The gradient for `rows` from that of [`unit_rows`], of one shape; 0 for a row of zeros.
pub fn unit_rows_backward(rows: MatrixView<'_>, gradient: MatrixView<'_>) -> Matrix {
    assert_eq!((rows.rows(), rows.cols()), (gradient.rows(), gradient.cols()), "the shape of the gradient");
    let mut out = Matrix::zeros(rows.rows(), rows.cols());
    for index in 0..rows.rows() {
        let (row, gradient) = (rows.row(index), gradient.row(index));
        let norm = norm(row);
        if norm == 0.0 {
            continue;
        }
        let along = row.iter().zip(gradient).fold(0.0, |sum, (x, d)| sum + x / norm * d);
        for ((out, x), d) in out.row_mut(index).iter_mut().zip(row).zip(gradient) {
            *out = (d - along * (x / norm)) / norm;
        }
    }
    out
}

fn norm(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |sum, x| sum + x * x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize, cols: usize) -> Matrix {
        Matrix::from_vec(rows, cols, (0..rows * cols).map(|i| ((i * 37 % 29) as f32 - 13.0) / 8.0).collect())
    }

    #[test]
    fn sequences_become_one_vector_each() {
        let hidden = Matrix::from_vec(3, 2, vec![1.0, 10.0, 4.0, 40.0, 9.0, 0.0]);
        let pooled = |pooling: Pooling| pooling.forward(hidden.view(), &[2, 0, 1]).data().to_vec();
        assert_eq!(pooled(Pooling::Mean), [2.5, 25.0, 0.0, 0.0, 9.0, 0.0]);
        assert_eq!(pooled(Pooling::WeightedMean), [3.0, 30.0, 0.0, 0.0, 9.0, 0.0]);
        assert_eq!(pooled(Pooling::LastToken), [4.0, 40.0, 0.0, 0.0, 9.0, 0.0]);
    }

    /// Both functions are compared with what they are the gradients of, by central differences in a random direction.
    #[test]
    fn gradients_are_finite_differences() {
        let lengths = [3, 1, 0, 4];
        let (hidden, weights) = (sample(8, 5), sample(4, 5));
        let dot = |a: &Matrix, b: &Matrix| -> f64 {
            a.data().iter().zip(b.data()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for pooling in Pooling::ALL {
            let loss = |hidden: &Matrix| dot(&unit_rows(pooling.forward(hidden.view(), &lengths).view()), &weights);
            let pooled = pooling.forward(hidden.view(), &lengths);
            let gradient = unit_rows_backward(pooled.view(), weights.view());
            let gradient = pooling.backward(gradient.view(), &lengths);
            for index in 0..hidden.data().len() {
                let moved = |by: f32| {
                    let mut moved = hidden.clone();
                    moved.data_mut()[index] += by;
                    loss(&moved)
                };
                let difference = (moved(0.01) - moved(-0.01)) / 0.02;
                let found = f64::from(gradient.data()[index]);
                assert!((difference - found).abs() < 2e-3, "{pooling} {index}: {found}, not {difference}");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for pooling in Pooling::ALL {
            assert_eq!(pooling.name().parse(), Ok(pooling));
        }
        assert!("cls".parse::<Pooling>().is_err());
    }

    #[test]
    fn zeros_have_no_direction() {
        let zeros = Matrix::zeros(1, 3);
        assert_eq!(unit_rows(zeros.view()), zeros);
        assert_eq!(unit_rows_backward(zeros.view(), sample(1, 3).view()), zeros);
    }
}
