//! Rounding of hidden states to what a narrow wire carries, so that one machine can compute what a swarm computes.
//! The gradient passes through unchanged (straight-through).

use crate::{Cpu, MatrixViewMut};

/// Channels that share a scale in [`round_int8`].
pub const INT8_GROUP: usize = 64;

/// Rounds to the nearest bf16, ties to even, in place.
pub fn round_bf16(cpu: &Cpu, x: MatrixViewMut<'_>) {
    let _ = (cpu, x);
    todo!()
}

/// Rounds each group of [`INT8_GROUP`] channels of a row to 255 levels of its largest magnitude, in place:
/// `code = round(x · (127 / absmax))`, `x = code · (absmax / 127)`; a group of zeros stays.
pub fn round_int8(cpu: &Cpu, x: MatrixViewMut<'_>) {
    let _ = (cpu, x);
    todo!()
}
