//! Few tokens: rows are streamed as they lie, several at once, and multiplied with all tokens.

use std::ops::Range;

use super::{Ints, PADDING, Source, TokenCodes};
use crate::simd::unroll;
use crate::weight::codes::CodeRows;

/// Rows that are streamed at once.
pub(super) const STREAMS: usize = 4;

/// [`few`] over the registers of one instruction set.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn few_with<I: Ints>(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => few_rows::<I, _, STREAMS>(w, w.cols, rows, x, sums),
            CodeRows::Int4(w) => few_rows::<I, _, STREAMS>(w, w.cols, rows, x, sums),
        }
    }
}

#[inline(always)]
unsafe fn few_rows<I: Ints, S: Source, const R: usize>(
    w: S,
    cols: usize,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    sums: &mut [i32],
) {
    // Each stream has its own part of the rows, so that it goes on where it is, far from the others.
    let count = rows.len();
    let part = count.div_ceil(R);
    for index in 0..part {
        let place = |stream: usize| stream * part + index;
        let here = (0..R).take_while(|&stream| place(stream) < count).count();
        // Where there are fewer rows, the first stands in; its copies are not stored.
        let mut streams = [w.row(rows.start + index); R];
        for (stream, row) in streams.iter_mut().enumerate().take(here) {
            *row = w.row(rows.start + place(stream));
        }
        let mut token = 0;
        while token < x.count {
            // SAFETY: rows and tokens exist.
            let (tile, four) = unsafe {
                match x.count - token {
                    1 => few_tile::<I, S, R, 1>(w, cols, streams, x, token),
                    2 => few_tile::<I, S, R, 2>(w, cols, streams, x, token),
                    3 => few_tile::<I, S, R, 3>(w, cols, streams, x, token),
                    _ => few_tile::<I, S, R, 4>(w, cols, streams, x, token),
                }
            };
            for of_token in &four[..tile] {
                for (stream, sum) in of_token[..here].iter().enumerate() {
                    sums[token * count + place(stream)] = *sum;
                }
                token += 1;
            }
        }
    }
}

/// `R` rows, up to 4, with `T` tokens from `token` on; returns `T`, and the sums of each.
#[inline(always)]
unsafe fn few_tile<I: Ints, S: Source, const R: usize, const T: usize>(
    w: S,
    cols: usize,
    rows: [S::Row; R],
    x: TokenCodes<'_>,
    token: usize,
) -> (usize, [[i32; 4]; 4]) {
    // SAFETY: rows and tokens exist, and tokens are padded.
    unsafe {
        let mut sums = [[I::zero(); R]; T];
        let mut tokens = [x.token(token); T];
        for i in 1..T {
            tokens[i] = x.token(token + i);
        }
        let whole = cols - cols % PADDING;
        let mut start = 0;
        while start < whole {
            unroll!(O < R, {
                for line in 0..S::LINES {
                    I::prefetch(S::address(rows[O], start).wrapping_add(AHEAD + 64 * line));
                }
            });
            for i in 0..PADDING / I::WIDTH {
                few_step::<I, S, R, T>(w, rows, tokens, start + i * I::WIDTH, &mut sums);
            }
            start += PADDING;
        }
        while start < cols {
            few_step::<I, S, R, T>(w, rows, tokens, start, &mut sums);
            start += I::WIDTH;
        }
        let mut folded = [[0; 4]; 4];
        unroll!(U < T, { folded[U % 4] = I::sums(first_four(sums[U])) });
        (T, folded)
    }
}

/// One register of each row.
#[inline(always)]
unsafe fn few_step<I: Ints, S: Source, const R: usize, const T: usize>(
    w: S,
    rows: [S::Row; R],
    tokens: [*const u8; T],
    k: usize,
    sums: &mut [[I; R]; T],
) {
    // SAFETY: rows and tokens exist, and tokens are padded.
    unsafe {
        let mut weights = [I::zero(); R];
        unroll!(O < R, { weights[O] = w.load::<I>(rows[O], k) });
        unroll!(U < T, {
            let activations = I::load(tokens[U].add(k * 4 / I::STEP));
            unroll!(O < R, { sums[U][O] = sums[U][O].add_products(weights[O], activations) });
        });
    }
}

/// As many registers as there are, and the first again.
#[inline(always)]
fn first_four<I: Copy, const R: usize>(x: [I; R]) -> [I; 4] {
    let mut four = [x[0]; 4];
    unroll!(O < R, { four[O % 4] = x[O] });
    four
}

/// How many bytes ahead rows are asked for.
pub(super) const AHEAD: usize = 2048;
