//! Products between f32 matrices, with the sums of `lib.rs`: for adapters, whose matrices are trained, and for
//! gradients. Frozen weights go through [`Weight`](crate::Weight), which shares these kernels.
//!
//! Here the work is cut for threads and caches; the arithmetic is in `simd/dots.rs` and `simd/chains.rs`.

use std::ops::Range;

use crate::cpu::SharedOut;
use crate::lanes::LANES;
use crate::scratch::Scratch;
use crate::simd::{Factors, Out, Rows, chains, decode, dots};
use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y = x wᵀ`: `x` is `[tokens, inner]`, `w` is `[outputs, inner]`, `y` is `[tokens, outputs]`. Rule 1. Panics on
/// other shapes.
pub fn product(cpu: &Cpu, x: MatrixView<'_>, w: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_eq!(x.cols(), w.cols(), "x is [{}, {}], w is [{}, {}]", x.rows(), x.cols(), w.rows(), w.cols());
    assert_eq!((y.rows(), y.cols()), (x.rows(), w.rows()), "the shape of y");
    dots_on_threads(cpu, x, w.into(), y);
}

/// `dx = dy w`: `dy` is `[tokens, outputs]`, `w` is `[outputs, inner]`, `dx` is `[tokens, inner]`. Rule 3. Panics on
/// other shapes.
pub fn product_backward(cpu: &Cpu, dy: MatrixView<'_>, w: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
    assert_eq!(dy.cols(), w.rows(), "dy is [{}, {}], w is [{}, {}]", dy.rows(), dy.cols(), w.rows(), w.cols());
    assert_eq!((dx.rows(), dx.cols()), (dy.rows(), w.cols()), "the shape of dx");
    dx.data_mut().fill(0.0);
    chains_on_threads(cpu, Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1), w.into(), dx);
}

/// `y += x wᵀ` where the inner dimension is short: `x` is `[tokens, inner]`, `w` is `[outputs, inner]`, `y` is
/// `[tokens, outputs]`. Rule 3, continued from what `y` holds. Panics on other shapes.
pub fn add_product(cpu: &Cpu, x: MatrixView<'_>, w: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_eq!(x.cols(), w.cols(), "x is [{}, {}], w is [{}, {}]", x.rows(), x.cols(), w.rows(), w.cols());
    assert_eq!((y.rows(), y.cols()), (x.rows(), w.rows()), "the shape of y");
    let factors = Factors::new(x.data(), x.rows(), x.cols(), x.cols(), 1);
    chains_with_on_threads(cpu, factors, x.cols(), y, |steps, outputs, packed| {
        let width = outputs.len();
        for (col, output) in outputs.enumerate() {
            for (row, number) in w.row(output)[steps.clone()].iter().enumerate() {
                packed[row * width + col] = *number;
            }
        }
    });
}

/// `dw += dyᵀ x`, token by token, continuing the chain from what `dw` holds: `dy` is `[tokens, outputs]`, `x` is
/// `[tokens, inner]`, `dw` is `[outputs, inner]`. Rule 3, so a gradient may be accumulated over several calls. Panics
/// on other shapes.
pub fn weight_gradient(cpu: &Cpu, dy: MatrixView<'_>, x: MatrixView<'_>, dw: MatrixViewMut<'_>) {
    assert_eq!(dy.rows(), x.rows(), "tokens of dy and x");
    assert_eq!((dw.rows(), dw.cols()), (dy.cols(), x.cols()), "the shape of dw");
    chains_on_threads(cpu, Factors::new(dy.data(), dy.cols(), 1, dy.rows(), dy.cols()), x.into(), dw);
}

/// Numbers of `x` that a task walks through once for every panel of `w`: what the second cache holds.
const X_NUMBERS: usize = 256 * 1024;

/// Fused multiply-adds that are worth a task of their own.
const TASK: usize = 64 * 1024;

/// [`dots`] on all threads: blocks of tokens by groups of outputs.
pub(crate) fn dots_on_threads(cpu: &Cpu, x: MatrixView<'_>, w: Rows<'_>, mut y: MatrixViewMut<'_>) {
    let (tokens, outputs, inner) = (x.rows(), w.count(), x.cols());
    if tokens == 0 || outputs == 0 {
        return;
    }
    let block = (X_NUMBERS / inner.max(1)).next_multiple_of(16).clamp(16, 512).min(tokens);
    let blocks = tokens.div_ceil(block);
    let group = per_task(cpu, blocks, outputs, block * inner, 24);
    let groups = outputs.div_ceil(group);
    let out = SharedOut::new(&mut y);
    cpu.run(blocks * groups, |task| {
        let (t, o) = (task / groups * block, task % groups * group);
        let (rows, cols) = (t..tokens.min(t + block), o..outputs.min(o + group));
        // SAFETY: each task has its own block of the output.
        let y = unsafe { out.block(rows.clone(), cols.clone()) };
        dots(cpu, x.slice(rows).into(), w.part(cols, 0..inner), y);
    });
}

/// Steps of a packed panel.
const STEPS: usize = 128;

/// Most columns of a packed panel: `STEPS` times as many stay in the second cache.
const PANEL: usize = 256;

/// Rows of the output that a task walks through once for every packed panel.
const CHAIN_ROWS: usize = 512;

/// [`dots_on_threads`] with rows that `decode` writes out, some at a time.
pub(crate) fn dots_with_on_threads(
    cpu: &Cpu,
    x: MatrixView<'_>,
    outputs: usize,
    mut y: MatrixViewMut<'_>,
    decode: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    let (tokens, inner) = (x.rows(), x.cols());
    if tokens == 0 || outputs == 0 {
        return;
    }
    let group = (DECODED / inner.max(1)).next_multiple_of(24).clamp(24, 384);
    let out = SharedOut::new(&mut y);
    cpu.run(outputs.div_ceil(group), |task| {
        let rows = task * group..outputs.min((task + 1) * group);
        let mut decoded = Scratch::new(rows.len() * inner);
        decode(rows.clone(), &mut decoded);
        for t in (0..tokens).step_by(512) {
            let t = t..tokens.min(t + 512);
            // SAFETY: each task has its own columns of the output.
            let y = unsafe { out.block(t.clone(), rows.clone()) };
            dots(cpu, x.slice(t).into(), Rows::of(&decoded, rows.len(), inner), y);
        }
    });
}

/// Numbers of rows that are decoded at a time.
const DECODED: usize = 128 * 1024;

/// [`chains`] on all threads: groups of columns, each with `w` packed step by step, widened where it is stored
/// narrower; and blocks of rows.
pub(crate) fn chains_on_threads(cpu: &Cpu, factors: Factors<'_>, w: Rows<'_>, y: MatrixViewMut<'_>) {
    chains_with_on_threads(cpu, factors, w.count(), y, |steps, cols, packed| {
        let (count, width) = (steps.len(), cols.len());
        decode(cpu, w.part(steps, cols), Out::new(packed, width, count, width));
    });
}

/// The same with `steps` rows that `decode` writes out, some columns of some of them at a time.
pub(crate) fn chains_with_on_threads(
    cpu: &Cpu,
    factors: Factors<'_>,
    steps: usize,
    mut y: MatrixViewMut<'_>,
    decode: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
) {
    let (rows, cols) = (y.rows(), y.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    // Few columns are not enough for all threads.
    let block = if cols < 64 { per_task(cpu, 1, rows, cols.next_multiple_of(LANES) * steps, 8) } else { rows };
    let block = block.min(CHAIN_ROWS).min(rows);
    let blocks = rows.div_ceil(block);
    let group = per_task(cpu, blocks, cols, block * steps, 64).min(PANEL);
    let groups = cols.div_ceil(group);
    let out = SharedOut::new(&mut y);
    cpu.run(blocks * groups, |task| {
        let (r, c) = (task / groups * block, task % groups * group);
        let (rows, cols) = (r..rows.min(r + block), c..cols.min(c + group));
        let (count, len) = (rows.len(), cols.len());
        let width = len.next_multiple_of(LANES);
        let mut packed = Scratch::new(STEPS.min(steps) * width);
        // SAFETY: each task has its own block of the output.
        let y = || unsafe { out.block(rows.clone(), cols.clone()) };
        // Columns that do not fill registers are worked on elsewhere, in registers that are full.
        let mut beside = Scratch::zeros(if len < width { count * width } else { 0 });
        for (row, beside) in beside.chunks_exact_mut(width).enumerate() {
            // SAFETY: as above.
            beside[..len].copy_from_slice(unsafe { out.part(rows.start + row, cols.start, len) });
        }
        for step in (0..steps).step_by(STEPS) {
            let range = step..steps.min(step + STEPS);
            decode(range.clone(), cols.clone(), &mut packed[..range.len() * len]);
            let to = if len < width {
                for row in (0..range.len()).rev() {
                    packed.copy_within(row * len..(row + 1) * len, row * width);
                    packed[row * width + len..(row + 1) * width].fill(0.0);
                }
                Out::new(&mut beside, width, count, width)
            } else {
                y()
            };
            let w = Rows::of(&packed, range.len(), width);
            chains(cpu, factors.part(rows.clone(), range), w, to);
        }
        for (row, beside) in beside.chunks_exact(width).enumerate() {
            // SAFETY: as above.
            unsafe { out.part(rows.start + row, cols.start, len) }.copy_from_slice(&beside[..len]);
        }
    });
}

/// How many of `outputs` go into a task, a multiple of `unit`: some tasks for each thread, but none too small to be
/// worth it. Each output is `cost` multiply-adds in each of the `blocks` that there are besides.
fn per_task(cpu: &Cpu, blocks: usize, outputs: usize, cost: usize, unit: usize) -> usize {
    if cpu.threads() == 1 && blocks == 1 {
        return outputs.next_multiple_of(unit);
    }
    let even = (blocks * outputs).div_ceil(6 * cpu.threads());
    even.max(TASK.div_ceil(cost.max(1))).min(outputs).next_multiple_of(unit)
}
