//! Products with weights whose codes are integers: the arithmetic of LLM.int8 (arXiv 2208.07339), per token.
//!
//! ```text
//! outliers = { k : not |x[k]| < 6 }                         chosen for each token alone (rule 9)
//! scale    = max |x[k]| / 127                               of the others; 0 if that is below 1e-35
//! q[k]     = round(x[k] * (127 / max)), 0 for outliers      half to even
//! y[o]     = (Σ q[k] code[o, k] * scale + Σ x[k] code[o, k]) * row_scale[o] (+ bias[o])
//! ```
//!
//! The first sum is of integers and exact. The second runs over the outliers, ascending, as rule 3 says.
//!
//! Backward, gradients of a token are rounded in groups of 128 outputs `g`, since their tails are heavier than those of
//! activations:
//!
//! ```text
//! d[o]     = dy[o] * row_scale[o]
//! scale[g] = max |d[o]| / 127                               over the group; 0 if that is below 1e-35
//! q[o]     = round(d[o] * (127 / max))                      half to even
//! dx[k]    = Σ_g scale[g] * (Σ_(o in g) q[o] code[o, k])
//! ```
//!
//! The inner sum is exact, the outer one runs as rule 3 says. What is not finite makes all of `dx` NaN.

use std::ops::Range;

use crate::cpu::SharedOut;
use crate::product::{chains_with_on_threads, dots_with_on_threads};
use crate::scratch::Scratch;
use crate::simd::ints::{self, MOST_OUTPUTS, PADDING, PANEL, panel_outputs};
use crate::simd::{Factors, per_isa};
use crate::{Cpu, MatrixView, MatrixViewMut};

use super::gradients::Gradients;
use super::int4;
use super::tokens::{Summary, Tokens};

/// Tokens below which weights are streamed rather than packed.
const MANY: usize = 20;

/// Tokens that pass by a panel.
const TOKENS: usize = 512;

/// Codes in a task of few tokens, at least and at most. Long streams are read fastest: 96 thousand codes at a time give
/// four fifths of what a million gives.
const TASK_CODES: Range<usize> = 1 << 15..1 << 20;

/// Rows of int8 codes as they are stored, `[rows, cols]`.
#[derive(Clone, Copy)]
pub(crate) struct Int8Rows<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Rows of codes of 4 bits: for each pair of groups of 64 columns 64 bytes, the first group in their low halves, the
/// second in their high ones; and a scale for each group. [`int4`] tells what they mean.
#[derive(Clone, Copy)]
pub(crate) struct Int4Rows<'a> {
    /// `[rows, groups * 32]`.
    pub(crate) data: &'a [u8],
    /// `[rows, groups]`.
    pub(crate) scales: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Groups of a row, an even number.
    pub(crate) groups: usize,
}

/// Weights whose rows are integers times a scale of the row.
#[derive(Clone, Copy)]
pub(crate) enum CodeRows<'a> {
    Int8(Int8Rows<'a>),
    Int4(Int4Rows<'a>),
}

impl Int4Rows<'_> {
    /// What the 16 codes of a group of this scale mean; plus 128 if `biased`.
    #[inline(always)]
    pub(crate) fn table(scale: u8, biased: bool) -> *const u8 {
        (if biased { &int4::BIASED_TABLES } else { &int4::TABLES })[usize::from(scale)].as_ptr()
    }

    #[inline(always)]
    fn code(&self, row: usize, col: usize) -> i32 {
        let byte = self.data[row * self.groups * 32 + col / PADDING * 64 + col % 64];
        let half = if col % PADDING >= 64 { byte >> 4 } else { byte & 15 };
        i32::from(int4::TABLES[usize::from(self.scales[row * self.groups + col / 64])][usize::from(half)] as i8)
    }
}

impl CodeRows<'_> {
    pub(crate) fn rows(&self) -> usize {
        match self {
            CodeRows::Int8(w) => w.rows,
            CodeRows::Int4(w) => w.rows,
        }
    }

    pub(crate) fn cols(&self) -> usize {
        match self {
            CodeRows::Int8(w) => w.cols,
            CodeRows::Int4(w) => w.cols,
        }
    }

    /// One code.
    #[inline(always)]
    pub(crate) fn code(&self, row: usize, col: usize) -> i32 {
        match self {
            CodeRows::Int8(w) => i32::from(w.data[row * w.cols + col] as i8),
            CodeRows::Int4(w) => w.code(row, col),
        }
    }

    /// Rows as floats: `code * scale`.
    pub(crate) fn decode(&self, cpu: &Cpu, scales: &[f32], rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * cols.len(), "numbers decoded");
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            decode_row(cpu, *self, row, cols.start, scales[row], out);
        }
    }
}

per_isa! {
    fn decode_row(w: CodeRows<'_>, row: usize, first: usize, scale: f32, out: &mut [f32]) {
        match w {
            CodeRows::Int8(w) => {
                let codes = &w.data[row * w.cols + first..][..out.len()];
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = f32::from(*code as i8) * scale;
                }
            }
            CodeRows::Int4(w) => {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = w.code(row, first + i) as f32 * scale;
                }
            }
        }
    }
}

/// `y = x Wᵀ (+ bias)` in integers.
pub(super) fn product(
    cpu: &Cpu,
    w: CodeRows<'_>,
    scales: &[f32],
    x: MatrixView<'_>,
    bias: Option<&[f32]>,
    mut y: MatrixViewMut<'_>,
) {
    let (count, rows) = (x.rows(), w.rows());
    if count == 0 || rows == 0 {
        return;
    }
    let tokens = Tokens::encode(cpu, x);
    let bias = |rows: Range<usize>| bias.map(|bias| &bias[rows]);
    let out = SharedOut::new(&mut y);
    if count < MANY {
        let tasks = shrinking_tasks(cpu.threads(), rows, w.cols());
        cpu.run(tasks.len(), |task| {
            let rows = tasks[task].clone();
            let mut sums = Scratch::new(count * rows.len());
            let sums: &mut [i32] = bytemuck::cast_slice_mut(&mut sums);
            ints::few(cpu, w, rows.clone(), tokens.codes(0..count), sums);
            for (token, sums) in sums.chunks_exact(rows.len()).enumerate() {
                let outliers = tokens.outliers(token);
                let beside = (!outliers.is_empty()).then(|| {
                    let mut beside = Scratch::zeros(rows.len());
                    outliers_of_rows(cpu, w, rows.start, outliers, &mut beside);
                    beside
                });
                // SAFETY: each task has its own rows of the weight.
                let y = unsafe { out.part(token, rows.start, rows.len()) };
                let (scales, bias) = (&scales[rows.clone()], bias(rows.clone()));
                finish(cpu, sums, tokens.summary(token), beside.as_deref(), scales, bias, y);
            }
        });
        return;
    }
    // Outliers keep to few columns, the same ones for most tokens: each panel decodes them once.
    let mut columns: Vec<usize> = tokens.outliers.iter().map(|outlier| outlier.0).collect();
    columns.sort_unstable();
    columns.dedup();
    let places: Vec<(usize, f32)> =
        tokens.outliers.iter().map(|&(col, x)| (columns.binary_search(&col).unwrap_or(0), x)).collect();
    let outputs = panel_outputs(cpu.isa());
    let (panels, blocks) = (rows.div_ceil(outputs), count.div_ceil(TOKENS));
    cpu.run(panels * blocks, |task| {
        let (panel, block) = (task / blocks, task % blocks);
        let rows = panel * outputs..rows.min((panel + 1) * outputs);
        let first = block * TOKENS;
        let width = rows.len();
        let mut decoded = Scratch::new(columns.len() * width);
        for (decoded, &col) in decoded.chunks_exact_mut(width).zip(&columns) {
            for (decoded, row) in decoded.iter_mut().zip(rows.clone()) {
                *decoded = w.code(row, col) as f32;
            }
        }
        let codes = tokens.codes(first..count.min(first + TOKENS));
        let (scales, bias) = (&scales[rows.clone()], bias(rows.clone()));
        ints::many(cpu, w, rows.clone(), codes, |token, sums| {
            let mut beside = [0.0; MOST_OUTPUTS];
            for (index, sums) in sums.iter().enumerate() {
                let token = first + token + index;
                let outliers = &places[tokens.ranges[token].clone()];
                let beside = (!outliers.is_empty()).then(|| {
                    beside[..width].fill(0.0);
                    add_outliers(cpu, outliers, &decoded, &mut beside[..width]);
                    &beside[..width]
                });
                // SAFETY: each task has its own tokens and rows of the weight.
                let y = unsafe { out.part(token, rows.start, width) };
                finish(cpu, sums, tokens.summary(token), beside, scales, bias, y);
            }
        });
    });
}

/// The rows of each task of few tokens, two thirds of a thread's share of what is left: long at first, to be read fast,
/// and short at last, so that threads end together.
pub(super) fn shrinking_tasks(threads: usize, rows: usize, cols: usize) -> Vec<Range<usize>> {
    let of_codes = |codes: usize| codes / cols.max(1);
    let mut tasks = Vec::new();
    let mut start = 0;
    while start < rows {
        let share = (rows - start) * 2 / (3 * threads);
        let length = share.clamp(of_codes(TASK_CODES.start), of_codes(TASK_CODES.end)).next_multiple_of(8).max(8);
        tasks.push(start..rows.min(start + length));
        start += length;
    }
    tasks
}

per_isa! {
    /// `sums[r] += Σ x * code(first + r, col)`, ascending.
    fn outliers_of_rows(w: CodeRows<'_>, first: usize, outliers: &[(usize, f32)], sums: &mut [f32]) {
        for (row, sum) in sums.iter_mut().enumerate() {
            for &(col, x) in outliers {
                *sum = x.mul_add(w.code(first + row, col) as f32, *sum);
            }
        }
    }
}

per_isa! {
    /// The same where the codes of column `place` stand in `decoded[place]`, as wide as `sums`.
    fn add_outliers(outliers: &[(usize, f32)], decoded: &[f32], sums: &mut [f32]) {
        for &(place, x) in outliers {
            let codes = &decoded[place * sums.len()..][..sums.len()];
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum = x.mul_add(*code, *sum);
            }
        }
    }
}

per_isa! {
    /// From sums of integers to the output. Without outliers their sum is +0, and is added too.
    fn finish(
        sums: &[i32], token: Summary, beside: Option<&[f32]>, scales: &[f32], bias: Option<&[f32]>, y: &mut [f32],
    ) {
        let count = y.len();
        let (sums, scales) = (&sums[..count], &scales[..count]);
        let integers = |i: usize| sums[i].wrapping_add(token.sum) as f32 * token.scale;
        match (beside, bias) {
            (None, Some(bias)) => {
                let bias = &bias[..count];
                (0..count).for_each(|i| y[i] = (integers(i) + 0.0) * scales[i] + bias[i]);
            }
            (None, None) => (0..count).for_each(|i| y[i] = (integers(i) + 0.0) * scales[i]),
            (Some(beside), bias) => {
                let beside = &beside[..count];
                (0..count).for_each(|i| y[i] = (integers(i) + beside[i]) * scales[i]);
                if let Some(bias) = bias {
                    y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                }
            }
        }
    }
}

/// `y = x Wᵀ` in f32, by rule 1, over decoded rows.
pub(super) fn float_product(cpu: &Cpu, w: CodeRows<'_>, scales: &[f32], x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    dots_with_on_threads(cpu, x, w.rows(), y, |rows, out| w.decode(cpu, scales, rows, 0..w.cols(), out));
}

/// `dx = dy W` in integers.
pub(super) fn product_backward(
    cpu: &Cpu,
    w: CodeRows<'_>,
    scales: &[f32],
    dy: MatrixView<'_>,
    mut dx: MatrixViewMut<'_>,
) {
    let count = dy.rows();
    let gradients = Gradients::encode(cpu, dy, scales);
    let blocks = count.div_ceil(TOKENS);
    let out = SharedOut::new(&mut dx);
    cpu.run(w.cols().div_ceil(PANEL) * blocks, |task| {
        let (panel, block) = (task / blocks, task % blocks);
        let cols = panel * PANEL..w.cols().min((panel + 1) * PANEL);
        let tokens = block * TOKENS..count.min((block + 1) * TOKENS);
        let mut sums = Scratch::new(tokens.len() * PANEL);
        ints::backward(cpu, w, cols.clone(), gradients.codes(tokens.clone()), &mut sums);
        for (token, sums) in tokens.zip(sums.chunks_exact(PANEL)) {
            // SAFETY: each task has its own tokens and columns.
            let dx = unsafe { out.part(token, cols.start, cols.len()) };
            dx.copy_from_slice(&sums[..cols.len()]);
        }
    });
}

/// `dx = dy W` in f32, by rule 3, over decoded rows.
pub(super) fn float_product_backward(
    cpu: &Cpu,
    w: CodeRows<'_>,
    scales: &[f32],
    dy: MatrixView<'_>,
    mut dx: MatrixViewMut<'_>,
) {
    dx.data_mut().fill(0.0);
    let factors = Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1);
    chains_with_on_threads(cpu, factors, w.rows(), dx, |rows, cols, out| w.decode(cpu, scales, rows, cols, out));
}

/// Copies rows, decoded.
pub(super) fn gather(cpu: &Cpu, w: CodeRows<'_>, scales: &[f32], ids: &[u32], out: MatrixViewMut<'_>) {
    cpu.for_each_row(out, |index, out| {
        let id = ids[index] as usize;
        w.decode(cpu, scales, id..id + 1, 0..w.cols(), out);
    });
}
