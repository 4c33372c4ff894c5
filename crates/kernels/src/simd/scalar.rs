//! The lanes in plain Rust: the truth that the others are tested against.

use super::chains::chains_with;
use super::dots::dots_with;
use super::levels::{decode_levels_with, dots_of_levels_with};
use super::rows::decode_with;
use super::{Factors, Lanes, Levels, Out, Rows, spin_with};
use crate::lanes::{self, LANES};

pub(super) fn dots(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    // SAFETY: plain Rust needs no instruction set.
    unsafe { dots_with::<[f32; LANES], 1, 1, 1>(x, w, y) }
}

pub(super) fn chains(factors: Factors<'_>, w: Rows<'_>, y: Out<'_>) {
    // SAFETY: as above.
    unsafe { chains_with::<[f32; LANES], 1, 1>(factors, w, y) }
}

pub(super) fn decode(from: Rows<'_>, to: Out<'_>) {
    // SAFETY: as above.
    unsafe { decode_with::<[f32; LANES]>(from, to) }
}

pub(super) fn decode_levels(from: Levels<'_>, first: usize, to: &mut [f32]) {
    // SAFETY: as above.
    unsafe { decode_levels_with::<[f32; LANES]>(from, first, to) }
}

pub(super) fn dots_of_levels(x: Rows<'_>, w: Levels<'_>, first: usize, y: Out<'_>) {
    // SAFETY: as above.
    unsafe { dots_of_levels_with::<[f32; LANES], 1>(x, w, first, y) }
}

pub(super) fn spin_floats(steps: usize) -> u64 {
    // SAFETY: as above.
    unsafe { spin_with::<[f32; LANES], 1>(steps) }
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 16 numbers.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 numbers.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(lanes::f16_to_f32)
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 numbers.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(lanes::bf16_to_f32)
    }

    #[inline(always)]
    unsafe fn lookup(table: Self, from: *const u8) -> Self {
        // SAFETY: the caller vouches for 8 bytes.
        let bytes = unsafe { from.cast::<[u8; LANES / 2]>().read_unaligned() };
        std::array::from_fn(|i| table[usize::from(if i % 2 == 0 { bytes[i / 2] >> 4 } else { bytes[i / 2] & 15 })])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 16 numbers.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for l in 0..LANES {
            self[l] = a[l].mul_add(b[l], self[l]);
        }
        self
    }

    #[inline(always)]
    unsafe fn fold_tile<const M: usize, const N: usize>(sums: [[Self; N]; M]) -> [[f32; N]; M] {
        sums.map(|row| row.map(lanes::fold))
    }
}
