//! Rule 3 in tiles: one chain per output, continued from what is there, lanes across outputs.
//!
//! A tile is `M` rows by `N · 16` columns of `y`; at each step a row of `w`, `N` vectors, is multiplied with one factor
//! for each row of the tile. Who has many rows packs `w` first, see [`product`](crate::product): the steps through a
//! packed panel are then consecutive in memory.

use std::ops::Range;

use super::{Lanes, Out, Rows, in_isa, unroll};
use crate::lanes::LANES;
use crate::matrix::extent;
use crate::{Cpu, FloatEncoding};

/// The factors of chains: that of row `r` at step `i` is `data[r · row_stride + i · step_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    data: &'a [f32],
    rows: usize,
    row_stride: usize,
    steps: usize,
    step_stride: usize,
    /// The steps that each row takes; without, all.
    ranges: Option<&'a [Range<usize>]>,
}

impl<'a> Factors<'a> {
    /// Panics when `data` ends before the last.
    pub(crate) fn new(data: &'a [f32], rows: usize, row_stride: usize, steps: usize, step_stride: usize) -> Self {
        if rows > 0 && steps > 0 {
            let end = extent(rows, row_stride, extent(steps, step_stride, 1));
            assert!(end <= data.len(), "{rows} rows of {steps} factors in {}", data.len());
        }
        Factors { data, rows, row_stride, steps, step_stride, ranges: None }
    }

    /// Where row `r` takes the steps `ranges[r]` only, and the others do not exist for it. Neighbouring rows had better
    /// take nearly the same ones: what the rows of a tile do not share, they do one by one.
    pub(crate) fn with_ranges(self, ranges: &'a [Range<usize>]) -> Self {
        assert_eq!(ranges.len(), self.rows, "ranges of rows");
        assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= self.steps), "ranges of steps");
        Factors { ranges: Some(ranges), ..self }
    }

    /// Some rows, and some steps of each.
    pub(crate) fn part(&self, rows: Range<usize>, steps: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(steps.start <= steps.end && steps.end <= self.steps, "steps {steps:?} of {}", self.steps);
        assert!(self.ranges.is_none(), "a part of factors with ranges");
        let first = rows.start * self.row_stride + steps.start * self.step_stride;
        let data = self.data.get(first..).unwrap_or(&[]);
        Factors { data, rows: rows.len(), steps: steps.len(), ..*self }
    }
}

/// `y[r] += Σᵢ factor(r, i) · w[i]` by rule 3, on this thread. `w` holds f32. Panics on shapes that do not fit together.
pub(crate) fn chains(cpu: &Cpu, factors: Factors<'_>, w: Rows<'_>, y: Out<'_>) {
    assert_eq!(factors.steps, w.count(), "steps of the chains and rows of w");
    assert_eq!((y.rows(), y.cols()), (factors.rows, w.cols()), "the shape of y");
    assert_eq!(w.encoding(), FloatEncoding::F32, "w");
    if factors.steps > 0 && factors.rows > 0 {
        in_isa!(cpu, chains(factors, w, y));
    }
}

/// [`chains`] over the lanes of one instruction set, in tiles of `M` rows by `N` times 16 columns.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn chains_with<L: Lanes, const M: usize, const N: usize>(
    factors: Factors<'_>,
    w: Rows<'_>,
    y: Out<'_>,
) {
    let cols = y.cols();
    let mut row = 0;
    while row < factors.rows {
        let rows = M.min(factors.rows - row);
        let mut col = 0;
        while col < cols {
            // SAFETY: rows and columns of the tile are within the shapes, which have been checked.
            unsafe {
                col += match (rows, cols - col) {
                    (1, ..LANES) => tile::<L, 1, 1, true>(factors, row, 1, w, &y, col),
                    (_, ..LANES) => tile::<L, M, 1, true>(factors, row, rows, w, &y, col),
                    (1, left) if left >= N * LANES => tile::<L, 1, N, false>(factors, row, 1, w, &y, col),
                    (1, _) => tile::<L, 1, 1, false>(factors, row, 1, w, &y, col),
                    (_, left) if left >= N * LANES => tile::<L, M, N, false>(factors, row, rows, w, &y, col),
                    _ => tile::<L, M, 1, false>(factors, row, rows, w, &y, col),
                }
            }
        }
        row += rows;
    }
}

/// Continues the chains of a tile: `rows` (up to `M`) rows from `row` on, `N · 16` columns from `col` on, or with
/// `TAIL` the last columns, fewer than 16. Returns how many columns these are.
#[inline(always)]
unsafe fn tile<L: Lanes, const M: usize, const N: usize, const TAIL: bool>(
    factors: Factors<'_>,
    row: usize,
    rows: usize,
    w: Rows<'_>,
    y: &Out<'_>,
    col: usize,
) -> usize {
    let tail = (y.cols() - col).min(LANES);
    // SAFETY: the caller vouches for rows and columns. Where there are fewer than `M` rows, the first stands in; its
    // copies are not stored.
    unsafe {
        let mut data = [factors.data.as_ptr().add(row * factors.row_stride); M];
        let mut out = [y.at(row, col); M];
        for i in 1..rows {
            data[i] = factors.data.as_ptr().add((row + i) * factors.row_stride);
            out[i] = y.at(row + i, col);
        }
        // The steps that all rows share.
        let (mut start, mut end) = (0, factors.steps);
        if let Some(ranges) = factors.ranges {
            for i in 0..rows {
                start = start.max(ranges[row + i].start);
                end = end.min(ranges[row + i].end);
            }
            end = end.max(start);
        }
        let mut sums = [[L::zero(); N]; M];
        unroll!(I < M, {
            unroll!(J < N, {
                let from = out[I].add(J * LANES);
                sums[I][J] = if TAIL { L::load_first(from, tail) } else { L::load(from) };
            });
        });
        let load = |from: *const f32, j: usize| {
            if TAIL { L::load_first(from, tail) } else { L::load(from.add(j * LANES)) }
        };
        let w_row = |step: usize| w.row_f32(0).wrapping_add(step * w.stride() + col);
        // Each row's steps before the shared ones.
        if let Some(ranges) = factors.ranges {
            unroll!(I < M, {
                if I < rows {
                    for step in ranges[row + I].start..ranges[row + I].end.min(start) {
                        let factor = L::splat(*data[I].add(step * factors.step_stride));
                        unroll!(J < N, { sums[I][J] = sums[I][J].add_product(factor, load(w_row(step), J)) });
                    }
                }
            });
        }
        // Once is enough: by the first rows.
        let ahead = if row == 0 { w.ahead() } else { 0 };
        let mut at = w_row(start);
        let mut offset = start * factors.step_stride;
        for _ in start..end {
            let mut ws = [L::zero(); N];
            unroll!(J < N, { ws[J] = load(at, J) });
            if ahead != 0 {
                unroll!(J < N, { L::prefetch(at.wrapping_add(J * LANES).cast::<u8>().wrapping_offset(ahead)) });
            }
            unroll!(I < M, {
                let factor = L::splat(*data[I].add(offset));
                unroll!(J < N, { sums[I][J] = sums[I][J].add_product(factor, ws[J]) });
            });
            at = at.wrapping_add(w.stride());
            offset += factors.step_stride;
        }
        // And those after them.
        if let Some(ranges) = factors.ranges {
            unroll!(I < M, {
                if I < rows {
                    for step in ranges[row + I].start.max(end)..ranges[row + I].end {
                        let factor = L::splat(*data[I].add(step * factors.step_stride));
                        unroll!(J < N, { sums[I][J] = sums[I][J].add_product(factor, load(w_row(step), J)) });
                    }
                }
            });
        }
        unroll!(I < M, {
            if I < rows {
                unroll!(J < N, {
                    let to = out[I].add(J * LANES);
                    if TAIL {
                        sums[I][J].store_first(to, tail);
                    } else {
                        sums[I][J].store(to);
                    }
                });
            }
        });
    }
    if TAIL { tail } else { N * LANES }
}
