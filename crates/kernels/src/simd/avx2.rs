//! The lanes in AVX2 with FMA and F16C: two registers.

use std::arch::x86_64::*;

use super::chains::chains_with;
use super::dots::dots_with;
use super::levels::{decode_levels_with, dots_of_levels_with};
use super::rows::decode_with;
use super::{Factors, Lanes, Levels, Out, Rows, spin_with};
use crate::lanes::LANES;

/// Lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    // 2 × 3 accumulators are 12 of 16 registers.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_with::<Pair, 2, 3, 4>(x, w, y) }
}

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn chains(factors: Factors<'_>, w: Rows<'_>, y: Out<'_>) {
    // 6 × 1 accumulators are 12 of 16 registers.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { chains_with::<Pair, 6, 1>(factors, w, y) }
}

/// # Safety
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode(from: Rows<'_>, to: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_with::<Pair>(from, to) }
}

/// # Safety
/// The machine has AVX2, FMA and F16C; lengths are checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode_levels(from: Levels<'_>, first: usize, to: &mut [f32]) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_levels_with::<Pair>(from, first, to) }
}

/// # Safety
/// The machine has AVX2, FMA and F16C; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots_of_levels(x: Rows<'_>, w: Levels<'_>, first: usize, y: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_of_levels_with::<Pair, 2>(x, w, first, y) }
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn spin_floats(steps: usize) -> u64 {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { spin_with::<Pair, 6>(steps) }
}

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Lanes for Pair {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Pair(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(16).cast()));
            Pair(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    unsafe fn lookup(table: Self, from: *const u8) -> Self {
        // SAFETY: see above; of an index the low 3 bits count, and the fourth, made a sign, tells the halves apart.
        unsafe {
            let bytes = _mm_loadl_epi64(from.cast());
            let codes = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(bytes), bytes);
            let half = |codes: __m128i| {
                let index = _mm256_cvtepu8_epi32(codes);
                let (low, high) = (_mm256_permutevar8x32_ps(table.0, index), _mm256_permutevar8x32_ps(table.1, index));
                _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
            };
            Pair(half(codes), half(_mm_unpackhi_epi64(codes, codes)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn fold_tile<const M: usize, const N: usize>(sums: [[Self; N]; M]) -> [[f32; N]; M] {
        let mut folded = [[0.0; N]; M];
        let to = folded.as_mut_ptr().cast::<f32>();
        let mut all = [0.0f32; HALF];
        let count = if M * N < HALF { M * N } else { HALF };
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(all.as_mut_ptr(), fold_first(&sums));
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
        }
        folded
    }
}

/// Lanes of a register.
const HALF: usize = LANES / 2;

/// Folds the accumulators of a tile of up to 8, counted row by row.
#[inline(always)]
unsafe fn fold_first<const M: usize, const N: usize>(sums: &[[Pair; N]; M]) -> __m256 {
    const { assert!(M * N <= HALF) };
    // Written out, so that every index is a constant and no register goes through memory.
    macro_rules! sum {
        ($i:literal) => {
            // l += l + 8.
            if $i < M * N {
                let Pair(low, high) = sums[$i / N][$i % N];
                _mm256_add_ps(low, high)
            } else {
                _mm256_setzero_ps()
            }
        };
    }
    // Transposed as a 4 × 2 matrix, which the folding undoes.
    // SAFETY: see above.
    unsafe { fold_eight([sum!(0), sum!(4), sum!(1), sum!(5), sum!(2), sum!(6), sum!(3), sum!(7)]) }
}

/// Folds 8 rows of 8 lanes at once, as AVX-512 does 16 of 16. The sum of row `2 r + q` ends in lane `4 q + r`.
#[inline(always)]
unsafe fn fold_eight(a: [__m256; HALF]) -> __m256 {
    // SAFETY: see above.
    unsafe {
        let zero = _mm256_setzero_ps();
        // l += l + 4: rows of 4 lanes, two to a register.
        let mut fours = [zero; 4];
        for i in 0..4 {
            let (x, y) = (a[2 * i], a[2 * i + 1]);
            fours[i] = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(x, y), _mm256_permute2f128_ps::<0x31>(x, y));
        }
        // l += l + 2 and l += l + 1, within halves of a register.
        let mut twos = [zero; 2];
        for i in 0..2 {
            let (x, y) = (_mm256_castps_pd(fours[2 * i]), _mm256_castps_pd(fours[2 * i + 1]));
            let (low, high) = (_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y));
            twos[i] = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
        }
        let [x, y] = twos;
        _mm256_add_ps(_mm256_shuffle_ps::<0x88>(x, y), _mm256_shuffle_ps::<0xdd>(x, y))
    }
}
