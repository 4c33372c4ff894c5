//! Plain Rust, compiled once per instruction set.

/// Makes a function that runs `body` compiled for the instruction set of its [`Cpu`](crate::Cpu), which becomes its
/// first argument. The body must be plain Rust over `#[inline(always)]` functions; what it computes then cannot differ.
///
/// With a type in angle brackets the body is generic over it, and gets the `Bytes32` of the instruction set;
/// it then has the body of an unsafe function, whose promise the macro keeps.
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$bytes:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $vis fn $name(cpu: &$crate::Cpu, $($arg: $ty),*) {
            #[inline(always)]
            unsafe fn body<$bytes: $crate::simd::bytes::Bytes32>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) {
                // SAFETY: this is AVX2.
                unsafe { body::<$crate::simd::bytes::Avx2Bytes>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) {
                // SAFETY: this has AVX2.
                unsafe { body::<$crate::simd::bytes::Avx2Bytes>($($arg),*) }
            }
            match cpu.isa() {
                // SAFETY: a `Cpu` holds only an instruction set that this machine has.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Avx512Vnni | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                // SAFETY: needs nothing.
                _ => unsafe { body::<$crate::simd::bytes::PlainBytes>($($arg),*) },
            }
        }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name(cpu: &$crate::Cpu, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }
            match cpu.isa() {
                // SAFETY: a `Cpu` holds only an instruction set that this machine has.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Avx512Vnni | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                // Plain Rust is NEON code on aarch64 already.
                _ => body($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;
