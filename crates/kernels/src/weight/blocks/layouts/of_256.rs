//! Blocks of 256 numbers, whose groups of 16 or 32 have scales that are codes themselves.

use super::{bytes, half};
use crate::simd::bytes::Bytes32;
use crate::weight::blocks::format::Block;

pub(crate) struct Q2K;

impl Block for Q2K {
    const NAME: &'static str = "Q2_K";
    const SIZE: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const SIGNED: bool = false;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = true;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::load(bytes(block, 16 + 32 * (part / 4))).field(2 * (part % 4), 3, 0) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        let (d, m) = (half(block, 80), half(block, 82));
        for group in 0..16 {
            scales[group] = d * f32::from(block[group] & 15);
            minimums[group] = m * f32::from(block[group] >> 4);
        }
    }
}

pub(crate) struct Q3K;

impl Block for Q3K {
    const NAME: &'static str = "Q3_K";
    const SIZE: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const SIGNED: bool = false;
    const ZERO: u8 = 4;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R {
        // SAFETY: the caller's.
        unsafe {
            let quarters = R::load(bytes(block, 32 + 32 * (part / 4))).field(2 * (part % 4), 3, 0);
            quarters.or(R::load(bytes(block, 0)).field(part, 1, 2))
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        let d = half(block, 108);
        let [first, second, upper] = [96, 100, 104].map(|at| u32::from_le_bytes(*bytes(block, at)));
        for (four, low) in [first, second, first >> 4, second >> 4].into_iter().enumerate() {
            let codes = low & 0x0f0f_0f0f | (upper >> (2 * four) & 0x0303_0303) << 4;
            for (scale, code) in scales[4 * four..].iter_mut().zip(codes.to_le_bytes()) {
                *scale = d * f32::from(code as i8 - 32);
            }
        }
    }
}

/// Scales and minimums of Q4_K and Q5_K: f16 `d` and `m`, then 8 of 6 bits each. Of the last four of both, the upper 2 bits
/// stand above the first four.
#[inline(always)]
fn six_bits(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let [s, t, both] = [4, 8, 12].map(|at| u32::from_le_bytes(*bytes(block, at)));
    let whole = |first: u32, last: u32| (u64::from(first) | u64::from(last) << 32).to_le_bytes();
    let upper = |word: u32| word >> 2 & 0x3030_3030;
    let s = whole(s & 0x3f3f_3f3f, both & 0x0f0f_0f0f | upper(s));
    let t = whole(t & 0x3f3f_3f3f, both >> 4 & 0x0f0f_0f0f | upper(t));
    for group in 0..8 {
        scales[group] = d * f32::from(s[group]);
        minimums[group] = m * f32::from(t[group]);
    }
}

pub(crate) struct Q4K;

impl Block for Q4K {
    const NAME: &'static str = "Q4_K";
    const SIZE: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = true;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::load(bytes(block, 16 + 32 * (part / 2))).field(4 * (part % 2), 15, 0) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        six_bits(block, scales, minimums);
    }
}

pub(crate) struct Q5K;

impl Block for Q5K {
    const NAME: &'static str = "Q5_K";
    const SIZE: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = true;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R {
        // SAFETY: the caller's.
        unsafe {
            let halves = R::load(bytes(block, 48 + 32 * (part / 2))).field(4 * (part % 2), 15, 0);
            halves.or(R::load(bytes(block, 16)).field(part, 1, 4))
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        six_bits(block, scales, minimums);
    }
}

pub(crate) struct Q6K;

impl Block for Q6K {
    const NAME: &'static str = "Q6_K";
    const SIZE: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const SIGNED: bool = false;
    const ZERO: u8 = 32;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R {
        // SAFETY: the caller's.
        unsafe {
            let (half, quarter) = (part / 4, part % 4);
            let halves = R::load(bytes(block, 64 * half + 32 * (quarter % 2))).field(4 * (quarter / 2), 15, 0);
            halves.or(R::load(bytes(block, 128 + 32 * half)).field(2 * quarter, 3, 4))
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        let d = half(block, 208);
        for (scale, code) in scales.iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(*code as i8);
        }
    }
}
