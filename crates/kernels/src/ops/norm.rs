//! Layer normalization (Ba et al. 2016, arXiv 1607.06450) and root-mean-square normalization (Zhang & Sennrich 2019,
//! arXiv 1910.07467), over the last dimension. Gradients are those of the input: norm parameters are frozen.
//!
//! With `x̂` the normalized row and `r` the factor `1 / √(var + ε)`, both backwards take the part of the gradient
//! `g = dy · weight` that the normalization cannot pass on away: `dx = r (g − mean(g) − x̂ mean(g x̂))`, the mean of
//! `g` only where the mean of `x` was taken away too.

use crate::simd::per_isa;
use crate::{Cpu, MatrixView, MatrixViewMut, lanes};

/// `y = (x − mean) / √(var + ε) · weight + bias`, per row. `weight` and `bias` have `x.cols()` entries.
pub fn layer_norm(cpu: &Cpu, x: MatrixView<'_>, weight: &[f32], bias: &[f32], epsilon: f32, y: MatrixViewMut<'_>) {
    assert_shapes(x, weight, y.view());
    assert_eq!(bias.len(), x.cols(), "the length of a norm's bias");
    cpu.for_each_row(y, |row, y| layer_norm_row(cpu, x.row(row), weight, bias, epsilon, y));
}

/// The gradient of [`layer_norm`] for its input.
pub fn layer_norm_backward(
    cpu: &Cpu,
    x: MatrixView<'_>,
    weight: &[f32],
    epsilon: f32,
    dy: MatrixView<'_>,
    dx: MatrixViewMut<'_>,
) {
    assert_shapes(x, weight, dy);
    assert_shapes(x, weight, dx.view());
    cpu.for_each_row(dx, |row, dx| layer_norm_backward_row(cpu, x.row(row), weight, epsilon, dy.row(row), dx));
}

/// `y = x / √(mean(x²) + ε) · weight`, per row. `weight` has `x.cols()` entries.
pub fn rms_norm(cpu: &Cpu, x: MatrixView<'_>, weight: &[f32], epsilon: f32, y: MatrixViewMut<'_>) {
    assert_shapes(x, weight, y.view());
    cpu.for_each_row(y, |row, y| rms_norm_row(cpu, x.row(row), weight, epsilon, y));
}

/// The gradient of [`rms_norm`] for its input.
pub fn rms_norm_backward(
    cpu: &Cpu,
    x: MatrixView<'_>,
    weight: &[f32],
    epsilon: f32,
    dy: MatrixView<'_>,
    dx: MatrixViewMut<'_>,
) {
    assert_shapes(x, weight, dy);
    assert_shapes(x, weight, dx.view());
    cpu.for_each_row(dx, |row, dx| rms_norm_backward_row(cpu, x.row(row), weight, epsilon, dy.row(row), dx));
}

fn assert_shapes(x: MatrixView<'_>, weight: &[f32], y: MatrixView<'_>) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "shapes of a norm");
    assert_eq!(weight.len(), x.cols(), "the length of a norm's weight");
}

/// The mean of a row, and `1 / √(var + ε)`.
#[inline(always)]
fn mean_and_factor(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = lanes::sum(x.len(), |i| x[i]) / count;
    let variance = lanes::sum_of_products(x.len(), |i| (x[i] - mean, x[i] - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// `1 / √(mean(x²) + ε)`.
#[inline(always)]
fn rms_factor(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (lanes::dot(x, x) / x.len() as f32 + epsilon).sqrt()
}

per_isa! {
    fn layer_norm_row(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
        let (mean, factor) = mean_and_factor(x, epsilon);
        let (weight, bias, y) = (&weight[..x.len()], &bias[..x.len()], &mut y[..x.len()]);
        for i in 0..x.len() {
            y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
        }
    }
}

per_isa! {
    fn layer_norm_backward_row(x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
        let (mean, factor) = mean_and_factor(x, epsilon);
        let (weight, dy, dx) = (&weight[..x.len()], &dy[..x.len()], &mut dx[..x.len()]);
        let count = x.len() as f32;
        let of_g = lanes::sum(x.len(), |i| dy[i] * weight[i]) / count;
        let of_gx = lanes::sum_of_products(x.len(), |i| (dy[i] * weight[i], (x[i] - mean) * factor)) / count;
        for i in 0..x.len() {
            dx[i] = factor * (dy[i] * weight[i] - of_g - (x[i] - mean) * factor * of_gx);
        }
    }
}

per_isa! {
    fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
        let factor = rms_factor(x, epsilon);
        let (weight, y) = (&weight[..x.len()], &mut y[..x.len()]);
        for i in 0..x.len() {
            y[i] = x[i] * factor * weight[i];
        }
    }
}

per_isa! {
    fn rms_norm_backward_row(x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
        let factor = rms_factor(x, epsilon);
        let (weight, dy, dx) = (&weight[..x.len()], &dy[..x.len()], &mut dx[..x.len()]);
        let of_gx = lanes::sum_of_products(x.len(), |i| (dy[i] * weight[i], x[i] * factor)) / x.len() as f32;
        for i in 0..x.len() {
            dx[i] = factor * (dy[i] * weight[i] - x[i] * factor * of_gx);
        }
    }
}
