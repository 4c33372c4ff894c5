//! Rule 3 in tiles: one chain per output, continued from what is there, lanes across outputs.
//!
//! A tile is `M` rows by `N · 16` columns of `y`; at each step a row of `w`, `N` vectors, is multiplied with one factor
//! for each row of the tile. Who has many rows packs `w` first, see [`product`](crate::product): the steps through a
//! packed panel are then consecutive in memory.

use super::{F32, Lanes, Out, Rows, Stored, in_isa};
use crate::lanes::LANES;
use crate::{Cpu, FloatEncoding};

/// The factors of chains: that of row `r` at step `i` is `data[r · row_stride + i · step_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    data: &'a [f32],
    rows: usize,
    row_stride: usize,
    steps: usize,
    step_stride: usize,
}

impl<'a> Factors<'a> {
    /// Panics when `data` ends before the last.
    pub(crate) fn new(data: &'a [f32], rows: usize, row_stride: usize, steps: usize, step_stride: usize) -> Self {
        if rows > 0 && steps > 0 {
            let last = (rows - 1) * row_stride + (steps - 1) * step_stride;
            assert!(last < data.len(), "{rows} rows of {steps} factors in {}", data.len());
        }
        Factors { data, rows, row_stride, steps, step_stride }
    }

    /// Some rows, and some steps of each.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>, steps: std::ops::Range<usize>) -> Self {
        assert!(rows.end <= self.rows && steps.end <= self.steps);
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
        let mut sums = [[L::zero(); N]; M];
        for i in 0..M {
            for n in 0..N {
                let from = out[i].add(n * LANES);
                sums[i][n] = if TAIL { L::load_first(from, tail) } else { L::load(from) };
            }
        }
        let mut at = w.row_f32(0).add(col);
        let mut offset = 0;
        for _ in 0..factors.steps {
            let mut ws = [L::zero(); N];
            for n in 0..N {
                ws[n] = if TAIL { F32::load_first(at.cast(), tail) } else { L::load(at.add(n * LANES)) };
            }
            for i in 0..M {
                let factor = L::splat(*data[i].add(offset));
                for n in 0..N {
                    sums[i][n] = sums[i][n].add_product(factor, ws[n]);
                }
            }
            at = at.wrapping_add(w.stride());
            offset += factors.step_stride;
        }
        for i in 0..rows {
            for n in 0..N {
                let to = out[i].add(n * LANES);
                if TAIL {
                    sums[i][n].store_first(to, tail);
                } else {
                    sums[i][n].store(to);
                }
            }
        }
    }
    if TAIL { tail } else { N * LANES }
}
