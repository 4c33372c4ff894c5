//! Gradients as int8 codes, with a scale for each group of outputs of each token; [`codes`](super::codes) has the formula.

use std::ops::Range;

use crate::simd::ints::{GROUP, GroupCodes, TokenCodes, code_bytes, correction};
use crate::simd::per_isa;
use crate::{Cpu, Matrix, MatrixView};

use super::tokens::{LARGEST, ROUND, SMALLEST};

/// The gradients of some tokens as codes.
pub(super) struct Gradients {
    /// For each token its codes, padded, then the scale and the first sum of each group.
    words: Matrix,
    /// Words of the codes of a token.
    width: usize,
    /// Words from one token to the next.
    stride: usize,
}

impl Gradients {
    /// Of `dy` times the scale of each row of the weight.
    pub(super) fn encode(cpu: &Cpu, dy: MatrixView<'_>, row_scales: &[f32]) -> Gradients {
        let bytes = code_bytes(cpu.isa());
        let groups = dy.cols().div_ceil(GROUP);
        let width = groups * GROUP * bytes / 4;
        // Up to a cache line.
        let stride = (width + 2 * groups).next_multiple_of(16);
        let mut words = Matrix::unset(dy.rows(), stride);
        cpu.for_each_costly_row(words.view_mut(), 4 * stride, |token, row| {
            let (codes, scales) = row.split_at_mut(width);
            let dy = dy.row(token);
            match bytes {
                1 => encode_bytes(cpu, dy, row_scales, bytemuck::cast_slice_mut(codes), scales),
                _ => encode_halves(cpu, dy, row_scales, bytemuck::cast_slice_mut(codes), scales),
            }
            for pair in scales[..2 * groups].chunks_exact_mut(2) {
                pair[1] = f32::from_bits(correction(cpu.isa(), pair[1].to_bits() as i32) as u32);
            }
        });
        Gradients { words, width, stride }
    }

    pub(super) fn codes(&self, tokens: Range<usize>) -> GroupCodes<'_> {
        let words = &self.words.data()[tokens.start * self.stride..tokens.end * self.stride];
        let codes = TokenCodes { data: bytemuck::cast_slice(words), count: tokens.len(), stride: 4 * self.stride };
        GroupCodes { tokens: codes, scales: 4 * self.width }
    }
}

/// The codes of a token as bytes or half words, and for each group its scale and the sum of its codes, as bits.
macro_rules! encode_as {
    ($name:ident, $code:ty) => {
        per_isa! {
            fn $name(dy: &[f32], row_scales: &[f32], codes: &mut [$code], scales: &mut [f32]) {
                let groups = dy.chunks(GROUP).zip(row_scales.chunks(GROUP));
                let places = codes.chunks_exact_mut(GROUP).zip(scales.chunks_exact_mut(2));
                for ((dy, row_scales), (codes, pair)) in groups.zip(places) {
                    let mut numbers = [0.0; GROUP];
                    // Magnitudes order as their bits do, what is not finite above all.
                    let mut largest = 0;
                    for ((number, dy), row_scale) in numbers.iter_mut().zip(dy).zip(row_scales) {
                        *number = dy * row_scale;
                        largest = largest.max(number.abs().to_bits());
                    }
                    let largest = f32::from_bits(largest);
                    let (factor, scale) = match largest {
                        _ if !largest.is_finite() => {
                            numbers = [0.0; GROUP];
                            (0.0, f32::NAN)
                        }
                        _ if largest < SMALLEST => (0.0, 0.0),
                        _ => (LARGEST / largest, largest / LARGEST),
                    };
                    let mut sum = 0i32;
                    for (code, number) in codes.iter_mut().zip(&numbers) {
                        let value = ((number * factor + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
                        *code = value as $code;
                        sum = sum.wrapping_add(value);
                    }
                    pair[0] = scale;
                    pair[1] = f32::from_bits(sum as u32);
                }
            }
        }
    };
}

encode_as!(encode_bytes, i8);
encode_as!(encode_halves, i16);
