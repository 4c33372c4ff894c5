//! Sums of whole matrices, biases, and the check for numbers that are not finite.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::simd::per_isa;
use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y += x`. Both are of one shape.
pub fn add(cpu: &Cpu, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "shapes of a sum");
    cpu.for_each_row(y, |row, y| add_row(cpu, x.row(row), y));
}

/// `y += factor · x`, product and sum rounded separately. Both are of one shape.
pub fn add_scaled(cpu: &Cpu, factor: f32, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "shapes of a sum");
    cpu.for_each_row(y, |row, y| add_scaled_row(cpu, factor, x.row(row), y));
}

/// Adds `bias`, `[y.cols()]`, to every row of `y`.
pub fn add_bias(cpu: &Cpu, bias: &[f32], y: MatrixViewMut<'_>) {
    assert_eq!(bias.len(), y.cols(), "the length of a bias");
    cpu.for_each_row(y, |_, y| add_row(cpu, bias, y));
}

/// The first row that holds a NaN or an infinity.
pub fn first_row_not_finite(cpu: &Cpu, x: MatrixView<'_>) -> Option<usize> {
    let first = AtomicUsize::new(usize::MAX);
    const ROWS: usize = 64;
    cpu.run(x.rows().div_ceil(ROWS), |task| {
        for row in task * ROWS..x.rows().min((task + 1) * ROWS) {
            if !all_finite(cpu, x.row(row)) {
                first.fetch_min(row, Ordering::Relaxed);
                return;
            }
        }
    });
    Some(first.into_inner()).filter(|&row| row < usize::MAX)
}

per_isa! {
    fn add_row(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

per_isa! {
    fn add_scaled_row(factor: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += factor * x;
        }
    }
}

per_isa! {
    fn all_finite(x: &[f32]) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        x.iter().fold(true, |finite, x| finite & (x.to_bits() & EXPONENT != EXPONENT))
    }
}
