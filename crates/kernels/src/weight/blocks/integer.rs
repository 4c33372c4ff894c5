//! Products with blocks in integers. Activations of a token are rounded in groups of 32 columns `a`, and multiplied with the
//! codes of each group `g` of the weight, which is 16 or 32 columns of `a`:
//!
//! ```text
//! scale[a] = max |x[k]| / 127                               over the group; 0 if that is below 1e-35
//! q[k]     = round(x[k] * (127 / max))                      half to even
//! sum[g]   = scale[a] * Σ_(k in g) q[k]
//! y[o]     = Σ_g (Σ_(k in g) q[k] code[o, k]) * (scale[o, g] * scale[a]) - minimum[o, g] * sum[g]
//! ```
//!
//! A group whose largest is more than 8 times all others together would round these to nothing: they are less than half a
//! step in the mean. What rounding leaves of such groups, `x[k] - q[k] * scale[a]`, makes another row of activations (0 in
//! other groups), whose `y`, by the same formula, is added. Language models have such groups at a few tokens, the first
//! one above all (Sun et al. 2024, "Massive activations", arXiv 2402.17762).
//!
//! The inner sums are exact. The outer one is a chain in ascending order of `g`, from +0, of a fused multiply-add for the
//! scale and another for the minimum, where the format has one. What is not finite makes all of `y` NaN.

use std::ops::Range;

use super::BlockWeight;
use super::format::{Block, BlockFormat, MOST_GROUPS, in_format};
use super::tokens::{Tokens, remainders};
use crate::cpu::SharedOut;
use crate::lanes::f16_to_f32;
use crate::scratch::Scratch;
use crate::simd::bytes::Bytes32;
use crate::simd::ints::{self, BLOCK, BlockRows, MOST_OUTPUTS, block_outputs};
use crate::simd::{per_isa, prefetch};
use crate::weight::codes::{Int8Rows, shrinking_tasks};
use crate::{Cpu, Matrix, MatrixView, MatrixViewMut};

/// Tokens that pass by a panel.
const TOKENS: usize = 512;

/// How many rows before they are unpacked their blocks are asked for.
const ROWS_AHEAD: usize = 4;

/// Fewest columns that share a scale.
const LEAST_GROUP: usize = 16;

/// `y = x Wᵀ` in integers.
pub(super) fn product(cpu: &Cpu, w: &BlockWeight, x: MatrixView<'_>, mut y: MatrixViewMut<'_>) {
    if x.rows() == 0 || w.rows == 0 {
        return;
    }
    rounded_product(cpu, w, x, y.reborrow());
    let Some((tokens, remainders)) = remainders(cpu, x) else { return };
    let mut more = Matrix::unset(tokens.len(), w.rows);
    rounded_product(cpu, w, remainders.view(), more.view_mut());
    for (row, token) in tokens.into_iter().enumerate() {
        y.row_mut(token).iter_mut().zip(more.row(row)).for_each(|(y, more)| *y += more);
    }
}

/// The same of activations that are rounded once.
fn rounded_product(cpu: &Cpu, w: &BlockWeight, x: MatrixView<'_>, mut y: MatrixViewMut<'_>) {
    let (count, rows, cols) = (x.rows(), w.rows, w.cols);
    let (group, minimums) = in_format!(w.format, B => (B::GROUP, B::MINIMUMS));
    let tokens = Tokens::encode(cpu, x, group);
    let out = SharedOut::new(&mut y);
    if count <= ints::few_tokens(cpu.isa()) {
        let tasks = shrinking_tasks(cpu.threads(), rows, cols);
        cpu.run(tasks.len(), |task| {
            let rows = tasks[task].clone();
            let mut sums = Scratch::new(count * rows.len());
            ints::block_rows(cpu, w, rows.clone(), tokens.codes(0..count), &mut sums);
            for (token, sums) in sums.chunks_exact(rows.len()).enumerate() {
                // SAFETY: each task has its own rows of the weight.
                unsafe { out.part(token, rows.start, rows.len()) }.copy_from_slice(sums);
            }
        });
        return;
    }
    let outputs = block_outputs(cpu.isa());
    let (panels, blocks) = (rows.div_ceil(outputs), count.div_ceil(TOKENS));
    cpu.run(panels * blocks, |task| {
        let (panel, block) = (task / blocks, task % blocks);
        let rows = panel * outputs..rows.min((panel + 1) * outputs);
        let here = block * TOKENS..count.min((block + 1) * TOKENS);
        let mut codes = Scratch::new(rows.len() * BLOCK / 4);
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut codes);
        let terms = MOST_OUTPUTS * (BLOCK / LEAST_GROUP);
        let mut scales = Scratch::zeros(2 * terms);
        let (scales, minima) = scales.split_at_mut(terms);
        let mut sums = Scratch::zeros(here.len() * MOST_OUTPUTS);
        for start in (0..cols).step_by(BLOCK) {
            let part = start..cols.min(start + BLOCK);
            let codes = &mut codes[..rows.len() * part.len()];
            unpack(cpu, w.format, &w.data, cols, rows.clone(), part.clone(), codes, scales, minima);
            let codes = Int8Rows { data: codes, rows: rows.len(), cols: part.len() };
            let unpacked = BlockRows { codes, scales, minimums: minimums.then_some(&*minima) };
            ints::blocks(cpu, unpacked, start, tokens.codes(here.clone()), &mut sums);
        }
        for (token, sums) in here.zip(sums.chunks_exact(MOST_OUTPUTS)) {
            // SAFETY: each task has its own tokens and rows of the weight.
            let y = unsafe { out.part(token, rows.start, rows.len()) };
            y.copy_from_slice(&sums[..rows.len()]);
        }
    });
}

per_isa! {
    /// Some columns, in whole blocks, of some rows: their codes, `[rows, cols]`, and the scale and minimum of each group,
    /// `[groups][MOST_OUTPUTS]`.
    fn unpack<R>(
        format: BlockFormat, data: &[u8], row_cols: usize, rows: Range<usize>, cols: Range<usize>, codes: &mut [u8],
        scales: &mut [f32], minimums: &mut [f32],
    ) {
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        // SAFETY: the caller's.
        unsafe { in_format!(format, B => unpack_blocks::<B, R>(data, row_cols, rows, cols, codes, scales, minimums)) };
    }
}

#[inline(always)]
unsafe fn unpack_blocks<B: Block, R: Bytes32>(
    data: &[u8],
    row_cols: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
    minimums: &mut [f32],
) {
    let groups = B::SIZE / B::GROUP;
    let width = |cols: usize| cols / B::SIZE * B::BYTES;
    let (mut of_block, mut minimums_of_block) = ([0.0; MOST_GROUPS], [0.0; MOST_GROUPS]);
    for ((place, row), codes) in rows.clone().enumerate().zip(codes.chunks_exact_mut(cols.len())) {
        // A part of a row is soon over, the next one far away: those to come are asked for.
        let next = row + ROWS_AHEAD;
        let ahead = if next < rows.end {
            width(next * row_cols + cols.start)
        } else {
            width((next - rows.len()) * row_cols + cols.end)
        };
        for line in (0..width(cols.len()) + 63).step_by(64) {
            prefetch(data.as_ptr().wrapping_add(ahead + line));
        }
        let blocks = &data[width(row * row_cols + cols.start)..];
        let blocks = blocks.chunks_exact(B::BYTES).zip(codes.chunks_exact_mut(B::SIZE));
        for (index, (block, codes)) in blocks.enumerate() {
            // SAFETY: the caller's.
            unsafe { B::all_codes::<R>(block, codes) };
            let at = index * groups * MOST_OUTPUTS + place;
            if groups == 1 {
                // A block with one scale begins with it, and the minimum follows. They are widened below, all at once.
                scales[at] = bits(block, 0);
                if B::MINIMUMS {
                    minimums[at] = bits(block, 2);
                }
                continue;
            }
            B::scales(block, &mut of_block, &mut minimums_of_block);
            for group in 0..groups {
                scales[at + group * MOST_OUTPUTS] = of_block[group];
                if B::MINIMUMS {
                    minimums[at + group * MOST_OUTPUTS] = minimums_of_block[group];
                }
            }
        }
    }
    if groups == 1 {
        let count = cols.len() / B::GROUP * MOST_OUTPUTS;
        scales[..count].iter_mut().for_each(|scale| *scale = f16_to_f32(scale.to_bits() as u16));
        if B::MINIMUMS {
            minimums[..count].iter_mut().for_each(|minimum| *minimum = -f16_to_f32(minimum.to_bits() as u16));
        }
    }
}

/// The bits of an f16 at a byte, below others that are 0.
#[inline(always)]
fn bits(block: &[u8], at: usize) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([block[at], block[at + 1]])))
}
