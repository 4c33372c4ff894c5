//! Products against a weight, `dy W`: sums along its rows. Columns are packed into panels, of a [`GROUP`] of rows at a time,
//! which all tokens pass by; then the sums of the group, times its scale, are added to what those before it gave.

use std::ops::Range;

use super::{Ints, MOST_OUTPUTS, MOST_STEP, Source, TokenCodes, code_bytes, many::many_tile, scalar};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, vnni};
#[cfg(target_arch = "aarch64")]
use super::{i8mm, neon};
use crate::scratch::Scratch;
use crate::simd::unroll;
use crate::weight::codes::CodeRows;
use crate::{Cpu, Isa};

/// Rows that share a scale of each token: their sums, at most 128 · 128 · 127, are exact as floats.
pub(crate) const GROUP: usize = 128;

/// Columns that are packed at once: a cache line of int8 codes.
pub(crate) const PANEL: usize = MOST_OUTPUTS;

/// Codes of tokens in groups of [`GROUP`], and for each group a scale and the number that its sum of products begins with,
/// which is what [`correction`](super::correction) says of the sum of its codes.
#[derive(Clone, Copy)]
pub(crate) struct GroupCodes<'a> {
    /// Both, in the bytes of each token.
    pub(crate) tokens: TokenCodes<'a>,
    /// Bytes from the first code of a token to its first scale, which a first sum follows, then the next scale.
    pub(crate) scales: usize,
}

impl GroupCodes<'_> {
    /// Where the scale of a group is; its first sum follows.
    #[inline(always)]
    pub(super) fn scale(&self, token: usize, group: usize) -> *const u8 {
        self.tokens.token(token).wrapping_add(self.scales + 8 * group)
    }

    /// Panics unless each token has room for `rows` codes in lanes of `step`, scales and sums.
    fn check(&self, rows: usize, step: usize) {
        self.tokens.check(rows, step);
        let codes = rows.next_multiple_of(GROUP) * 4 / step;
        let end = rows.div_ceil(GROUP).checked_mul(8).and_then(|pairs| pairs.checked_add(self.scales));
        assert!(codes <= self.scales && end.is_some_and(|end| end <= self.tokens.stride), "scales of tokens");
    }
}

/// `dx[t * PANEL + c] = Σ_g scale(t, g) Σ_(r in g) code(row r, cols.start + c) · code(token t, r)`: of at most [`PANEL`]
/// columns, from a multiple of that on. The inner sum is exact, the outer one a chain in ascending order of fused
/// multiply-adds from +0. What lies behind the columns may be anything. Panics on shapes that do not fit.
pub(crate) fn backward(cpu: &Cpu, w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    assert!(cols.start <= cols.end && cols.end <= w.cols() && cols.len() <= PANEL, "columns");
    assert!(cols.start.is_multiple_of(PANEL), "the first column");
    assert_eq!(dx.len(), dy.tokens.count * PANEL, "room for gradients");
    dy.check(w.rows(), 4 / code_bytes(cpu.isa()));
    dx.fill(0.0);
    match cpu.isa() {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has; shapes are checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::backward(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { vnni::backward_256(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::backward(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { vnni::backward_512(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { amx::backward(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::backward(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => unsafe { neon::backward_dot(w, cols, dy, dx) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => unsafe { i8mm::backward(w, cols, dy, dx) },
        _ => scalar::backward(w, cols, dy, dx),
    }
}

/// [`backward`] over the registers of one instruction set, in tiles of `M` tokens by `N` registers.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn backward_with<I: Ints, const M: usize, const N: usize>(
    w: CodeRows<'_>,
    cols: Range<usize>,
    dy: GroupCodes<'_>,
    dx: &mut [f32],
) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => backward_cols::<I, _, M, N>(w, w.rows, cols, dy, dx),
            CodeRows::Int4(w) => backward_cols::<I, _, M, N>(w, w.rows, cols, dy, dx),
        }
    }
}

#[inline(always)]
unsafe fn backward_cols<I: Ints, S: Source, const M: usize, const N: usize>(
    w: S,
    rows: usize,
    cols: Range<usize>,
    dy: GroupCodes<'_>,
    dx: &mut [f32],
) {
    const { assert!(PANEL.is_multiple_of(N * I::LANES) && PANEL.is_multiple_of(I::WIDTH) && M <= 8) };
    let (steps, count, outputs) = (GROUP / I::STEP, dy.tokens.count, N * I::LANES);
    let ahead = GROUP.div_ceil(count.div_ceil(M).max(1));
    let mut panel = Scratch::new(steps * PANEL);
    let panel: *mut u8 = panel.as_mut_ptr().cast();
    for (group, start) in (0..rows).step_by(GROUP).enumerate() {
        // SAFETY: rows and columns exist, the panel has room for a group, `dx` for all columns of a panel of each token.
        unsafe {
            let end = rows.min(start + GROUP);
            pack_columns::<I, S, N>(w, start..end, cols.clone(), panel);
            for token in (0..count).step_by(M) {
                // The next group is asked for row by row, while the tiles compute: each is a cache line far from the others.
                let next = end + token / M * ahead;
                for row in next..rows.min(next + ahead).min(end + GROUP) {
                    I::prefetch(S::address(w.row(row), cols.start));
                }
                let here = M.min(count - token);
                let mut codes = [dy.tokens.token(token).wrapping_add(start * 4 / I::STEP); M];
                let mut scales = [dy.scale(token, group); M];
                for i in 1..here {
                    codes[i] = dy.tokens.token(token + i).wrapping_add(start * 4 / I::STEP);
                    scales[i] = dy.scale(token + i, group);
                }
                for first in (0..cols.len()).step_by(outputs) {
                    let mut sums = [[I::zero(); N]; M];
                    unroll!(T < M, { sums[T] = [I::broadcast(scales[T].add(4)); N] });
                    let sums = many_tile::<I, M, N>(panel.add(first * steps * 4), steps, codes, sums);
                    unroll!(T < M, {
                        if T < here {
                            let scale = scales[T].cast::<f32>().read_unaligned();
                            let to = dx.as_mut_ptr().add((token + T) * PANEL + first);
                            unroll!(O < N, { sums[T][O].add_scaled(scale, to.add(O * I::LANES)) });
                        }
                    });
                }
            }
        }
    }
}

/// Packs columns of a group of rows into panels of `N` registers, one after the other. What lies behind the last row is
/// left as it is, or 0: the codes of tokens are 0 there.
#[inline(always)]
pub(super) unsafe fn pack_columns<I: Ints, S: Source, const N: usize>(
    w: S,
    rows: Range<usize>,
    cols: Range<usize>,
    panel: *mut u8,
) {
    let (steps, register) = (GROUP / I::STEP, I::LANES * 4);
    for (step, row) in rows.clone().step_by(I::STEP).enumerate() {
        for k in cols.clone().step_by(I::WIDTH) {
            // SAFETY: the rows that are read exist, and the panels have room for all steps of a group.
            unsafe {
                let mut lanes = [I::zero(); MOST_STEP];
                for i in 0..I::STEP {
                    if row + i < rows.end {
                        lanes[i] = w.load::<I>(w.row(row + i), k);
                    }
                }
                I::interleave(&mut lanes);
                for i in 0..I::STEP {
                    let place = (k - cols.start) / I::LANES + i;
                    lanes[i].store(panel.add(((place / N * steps + step) * N + place % N) * register));
                }
            }
        }
    }
}
