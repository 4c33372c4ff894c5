//! One source, several instruction sets.

/// Makes a function that runs `body` compiled for the instruction set of its [`Cpu`](crate::Cpu), which becomes its
/// first argument. The body must be plain Rust over `#[inline(always)]` functions; what it computes then cannot differ.
macro_rules! per_isa {
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
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // Plain Rust is NEON code on aarch64 already.
                _ => body($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;

use crate::lanes;

/// Factors of a chain: `data[0], data[step], data[2 step], …`.
#[derive(Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) step: usize,
    pub(crate) len: usize,
}

per_isa! {
    /// `y[o] = x · w[o]` by rule 1, where `w` is `[y.len(), x.len()]`.
    pub(crate) fn dots(x: &[f32], w: &[f32], y: &mut [f32]) {
        for (o, y) in y.iter_mut().enumerate() {
            *y = lanes::dot(x, &w[o * x.len()..][..x.len()]);
        }
    }
}

per_isa! {
    /// `y += Σ factor · row` by rule 3, where `rows` is `[factors.len, y.len()]`.
    pub(crate) fn chains(factors: Chain<'_>, rows: &[f32], y: &mut [f32]) {
        for i in 0..factors.len {
            let factor = factors.data[i * factors.step];
            let row = &rows[i * y.len()..][..y.len()];
            for (y, w) in y.iter_mut().zip(row) {
                *y = factor.mul_add(*w, *y);
            }
        }
    }
}

per_isa! {
    /// Widens f16 numbers, two bytes each.
    pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
        for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *out = lanes::f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        }
    }
}

per_isa! {
    /// Widens bf16 numbers, two bytes each.
    pub(crate) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
        for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *out = lanes::bf16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        }
    }
}
