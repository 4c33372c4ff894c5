//! The lanes in AVX-512: one register.

use std::arch::x86_64::*;

use super::chains::chains_with;
use super::dots::dots_with;
use super::levels::{decode_levels_with, dots_of_levels_with};
use super::rows::decode_with;
use super::{Factors, Lanes, Levels, Out, Rows, spin_with};
use crate::lanes::LANES;

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dots(x: Rows<'_>, w: Rows<'_>, y: Out<'_>) {
    // 4 × 6 accumulators, 4 of x and one of w leave 3 of 32 registers.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_with::<__m512, 4, 6, 8>(x, w, y) }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn chains(factors: Factors<'_>, w: Rows<'_>, y: Out<'_>) {
    // 6 × 4 accumulators and 4 of w; the factors are broadcast from memory.
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { chains_with::<__m512, 6, 4>(factors, w, y) }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn decode(from: Rows<'_>, to: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_with::<__m512>(from, to) }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL; lengths are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn decode_levels(from: Levels<'_>, first: usize, to: &mut [f32]) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { decode_levels_with::<__m512>(from, first, to) }
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dots_of_levels(x: Rows<'_>, w: Levels<'_>, first: usize, y: Out<'_>) {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { dots_of_levels_with::<__m512, 4>(x, w, first, y) }
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn spin_floats(steps: usize) -> u64 {
    // SAFETY: the instruction set is here, by the caller's word.
    unsafe { spin_with::<__m512, 8>(steps) }
}

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Lanes for __m512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: see above; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn lookup(table: Self, from: *const u8) -> Self {
        // SAFETY: see above; of an index the low 4 bits count.
        unsafe {
            let bytes = _mm_loadl_epi64(from.cast());
            let codes = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(bytes), bytes);
            _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), table)
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: see above.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as __mmask16, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn fold_tile<const M: usize, const N: usize>(sums: [[Self; N]; M]) -> [[f32; N]; M] {
        let mut folded = [[0.0; N]; M];
        let to = folded.as_mut_ptr().cast::<f32>();
        // SAFETY: see above.
        unsafe {
            fold_from::<M, N, 0>(&sums).store_first(to, if M * N < LANES { M * N } else { LANES });
            if M * N > LANES {
                fold_from::<M, N, LANES>(&sums).store_first(to.add(LANES), M * N - LANES);
            }
        }
        folded
    }
}

/// Folds accumulators `FIRST .. FIRST + 16` of a tile of up to 32, counted row by row.
#[inline(always)]
unsafe fn fold_from<const M: usize, const N: usize, const FIRST: usize>(sums: &[[__m512; N]; M]) -> __m512 {
    const { assert!(M * N <= 2 * LANES) };
    // Written out, so that every index is a constant and no register goes through memory.
    macro_rules! sum {
        ($i:literal) => {
            if FIRST + $i < M * N { sums[(FIRST + $i) / N][(FIRST + $i) % N] } else { _mm512_setzero_ps() }
        };
    }
    // SAFETY: see above.
    unsafe {
        // Transposed as a 4 × 4 matrix, which the folding undoes.
        fold_sixteen([
            sum!(0),
            sum!(4),
            sum!(8),
            sum!(12),
            sum!(1),
            sum!(5),
            sum!(9),
            sum!(13),
            sum!(2),
            sum!(6),
            sum!(10),
            sum!(14),
            sum!(3),
            sum!(7),
            sum!(11),
            sum!(15),
        ])
    }
}

/// Folds 16 accumulators at once: each step adds the upper half of every row to its lower half, and thereby brings two
/// rows into one register. The sum of row `4 r + q` ends in lane `4 q + r`.
#[inline(always)]
unsafe fn fold_sixteen(a: [__m512; LANES]) -> __m512 {
    // SAFETY: see above.
    unsafe {
        let zero = _mm512_setzero_ps();
        // l += l + 8: rows of 8 lanes, two to a register.
        let mut eights = [zero; 8];
        for i in 0..8 {
            let (x, y) = (a[2 * i], a[2 * i + 1]);
            eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(x, y), _mm512_shuffle_f32x4::<0xee>(x, y));
        }
        // l += l + 4: rows of 4 lanes, four to a register.
        let mut fours = [zero; 4];
        for i in 0..4 {
            let (x, y) = (eights[2 * i], eights[2 * i + 1]);
            fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(x, y), _mm512_shuffle_f32x4::<0xdd>(x, y));
        }
        // l += l + 2 and l += l + 1, within quarters of a register.
        let mut twos = [zero; 2];
        for i in 0..2 {
            let (x, y) = (_mm512_castps_pd(fours[2 * i]), _mm512_castps_pd(fours[2 * i + 1]));
            let (low, high) = (_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
            twos[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        }
        let [x, y] = twos;
        _mm512_add_ps(_mm512_shuffle_ps::<0x88>(x, y), _mm512_shuffle_ps::<0xdd>(x, y))
    }
}
