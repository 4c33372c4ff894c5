//! Whitening: a linear map behind the pooling after which the channels of embeddings have a mean of 0, a variance of 1,
//! and tell nothing of each other (Su et al., 2021, arXiv:2103.15316). Embeddings of a model crowd into a few directions,
//! which then decide every cosine; whitened, all directions count.
//!
//! ```text
//! m = mean of the sentences' embeddings       S = their covariance, [channels, channels]
//! S + λ I = L Lᵀ   (Cholesky)                 W = L⁻¹      b = -W m      y = W x + b
//! ```
//!
//! λ is a share of the mean variance: without it, directions in which sentences hardly differ would become noise as loud
//! as the rest. The paper takes W from a decomposition by singular values. Any W with Wᵀ W = (S + λ I)⁻¹ gives the same
//! cosines, since one is the other turned; a triangle needs no iteration, and so has the same bits everywhere. Sums are in
//! f64, each one ascending chain, by sentence or by channel.

use bouquet_kernels::{Matrix, MatrixView};
use bouquet_span::Limits;

use crate::dense::Dense;
use crate::{EmbedError, Result};

/// λ as a share of the mean variance, unless said otherwise. On the development sets of the recipe, 0.01 to 0.1 are within
/// half a point.
pub const RATIO: f64 = 0.03;

/// Sentences that are added to the covariance together, while a row of it is at hand.
const TILE: usize = 32;

/// Bytes that [`fit`] works in, besides the embeddings.
pub fn bytes(channels: usize) -> u64 {
    let channels = channels as u64;
    channels.saturating_mul(channels).saturating_mul(2 * 8 + 4)
}

/// The map that whitens embeddings like these, `[sentences, channels]`, as pooled and not of length 1; λ is `ratio` times
/// the mean variance.
///
/// # Errors
/// [`EmbedError::Whitening`] where there are not more sentences than channels, for numbers that are not finite, and where
/// the embeddings do not differ; what `limits` say.
pub fn fit(embeddings: MatrixView<'_>, ratio: f64, limits: &Limits) -> Result<Dense> {
    let (sentences, channels) = (embeddings.rows(), embeddings.cols());
    check(sentences, channels)?;
    if embeddings.data().iter().any(|number| !number.is_finite()) {
        return Err(EmbedError::Whitening("an embedding is not finite".to_owned()));
    }
    let mean = mean(embeddings);
    let mut factor = Square::zeros(channels);
    add_covariance(&mut factor, embeddings, &mean, limits)?;
    let variance = (0..channels).map(|i| factor.row(i)[i]).sum::<f64>() / channels as f64;
    for i in 0..channels {
        factor.row_mut(i)[i] += ratio * variance;
    }
    decompose(&mut factor, limits)?;
    let inverse = invert(&factor, limits)?;
    let mut dense = Dense { weight: Matrix::zeros(channels, channels), bias: Vec::with_capacity(channels) };
    for i in 0..channels {
        let row = &inverse.row(i)[..=i];
        dense.weight.row_mut(i).iter_mut().zip(row).for_each(|(weight, &exact)| *weight = exact as f32);
        dense.bias.push(-row.iter().zip(&mean).map(|(weight, mean)| weight * mean).sum::<f64>() as f32);
    }
    if dense.weight.data().iter().chain(&dense.bias).any(|number| !number.is_finite()) {
        return Err(alike());
    }
    Ok(dense)
}

/// Whether so many sentences say something of each channel beside the others.
///
/// # Errors
/// [`EmbedError::Whitening`].
pub fn check(sentences: usize, channels: usize) -> Result<()> {
    if sentences > channels {
        return Ok(());
    }
    let problem = format!("{channels} channels need more different sentences than that, and there are {sentences}");
    Err(EmbedError::Whitening(problem))
}

fn alike() -> EmbedError {
    EmbedError::Whitening("the embeddings of the sentences hardly differ".to_owned())
}

fn mean(embeddings: MatrixView<'_>) -> Vec<f64> {
    let mut mean = vec![0.0; embeddings.cols()];
    for row in 0..embeddings.rows() {
        mean.iter_mut().zip(embeddings.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    mean.iter_mut().for_each(|sum| *sum /= embeddings.rows() as f64);
    mean
}

/// The upper triangle of the covariance into zeros.
fn add_covariance(into: &mut Square, embeddings: MatrixView<'_>, mean: &[f64], limits: &Limits) -> Result<()> {
    let sentences = embeddings.rows();
    for first in (0..sentences).step_by(TILE) {
        limits.check().map_err(bouquet_model::ModelError::from)?;
        let tile = first..(first + TILE).min(sentences);
        let centered = |row: usize| embeddings.row(row).iter().zip(mean).map(|(&x, mean)| f64::from(x) - mean);
        let tile: Vec<Vec<f64>> = tile.map(|row| centered(row).collect()).collect();
        for i in 0..into.size {
            let sums = &mut into.row_mut(i)[i..];
            for row in &tile {
                add_scaled(sums, row[i], &row[i..]);
            }
        }
    }
    into.numbers.iter_mut().for_each(|sum| *sum /= sentences as f64);
    Ok(())
}

/// The upper triangle of a matrix to `Lᵀ`, row by row.
fn decompose(matrix: &mut Square, limits: &Limits) -> Result<()> {
    for i in 0..matrix.size {
        limits.check().map_err(bouquet_model::ModelError::from)?;
        let (above, rest) = matrix.numbers.split_at_mut(i * matrix.size);
        let row = &mut rest[i..matrix.size];
        for above in above.chunks_exact(matrix.size) {
            add_scaled(row, -above[i], &above[i..]);
        }
        // Also where it is not a number.
        if !(row[0] > 0.0 && row[0].is_finite()) {
            return Err(alike());
        }
        let root = row[0].sqrt();
        row.iter_mut().for_each(|number| *number /= root);
    }
    Ok(())
}

/// `L⁻¹`, a lower triangle, from `Lᵀ`: row `i` of `L L⁻¹ = I`, solved from the first row on.
fn invert(factor: &Square, limits: &Limits) -> Result<Square> {
    let size = factor.size;
    let mut inverse = Square::zeros(size);
    for i in 0..size {
        limits.check().map_err(bouquet_model::ModelError::from)?;
        let (above, rest) = inverse.numbers.split_at_mut(i * size);
        let row = &mut rest[..=i];
        row[i] = 1.0;
        for (k, above) in above.chunks_exact(size).enumerate() {
            add_scaled(&mut row[..=k], -factor.row(k)[i], &above[..=k]);
        }
        let pivot = factor.row(i)[i];
        row.iter_mut().for_each(|number| *number /= pivot);
    }
    Ok(inverse)
}

/// `sums += factor * row`, number by number.
fn add_scaled(sums: &mut [f64], factor: f64, row: &[f64]) {
    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
}

/// A square matrix in f64, row-major.
struct Square {
    size: usize,
    numbers: Vec<f64>,
}

impl Square {
    fn zeros(size: usize) -> Self {
        Square { size, numbers: vec![0.0; size * size] }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.numbers[row * self.size..][..self.size]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.numbers[row * self.size..][..self.size]
    }
}

#[cfg(test)]
mod tests;
