//! 32 bytes in registers, with what taking blocks of ggml apart needs: the layout of a block format is written once over
//! them.

/// 32 bytes. Signed and unsigned ones are the same here.
///
/// # Safety
/// Functions that make bytes from memory need the instruction set that the implementation is for, and must be inlined into
/// a function that enables it. Who has bytes has it.
pub(crate) trait Bytes32: Copy {
    /// As they lie.
    unsafe fn load(from: &[u8; 32]) -> Self;
    /// The low halves of 16 bytes, then their high ones.
    unsafe fn halves(from: &[u8; 16]) -> Self;
    /// 16 where a bit is set.
    unsafe fn sixteens(bits: u32) -> Self;
    /// Of each byte the bits of `mask`, from bit `from` on, moved to bit `to`.
    fn field(self, from: usize, mask: u8, to: usize) -> Self;
    /// Bitwise or.
    fn or(self, other: Self) -> Self;
    /// For each byte, which is below 16, what the table has there.
    fn lookup(self, table: &[i8; 16]) -> Self;
    /// Each less `zero`, into memory.
    fn store_less(self, zero: u8, to: &mut [i8; 32]);
}

/// In memory: for every machine.
#[derive(Clone, Copy)]
pub(crate) struct PlainBytes([u8; 32]);

impl Bytes32 for PlainBytes {
    #[inline(always)]
    unsafe fn load(from: &[u8; 32]) -> Self {
        PlainBytes(*from)
    }

    #[inline(always)]
    unsafe fn halves(from: &[u8; 16]) -> Self {
        let mut bytes = [0; 32];
        for i in 0..16 {
            bytes[i] = from[i] & 15;
            bytes[16 + i] = from[i] >> 4;
        }
        PlainBytes(bytes)
    }

    #[inline(always)]
    unsafe fn sixteens(bits: u32) -> Self {
        let mut bytes = [0; 32];
        for i in 0..32 {
            bytes[i] = ((bits >> i & 1) << 4) as u8;
        }
        PlainBytes(bytes)
    }

    #[inline(always)]
    fn field(mut self, from: usize, mask: u8, to: usize) -> Self {
        for byte in &mut self.0 {
            *byte = (*byte >> from & mask) << to;
        }
        self
    }

    #[inline(always)]
    fn or(mut self, other: Self) -> Self {
        for i in 0..32 {
            self.0[i] |= other.0[i];
        }
        self
    }

    #[inline(always)]
    fn lookup(mut self, table: &[i8; 16]) -> Self {
        for byte in &mut self.0 {
            *byte = table[usize::from(*byte & 15)] as u8;
        }
        self
    }

    #[inline(always)]
    fn store_less(self, zero: u8, to: &mut [i8; 32]) {
        for i in 0..32 {
            to[i] = self.0[i].wrapping_sub(zero) as i8;
        }
    }
}

/// In a register of AVX2.
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Avx2Bytes;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Bytes32;

    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub(crate) struct Avx2Bytes(pub(crate) __m256i);

    // SAFETY of all blocks below: who makes bytes has AVX2, says the trait, and so has who has them.
    impl Bytes32 for Avx2Bytes {
        #[inline(always)]
        unsafe fn load(from: &[u8; 32]) -> Self {
            // SAFETY: see above.
            Avx2Bytes(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
        }

        #[inline(always)]
        unsafe fn halves(from: &[u8; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let bytes = _mm_loadu_si128(from.as_ptr().cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
                Avx2Bytes(_mm256_and_si256(both, _mm256_set1_epi8(15)))
            }
        }

        #[inline(always)]
        unsafe fn sixteens(bits: u32) -> Self {
            // SAFETY: see above.
            unsafe {
                // Byte i / 8 of the bits, for byte i.
                let places = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
                let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), places);
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
                Avx2Bytes(_mm256_and_si256(set, _mm256_set1_epi8(16)))
            }
        }

        #[inline(always)]
        fn field(self, from: usize, mask: u8, to: usize) -> Self {
            // SAFETY: see above.
            unsafe {
                // By constants, once this is inlined.
                let moved = match from as isize - to as isize {
                    -4 => _mm256_slli_epi16::<4>(self.0),
                    -3 => _mm256_slli_epi16::<3>(self.0),
                    -2 => _mm256_slli_epi16::<2>(self.0),
                    -1 => _mm256_slli_epi16::<1>(self.0),
                    0 => self.0,
                    1 => _mm256_srli_epi16::<1>(self.0),
                    2 => _mm256_srli_epi16::<2>(self.0),
                    3 => _mm256_srli_epi16::<3>(self.0),
                    4 => _mm256_srli_epi16::<4>(self.0),
                    5 => _mm256_srli_epi16::<5>(self.0),
                    6 => _mm256_srli_epi16::<6>(self.0),
                    distance => unreachable!("bits moved by {distance}"),
                };
                Avx2Bytes(_mm256_and_si256(moved, _mm256_set1_epi8((mask << to) as i8)))
            }
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            // SAFETY: see above.
            Avx2Bytes(unsafe { _mm256_or_si256(self.0, other.0) })
        }

        #[inline(always)]
        fn lookup(self, table: &[i8; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                Avx2Bytes(_mm256_shuffle_epi8(table, self.0))
            }
        }

        #[inline(always)]
        fn store_less(self, zero: u8, to: &mut [i8; 32]) {
            // SAFETY: see above.
            unsafe {
                let less = _mm256_sub_epi8(self.0, _mm256_set1_epi8(zero as i8));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), less);
            }
        }
    }
}
