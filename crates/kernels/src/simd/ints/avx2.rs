//! AVX2: codes widened to half words, whose products are summed in pairs.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::blocks::Terms;
use super::{
    BlockCodes, BlockRows, GroupCodes, Ints, MOST_LANES, MOST_STEP, STREAMS, Sums, TokenCodes, backward_with,
    blocks_with, few_with, many_with, reads_with,
};
use crate::simd::unroll;
use crate::weight::codes::CodeRows;

/// # Safety
/// The machine has AVX2, FMA and F16C; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn few(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Halves256>(w, rows, x, sums) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, done: impl FnMut(usize, &[Sums])) {
    // 6 × 2 accumulators, 2 of weights, one of a token and its products are all 16 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Halves256, 6, 2>(w, rows, x, done) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Halves256, 6, 2>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocks(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Halves256, 6, 2>(w, first, x, y) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn spin_products(steps: usize) -> u64 {
    const CHAINS: usize = 8;
    // SAFETY: the caller's; these instructions touch registers alone.
    unsafe {
        let (a, b) = (_mm256_set1_epi16(3), _mm256_set1_epi16(5));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..steps {
            // In assembly, since a compiler sees that the products are always the same, and makes them once.
            unroll!(C < CHAINS, {
                asm!(
                    "vpmaddwd {products}, {a}, {b}",
                    "vpaddd {sum}, {sum}, {products}",
                    sum = inout(ymm_reg) sums[C],
                    products = out(ymm_reg) _,
                    a = in(ymm_reg) a,
                    b = in(ymm_reg) b,
                    options(nomem, nostack, preserves_flags)
                );
            });
        }
        std::hint::black_box(sums);
        (steps * CHAINS * Halves256::WIDTH * 2) as u64
    }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn spin_reads(memory: &[u8]) {
    // SAFETY: the caller's.
    unsafe { reads_with::<Halves256, STREAMS>(memory) }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Halves256(__m256i);

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Ints for Halves256 {
    const STEP: usize = 2;
    const LANES: usize = 8;
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Halves256(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves256(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves256(unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves256(unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let bytes = if high { _mm_srli_epi16::<4>(bytes) } else { bytes };
            let halves = _mm_and_si128(bytes, _mm_set1_epi8(15));
            Halves256(_mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(table.cast()), halves)))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self {
        // SAFETY: see above.
        Halves256(unsafe { _mm256_add_epi32(self.0, _mm256_madd_epi16(weights.0, activations.0)) })
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [i32; 4] {
        let [a, b, c, d] = of;
        // SAFETY: see above.
        unsafe { sums([a.0, b.0, c.0, d.0]) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above; a register is all that it holds.
        unsafe { transpose(&mut *std::ptr::from_mut(rows).cast()) }
    }

    #[inline(always)]
    unsafe fn interleave(rows: &mut [Self; MOST_STEP]) {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (rows[0].0, rows[1].0);
            // Four columns in each half: of 8 columns the first four, and the others.
            let (first, second) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            rows[0] = Halves256(_mm256_permute2x128_si256::<0x20>(first, second));
            rows[1] = Halves256(_mm256_permute2x128_si256::<0x31>(first, second));
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(self, scale: f32, to: *mut f32) {
        // SAFETY: see above.
        unsafe { add_scaled(self.0, scale, to) }
    }

    #[inline(always)]
    unsafe fn add_group(self, scales: *const f32, minimums: Option<*const f32>, terms: Terms, to: *mut f32) {
        // SAFETY: see above.
        unsafe { add_group(self.0, scales, minimums, terms, to) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

/// The sum of the lanes of each.
#[inline(always)]
pub(super) unsafe fn sums([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
    let mut sums = [0; 4];
    // SAFETY: the caller's.
    unsafe {
        let quarters = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let all = _mm_add_epi32(_mm256_castsi256_si128(quarters), _mm256_extracti128_si256::<1>(quarters));
        _mm_storeu_si128(sums.as_mut_ptr().cast(), all);
    }
    sums
}

/// `to[lane] += sums[lane] · scale`, rounded once.
#[inline(always)]
pub(super) unsafe fn add_scaled(sums: __m256i, scale: f32, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let sums = _mm256_cvtepi32_ps(sums);
        _mm256_storeu_ps(to, _mm256_fmadd_ps(sums, _mm256_set1_ps(scale), _mm256_loadu_ps(to)));
    }
}

/// [`Ints::add_group`].
#[inline(always)]
pub(super) unsafe fn add_group(
    sums: __m256i,
    scales: *const f32,
    minimums: Option<*const f32>,
    terms: Terms,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let scales = _mm256_mul_ps(_mm256_loadu_ps(scales), _mm256_set1_ps(terms.scale));
        let mut total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scales, _mm256_loadu_ps(to));
        if let Some(minimums) = minimums {
            total = _mm256_fnmadd_ps(_mm256_loadu_ps(minimums), _mm256_set1_ps(terms.scaled), total);
        }
        _mm256_storeu_ps(to, total);
    }
}

/// 8 × 8 lanes; the other registers are left alone.
#[inline(always)]
pub(super) unsafe fn transpose(rows: &mut [__m256i; MOST_LANES]) {
    // SAFETY: the caller's.
    unsafe {
        let mut pairs = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // fours[4 h + c]: column c (and c + 4 in the upper half) of rows 4 h to 4 h + 3.
        let mut fours = [_mm256_setzero_si256(); 8];
        for h in 0..2 {
            fours[4 * h] = _mm256_unpacklo_epi64(pairs[4 * h], pairs[4 * h + 2]);
            fours[4 * h + 1] = _mm256_unpackhi_epi64(pairs[4 * h], pairs[4 * h + 2]);
            fours[4 * h + 2] = _mm256_unpacklo_epi64(pairs[4 * h + 1], pairs[4 * h + 3]);
            fours[4 * h + 3] = _mm256_unpackhi_epi64(pairs[4 * h + 1], pairs[4 * h + 3]);
        }
        for c in 0..4 {
            rows[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
            rows[c + 4] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
        }
    }
}
