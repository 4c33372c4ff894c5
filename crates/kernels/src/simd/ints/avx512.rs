//! AVX-512 without VNNI: codes widened to half words, whose products are summed in pairs.

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
/// The machine has AVX-512 F, BW, DQ and VL; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn few(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe { few_with::<Halves512>(w, rows, x, sums) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, done: impl FnMut(usize, &[Sums])) {
    // 6 × 4 accumulators, 4 of weights, one of a token and its products are 30 of 32 registers.
    // SAFETY: the caller's.
    unsafe { many_with::<Halves512, 6, 4>(w, rows, x, done) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_with::<Halves512, 6, 4>(w, cols, dy, dx) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn blocks(w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { blocks_with::<Halves512, 6, 4>(w, first, x, y) }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn spin_products(steps: usize) -> u64 {
    const CHAINS: usize = 8;
    // SAFETY: the caller's; these instructions touch registers alone.
    unsafe {
        let (a, b) = (_mm512_set1_epi16(3), _mm512_set1_epi16(5));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..steps {
            // In assembly, since a compiler sees that the products are always the same, and makes them once.
            unroll!(C < CHAINS, {
                asm!(
                    "vpmaddwd {products}, {a}, {b}",
                    "vpaddd {sum}, {sum}, {products}",
                    sum = inout(zmm_reg) sums[C],
                    products = out(zmm_reg) _,
                    a = in(zmm_reg) a,
                    b = in(zmm_reg) b,
                    options(nomem, nostack, preserves_flags)
                );
            });
        }
        std::hint::black_box(sums);
        (steps * CHAINS * Halves512::WIDTH * 2) as u64
    }
}

/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn spin_reads(memory: &[u8]) {
    // SAFETY: the caller's.
    unsafe { reads_with::<Halves512, STREAMS>(memory) }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Halves512(__m512i);

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Ints for Halves512 {
    const STEP: usize = 2;
    const LANES: usize = 16;
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Halves512(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves512(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves512(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn codes(from: *const u8) -> Self {
        // SAFETY: see above.
        Halves512(unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            let bytes = if high { _mm256_srli_epi16::<4>(bytes) } else { bytes };
            let halves = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
            Halves512(_mm512_cvtepi8_epi16(_mm256_shuffle_epi8(table, halves)))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self {
        // SAFETY: see above.
        Halves512(unsafe { _mm512_add_epi32(self.0, _mm512_madd_epi16(weights.0, activations.0)) })
    }

    #[inline(always)]
    unsafe fn sums(of: [Self; 4]) -> [i32; 4] {
        let [a, b, c, d] = of;
        // SAFETY: see above.
        unsafe { super::avx2::sums([halve(a.0), halve(b.0), halve(c.0), halve(d.0)]) }
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
            // Four columns in each quarter: of 8 columns the first four, and the others.
            let (first, second) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            let (low, high) =
                (_mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4));
            rows[0] = Halves512(_mm512_permutex2var_epi64(first, low, second));
            rows[1] = Halves512(_mm512_permutex2var_epi64(first, high, second));
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

/// Lanes 0 to 7 and 8 to 15, added.
#[inline(always)]
pub(super) unsafe fn halve(x: __m512i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)) }
}

/// 16 × 16 lanes.
#[inline(always)]
pub(super) unsafe fn transpose(rows: &mut [__m512i; MOST_LANES]) {
    // SAFETY: the caller's.
    unsafe {
        // fours[4 g + c]: columns c, c + 4, c + 8, c + 12 of rows 4 g to 4 g + 3, a quarter of the register each.
        let mut fours = [_mm512_setzero_si512(); 16];
        for g in 0..4 {
            let (a, b, c, d) = (rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]);
            let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            fours[4 * g] = _mm512_unpacklo_epi64(low_ab, low_cd);
            fours[4 * g + 1] = _mm512_unpackhi_epi64(low_ab, low_cd);
            fours[4 * g + 2] = _mm512_unpacklo_epi64(high_ab, high_cd);
            fours[4 * g + 3] = _mm512_unpackhi_epi64(high_ab, high_cd);
        }
        for c in 0..4 {
            let columns = transpose_quarters([fours[c], fours[4 + c], fours[8 + c], fours[12 + c]]);
            for (i, column) in columns.into_iter().enumerate() {
                rows[c + 4 * i] = column;
            }
        }
    }
}

/// 4 × 4 quarters of registers.
#[inline(always)]
pub(super) unsafe fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's.
    unsafe {
        // Quarters 0 and 1 (2 and 3) of two registers.
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
            _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
            _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
            _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
        ]
    }
}

/// `to[lane] += sums[lane] · scale`, rounded once.
#[inline(always)]
pub(super) unsafe fn add_scaled(sums: __m512i, scale: f32, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let sums = _mm512_cvtepi32_ps(sums);
        _mm512_storeu_ps(to, _mm512_fmadd_ps(sums, _mm512_set1_ps(scale), _mm512_loadu_ps(to)));
    }
}

/// [`Ints::add_group`].
#[inline(always)]
pub(super) unsafe fn add_group(
    sums: __m512i,
    scales: *const f32,
    minimums: Option<*const f32>,
    terms: Terms,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let scales = _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(terms.scale));
        let mut total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scales, _mm512_loadu_ps(to));
        if let Some(minimums) = minimums {
            total = _mm512_fnmadd_ps(_mm512_loadu_ps(minimums), _mm512_set1_ps(terms.scaled), total);
        }
        _mm512_storeu_ps(to, total);
    }
}
