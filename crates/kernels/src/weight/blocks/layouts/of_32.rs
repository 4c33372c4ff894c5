//! Blocks of 32 numbers, which have one scale, and in some formats one minimum.

use super::{bytes, half};
use crate::simd::bytes::Bytes32;
use crate::weight::blocks::format::Block;

/// Fifth bits of 32 codes, at a byte.
#[inline(always)]
unsafe fn fifth_bits<R: Bytes32>(block: &[u8], at: usize) -> R {
    // SAFETY: the caller's.
    unsafe { R::sixteens(u32::from_le_bytes(*bytes(block, at))) }
}

pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const SIZE: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 8;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::halves(bytes(block, 2)) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const SIZE: usize = 32;
    const BYTES: usize = 20;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = true;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::halves(bytes(block, 4)) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        scales[0] = half(block, 0);
        minimums[0] = -half(block, 2);
    }
}

pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const SIZE: usize = 32;
    const BYTES: usize = 22;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 16;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::halves(bytes(block, 6)).or(fifth_bits(block, 2)) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const SIZE: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const SIGNED: bool = false;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = true;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::halves(bytes(block, 8)).or(fifth_bits(block, 4)) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        scales[0] = half(block, 0);
        minimums[0] = -half(block, 2);
    }
}

pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const SIZE: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const SIGNED: bool = true;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::load(bytes(block, 2)) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

/// What the codes of IQ4_NL mean.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(crate) struct Iq4Nl;

impl Block for Iq4Nl {
    const NAME: &'static str = "IQ4_NL";
    const SIZE: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const SIGNED: bool = true;
    const ZERO: u8 = 0;
    const MINIMUMS: bool = false;

    #[inline(always)]
    unsafe fn codes<R: Bytes32>(block: &[u8], _part: usize) -> R {
        // SAFETY: the caller's.
        unsafe { R::halves(bytes(block, 2)).lookup(&LEVELS) }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}
