//! Activations as int8 codes with a scale for each 32 columns of each token; [`integer`](super::integer) has the formula.

use std::ops::Range;

use super::format::ACTIVATIONS;
use crate::simd::ints::{BlockCodes, PADDING, TERMS, TokenCodes, code_bytes};
use crate::simd::per_isa;
use crate::weight::tokens::{LARGEST, ROUND, SMALLEST};
use crate::{Cpu, Matrix, MatrixView};

/// The activations of some tokens as codes.
pub(super) struct Tokens {
    /// For each token its codes, padded, then the [`TERMS`] of each group.
    words: Matrix,
    /// Words of the codes of a token.
    width: usize,
    /// Words from one token to the next.
    stride: usize,
    /// Columns of a group.
    group: usize,
}

impl Tokens {
    /// With sums of groups of as many columns as share a scale in the weight.
    pub(super) fn encode(cpu: &Cpu, x: MatrixView<'_>, group: usize) -> Tokens {
        let (bytes, groups) = (code_bytes(cpu.isa()), x.cols() / group);
        let width = x.cols().next_multiple_of(PADDING) * bytes / 4;
        // Up to a cache line.
        let stride = (width + TERMS * groups).next_multiple_of(16);
        let mut words = Matrix::unset(x.rows(), stride);
        cpu.for_each_costly_row(words.view_mut(), 4 * stride, |token, row| {
            let (codes, terms) = row.split_at_mut(width);
            let (terms, x) = (&mut terms[..TERMS * groups], x.row(token));
            codes[x.len() * bytes / 4..].fill(0.0);
            match bytes {
                1 => encode_bytes(cpu, x, group, bytemuck::cast_slice_mut(codes), terms),
                _ => encode_halves(cpu, x, group, bytemuck::cast_slice_mut(codes), terms),
            }
        });
        Tokens { words, width, stride, group }
    }

    pub(super) fn codes(&self, tokens: Range<usize>) -> BlockCodes<'_> {
        let words = &self.words.data()[tokens.start * self.stride..tokens.end * self.stride];
        let codes = TokenCodes { data: bytemuck::cast_slice(words), count: tokens.len(), stride: 4 * self.stride };
        BlockCodes { tokens: codes, terms: 4 * self.width, group: self.group }
    }
}

/// What rounding leaves of the tokens that need it, by their numbers, `[tokens, cols]`; [`integer`](super::integer) tells
/// which.
pub(super) fn remainders(cpu: &Cpu, x: MatrixView<'_>) -> Option<(Vec<usize>, Matrix)> {
    let mut needed = Matrix::unset(x.rows(), 1);
    cpu.for_each_costly_row(needed.view_mut(), x.cols(), |token, needed| {
        needed[0] = if has_coarse_groups(cpu, x.row(token)) { 1.0 } else { 0.0 };
    });
    let tokens: Vec<usize> = (0..x.rows()).filter(|&token| needed.row(token)[0] != 0.0).collect();
    if tokens.is_empty() {
        return None;
    }
    let mut left = Matrix::unset(tokens.len(), x.cols());
    cpu.for_each_row(left.view_mut(), |row, left| remainder(cpu, x.row(tokens[row]), left));
    Some((tokens, left))
}

/// Whether the largest outweighs 8 times all others together.
#[inline(always)]
fn is_coarse(x: &[f32; ACTIVATIONS]) -> bool {
    let mut sums = [0.0; 8];
    let mut largest = [0.0f32; 8];
    for eight in x.as_chunks::<8>().0 {
        for i in 0..8 {
            sums[i] += eight[i].abs();
            largest[i] = if eight[i].abs() > largest[i] { eight[i].abs() } else { largest[i] };
        }
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
            largest[i] = if largest[i + half] > largest[i] { largest[i + half] } else { largest[i] };
        }
    }
    // Others that are all 0 lose nothing; what is not finite is NaN anyway.
    sums[0] < f32::INFINITY && largest[0] < sums[0] && largest[0] > sums[0] * (8.0 / 9.0)
}

per_isa! {
    fn has_coarse_groups(x: &[f32]) -> bool {
        let mut found = false;
        for x in x.as_chunks().0 {
            found |= is_coarse(x);
        }
        found
    }
}

per_isa! {
    fn remainder(x: &[f32], left: &mut [f32]) {
        for (x, left) in x.as_chunks().0.iter().zip(left.as_chunks_mut::<ACTIVATIONS>().0) {
            let (factor, scale) = factor_and_scale(x);
            let is_coarse = is_coarse(x);
            for (left, x) in left.iter_mut().zip(x) {
                *left = if is_coarse { x - rounded(*x, factor) as f32 * scale } else { 0.0 };
            }
        }
    }
}

/// What activations that share a scale are multiplied with before they are rounded, and the scale.
#[inline(always)]
fn factor_and_scale(x: &[f32]) -> (f32, f32) {
    // Magnitudes order as their bits do, what is not finite above all.
    let largest = f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())));
    match largest {
        _ if !largest.is_finite() => (0.0, f32::NAN),
        _ if largest < SMALLEST => (0.0, 0.0),
        _ => (LARGEST / largest, largest / LARGEST),
    }
}

#[inline(always)]
fn rounded(x: f32, factor: f32) -> i32 {
    ((x * factor + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// The codes of a token as bytes or half words, and for each group its scale, the sum of its codes, as bits, and the two
/// multiplied.
macro_rules! encode_as {
    ($name:ident, $code:ty) => {
        per_isa! {
            fn $name(x: &[f32], group: usize, codes: &mut [$code], terms: &mut [f32]) {
                let parts = x.chunks_exact(ACTIVATIONS).zip(codes.chunks_exact_mut(ACTIVATIONS));
                for ((x, codes), terms) in parts.zip(terms.chunks_exact_mut(TERMS * (ACTIVATIONS / group))) {
                    let (factor, scale) = factor_and_scale(x);
                    let mut values = [0i32; ACTIVATIONS];
                    for ((value, code), x) in values.iter_mut().zip(codes).zip(x) {
                        let x = if scale.is_nan() { 0.0 } else { *x };
                        *value = rounded(x, factor);
                        *code = *value as $code;
                    }
                    for (terms, values) in terms.chunks_exact_mut(TERMS).zip(values.chunks_exact(group)) {
                        let sum: i32 = values.iter().sum();
                        terms[0] = scale;
                        terms[1] = f32::from_bits(sum as u32);
                        terms[2] = scale * sum as f32;
                    }
                }
            }
        }
    };
}

encode_as!(encode_bytes, i8);
encode_as!(encode_halves, i16);
