//! Rounding of hidden states to what a narrow wire carries, so that one machine can compute what a swarm computes.
//! The gradient passes through unchanged (straight-through).

use crate::simd::per_isa;
use crate::{Cpu, MatrixViewMut};

/// Channels that share a scale in [`round_int8`].
pub const INT8_GROUP: usize = 64;

/// Rounds to the nearest bf16, ties to even, in place. What is too large becomes infinite; NaN stays NaN.
pub fn round_bf16(cpu: &Cpu, x: MatrixViewMut<'_>) {
    cpu.for_each_row(x, |_, x| round_bf16_row(cpu, x));
}

/// Rounds each group of [`INT8_GROUP`] channels of a row (the last may be shorter) to 255 levels of its largest
/// magnitude, in place: `code = round(x · (127 / absmax))`, `x = code · (absmax / 127)`; a group of zeros stays. There
/// is one zero, +0. A group so small (below 4e-37) that `127 / absmax` is infinite becomes zeros; one that holds a
/// number that is not finite becomes NaN throughout, so that it is seen.
pub fn round_int8(cpu: &Cpu, x: MatrixViewMut<'_>) {
    cpu.for_each_row(x, |_, x| round_int8_row(cpu, x));
}

/// The nearest bf16 number, ties to even.
#[inline(always)]
pub(super) fn nearest_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    f32::from_bits(if x.is_nan() { bits | 0x0040_0000 } else { rounded } & 0xffff_0000)
}

per_isa! {
    fn round_bf16_row(x: &mut [f32]) {
        for x in x {
            *x = nearest_bf16(*x);
        }
    }
}

per_isa! {
    fn round_int8_row(x: &mut [f32]) {
        // Adding and subtracting it rounds to the nearest integer, ties to even.
        const ROUND: f32 = 12_582_912.0;
        for group in x.chunks_mut(INT8_GROUP) {
            let mut bits = 0;
            for x in group.iter() {
                bits = bits.max(x.to_bits() & 0x7fff_ffff);
            }
            let absmax = f32::from_bits(bits);
            let (up, down) = (127.0 / absmax, absmax / 127.0);
            if !absmax.is_finite() {
                group.fill(f32::NAN);
            } else if !up.is_finite() {
                group.fill(0.0);
            } else {
                for x in group {
                    *x = ((*x * up + ROUND) - ROUND) * down;
                }
            }
        }
    }
}
