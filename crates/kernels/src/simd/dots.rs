//! Rule 1 in tiles: dot products of every row of `x` with every row of `w`.
//!
//! A tile is `M` rows of `x` by `N` rows of `w`; each of its `M · N` sums is one accumulator of 16 lanes, and all are
//! folded together at the end. With few rows of `x` (decoding), `w` is streamed once, in place. With many (a prompt), a
//! panel of `N` rows of `w` is widened into a buffer that stays in the first cache while all of `x` passes by:
//!
//! ```text
//! for each panel of N rows of w
//!     for each block of BLOCK columns            buffer: N × BLOCK, in L1
//!         for each tile of M rows of x           accumulators between blocks: kept as they are, unfolded
//!             for each 16 columns: M · N fused multiply-adds
//! ```
//!
//! An accumulator that waits in memory is still the same chain, so blocks change no bit.

use super::rows::decode_row;
use super::{Bf16, F16, F32, Lanes, Out, Rows, Stored, in_isa, unroll};
use crate::lanes::LANES;
use crate::scratch::Scratch;
use crate::{Cpu, FloatEncoding};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Columns of a widened panel.
const BLOCK: usize = 1024;

/// How far ahead the rows of `x`, which come from the second cache, are asked for.
const AHEAD: usize = 64;

/// Rows of `x` from which on a panel is worth widening first.
const MANY: usize = 16;

/// `y[t, o] = x[t] · w[o]` by rule 1, on this thread. `x` holds f32. Panics on shapes that do not fit together.
pub(crate) fn dots(cpu: &Cpu, x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    assert_eq!(x.cols(), w.cols(), "columns of x and w");
    assert_eq!((y.rows(), y.cols()), (x.count(), w.count()), "the shape of y");
    assert_eq!(x.encoding(), FloatEncoding::F32, "x");
    in_isa!(cpu, dots(x, w, y));
}

/// [`dots`] over the lanes of one instruction set, in tiles of `M × N`; for a single row of `x`, of `1 × S`.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn dots_with<L: Lanes, const M: usize, const N: usize, const S: usize>(
    x: Rows<'_>,
    w: Rows<'_>,
    y: Out<'_>,
) {
    // SAFETY: the shapes have been checked.
    unsafe {
        match w.encoding() {
            FloatEncoding::F32 => dots_stored::<L, F32, M, N, S>(x, w, y),
            FloatEncoding::F16 => dots_stored::<L, F16, M, N, S>(x, w, y),
            FloatEncoding::Bf16 => dots_stored::<L, Bf16, M, N, S>(x, w, y),
        }
    }
}

#[inline(always)]
unsafe fn dots_stored<L: Lanes, E: Stored, const M: usize, const N: usize, const S: usize>(
    x: Rows<'_>,
    w: Rows<'_>,
    y: Out<'_>,
) {
    if x.count() == 0 {
        return;
    }
    // SAFETY: the shapes have been checked.
    unsafe {
        match x.count() {
            1 => dots_in_place::<L, E, 1, S>(x, w, y),
            2..MANY => dots_in_place::<L, E, M, N>(x, w, y),
            _ => dots_in_panels::<L, E, M, N>(x, w, y),
        }
    }
}

/// Few rows of `x`: each row of `w` is read once, where it lies.
#[inline(always)]
unsafe fn dots_in_place<L: Lanes, E: Stored, const M: usize, const N: usize>(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    for o in (0..w.count()).step_by(N) {
        let mut panel = [w.row(o); N];
        for i in 1..N.min(w.count() - o) {
            panel[i] = w.row(o + i);
        }
        for t in (0..x.count()).step_by(M) {
            // SAFETY: all rows have `x.cols()` numbers, and the tile is stored within `y`.
            unsafe {
                let start = [[L::zero(); N]; M];
                let sums = tile::<L, E, M, N>(x_rows(&x, t, 0), panel, x.cols(), start);
                store_tile(sums, t, o, &y);
            }
        }
    }
}

/// Many rows of `x`: see the top of the file.
#[inline(always)]
unsafe fn dots_in_panels<L: Lanes, E: Stored, const M: usize, const N: usize>(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    let cols = x.cols();
    let width = cols.min(BLOCK).next_multiple_of(LANES);
    let mut buffer = Scratch::new(N * width);
    let buffer = buffer.as_mut_ptr();
    let waiting = if cols > BLOCK { x.count().div_ceil(M) * M * N * LANES } else { 0 };
    let mut waiting = Scratch::new(waiting);
    let waiting = waiting.as_mut_ptr();
    // SAFETY of all blocks below: the buffer has room for N rows of `width`, and `waiting` for every tile; all rows have
    // `cols` numbers, and tiles are stored within `y`.
    for o in (0..w.count()).step_by(N) {
        let rows = N.min(w.count() - o);
        let mut panel = [buffer.cast_const().cast::<u8>(); N];
        for i in 1..rows {
            // SAFETY: see above.
            panel[i] = unsafe { buffer.add(i * width).cast() };
        }
        let mut col = 0;
        loop {
            let len = BLOCK.min(cols - col);
            let (first, last) = (col == 0, col + len == cols);
            for i in 0..rows {
                // SAFETY: see above.
                unsafe { decode_row::<L, E>(w.row(o + i).add(col * E::BYTES), len, buffer.add(i * width)) };
            }
            // The next block of w is asked for piece by piece, while the tiles compute.
            let (next_o, next_col) = if last { (o + N, 0) } else { (o, col + len) };
            let next_rows = N.min(w.count().saturating_sub(next_o));
            let next_bytes = BLOCK.min(cols - next_col) * E::BYTES;
            let piece = next_bytes.div_ceil(x.count().div_ceil(M)).next_multiple_of(LINE);
            for t in (0..x.count()).step_by(M) {
                for i in 0..next_rows {
                    let from = w.row(next_o + i).wrapping_add(next_col * E::BYTES + t / M * piece);
                    for line in (0..piece).step_by(LINE) {
                        // SAFETY: see above.
                        unsafe { L::prefetch(from.wrapping_add(line)) };
                    }
                }
                // SAFETY: see above.
                unsafe {
                    let kept = waiting.wrapping_add(t * N * LANES);
                    let mut start = [[L::zero(); N]; M];
                    if !first {
                        unroll!(T < M, {
                            unroll!(O < N, { start[T][O] = L::load(kept.add((T * N + O) * LANES)) });
                        });
                    }
                    let sums = tile::<L, F32, M, N>(x_rows(&x, t, col), panel, len, start);
                    if last {
                        store_tile(sums, t, o, &y);
                    } else {
                        unroll!(T < M, {
                            unroll!(O < N, { sums[T][O].store(kept.add((T * N + O) * LANES)) });
                        });
                    }
                }
            }
            col += len;
            if last {
                break;
            }
        }
    }
}

/// Column `col` of rows `t ..` of `x`. Where there are fewer than `M`, the first stands in; its sums are not stored.
#[inline(always)]
pub(super) unsafe fn x_rows<const M: usize>(x: &Rows<'_>, t: usize, col: usize) -> [*const f32; M] {
    // SAFETY: `col` lies within every row.
    unsafe {
        let mut rows = [x.row_f32(t).add(col); M];
        for i in 1..M.min(x.count() - t) {
            rows[i] = x.row_f32(t + i).add(col);
        }
        rows
    }
}

/// The hot loop: continues the sums of a tile over `cols` columns.
#[inline(always)]
unsafe fn tile<L: Lanes, E: Stored, const M: usize, const N: usize>(
    x: [*const f32; M],
    w: [*const u8; N],
    cols: usize,
    mut sums: [[L; N]; M],
) -> [[L; N]; M] {
    let tail = cols % LANES;
    let whole = cols - tail;
    // SAFETY: the caller vouches for `cols` numbers in each row.
    unsafe {
        let mut col = 0;
        while col < whole {
            let mut xs = [L::zero(); M];
            unroll!(T < M, {
                xs[T] = L::load(x[T].add(col));
                L::prefetch(x[T].wrapping_add(col + AHEAD).cast());
            });
            unroll!(O < N, {
                let w = E::load::<L>(w[O].add(col * E::BYTES));
                unroll!(T < M, { sums[T][O] = sums[T][O].add_product(xs[T], w) });
            });
            col += LANES;
        }
        if tail > 0 {
            let mut xs = [L::zero(); M];
            unroll!(T < M, { xs[T] = L::load_first(x[T].add(whole), tail) });
            unroll!(O < N, {
                let w = E::load_first::<L>(w[O].add(whole * E::BYTES), tail);
                unroll!(T < M, { sums[T][O] = sums[T][O].add_product_first(xs[T], w, tail) });
            });
        }
    }
    sums
}

/// Folds the sums of the tile at `(t, o)`, and stores those that are within `y`.
#[inline(always)]
pub(super) unsafe fn store_tile<L: Lanes, const M: usize, const N: usize>(
    sums: [[L; N]; M],
    t: usize,
    o: usize,
    y: &Out<'_>,
) {
    let cols = N.min(y.cols() - o);
    // SAFETY: `(t, o)` is within `y`, and what is stored is cut off at its ends.
    unsafe {
        let folded = L::fold_tile(sums);
        for i in 0..M.min(y.rows() - t) {
            if cols == N {
                y.at(t + i, o).cast::<[f32; N]>().write_unaligned(folded[i]);
            } else {
                std::ptr::copy_nonoverlapping(folded[i].as_ptr(), y.at(t + i, o), cols);
            }
        }
    }
}
