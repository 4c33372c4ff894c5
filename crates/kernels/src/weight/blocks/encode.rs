//! Blocks from floats, as ggml's reference does it (`quantize_row_q8_0_ref` and `quantize_row_q4_0_ref`), to the same bytes:
//!
//! ```text
//! Q8_0: d = max |x| / 127       q = round(x * (1 / d)), half away from 0
//! Q4_0: d = x[i] / -8           i the first of the largest magnitude;  q = min(15, ⌊x * (1 / d) + 8.5⌋)
//! ```
//!
//! Codes are chosen with `d` in f32, then it is rounded to f16.

use half::f16;

use super::{BlockFormat, block_bytes};
use crate::Cpu;
use crate::simd::per_isa;
use crate::weight::{FloatWeight, NotFinite, encode_rows};

/// Numbers of a block of either format.
const SIZE: usize = 32;

/// Encodes a weight. Writes the [`block_bytes`], for [`BlockWeight::new`](super::BlockWeight::new).
///
/// # Errors
/// [`NotFinite`] for a number that is not finite, or so large that the scale of its block is not finite in f16.
///
/// # Panics
/// For formats other than Q8_0 and Q4_0; and as [`block_bytes`].
pub fn encode(cpu: &Cpu, format: BlockFormat, weight: &FloatWeight, out: &mut [u8]) -> Result<(), NotFinite> {
    let (rows, cols) = (weight.rows(), weight.cols());
    assert_eq!(out.len(), block_bytes(format, rows, cols), "room for blocks");
    let encode = match format {
        BlockFormat::Q8_0 => encode_q8_0,
        BlockFormat::Q4_0 => encode_q4_0,
        _ => panic!("nothing is encoded as {}", format.name()),
    };
    let width = cols / SIZE * format.block_bytes();
    encode_rows(cpu, weight, out, width, |row, out| encode(cpu, row, out)).map(|_| ())
}

per_isa! {
    /// Returns the largest scale, or what is not finite.
    fn encode_q8_0(row: &[f32], out: &mut [u8]) -> f32 {
        let mut largest = 0.0f32;
        for (numbers, block) in row.chunks_exact(SIZE).zip(out.chunks_exact_mut(2 + SIZE)) {
            let scale = magnitude(numbers) / 127.0;
            let factor = inverse(scale);
            largest = largest.max(put_scale(scale, block));
            for (code, x) in block[2..].iter_mut().zip(numbers) {
                *code = (x * factor).round() as i8 as u8;
            }
        }
        largest
    }
}

per_isa! {
    /// Returns the largest scale, or what is not finite.
    fn encode_q4_0(row: &[f32], out: &mut [u8]) -> f32 {
        let mut largest = 0.0f32;
        for (numbers, block) in row.chunks_exact(SIZE).zip(out.chunks_exact_mut(2 + SIZE / 2)) {
            let magnitude = magnitude(numbers);
            let first = numbers.iter().find(|x| x.abs() == magnitude);
            let scale = first.map_or(f32::INFINITY, |first| first / -8.0);
            let factor = inverse(scale);
            largest = largest.max(put_scale(scale, block));
            let (low, high) = numbers.split_at(SIZE / 2);
            let code = |x: &f32| ((x * factor + 8.5) as u8).min(15);
            for (byte, (low, high)) in block[2..].iter_mut().zip(low.iter().zip(high)) {
                *byte = code(low) | code(high) << 4;
            }
        }
        largest
    }
}

/// The largest magnitude; infinite where a number is not finite.
#[inline(always)]
fn magnitude(numbers: &[f32]) -> f32 {
    // Of magnitudes, the bits are in the order of the numbers; infinity and NaN are beyond all others.
    let largest = f32::from_bits(numbers.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())));
    if largest.is_finite() { largest } else { f32::INFINITY }
}

/// `1 / scale`; 0 where there is no scale, or one too small to divide by.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    let factor = 1.0 / scale;
    if factor.is_finite() { factor } else { 0.0 }
}

/// Writes the scale as f16; returns how large that is.
#[inline(always)]
fn put_scale(scale: f32, block: &mut [u8]) -> f32 {
    let half = f16::from_f32(scale);
    block[..2].copy_from_slice(&half.to_le_bytes());
    half.to_f32().abs()
}
