//! The lanes in NEON: four registers.

use std::arch::aarch64::*;

use super::chains::chains_with;
use super::dots::dots_with;
use super::levels::{decode_levels_with, dots_of_levels_with};
use super::rows::decode_with;
use super::{Factors, Lanes, Levels, Out, Rows, spin_with};
use crate::lanes::{self, LANES};

/// Lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15.
#[derive(Clone, Copy)]
pub(super) struct Quad([float32x4_t; 4]);

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dots(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    // 2 × 2 accumulators are 16 of 32 registers.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_with::<Quad, 2, 2, 4>(x, w, y) }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn chains(factors: Factors<'_>, w: Rows<'_>, y: Out<'_>) {
    // 4 × 1 accumulators are 16 of 32 registers.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { chains_with::<Quad, 4, 1>(factors, w, y) }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn decode(from: Rows<'_>, to: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_with::<Quad>(from, to) }
}

/// # Safety
/// The machine has NEON; lengths are checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn decode_levels(from: Levels<'_>, first: usize, to: &mut [f32]) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_levels_with::<Quad>(from, first, to) }
}

/// # Safety
/// The machine has NEON; shapes are checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dots_of_levels(x: Rows<'_>, w: Levels<'_>, first: usize, y: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_of_levels_with::<Quad, 2>(x, w, first, y) }
}

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn spin_floats(steps: usize) -> u64 {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { spin_with::<Quad, 6>(steps) }
}

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Lanes for Quad {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { Self::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Quad([vdupq_n_f32(x); 4]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Quad([vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: see above; the trick of `lanes::f16_to_f32` becomes vector code by itself.
        unsafe { Self::load(from.cast::<[u16; LANES]>().read_unaligned().map(lanes::f16_to_f32).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self::load(from.cast::<[u16; LANES]>().read_unaligned().map(lanes::bf16_to_f32).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn lookup(table: Self, from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1_u8(from);
            let codes =
                vzip1q_u8(vcombine_u8(vshr_n_u8::<4>(bytes), bytes), vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), bytes));
            let table = uint8x16x4_t(
                vreinterpretq_u8_f32(table.0[0]),
                vreinterpretq_u8_f32(table.0[1]),
                vreinterpretq_u8_f32(table.0[2]),
                vreinterpretq_u8_f32(table.0[3]),
            );
            let (low, high) = (vmovl_u8(vget_low_u8(codes)), vmovl_u8(vget_high_u8(codes)));
            let quarters = [vget_low_u16(low), vget_high_u16(low), vget_low_u16(high), vget_high_u16(high)];
            Quad(quarters.map(|codes| {
                // The four bytes of a number stand at 4 times its code.
                let places = vmlaq_n_u32(vdupq_n_u32(0x0302_0100), vmovl_u16(codes), 0x0404_0404);
                vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(places)))
            }))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for i in 0..4 {
            // SAFETY: see above.
            unsafe { vst1q_f32(to.add(4 * i), self.0[i]) };
        }
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..4 {
            // SAFETY: see above.
            self.0[i] = unsafe { vfmaq_f32(self.0[i], a.0[i], b.0[i]) };
        }
        self
    }

    #[inline(always)]
    unsafe fn fold_tile<const M: usize, const N: usize>(sums: [[Self; N]; M]) -> [[f32; N]; M] {
        let mut folded = [[0.0; N]; M];
        for i in 0..M * N {
            let Quad([a, b, c, d]) = sums[i / N][i % N];
            // SAFETY: see above.
            unsafe {
                let fours = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
                let twos = vadd_f32(vget_low_f32(fours), vget_high_f32(fours));
                folded[i / N][i % N] = vget_lane_f32::<0>(twos) + vget_lane_f32::<1>(twos);
            }
        }
        folded
    }
}
