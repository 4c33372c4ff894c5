//! NEON: dot products of bytes, by one instruction where the machine has FEAT_DotProd, by four elsewhere.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::blocks::Terms;
use super::{
    BlockCodes, BlockRows, GroupCodes, Ints, MOST_LANES, MOST_STEP, STREAMS, Sums, TokenCodes, backward_with,
    blocks_with, few_with, many_with, reads_with, spin_with,
};
use crate::weight::codes::CodeRows;

/// # Safety
/// The machine has NEON; shapes are checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn few(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Bytes128<false>>(w, rows, x, sums) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, done: impl FnMut(usize, &[Sums])) {
    // 5 × 4 accumulators, 4 of weights, one of a token and its products leave room among 32 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Bytes128<false>, 5, 4>(w, rows, x, done) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Bytes128<false>, 5, 4>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn blocks(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Bytes128<false>, 5, 4>(w, first, x, y) }
}

/// # Safety
/// The machine has NEON and FEAT_DotProd; shapes are checked.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn few_dot(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Bytes128<true>>(w, rows, x, sums) }
}

/// # Safety
/// As [`few_dot`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn many_dot(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // 6 × 4 accumulators, 4 of weights and one of a token are 29 of 32 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Bytes128<true>, 6, 4>(w, rows, x, done) }
}

/// # Safety
/// As [`few_dot`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn backward_dot(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Bytes128<true>, 6, 4>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few_dot`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn blocks_dot(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Bytes128<true>, 6, 4>(w, first, x, y) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn spin_products(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_with::<Bytes128<false>, 8>(steps) }
}

/// # Safety
/// As [`few_dot`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn spin_products_dot(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_with::<Bytes128<true>, 8>(steps) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn spin_reads(memory: &[u8]) {
    // SAFETY: the caller's.
    unsafe { reads_with::<Bytes128<false>, STREAMS>(memory) }
}

/// 16 codes, or 4 sums. `DOT`: the machine has FEAT_DotProd.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes128<const DOT: bool>(pub(super) int8x16_t);

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl<const DOT: bool> Ints for Bytes128<DOT> {
    const STEP: usize = 4;
    const LANES: usize = 4;
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Bytes128(unsafe { vdupq_n_s8(0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes128(unsafe { vld1q_s8(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { vst1q_s8(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes128(unsafe { vreinterpretq_s8_s32(vdupq_n_s32(from.cast::<i32>().read_unaligned())) })
    }

    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self::load(from) }
    }

    #[inline(always)]
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1q_u8(from);
            let halves = if high { vshrq_n_u8::<4>(bytes) } else { vandq_u8(bytes, vdupq_n_u8(15)) };
            Bytes128(vqtbl1q_s8(vld1q_s8(table.cast()), halves))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            if DOT {
                let mut sums = self.0;
                // The intrinsic is not stable yet.
                asm!(
                    "sdot {sums:v}.4s, {weights:v}.16b, {activations:v}.16b",
                    sums = inout(vreg) sums,
                    weights = in(vreg) weights.0,
                    activations = in(vreg) activations.0,
                    options(pure, nomem, nostack, preserves_flags),
                );
                return Bytes128(sums);
            }
            // Activations are at least −127, so two products fit into 16 bits.
            let low = vmull_s8(vget_low_s8(weights.0), vget_low_s8(activations.0));
            let high = vmull_high_s8(weights.0, activations.0);
            let sums = vpadalq_s16(vreinterpretq_s32_s8(self.0), vpaddq_s16(low, high));
            Bytes128(vreinterpretq_s8_s32(sums))
        }
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [i32; 4] {
        let mut sums = [0; 4];
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = of.map(|lanes| vreinterpretq_s32_s8(lanes.0));
            vst1q_s32(sums.as_mut_ptr(), vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
        }
        sums
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = [rows[0], rows[1], rows[2], rows[3]].map(|row| vreinterpretq_s32_s8(row.0));
            let (even, odd) = ([vtrn1q_s32(a, b), vtrn1q_s32(c, d)], [vtrn2q_s32(a, b), vtrn2q_s32(c, d)]);
            for (i, [upper, lower]) in [even, odd].into_iter().enumerate() {
                let (upper, lower) = (vreinterpretq_s64_s32(upper), vreinterpretq_s64_s32(lower));
                rows[i] = Bytes128(vreinterpretq_s8_s64(vtrn1q_s64(upper, lower)));
                rows[i + 2] = Bytes128(vreinterpretq_s8_s64(vtrn2q_s64(upper, lower)));
            }
        }
    }

    #[inline(always)]
    unsafe fn interleave(rows: &mut [Self; MOST_STEP]) {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = rows.map(|row| row.0);
            for (i, [ab, cd]) in [[vzip1q_s8(a, b), vzip1q_s8(c, d)], [vzip2q_s8(a, b), vzip2q_s8(c, d)]]
                .map(|pairs| pairs.map(|pair| vreinterpretq_s16_s8(pair)))
                .into_iter()
                .enumerate()
            {
                rows[2 * i] = Bytes128(vreinterpretq_s8_s16(vzip1q_s16(ab, cd)));
                rows[2 * i + 1] = Bytes128(vreinterpretq_s8_s16(vzip2q_s16(ab, cd)));
            }
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: f32, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            let sums = vcvtq_f32_s32(vreinterpretq_s32_s8(self.0));
            vst1q_f32(to, vfmaq_n_f32(vld1q_f32(to), sums, scale));
        }
    }

    #[inline(always)]
    unsafe fn add_group(self, scales: *const f32, minimums: Option<*const f32>, terms: Terms, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            let sums = vcvtq_f32_s32(vreinterpretq_s32_s8(self.0));
            let mut total = vfmaq_f32(vld1q_f32(to), sums, vmulq_n_f32(vld1q_f32(scales), terms.scale));
            if let Some(minimums) = minimums {
                total = vfmsq_n_f32(total, vld1q_f32(minimums), terms.scaled);
            }
            vst1q_f32(to, total);
        }
    }
}
