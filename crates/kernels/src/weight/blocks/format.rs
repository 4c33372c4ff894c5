//! The block formats of ggml, as its files (GGUF) store them: what a block holds, and what it means.
//!
//! A block of 32 or 256 neighbouring numbers of a row is a few bytes: integer codes, and for each *group* of 16 or 32 of
//! them a scale and, in some formats, a minimum. Every format is the same three arrays when it is unpacked:
//!
//! ```text
//! w[i] = scale[i / GROUP] * code[i] - minimum[i / GROUP]           rounded after each step, as ggml does it in f32
//! ```
//!
//! where a format without minimums has +0 there, which changes no bit. Names and layouts are those of ggml
//! (`ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`); `d` and `m` are f16, little-endian:
//!
//! | format | numbers | bytes | layout | scale | code | minimum |
//! |---|---|---|---|---|---|---|
//! | Q4_0 | 32 | 18 | d, 4-bit halves `[16]` | d | q − 8 | |
//! | Q4_1 | 32 | 20 | d, m, halves | d | q | −m |
//! | Q5_0 | 32 | 22 | d, fifth bits `[4]`, halves | d | q − 16 | |
//! | Q5_1 | 32 | 24 | d, m, fifth bits, halves | d | q | −m |
//! | Q8_0 | 32 | 34 | d, codes `[32]` | d | q | |
//! | Q2_K | 256 | 84 | s `[16]`, 2-bit quarters `[64]`, d, m | d · (s & 15) | q | m · (s >> 4) |
//! | Q3_K | 256 | 110 | third bits `[32]`, quarters `[64]`, 6-bit s `[12]`, d | d · (s − 32) | q − 4 | |
//! | Q4_K | 256 | 144 | d, m, 6-bit s and t `[12]`, halves `[128]` | d · s | q | m · t |
//! | Q5_K | 256 | 176 | d, m, 6-bit s and t, fifth bits `[32]`, halves | d · s | q | m · t |
//! | Q6_K | 256 | 210 | halves `[128]`, upper quarters `[64]`, s `[16]`, d | d · s | q − 32 | |
//! | IQ4_NL | 32 | 18 | d, halves | d | `LEVELS[q]` | |

/// `$body` with `$block` as the type of a format.
macro_rules! in_format {
    ($format:expr, $block:ident => $body:expr) => {{
        use $crate::weight::blocks::{format::BlockFormat, layouts};
        macro_rules! with {
            ($name:ident) => {{
                type $block = layouts::$name;
                $body
            }};
        }
        match $format {
            BlockFormat::Q4_0 => with!(Q4_0),
            BlockFormat::Q4_1 => with!(Q4_1),
            BlockFormat::Q5_0 => with!(Q5_0),
            BlockFormat::Q5_1 => with!(Q5_1),
            BlockFormat::Q8_0 => with!(Q8_0),
            BlockFormat::Q2K => with!(Q2K),
            BlockFormat::Q3K => with!(Q3K),
            BlockFormat::Q4K => with!(Q4K),
            BlockFormat::Q5K => with!(Q5K),
            BlockFormat::Q6K => with!(Q6K),
            BlockFormat::Iq4Nl => with!(Iq4Nl),
        }
    }};
}

pub(crate) use in_format;

use crate::simd::bytes::Bytes32;
use crate::simd::unroll;

/// How the numbers of a block are stored.
#[allow(non_camel_case_types, reason = "the names that ggml and its files have")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 4 bits around 0, a scale per 32.
    Q4_0,
    /// 4 bits from a minimum up, a scale per 32.
    Q4_1,
    /// 5 bits around 0, a scale per 32.
    Q5_0,
    /// 5 bits from a minimum up, a scale per 32.
    Q5_1,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 2 bits from a minimum up, scales of 4 bits per 16.
    Q2K,
    /// 3 bits around 0, scales of 6 bits per 16.
    Q3K,
    /// 4 bits from a minimum up, scales of 6 bits per 32.
    Q4K,
    /// 5 bits from a minimum up, scales of 6 bits per 32.
    Q5K,
    /// 6 bits around 0, scales of 8 bits per 16.
    Q6K,
    /// 4 bits that stand for 16 uneven levels, a scale per 32.
    Iq4Nl,
}

impl BlockFormat {
    /// All of them.
    pub const ALL: [BlockFormat; 11] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Nl,
    ];

    /// Numbers of a block, all of one row.
    pub fn block_size(self) -> usize {
        in_format!(self, B => B::SIZE)
    }

    /// Bytes32 of a block.
    pub fn block_bytes(self) -> usize {
        in_format!(self, B => B::BYTES)
    }

    /// Numbers that share a scale.
    pub(crate) fn group(self) -> usize {
        in_format!(self, B => B::GROUP)
    }

    /// As ggml calls it.
    pub fn name(self) -> &'static str {
        in_format!(self, B => B::NAME)
    }
}

/// Activations that share a scale, where they are rounded.
pub(super) const ACTIVATIONS: usize = 32;

/// Most numbers of a block.
pub(super) const MOST_NUMBERS: usize = 256;

/// Most groups of a block.
pub(crate) const MOST_GROUPS: usize = 16;

/// The compile-time face of a [`BlockFormat`]. All functions are inlined into code for one instruction set.
pub(crate) trait Block {
    const NAME: &'static str;
    /// Numbers.
    const SIZE: usize;
    /// Bytes32.
    const BYTES: usize;
    /// Numbers that share a scale.
    const GROUP: usize;
    /// Whether the bytes of codes are signed; those that are not are below 64.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "others multiply signed bytes alone"))]
    const SIGNED: bool;
    /// What the byte of a code has too much.
    const ZERO: u8;
    /// Whether there are minimums.
    const MINIMUMS: bool;

    /// 32 codes of a block from column `32 · part` on, each with [`ZERO`](Self::ZERO) added.
    ///
    /// # Safety
    /// That of [`Bytes32`].
    unsafe fn codes<R: Bytes32>(block: &[u8], part: usize) -> R;

    /// All codes of a block.
    ///
    /// # Safety
    /// That of [`Bytes32`].
    #[inline(always)]
    unsafe fn all_codes<R: Bytes32>(block: &[u8], codes: &mut [i8]) {
        let codes = codes.as_chunks_mut().0;
        unroll!(PART < 8, {
            if PART < codes.len() {
                // SAFETY: the caller's.
                unsafe { Self::codes::<R>(block, PART) }.store_less(Self::ZERO, &mut codes[PART]);
            }
        });
    }

    /// The scale of each group; and the minimum, which is left as it is in formats that have none.
    fn scales(block: &[u8], scales: &mut [f32], minimums: &mut [f32]);
}
