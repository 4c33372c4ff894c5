//! int8 with a scale per row, as bitsandbytes stores it: `W[o, k] = code[o, k] * absmax[o] / 127` (arXiv 2208.07339).

use std::sync::Arc;

use bytes::Bytes;

use super::codes::{CodeRows, Int8Rows};
use super::{FloatEncoding, FloatWeight, NotFinite};
use crate::Cpu;
use crate::matrix::numbers;
use crate::simd::per_isa;

/// Largest code.
const LARGEST: f32 = 127.0;

/// `[rows, cols]` codes and the largest magnitude of each row.
#[derive(Clone, Debug)]
pub struct Int8Weight {
    rows: usize,
    cols: usize,
    codes: Bytes,
    absmax: Arc<[f32]>,
    /// `absmax / 127`.
    scales: Arc<[f32]>,
}

impl Int8Weight {
    /// Wraps stored codes, row-major. Panics when there are not exactly `rows * cols` of them, or not `rows` scales.
    pub fn new(rows: usize, cols: usize, codes: Bytes, absmax: Vec<f32>) -> Self {
        assert_eq!(codes.len(), numbers(rows, cols), "codes of a [{rows}, {cols}] int8 weight");
        assert_eq!(absmax.len(), rows, "scales of a [{rows}, {cols}] int8 weight");
        let scales = absmax.iter().map(|absmax| absmax / LARGEST).collect();
        Int8Weight { rows, cols, codes, absmax: absmax.into(), scales }
    }

    /// Encodes a weight as bitsandbytes does: each number rounded to f16, then `round(w * (127 * (1 / absmax)))`, half to even.
    /// Writes the codes, `rows * cols` of them, and returns the largest magnitude of each row.
    ///
    /// # Errors
    /// [`NotFinite`] for a number that is not finite in f16.
    pub fn encode(cpu: &Cpu, weight: &FloatWeight, codes: &mut [u8]) -> Result<Vec<f32>, NotFinite> {
        let (rows, cols) = (weight.rows(), weight.cols());
        assert_eq!(codes.len(), numbers(rows, cols), "room for codes");
        super::encode_rows(cpu, weight, codes, cols, |row, codes| {
            let absmax = match weight.encoding() {
                FloatEncoding::F16 => largest_half(cpu, row),
                FloatEncoding::F32 | FloatEncoding::Bf16 => round_to_half(cpu, row),
            };
            encode_row(cpu, row, absmax, codes);
            absmax
        })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that codes and scales occupy.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.rows
    }

    /// The codes, row-major.
    pub fn codes(&self) -> &Bytes {
        &self.codes
    }

    /// The largest magnitude of each row.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    pub(super) fn view(&self) -> (CodeRows<'_>, &[f32]) {
        (CodeRows::Int8(Int8Rows { data: &self.codes, rows: self.rows, cols: self.cols }), &self.scales)
    }
}

per_isa! {
    /// Rounds numbers to f16, in place; returns the largest magnitude, or what is not finite.
    pub(super) fn round_to_half(row: &mut [f32]) -> f32 {
        let mut largest = 0.0f32;
        let mut finite = true;
        for x in row.iter_mut() {
            *x = half_of(*x);
            let magnitude = x.abs();
            finite &= magnitude <= 65504.0;
            largest = if magnitude > largest { magnitude } else { largest };
        }
        if finite { largest } else { f32::INFINITY }
    }
}

per_isa! {
    /// What [`round_to_half`] returns for numbers that are f16 already, which it would leave as they are.
    fn largest_half(row: &[f32]) -> f32 {
        // Of magnitudes, the bits are in the order of the numbers; infinity and NaN are beyond all others.
        let mut largest = 0;
        for x in row {
            largest = largest.max(x.to_bits() & 0x7fff_ffff);
        }
        let largest = f32::from_bits(largest);
        if largest.is_finite() { largest } else { f32::INFINITY }
    }
}

/// The nearest f16, half to even, as an f32.
#[inline(always)]
fn half_of(x: f32) -> f32 {
    // Normal numbers: 10 bits of fraction. Below, multiples of 2⁻²⁴, which is what 0.75 is precise to.
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0xfff + ((bits >> 13) & 1))) & !0x1fff;
    let normal = f32::from_bits(rounded);
    let small = ((x.abs() + 0.75) - 0.75).copysign(x);
    let magnitude = x.abs();
    let half = if magnitude < 6.103_515_6e-5 { small } else { normal };
    // What rounds beyond the largest is infinite; NaN stays.
    if magnitude >= 65520.0 {
        f32::INFINITY.copysign(x)
    } else if x.is_nan() {
        x
    } else {
        half
    }
}

per_isa! {
    fn encode_row(row: &[f32], absmax: f32, codes: &mut [u8]) {
        const ROUND: f32 = 12_582_912.0;
        // A row of zeros has no scale; its codes are 0. PyTorch, hence bitsandbytes, divides a number by a tensor so.
        let factor = if absmax > 0.0 { LARGEST * (1.0 / absmax) } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(row) {
            *code = ((x * factor + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8 as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_the_half_crate() {
        for exponent in 90..145u32 {
            for fraction in (0..1 << 23).step_by(997).chain([0x1000, 0x1001, 0xfff, 0x3000, 0x7f_efff, 0x7f_f000]) {
                let x = f32::from_bits(exponent << 23 | fraction);
                for x in [x, -x] {
                    let expected = half::f16::from_f32(x).to_f32();
                    assert_eq!(half_of(x).to_bits(), expected.to_bits(), "{x:e}");
                }
            }
        }
        assert!(half_of(f32::NAN).is_nan());
    }

    #[test]
    fn halves_are_not_rounded_again() {
        let cpu = Cpu::new(1);
        for bits in 0..=u16::MAX {
            let row = [half::f16::ONE.to_f32(), half::f16::from_bits(bits).to_f32(), -0.0];
            let mut rounded = row;
            let largest = round_to_half(&cpu, &mut rounded);
            assert_eq!(largest_half(&cpu, &row).to_bits(), largest.to_bits(), "{bits:#x}");
            assert_eq!(rounded.map(f32::to_bits), row.map(f32::to_bits), "{bits:#x}");
        }
    }
}
