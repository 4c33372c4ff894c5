//! One source, several instruction sets.
//!
//! Two tools, for two kinds of code:
//!
//! - [`per_isa!`] compiles plain Rust once per instruction set and lets the compiler vectorize it: the ops.
//! - [`Lanes`] names the 16 virtual lanes of rule 1 as a type, with explicit intrinsics for each instruction set. The
//!   tiles of [`dots`](mod@dots) and [`chains`](mod@chains), where nearly all time is spent, are written once over it.
//!
//! Both lean on one fact: a [`Cpu`](crate::Cpu) holds only an instruction set that this machine has.

pub(crate) mod bytes;
mod chains;
mod dots;
pub(crate) mod ints;
mod levels;
mod per_isa;
mod rows;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::lanes::LANES;

pub(crate) use chains::{Factors, chains};
pub(crate) use dots::dots;
pub(crate) use levels::{BLOCK, Levels, decode_levels, dots_of_levels};
pub(crate) use rows::{Out, Rows, decode};

pub(crate) use per_isa::per_isa;

/// The same choice for a function that each instruction set's module has under one name.
macro_rules! in_isa {
    ($cpu:expr, $name:ident($($arg:expr),* $(,)?)) => {
        match $cpu.isa() {
            // SAFETY: a `Cpu` holds only an instruction set that this machine has.
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { $crate::simd::avx2::$name($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx512 | $crate::Isa::Avx512Vnni | $crate::Isa::Amx => unsafe { $crate::simd::avx512::$name($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            $crate::Isa::Neon | $crate::Isa::NeonDot | $crate::Isa::NeonI8mm => unsafe {
                $crate::simd::neon::$name($($arg),*)
            },
            _ => $crate::simd::scalar::$name($($arg),*),
        }
    };
}

pub(crate) use in_isa;

/// `for $i in 0..$n`, with `$n` up to 8, written out: `$i` is a literal in each copy. A tile's accumulators stay in
/// registers only if every index to them is a constant before the compiler's first pass; it unrolls loops too late.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        $crate::simd::unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $n:expr, $body:block, $($literal:literal)*) => {
        $({
            const $i: usize = $literal;
            if $i < $n $body
        })*
    };
}

pub(crate) use unroll;

/// 16 numbers in registers.
///
/// # Safety
/// All functions need the instruction set that the implementation is for, and must be inlined into a function that
/// enables it. Pointers need no alignment; what is read or written must be valid.
pub(crate) trait Lanes: Copy {
    /// All 0.
    unsafe fn zero() -> Self;
    /// All the same.
    unsafe fn splat(x: f32) -> Self;
    /// 16 numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// 16 f16 numbers, widened.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// 16 bf16 numbers, widened.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// 16 codes of 4 bits in 8 bytes, the first in the high half: for each the number of that place in `table`.
    unsafe fn lookup(table: Self, from: *const u8) -> Self;
    /// 16 numbers.
    unsafe fn store(self, to: *mut f32);
    /// `a · b + self`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// Each accumulator folded by the tree of rule 1.
    unsafe fn fold_tile<const M: usize, const N: usize>(sums: [[Self; N]; M]) -> [[f32; N]; M];

    /// Asks for a cache line that will be read soon; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

    /// Reads the first `count` numbers; the others are 0.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut all = [0.0; LANES];
        // SAFETY: the caller vouches for `count` numbers, fewer than there are lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
            Self::load(all.as_ptr())
        }
    }

    /// Writes the first `count` numbers.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut all = [0.0; LANES];
        // SAFETY: the caller vouches for `count` numbers, fewer than there are lanes.
        unsafe {
            self.store(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
        }
    }

    /// [`add_product`](Self::add_product) in the first `count` lanes; the others are left as they are.
    #[inline(always)]
    unsafe fn add_product_first(self, a: Self, b: Self, count: usize) -> Self {
        let mut all = [0.0; LANES];
        // SAFETY: `all` has room for all lanes, and `store_first` writes a part of them.
        unsafe {
            self.store(all.as_mut_ptr());
            self.add_product(a, b).store_first(all.as_mut_ptr(), count);
            Self::load(all.as_ptr())
        }
    }
}

/// Asks for a cache line that will be read soon, where there is a way to; any address will do.
#[inline(always)]
pub(crate) fn prefetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// How a number is stored; the compile-time face of [`FloatEncoding`](crate::FloatEncoding).
pub(crate) trait Stored {
    /// Bytes of a number.
    const BYTES: usize;

    /// 16 numbers, widened.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const u8) -> L;

    /// The first `count` numbers, widened; the others are 0.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const u8, count: usize) -> L {
        let mut all = [0u8; LANES * 4];
        // SAFETY: the caller vouches for `count` numbers, fewer than there are lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count * Self::BYTES);
            Self::load(all.as_ptr())
        }
    }
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Bf16;

impl Stored for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's.
        unsafe { L::load(from.cast()) }
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_f16(from) }
    }
}

impl Stored for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_bf16(from) }
    }
}

/// Fused multiply-adds in registers, `steps` times over: as fast as this thread can. Returns how many operations these
/// were, a multiply-add counted as two.
pub(crate) fn spin_floats(isa: crate::Isa, steps: usize) -> u64 {
    match isa {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has.
        #[cfg(target_arch = "x86_64")]
        crate::Isa::Avx2 | crate::Isa::AvxVnni => unsafe { avx2::spin_floats(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        crate::Isa::Avx512 | crate::Isa::Avx512Vnni | crate::Isa::Amx => unsafe { avx512::spin_floats(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        crate::Isa::Neon | crate::Isa::NeonDot | crate::Isa::NeonI8mm => unsafe { neon::spin_floats(steps) },
        _ => scalar::spin_floats(steps),
    }
}

/// [`spin_floats`] over the lanes of one instruction set.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn spin_with<L: Lanes, const CHAINS: usize>(steps: usize) -> u64 {
    const { assert!(CHAINS <= 8) };
    let (a, b) = std::hint::black_box((0.5f32, 0.25f32));
    let mut kept = [0.0; LANES];
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (L::splat(a), L::splat(b));
        let mut sums = [L::zero(); CHAINS];
        for _ in 0..steps {
            unroll!(C < CHAINS, { sums[C] = sums[C].add_product(a, b) });
        }
        unroll!(C < CHAINS, {
            sums[C].store(kept.as_mut_ptr());
            std::hint::black_box(kept);
        });
    }
    (steps * CHAINS * LANES * 2) as u64
}
