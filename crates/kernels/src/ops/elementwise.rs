//! Sums of whole matrices, biases, and the check for numbers that are not finite.

use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y += x`.
pub fn add(cpu: &Cpu, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    let _ = (cpu, x, y);
    todo!()
}

/// `y += factor · x`, product and sum rounded separately.
pub fn add_scaled(cpu: &Cpu, factor: f32, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    let _ = (cpu, factor, x, y);
    todo!()
}

/// Adds `bias` to every row of `y`.
pub fn add_bias(cpu: &Cpu, bias: &[f32], y: MatrixViewMut<'_>) {
    let _ = (cpu, bias, y);
    todo!()
}

/// The first row that holds a NaN or an infinity.
pub fn first_row_not_finite(cpu: &Cpu, x: MatrixView<'_>) -> Option<usize> {
    let _ = (cpu, x);
    todo!()
}
