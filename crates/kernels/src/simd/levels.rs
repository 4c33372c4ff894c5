//! Codes of 4 bits that stand for 16 levels, times the scale of their block of [`BLOCK`] numbers: NF4, as floats.
//!
//! The levels of a block are scaled first; a code is then a lookup among 16 lanes. Blocks know nothing of rows; but where
//! rows are whole blocks, few tokens are multiplied with them as they are looked up.

use super::dots::{store_tile, x_rows};
use super::{Lanes, Out, Rows, in_isa, unroll};
use crate::Cpu;
use crate::lanes::LANES;

/// Numbers of a block.
pub(crate) const BLOCK: usize = 64;

/// Codes, two to a byte, the first in the high half; and the scale of each block.
#[derive(Clone, Copy)]
pub(crate) struct Levels<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [f32],
    /// What the codes mean in a block of scale 1.
    pub(crate) levels: &'a [f32; LANES],
}

/// The numbers from `first` on, as many as there is room for. Panics when there are fewer.
pub(crate) fn decode_levels(cpu: &Cpu, from: Levels<'_>, first: usize, to: &mut [f32]) {
    let end = first.checked_add(to.len()).expect("an end");
    assert!(end.div_ceil(2) <= from.codes.len() && end.div_ceil(BLOCK) <= from.scales.len(), "{end} numbers");
    in_isa!(cpu, decode_levels(from, first, to));
}

/// [`decode_levels`] over the lanes of one instruction set.
///
/// # Safety
/// As for [`Lanes`]; lengths are checked.
#[inline(always)]
pub(super) unsafe fn decode_levels_with<L: Lanes>(from: Levels<'_>, first: usize, to: &mut [f32]) {
    const { assert!(BLOCK.is_multiple_of(LANES)) };
    let mut done = 0;
    // SAFETY: the codes, scales and room for all numbers are there.
    unsafe {
        let levels = L::load(from.levels.as_ptr());
        while done < to.len() {
            let at = first + done;
            let end = to.len().min(done + BLOCK - at % BLOCK);
            let table = scaled(levels, from.scales.as_ptr().add(at / BLOCK));
            while done < end {
                // A byte begins at an even number: the first lane may be one that is not wanted.
                let (byte, skip) = ((first + done) / 2, (first + done) % 2);
                let count = (LANES - skip).min(end - done);
                let (codes, out) = (from.codes.as_ptr().add(byte), to.as_mut_ptr().add(done));
                if count == LANES {
                    L::lookup(table, codes).store(out);
                } else {
                    let mut padded = [0u8; LANES / 2];
                    std::ptr::copy_nonoverlapping(codes, padded.as_mut_ptr(), (skip + count).div_ceil(2));
                    let mut numbers = [0.0; LANES];
                    L::lookup(table, padded.as_ptr()).store(numbers.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(numbers.as_ptr().add(skip), out, count);
                }
                done += count;
            }
        }
    }
}

/// Levels times a scale.
#[inline(always)]
unsafe fn scaled<L: Lanes>(levels: L, scale: *const f32) -> L {
    // SAFETY: the caller's.
    unsafe { L::zero().add_product(levels, L::splat(*scale)) }
}

/// `y[t, o] = x[t] · w[first + o]` by rule 1, on this thread, where the rows of `w` are whole blocks. `x` holds f32. Panics
/// on shapes that do not fit together.
pub(crate) fn dots_of_levels(cpu: &Cpu, x: Rows<'_>, w: Levels<'_>, first: usize, y: Out<'_>) {
    assert!(x.cols().is_multiple_of(BLOCK), "{} columns in blocks", x.cols());
    assert_eq!(x.count(), y.rows(), "the shape of y");
    let blocks = first.checked_add(y.cols()).and_then(|rows| rows.checked_mul(x.cols() / BLOCK)).expect("blocks");
    assert!(blocks <= w.scales.len() && blocks <= w.codes.len() / (BLOCK / 2), "{blocks} blocks");
    in_isa!(cpu, dots_of_levels(x, w, first, y));
}

/// [`dots_of_levels`] over the lanes of one instruction set, `N` rows of `w` at a time with up to 4 of `x`.
///
/// # Safety
/// As for [`Lanes`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn dots_of_levels_with<L: Lanes, const N: usize>(
    x: Rows<'_>,
    w: Levels<'_>,
    first: usize,
    y: Out<'_>,
) {
    let blocks = x.cols() / BLOCK;
    for o in (0..y.cols()).step_by(N) {
        // Where there are fewer rows, the first stands in; its copies are not stored.
        let mut rows = [(first + o) * blocks; N];
        for i in 1..N.min(y.cols() - o) {
            rows[i] = (first + o + i) * blocks;
        }
        let mut t = 0;
        while t < x.count() {
            // SAFETY: rows and tokens exist, and what is stored is within `y`.
            unsafe {
                t += match x.count() - t {
                    1 => tile::<L, 1, N>(&x, t, w, rows, blocks, &y, o),
                    2 => tile::<L, 2, N>(&x, t, w, rows, blocks, &y, o),
                    3 => tile::<L, 3, N>(&x, t, w, rows, blocks, &y, o),
                    _ => tile::<L, 4, N>(&x, t, w, rows, blocks, &y, o),
                }
            }
        }
    }
}

/// `M` rows of `x` from `t` on with the rows of `w` that begin at blocks `rows`. Returns `M`.
#[inline(always)]
unsafe fn tile<L: Lanes, const M: usize, const N: usize>(
    x: &Rows<'_>,
    t: usize,
    w: Levels<'_>,
    rows: [usize; N],
    blocks: usize,
    y: &Out<'_>,
    o: usize,
) -> usize {
    // SAFETY: the caller vouches for rows and blocks.
    unsafe {
        let x: [*const f32; M] = x_rows(x, t, 0);
        let levels = L::load(w.levels.as_ptr());
        let mut sums = [[L::zero(); N]; M];
        for block in 0..blocks {
            let mut tables = [L::zero(); N];
            unroll!(O < N, { tables[O] = scaled(levels, w.scales.as_ptr().add(rows[O] + block)) });
            for col in (0..BLOCK).step_by(LANES) {
                let mut xs = [L::zero(); M];
                unroll!(T < M, { xs[T] = L::load(x[T].add(block * BLOCK + col)) });
                unroll!(O < N, {
                    let codes = w.codes.as_ptr().add(((rows[O] + block) * BLOCK + col) / 2);
                    let w = L::lookup(tables[O], codes);
                    unroll!(T < M, { sums[T][O] = sums[T][O].add_product(xs[T], w) });
                });
            }
        }
        store_tile(sums, t, o, y);
    }
    M
}
