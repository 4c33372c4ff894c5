//! Layer normalization (Ba et al. 2016, arXiv 1607.06450) and root-mean-square normalization (Zhang & Sennrich 2019,
//! arXiv 1910.07467), over the last dimension. Gradients are those of the input: norm parameters are frozen.

use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y = (x − mean) / √(var + ε) · weight + bias`, per row. `weight` and `bias` have `x.cols()` entries.
pub fn layer_norm(cpu: &Cpu, x: MatrixView<'_>, weight: &[f32], bias: &[f32], epsilon: f32, y: MatrixViewMut<'_>) {
    let _ = (cpu, x, weight, bias, epsilon, y);
    todo!()
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
    let _ = (cpu, x, weight, epsilon, dy, dx);
    todo!()
}

/// `y = x / √(mean(x²) + ε) · weight`, per row.
pub fn rms_norm(cpu: &Cpu, x: MatrixView<'_>, weight: &[f32], epsilon: f32, y: MatrixViewMut<'_>) {
    let _ = (cpu, x, weight, epsilon, y);
    todo!()
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
    let _ = (cpu, x, weight, epsilon, dy, dx);
    todo!()
}
