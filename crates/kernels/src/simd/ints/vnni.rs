//! Dot products of bytes: AVX-512 VNNI in registers of 512 bits, AVX-VNNI in 256. Weights are unsigned here.

use std::arch::x86_64::*;
use std::ops::Range;

use super::blocks::Terms;
use super::{
    BlockCodes, BlockRows, GroupCodes, Ints, MOST_LANES, MOST_STEP, Sums, TokenCodes, backward_with, blocks_with,
    few_with, many_with, spin_with,
};
use crate::weight::codes::CodeRows;

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn few_512(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Bytes512>(w, rows, x, sums) }
}

/// # Safety
/// As [`few_512`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn many_512(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // 6 × 4 accumulators, 4 of weights and one of a token are 29 of 32 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Bytes512, 6, 4>(w, rows, x, done) }
}

/// # Safety
/// As [`few_512`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn backward_512(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Bytes512, 6, 4>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few_512`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn blocks_512(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Bytes512, 6, 4>(w, first, x, y) }
}

/// # Safety
/// The machine has AVX2, FMA, F16C and AVX-VNNI; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn few_256(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Bytes256>(w, rows, x, sums) }
}

/// # Safety
/// As [`few_256`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn many_256(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // 6 × 2 accumulators, 2 of weights and one of a token are 15 of 16 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Bytes256, 6, 2>(w, rows, x, done) }
}

/// # Safety
/// As [`few_256`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn backward_256(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Bytes256, 6, 2>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few_256`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn blocks_256(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Bytes256, 6, 2>(w, first, x, y) }
}

/// # Safety
/// As [`few_512`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn spin_products_512(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_with::<Bytes512, 8>(steps) }
}

/// # Safety
/// As [`few_256`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn spin_products_256(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_with::<Bytes256, 6>(steps) }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes512(__m512i);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes256(__m256i);

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Ints for Bytes512 {
    const STEP: usize = 4;
    const LANES: usize = 16;
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Bytes512(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes512(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes512(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes512(unsafe { _mm512_xor_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(i8::MIN)) })
    }

    #[inline(always)]
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            let bytes = if high { _mm512_srli_epi16::<4>(bytes) } else { bytes };
            let halves = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
            Bytes512(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.cast())), halves))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self {
        // SAFETY: see above.
        Bytes512(unsafe { _mm512_dpbusd_epi32(self.0, weights.0, activations.0) })
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [i32; 4] {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = of;
            super::avx2::sums([
                super::avx512::halve(a.0),
                super::avx512::halve(b.0),
                super::avx512::halve(c.0),
                super::avx512::halve(d.0),
            ])
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above; a register is all that it holds.
        unsafe { super::avx512::transpose(&mut *std::ptr::from_mut(rows).cast()) }
    }

    #[inline(always)]
    unsafe fn interleave(rows: &mut [Self; MOST_STEP]) {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = rows.map(|row| row.0);
            let (low_ab, high_ab) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            // Four columns in each quarter: of 16 columns the first four, the second four, and so on.
            let fours = [
                _mm512_unpacklo_epi16(low_ab, low_cd),
                _mm512_unpackhi_epi16(low_ab, low_cd),
                _mm512_unpacklo_epi16(high_ab, high_cd),
                _mm512_unpackhi_epi16(high_ab, high_cd),
            ];
            *rows = super::avx512::transpose_quarters(fours).map(Bytes512);
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: f32, to: *mut f32) {
        // SAFETY: see above.
        unsafe { super::avx512::add_scaled(self.0, scale, to) }
    }

    #[inline(always)]
    unsafe fn add_group(self, scales: *const f32, minimums: Option<*const f32>, terms: Terms, to: *mut f32) {
        // SAFETY: see above.
        unsafe { super::avx512::add_group(self.0, scales, minimums, terms, to) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

impl Ints for Bytes256 {
    const STEP: usize = 4;
    const LANES: usize = 8;
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Bytes256(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes256(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes256(unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self {
        // SAFETY: see above.
        Bytes256(unsafe { _mm256_xor_si256(_mm256_loadu_si256(from.cast()), _mm256_set1_epi8(i8::MIN)) })
    }

    #[inline(always)]
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            let bytes = if high { _mm256_srli_epi16::<4>(bytes) } else { bytes };
            let halves = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
            Bytes256(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast())), halves))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self {
        // SAFETY: see above.
        Bytes256(unsafe { _mm256_dpbusd_avx_epi32(self.0, weights.0, activations.0) })
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [i32; 4] {
        let [a, b, c, d] = of;
        // SAFETY: see above.
        unsafe { super::avx2::sums([a.0, b.0, c.0, d.0]) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above; a register is all that it holds.
        unsafe { super::avx2::transpose(&mut *std::ptr::from_mut(rows).cast()) }
    }

    #[inline(always)]
    unsafe fn interleave(rows: &mut [Self; MOST_STEP]) {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = rows.map(|row| row.0);
            let (low_ab, high_ab) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let (low_cd, high_cd) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
            // Four columns in each half: of 16 columns the first four and the second four, and the others.
            let (first, second) = (_mm256_unpacklo_epi16(low_ab, low_cd), _mm256_unpackhi_epi16(low_ab, low_cd));
            let (third, fourth) = (_mm256_unpacklo_epi16(high_ab, high_cd), _mm256_unpackhi_epi16(high_ab, high_cd));
            *rows = [
                Bytes256(_mm256_permute2x128_si256::<0x20>(first, second)),
                Bytes256(_mm256_permute2x128_si256::<0x20>(third, fourth)),
                Bytes256(_mm256_permute2x128_si256::<0x31>(first, second)),
                Bytes256(_mm256_permute2x128_si256::<0x31>(third, fourth)),
            ];
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: f32, to: *mut f32) {
        // SAFETY: see above.
        unsafe { super::avx2::add_scaled(self.0, scale, to) }
    }

    #[inline(always)]
    unsafe fn add_group(self, scales: *const f32, minimums: Option<*const f32>, terms: Terms, to: *mut f32) {
        // SAFETY: see above.
        unsafe { super::avx2::add_group(self.0, scales, minimums, terms, to) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}
