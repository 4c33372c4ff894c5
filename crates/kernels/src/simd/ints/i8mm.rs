//! FEAT_I8MM: an instruction that multiplies 2 tokens with 2 rows, 8 codes of each.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::neon::Bytes128;
use super::tiles::{Block, Tiles, backward_in_tiles, many_in_tiles, spin_tiles};
use super::{GROUP, GroupCodes, Ints, MOST_OUTPUTS, MOST_STEP, Source, Sums, TokenCodes};
use crate::simd::unroll;
use crate::weight::codes::CodeRows;

/// # Safety
/// The machine has NEON, FEAT_DotProd and FEAT_I8MM; shapes are checked.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, done: impl FnMut(usize, &[Sums])) {
    // 3 × 8 accumulators, 3 of tokens and one of weights are 28 of 32 registers.
    // SAFETY: the caller's.
    unsafe { many_in_tiles::<Pairs<3, 8>>(w, rows, x, done) }
}

/// # Safety
/// As [`many`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_in_tiles::<Pairs<3, 8>>(w, cols, dy, dx) }
}

/// # Safety
/// As [`many`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn spin_products(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_tiles::<Pairs<3, 8>>(steps) }
}

/// Tiles of `M` pairs of tokens by `N` pairs of rows. A panel is `[cols / 8][OUTPUTS][8]`.
struct Pairs<const M: usize, const N: usize>;

/// Codes that an instruction takes of a row.
const STEP: usize = 8;

impl<const M: usize, const N: usize> Tiles for Pairs<M, N> {
    const TOKENS: usize = 2 * M;
    const OUTPUTS: usize = 2 * N;

    #[inline(always)]
    unsafe fn pack<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        type Codes = Bytes128<true>;
        for k in cols.clone().step_by(Codes::WIDTH) {
            for output in 0..Self::OUTPUTS {
                // SAFETY: the rows that are read exist, and the panel has room for all columns.
                unsafe {
                    let mut codes = Codes::zero();
                    if output < rows.len() {
                        codes = w.load(w.row(rows.start + output), k);
                    }
                    let to: *mut i8 = panel.add((k - cols.start) * Self::OUTPUTS + output * STEP).cast();
                    vst1_s8(to, vget_low_s8(codes.0));
                    vst1_s8(to.add(Self::OUTPUTS * STEP), vget_high_s8(codes.0));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_columns<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        type Codes = Bytes128<true>;
        for row in rows.clone().step_by(STEP) {
            for k in cols.clone().step_by(Codes::WIDTH) {
                // SAFETY: the rows that are read exist, and the panels have room for a group.
                unsafe {
                    let mut halves = [[Codes::zero(); MOST_STEP]; 2];
                    for i in 0..STEP.min(rows.end - row) {
                        halves[i / MOST_STEP][i % MOST_STEP] = w.load(w.row(row + i), k);
                    }
                    let [first, second] = &mut halves;
                    Codes::interleave(first);
                    Codes::interleave(second);
                    let part = (k - cols.start) / Self::OUTPUTS;
                    let to = panel.add((part * GROUP + row - rows.start) * Self::OUTPUTS);
                    for i in 0..MOST_STEP {
                        let [first, second] = [first[i], second[i]].map(|codes| vreinterpretq_s32_s8(codes.0));
                        let pairs = [vzip1q_s32(first, second), vzip2q_s32(first, second)];
                        for (pair, codes) in pairs.into_iter().enumerate() {
                            vst1q_s8(to.add((2 * i + pair) * 2 * STEP).cast(), vreinterpretq_s8_s32(codes));
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_products(block: Block) {
        for tile in 0..block.tiles {
            // SAFETY: the caller vouches for panel, tokens and sums.
            unsafe {
                let tokens: *const i8 = block.tokens.add(tile * Self::TOKENS * block.stride).cast();
                let to: *mut i32 = block.sums.add(tile * Self::TOKENS).cast();
                let mut sums = [[vdupq_n_s32(0); N]; M];
                if !block.first {
                    unroll!(T < M, {
                        unroll!(O < N, {
                            let from = to.add(2 * T * MOST_OUTPUTS + 2 * O);
                            sums[T][O] = vcombine_s32(vld1_s32(from), vld1_s32(from.add(MOST_OUTPUTS)));
                        });
                    });
                }
                for k in (0..block.cols).step_by(STEP) {
                    let mut pairs = [vdupq_n_s8(0); M];
                    unroll!(T < M, {
                        let from = tokens.add(2 * T * block.stride + k);
                        pairs[T] = vcombine_s8(vld1_s8(from), vld1_s8(from.add(block.stride)));
                    });
                    unroll!(O < N, {
                        let rows = vld1q_s8(block.panel.add(k * Self::OUTPUTS + 2 * O * STEP).cast());
                        unroll!(T < M, { sums[T][O] = add_products(sums[T][O], pairs[T], rows) });
                    });
                }
                unroll!(T < M, {
                    unroll!(O < N, {
                        let to = to.add(2 * T * MOST_OUTPUTS + 2 * O);
                        vst1_s32(to, vget_low_s32(sums[T][O]));
                        vst1_s32(to.add(MOST_OUTPUTS), vget_high_s32(sums[T][O]));
                    });
                });
            }
        }
    }
}

/// `sums[t][o] += Σ tokens[t] · rows[o]`: 2 × 2 sums of 8 codes each. (The intrinsic is not stable yet.)
///
/// # Safety
/// The machine has FEAT_I8MM.
#[inline(always)]
unsafe fn add_products(mut sums: int32x4_t, tokens: int8x16_t, rows: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {tokens:v}.16b, {rows:v}.16b",
            sums = inout(vreg) sums,
            tokens = in(vreg) tokens,
            rows = in(vreg) rows,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
