//! Activations as int8 codes with a scale for each token, and outliers apart; [`codes`](super::codes) has the formula.

use std::ops::Range;

use crate::simd::ints::{PADDING, TokenCodes, code_bytes, correction};
use crate::simd::per_isa;
use crate::{Cpu, Matrix, MatrixView};

/// Magnitude from which on an activation is an outlier.
pub const OUTLIER: f32 = 6.0;

/// Largest code of an activation.
pub(super) const LARGEST: f32 = 127.0;

/// Where the largest magnitude is less, the scale is 0.
pub(super) const SMALLEST: f32 = 1e-35;

/// Adding 1.5 * 2²³ rounds to an integer, half to even, and leaves it in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// The activations of some tokens as codes.
pub(super) struct Tokens {
    /// For each token its codes, padded, then the three words of [`Summary`].
    words: Matrix,
    /// Words from one token to the next.
    stride: usize,
    /// Column and value, token after token.
    pub(super) outliers: Vec<(usize, f32)>,
    /// The outliers of each token.
    pub(super) ranges: Vec<Range<usize>>,
}

/// What is known of a token besides its codes.
#[derive(Clone, Copy)]
pub(super) struct Summary {
    pub(super) scale: f32,
    pub(super) sum: i32,
    pub(super) outliers: usize,
}

/// Words of a [`Summary`], and what rounds them up to a cache line.
const SUMMARY: usize = 16;

impl Tokens {
    pub(super) fn encode(cpu: &Cpu, x: MatrixView<'_>) -> Tokens {
        let width = x.cols().next_multiple_of(PADDING) * code_bytes(cpu.isa()) / 4;
        let stride = width + SUMMARY;
        let mut words = Matrix::unset(x.rows(), stride);
        cpu.for_each_costly_row(words.view_mut(), 4 * stride, |token, row| {
            let (codes, summary) = row.split_at_mut(width);
            codes[x.cols() * code_bytes(cpu.isa()) / 4..].fill(0.0);
            let Summary { scale, sum, outliers } = match code_bytes(cpu.isa()) {
                1 => encode_bytes(cpu, x.row(token), bytemuck::cast_slice_mut(codes)),
                _ => encode_halves(cpu, x.row(token), bytemuck::cast_slice_mut(codes)),
            };
            summary[0] = scale;
            summary[1] = f32::from_bits(correction(cpu.isa(), sum) as u32);
            summary[2] = f32::from_bits(outliers as u32);
        });
        let mut tokens = Tokens { words, stride, outliers: Vec::new(), ranges: Vec::new() };
        for token in 0..x.rows() {
            let start = tokens.outliers.len();
            if tokens.summary(token).outliers > 0 {
                let row = x.row(token).iter().copied().enumerate();
                tokens.outliers.extend(row.filter(|(_, x)| is_outlier(*x)));
            }
            tokens.ranges.push(start..tokens.outliers.len());
        }
        tokens
    }

    pub(super) fn summary(&self, token: usize) -> Summary {
        let words = &self.words.row(token)[self.stride - SUMMARY..];
        Summary { scale: words[0], sum: words[1].to_bits() as i32, outliers: words[2].to_bits() as usize }
    }

    pub(super) fn codes(&self, tokens: Range<usize>) -> TokenCodes<'_> {
        let words = &self.words.data()[tokens.start * self.stride..tokens.end * self.stride];
        TokenCodes { data: bytemuck::cast_slice(words), count: tokens.len(), stride: 4 * self.stride }
    }

    pub(super) fn outliers(&self, token: usize) -> &[(usize, f32)] {
        &self.outliers[self.ranges[token].clone()]
    }
}

/// NaN is one, so that it reaches the output.
#[inline(always)]
fn is_outlier(x: f32) -> bool {
    x.abs() >= OUTLIER || x.is_nan()
}

/// Codes of a row as bytes (`wide` false) or half words.
macro_rules! encode_as {
    ($name:ident, $code:ty) => {
        per_isa! {
            fn $name(x: &[f32], codes: &mut [$code]) -> Summary {
                // Magnitudes order as their bits do, NaN above all; the order of integers is free, so these are lanes.
                let (mut largest, mut outliers) = (0u32, 0u32);
                for &x in x {
                    let magnitude = x.abs().to_bits();
                    let inlier = magnitude < OUTLIER.to_bits();
                    outliers += u32::from(!inlier);
                    largest = largest.max(if inlier { magnitude } else { 0 });
                }
                let largest = f32::from_bits(largest);
                let zero = largest < SMALLEST;
                let (factor, scale) = if zero { (0.0, 0.0) } else { (LARGEST / largest, largest / LARGEST) };
                let mut sum = 0i32;
                for (code, &x) in codes.iter_mut().zip(x) {
                    let x = if x.abs() < OUTLIER { x } else { 0.0 };
                    let value = ((x * factor + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
                    *code = value as $code;
                    sum = sum.wrapping_add(value);
                }
                Summary { scale, sum, outliers: outliers as usize }
            }
        }
    };
}

encode_as!(encode_bytes, i8);
encode_as!(encode_halves, i16);
