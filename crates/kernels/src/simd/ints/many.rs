//! Many tokens: rows are packed into panels, which stay in the second cache while all tokens pass by.

use std::ops::Range;

use super::{BLOCK, Ints, MOST_LANES, MOST_OUTPUTS, PADDING, Source, Sums, TokenCodes};
use crate::scratch::Scratch;
use crate::simd::unroll;
use crate::weight::codes::CodeRows;

/// [`many`] over the registers of one instruction set, in tiles of `M` tokens by `N` registers.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn many_with<I: Ints, const M: usize, const N: usize>(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => many_rows::<I, _, M, N>(w, w.cols, rows, x, done),
            CodeRows::Int4(w) => many_rows::<I, _, M, N>(w, w.cols, rows, x, done),
        }
    }
}

#[inline(always)]
unsafe fn many_rows<I: Ints, S: Source, const M: usize, const N: usize>(
    w: S,
    cols: usize,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    mut done: impl FnMut(usize, &[Sums]),
) {
    const { assert!(N * I::LANES <= MOST_OUTPUTS && M <= 8) };
    let (outputs, register) = (N * I::LANES, I::LANES * 4);
    let block = cols.min(BLOCK).next_multiple_of(PADDING);
    let mut panel = Scratch::new(block / I::STEP * outputs);
    let panel: &mut [u8] = bytemuck::cast_slice_mut(&mut panel);
    let panel = panel.as_mut_ptr();
    let tiles = x.count.div_ceil(M);
    // Sums that wait for the next block of columns.
    let mut waiting = Scratch::new(if cols > BLOCK { tiles * M * outputs } else { 0 });
    let waiting: &mut [u8] = bytemuck::cast_slice_mut(&mut waiting);
    let waiting = waiting.as_mut_ptr();
    let mut sums = [[0i32; MOST_OUTPUTS]; M];
    // SAFETY: the panel has room for a block, `waiting` for every tile, rows and tokens exist.
    unsafe {
        for start in (0..cols).step_by(BLOCK) {
            let end = cols.min(start + BLOCK);
            pack::<I, S, N>(w, rows.clone(), start..end, panel);
            let steps = (end - start).next_multiple_of(I::WIDTH) / I::STEP;
            let (first, last) = (start == 0, end == cols);
            for tile in 0..tiles {
                let token = tile * M;
                let mut from = [x.token(token).wrapping_add(start * 4 / I::STEP); M];
                for i in 1..M.min(x.count - token) {
                    from[i] = x.token(token + i).wrapping_add(start * 4 / I::STEP);
                }
                let kept = waiting.wrapping_add(token * outputs * 4);
                let mut tile_sums = [[I::zero(); N]; M];
                if !first {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O] = I::load(kept.add((T * N + O) * register)) });
                    });
                }
                let tile_sums = many_tile::<I, M, N>(panel, steps, from, tile_sums);
                if last {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O].store(sums[T].as_mut_ptr().add(O * I::LANES).cast()) });
                    });
                    done(token, &sums[..M.min(x.count - token)]);
                } else {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O].store(kept.add((T * N + O) * register)) });
                    });
                }
            }
        }
    }
}

/// Packs columns of rows into a panel; rows that are not there are 0.
#[inline(always)]
pub(super) unsafe fn pack<I: Ints, S: Source, const N: usize>(
    w: S,
    rows: Range<usize>,
    cols: Range<usize>,
    panel: *mut u8,
) {
    let register = I::LANES * 4;
    for k in cols.clone().step_by(I::WIDTH) {
        let step = (k - cols.start) / I::STEP;
        for n in 0..N {
            // SAFETY: the rows that are read exist, and the panel has room for all steps of the block.
            unsafe {
                let mut lanes = [I::zero(); MOST_LANES];
                for lane in 0..I::LANES {
                    let row = rows.start + n * I::LANES + lane;
                    if row < rows.end {
                        lanes[lane] = w.load::<I>(w.row(row), k);
                    }
                }
                I::transpose(&mut lanes);
                for lane in 0..I::LANES {
                    lanes[lane].store(panel.add(((step + lane) * N + n) * register));
                }
            }
        }
    }
}

/// The hot loop: continues the sums of a tile over a panel.
#[inline(always)]
pub(super) unsafe fn many_tile<I: Ints, const M: usize, const N: usize>(
    panel: *const u8,
    steps: usize,
    tokens: [*const u8; M],
    mut sums: [[I; N]; M],
) -> [[I; N]; M] {
    let register = I::LANES * 4;
    // SAFETY: the caller vouches for `steps` in the panel and in each token.
    unsafe {
        for step in 0..steps {
            let mut weights = [I::zero(); N];
            unroll!(O < N, { weights[O] = I::load(panel.add((step * N + O) * register)) });
            unroll!(T < M, {
                let activations = I::broadcast(tokens[T].add(step * 4));
                unroll!(O < N, { sums[T][O] = sums[T][O].add_products(weights[O], activations) });
            });
        }
    }
    sums
}
