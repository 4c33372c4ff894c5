//! What the bytes of each block format hold, as [`format`](super::format) lists them. Eight codes at a time are worked on in
//! a word: a compiler makes better code of it than of bytes one by one.

use super::format::Block;
use crate::lanes::f16_to_f32;

/// The f16 at a byte.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// A byte, eight times.
#[inline(always)]
fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The low halves of bytes, then their high ones.
#[inline(always)]
fn halves(bytes: &[u8], codes: &mut [i8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((bytes, low), high) in bytes.as_chunks().0.iter().zip(low.as_chunks_mut().0).zip(high.as_chunks_mut().0) {
        let word = u64::from_le_bytes(*bytes);
        *low = (word & each(15)).to_le_bytes().map(|byte| byte as i8);
        *high = (word >> 4 & each(15)).to_le_bytes().map(|byte| byte as i8);
    }
}

/// The lowest quarters of bytes, then the next, and so on.
#[inline(always)]
fn quarters(bytes: &[u8], codes: &mut [i8]) {
    for (place, codes) in codes.chunks_exact_mut(bytes.len()).enumerate() {
        for (bytes, codes) in bytes.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
            *codes = (u64::from_le_bytes(*bytes) >> (2 * place) & each(3)).to_le_bytes().map(|byte| byte as i8);
        }
    }
}

/// Takes `zero` off all codes.
#[inline(always)]
fn centre(codes: &mut [i8], zero: u8) {
    for codes in codes.as_chunks_mut().0 {
        // No code borrows from the next: each is less than 128, and has 128 added while `zero` is taken off.
        let word = u64::from_le_bytes(codes.map(|code| code as u8));
        *codes = (((word | each(128)) - each(zero)) ^ each(128)).to_le_bytes().map(|byte| byte as i8);
    }
}

/// The fifth bits of 32 codes.
#[inline(always)]
fn fifth_bits(bits: &[u8], codes: &mut [i8]) {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) << 4) as i8;
    }
}

pub(super) struct Q4_0;

impl Block for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const SIZE: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        halves(&block[2..18], codes);
        centre(codes, 8);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

pub(super) struct Q4_1;

impl Block for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const SIZE: usize = 32;
    const BYTES: usize = 20;
    const GROUP: usize = 32;
    const MINIMUMS: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        halves(&block[4..20], codes);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        scales[0] = half(block, 0);
        minimums[0] = -half(block, 2);
    }
}

pub(super) struct Q5_0;

impl Block for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const SIZE: usize = 32;
    const BYTES: usize = 22;
    const GROUP: usize = 32;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        halves(&block[6..22], codes);
        fifth_bits(&block[2..6], codes);
        centre(codes, 16);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

pub(super) struct Q5_1;

impl Block for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const SIZE: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const MINIMUMS: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        halves(&block[8..24], codes);
        fifth_bits(&block[4..8], codes);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        scales[0] = half(block, 0);
        minimums[0] = -half(block, 2);
    }
}

pub(super) struct Q8_0;

impl Block for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const SIZE: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        for (byte, code) in block[2..34].iter().zip(codes) {
            *code = *byte as i8;
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}

pub(super) struct Q2K;

impl Block for Q2K {
    const NAME: &'static str = "Q2_K";
    const SIZE: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const MINIMUMS: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        quarters(&block[16..48], &mut codes[..128]);
        quarters(&block[48..80], &mut codes[128..]);
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

pub(super) struct Q3K;

impl Block for Q3K {
    const NAME: &'static str = "Q3_K";
    const SIZE: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        quarters(&block[32..64], &mut codes[..128]);
        quarters(&block[64..96], &mut codes[128..]);
        for (place, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (third, code) in block[..32].iter().zip(codes) {
                // The third bit is worth 4, and 4 is the zero.
                *code += (third >> place & 1) as i8 * 4 - 4;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        let (d, packed) = (half(block, 108), &block[96..108]);
        for group in 0..16 {
            let low = packed[group % 8] >> (group / 8 * 4) & 15;
            let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
            scales[group] = d * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

/// Scales and minimums of Q4_K and Q5_K: f16 `d` and `m`, then 8 of 6 bits each. Of the last four of both, the upper 2 bits
/// stand above the first four.
#[inline(always)]
fn six_bits(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
    let (d, m, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    for group in 0..4 {
        let (s, t, both) = (packed[group], packed[group + 4], packed[group + 8]);
        scales[group] = d * f32::from(s & 63);
        minimums[group] = m * f32::from(t & 63);
        scales[group + 4] = d * f32::from(both & 15 | s >> 6 << 4);
        minimums[group + 4] = m * f32::from(both >> 4 | t >> 6 << 4);
    }
}

pub(super) struct Q4K;

impl Block for Q4K {
    const NAME: &'static str = "Q4_K";
    const SIZE: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const MINIMUMS: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        for (bytes, codes) in block[16..144].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            halves(bytes, codes);
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        six_bits(block, scales, minimums);
    }
}

pub(super) struct Q5K;

impl Block for Q5K {
    const NAME: &'static str = "Q5_K";
    const SIZE: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const MINIMUMS: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        for (bytes, codes) in block[48..176].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            halves(bytes, codes);
        }
        for (place, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (fifth, code) in block[16..48].iter().zip(codes) {
                *code |= ((fifth >> place & 1) << 4) as i8;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]) {
        six_bits(block, scales, minimums);
    }
}

pub(super) struct Q6K;

impl Block for Q6K {
    const NAME: &'static str = "Q6_K";
    const SIZE: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        for (part, codes) in codes.chunks_exact_mut(128).enumerate() {
            let (low, upper) = (&block[64 * part..][..64], &block[128 + 32 * part..][..32]);
            halves(low, codes);
            for (place, codes) in codes.chunks_exact_mut(32).enumerate() {
                for (upper, code) in upper.iter().zip(codes) {
                    *code = (*code | ((upper >> (2 * place) & 3) << 4) as i8) - 32;
                }
            }
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

/// What the codes of IQ4_NL mean.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) struct Iq4Nl;

impl Block for Iq4Nl {
    const NAME: &'static str = "IQ4_NL";
    const SIZE: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const MINIMUMS: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [i8]) {
        halves(&block[2..18], codes);
        for code in codes {
            *code = LEVELS[*code as usize & 15];
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _minimums: &mut [f32]) {
        scales[0] = half(block, 0);
    }
}
