//! Exact integer products: int8 codes of weights with int8 codes of activations, summed in 32 bits. No order of a sum
//! shows here, so each instruction set may go its own way; what every product means is written in `scalar.rs`.
//!
//! A register of [`Ints`] holds `LANES` lanes of 32 bits, each with `STEP` neighbouring codes along the inner dimension:
//! 4 bytes where the machine has a dot product of bytes, else 2 half words. Two ways lead through a weight:
//!
//! - few tokens ([`few_with`]): rows are streamed as they lie, several at once, and multiplied with all tokens;
//! - many ([`many_with`]): `N · LANES` rows are packed into a *panel* `[inner / STEP][N · LANES][STEP]`, which stays in
//!   the second cache while all tokens pass by, `M` at a time, one `STEP` of each broadcast to all lanes.
//!
//! And one against it ([`backward_with`]): columns are packed into such panels, of [`GROUP`] rows at a time.
//!
//! Blocks, whose groups of columns have scales of their own, go ways of their own: [`block_rows`] for few tokens, and
//! [`blocks`], in panels, for many.

mod backward;
mod block_rows;
mod blocks;
mod few;
mod many;
mod scalar;
mod source;
mod spin;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "aarch64")]
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tiles;

use std::ops::Range;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use self::backward::backward_with;
use self::blocks::Terms;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use self::blocks::blocks_with;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use self::few::{STREAMS, few_with};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use self::many::many_with;
use self::source::Source;
use self::spin::{reads_with, spin_with};
pub(crate) use self::spin::{spin_products, spin_reads};
use crate::weight::codes::CodeRows;
use crate::{Cpu, Isa};

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::works as amx_works;
pub(crate) use backward::{GROUP, GroupCodes, PANEL, backward};
pub(crate) use block_rows::{block_rows, few_tokens};
pub(crate) use blocks::{BlockCodes, BlockRows, TERMS, block_outputs, blocks};

/// Codes that rows are padded to: two groups of 64.
pub(crate) const PADDING: usize = 128;

/// What is added to a code where an instruction wants it unsigned; taken off again with the sum of the activations.
const BIAS: i32 = 128;

/// Inner columns of a panel.
pub(crate) const BLOCK: usize = 1024;

/// Most outputs of a panel, on any instruction set.
pub(crate) const MOST_OUTPUTS: usize = 64;

/// Most lanes of a register.
pub(crate) const MOST_LANES: usize = 16;

/// Most codes of a lane.
const MOST_STEP: usize = 4;

/// The sums of a token with the rows of a panel.
pub(crate) type Sums = [i32; MOST_OUTPUTS];

/// Integers in a register. Closures are kept out of what is generic over it: they would not take on the instruction set.
///
/// # Safety
/// All functions need the instruction set that the implementation is for, and must be inlined into a function that
/// enables it. Pointers need no alignment; what is read or written must be valid.
pub(crate) trait Ints: Copy {
    /// Codes in a lane.
    const STEP: usize;
    /// 32-bit lanes.
    const LANES: usize;
    /// Whether weights are held as `code + 128`, unsigned.
    const BIASED: bool;
    /// Codes in a register.
    const WIDTH: usize = Self::STEP * Self::LANES;

    /// All 0.
    unsafe fn zero() -> Self;
    /// A register as it is.
    unsafe fn load(from: *const u8) -> Self;
    /// A register as it is.
    unsafe fn store(self, to: *mut u8);
    /// 4 bytes, in every lane.
    unsafe fn broadcast(from: *const u8) -> Self;
    /// `WIDTH` int8 codes.
    unsafe fn codes(from: *const u8) -> Self;
    /// `WIDTH` codes: what `table` (16 int8, biased if we are) has for the low or the high halves of bytes.
    unsafe fn lookup(from: *const u8, table: *const u8, high: bool) -> Self;
    /// Lane by lane, `self + Σ weight · activation`.
    unsafe fn add_products(self, weights: Self, activations: Self) -> Self;
    /// The sum of the lanes of each.
    unsafe fn sums(of: [Self; 4]) -> [i32; 4];
    /// The first `LANES` registers as rows of lanes, turned into columns.
    unsafe fn transpose(rows: &mut [Self; MOST_LANES]);
    /// The first `STEP` registers, `WIDTH` columns of a row each, turned into registers of `LANES` columns each, a lane
    /// with the codes of a column.
    unsafe fn interleave(rows: &mut [Self; MOST_STEP]);
    /// `to[lane] += sum · scale`, rounded once, for each lane of sums.
    unsafe fn add_scaled(self, scale: f32, to: *mut f32);
    /// `to[lane] += sum · (scales[lane] · terms.scale)`, rounded once behind the bracket, for each lane of sums; then
    /// `to[lane] -= minimums[lane] · terms.scaled`, rounded once, where there are minimums.
    unsafe fn add_group(self, scales: *const f32, minimums: Option<*const f32>, terms: Terms, to: *mut f32);

    /// Asks for a cache line that will be read soon; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}
}

/// The codes of tokens, from −127 to 127: `stride` bytes apart, each padded with zeros to a multiple of [`PADDING`] codes.
#[derive(Clone, Copy)]
pub(crate) struct TokenCodes<'a> {
    /// `count * stride` bytes.
    pub(crate) data: &'a [u8],
    /// Tokens.
    pub(crate) count: usize,
    /// Bytes from one token to the next.
    pub(crate) stride: usize,
}

impl TokenCodes<'_> {
    /// Panics unless each token has room for `cols` codes in lanes of `step`.
    fn check(&self, cols: usize, step: usize) {
        let bytes = cols.next_multiple_of(PADDING).checked_mul(4 / step).expect("codes of a token");
        assert!(bytes <= self.stride, "{cols} codes in {} bytes", self.stride);
        assert!(self.count.checked_mul(self.stride).is_some_and(|all| all <= self.data.len()), "codes of tokens");
    }

    /// Where a token begins.
    #[inline(always)]
    fn token(&self, token: usize) -> *const u8 {
        self.data.as_ptr().wrapping_add(token * self.stride)
    }
}

/// Bytes of an activation's code on an instruction set.
pub(crate) fn code_bytes(isa: Isa) -> usize {
    match isa {
        Isa::Scalar | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 1,
        Isa::Avx2 | Isa::Avx512 => 2,
    }
}

/// Outputs that go into one panel on an instruction set.
pub(crate) fn panel_outputs(isa: Isa) -> usize {
    match isa {
        Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 16,
        Isa::Amx => 32,
        Isa::Avx512 | Isa::Avx512Vnni => 64,
    }
}

/// `sums[t * rows.len() + r] = Σ code(row r) · code(token t)`: for few tokens. Panics on shapes that do not fit.
pub(crate) fn few(cpu: &Cpu, w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    assert!(rows.start <= rows.end && rows.end <= w.rows(), "rows");
    assert_eq!(sums.len(), rows.len() * x.count, "sums");
    x.check(w.cols(), 4 / code_bytes(cpu.isa()));
    match cpu.isa() {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has; shapes are checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::few(w, rows, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { vnni::few_256(w, rows, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::few(w, rows, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => unsafe { vnni::few_512(w, rows, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::few(w, rows, x, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::few_dot(w, rows, x, sums) },
        _ => scalar::few(w, rows, x, sums),
    }
}

/// The same sums for many tokens and one panel of rows: `done(token, sums)` with the sums of some tokens from `token` on,
/// of which the first `rows.len()` count.
pub(crate) fn many(
    cpu: &Cpu,
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    assert!(rows.start < rows.end && rows.end <= w.rows() && rows.len() <= panel_outputs(cpu.isa()), "rows");
    x.check(w.cols(), 4 / code_bytes(cpu.isa()));
    match cpu.isa() {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has; shapes are checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::many(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { vnni::many_256(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::many(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { vnni::many_512(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { amx::many(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::many(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => unsafe { neon::many_dot(w, rows, x, done) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => unsafe { i8mm::many(w, rows, x, done) },
        _ => scalar::many(w, rows, x, done),
    }
}

/// Takes off what unsigned codes have too much: `sum` is that of the token's codes.
pub(crate) fn correction(isa: Isa, sum: i32) -> i32 {
    match isa {
        Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => sum.wrapping_mul(-BIAS),
        Isa::Scalar | Isa::Avx2 | Isa::Avx512 | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 0,
    }
}
