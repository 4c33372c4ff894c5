//! What the bytes of each block format hold, as [`format`](mod@super::format) lists them.

mod of_256;
mod of_32;

pub(crate) use of_32::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use of_256::{Q2K, Q3K, Q4K, Q5K, Q6K};

use crate::lanes::f16_to_f32;

/// Some bytes of a block, from one on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a whole block")
}

/// The f16 at a byte.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes(*bytes(block, at)))
}
