//! Products of 32 bytes of a weight with 32 codes of a token, on each kind of x86-64.

use std::arch::x86_64::*;

/// Products of bytes.
///
/// # Safety
/// Functions need the instruction set that the implementation is for, and must be inlined into a function that enables
/// it. Pointers must be valid for 32 codes of a token.
pub(super) trait Products {
    /// What is added to signed bytes of weights, to make them unsigned.
    const BIAS: u8;

    /// 32 codes of a token from a column on, as bytes.
    unsafe fn activations(token: *const u8, column: usize) -> __m256i;
    /// Products of bytes, which are signed if told so, with activations: summed by fours.
    unsafe fn products(weights: __m256i, signed: bool, activations: __m256i) -> __m256i;
}

/// By half words.
pub(super) struct Halves;

/// By AVX-VNNI.
pub(super) struct Vnni256;

/// By AVX-512 VNNI.
pub(super) struct Vnni512;

// SAFETY of all blocks below: the trait demands the instruction set and valid pointers of its callers.
impl Products for Halves {
    const BIAS: u8 = 0;

    #[inline(always)]
    unsafe fn activations(token: *const u8, column: usize) -> __m256i {
        // SAFETY: see above; here codes are half words.
        unsafe {
            let from: *const __m256i = token.add(2 * column).cast();
            let bytes = _mm256_packs_epi16(_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)
        }
    }

    #[inline(always)]
    unsafe fn products(weights: __m256i, signed: bool, activations: __m256i) -> __m256i {
        // SAFETY: see above. Two products fit into 16 bits: 2 · 63 · 127, and 2 · 128 · 127 where the sign moves over.
        unsafe {
            let pairs = if signed {
                _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights))
            } else {
                _mm256_maddubs_epi16(weights, activations)
            };
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
        }
    }
}

macro_rules! vnni {
    ($name:ident, $dot:ident) => {
        impl Products for $name {
            const BIAS: u8 = 128;

            #[inline(always)]
            unsafe fn activations(token: *const u8, column: usize) -> __m256i {
                // SAFETY: see above.
                unsafe { _mm256_loadu_si256(token.add(column).cast()) }
            }

            #[inline(always)]
            unsafe fn products(weights: __m256i, signed: bool, activations: __m256i) -> __m256i {
                // SAFETY: see above.
                unsafe {
                    let bias = _mm256_set1_epi8(Self::BIAS as i8);
                    let weights = if signed { _mm256_xor_si256(weights, bias) } else { weights };
                    $dot(_mm256_setzero_si256(), weights, activations)
                }
            }
        }
    };
}

vnni!(Vnni256, _mm256_dpbusd_avx_epi32);
vnni!(Vnni512, _mm256_dpbusd_epi32);
