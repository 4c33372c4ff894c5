//! How fast a machine multiplies and reads at best: what products are compared with.

use super::few::AHEAD;
use super::*;
use crate::simd::unroll;

/// Multiplications and additions of codes in registers, `steps` times over: as fast as this thread can. Returns how many
/// operations these were, a multiply-add counted as two.
pub(crate) fn spin_products(isa: Isa, steps: usize) -> u64 {
    match isa {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::spin_products(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { vnni::spin_products_256(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::spin_products(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { vnni::spin_products_512(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { amx::spin_products(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::spin_products(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => unsafe { neon::spin_products_dot(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => unsafe { i8mm::spin_products(steps) },
        _ => scalar::spin_products(steps),
    }
}

/// [`spin_products`] over the registers of one instruction set.
///
/// # Safety
/// As for [`Ints`].
#[inline(always)]
pub(super) unsafe fn spin_with<I: Ints, const CHAINS: usize>(steps: usize) -> u64 {
    const { assert!(CHAINS <= 8) };
    let bytes = std::hint::black_box([3u8; 64]);
    let mut kept = [0u8; 64];
    // SAFETY: a register is at most 64 bytes.
    unsafe {
        let (a, b) = (I::load(bytes.as_ptr()), I::load(bytes.as_ptr()));
        let (mut first, mut second) = ([I::zero(); CHAINS], [I::zero(); CHAINS]);
        for _ in 0..steps {
            unroll!(C < CHAINS, { first[C] = first[C].add_products(a, b) });
            unroll!(C < CHAINS, { second[C] = second[C].add_products(b, a) });
        }
        unroll!(C < CHAINS, {
            first[C].store(kept.as_mut_ptr());
            std::hint::black_box(kept);
            second[C].store(kept.as_mut_ptr());
            std::hint::black_box(kept);
        });
    }
    (steps * 2 * CHAINS * I::WIDTH * 2) as u64
}

/// Reads memory as the products with few tokens do, in as many streams, and does nothing with it.
pub(crate) fn spin_reads(isa: Isa, memory: &[u8]) {
    match isa {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::spin_reads(memory) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => unsafe { avx512::spin_reads(memory) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::spin_reads(memory) },
        _ => {
            let words: &[u64] = bytemuck::pod_align_to(memory).1;
            std::hint::black_box(words.iter().fold(0, |all, word| all ^ word));
        }
    }
}

/// [`spin_reads`] over the registers of one instruction set.
///
/// # Safety
/// As for [`Ints`].
#[inline(always)]
pub(super) unsafe fn reads_with<I: Ints, const R: usize>(memory: &[u8]) {
    let stream = memory.len() / R / PADDING * PADDING;
    let mut kept = [0u8; 64];
    // SAFETY: all streams lie in the memory.
    unsafe {
        let mut sums = [I::zero(); R];
        for start in (0..stream).step_by(PADDING) {
            for i in (0..PADDING).step_by(4 * I::LANES) {
                unroll!(S < R, {
                    let from = memory.as_ptr().add(S * stream + start + i);
                    if i % 64 == 0 {
                        I::prefetch(from.wrapping_add(AHEAD));
                    }
                    let read = I::load(from);
                    sums[S] = sums[S].add_products(read, read);
                });
            }
        }
        unroll!(S < R, {
            sums[S].store(kept.as_mut_ptr());
            std::hint::black_box(kept);
        });
    }
}
