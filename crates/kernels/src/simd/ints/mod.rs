//! Exact integer products: int8 codes of weights with int8 codes of activations, summed in 32 bits. No order of a sum
//! shows here, so each instruction set may go its own way; what every product means is written in `scalar.rs`.
//!
//! A register of [`Ints`] holds `LANES` lanes of 32 bits, each with `STEP` neighbouring codes along the inner dimension:
//! 4 bytes where the machine has a dot product of bytes, else 2 half words. Two ways lead through a weight:
//!
//! - few tokens ([`few_with`]): rows are streamed as they lie, several at once, and multiplied with all tokens;
//! - many ([`many_with`]): `N · LANES` rows are packed into a *panel* `[inner / STEP][N · LANES][STEP]`, which stays in
//!   the second cache while all tokens pass by, `M` at a time, one `STEP` of each broadcast to all lanes.

mod scalar;

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

use super::unroll;
use crate::scratch::Scratch;
use crate::weight::codes::{CodeRows, Int4Rows, Int8Rows};
use crate::{Cpu, Isa};

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::works as amx_works;

/// Codes that rows are padded to: two groups of 64.
pub(crate) const PADDING: usize = 128;

/// What is added to a code where an instruction wants it unsigned; taken off again with the sum of the activations.
const BIAS: i32 = 128;

/// Inner columns of a panel.
const BLOCK: usize = 1024;

/// Most outputs of a panel, on any instruction set.
pub(crate) const MOST_OUTPUTS: usize = 64;

/// Most lanes of a register.
pub(crate) const MOST_LANES: usize = 16;

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

/// Rows of codes as registers read them.
trait Source: Copy {
    /// Where a row is.
    type Row: Copy;
    /// Cache lines of [`PADDING`] codes.
    const LINES: usize;

    /// A row, which must exist.
    fn row(self, row: usize) -> Self::Row;

    /// `WIDTH` codes of a row from column `k`, a multiple of `WIDTH`, on. Those behind the last column are 0.
    ///
    /// # Safety
    /// As for [`Ints`]; `k` is below the number of columns.
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I;

    /// Where the codes of a row from column `k` on are, roughly.
    fn address(row: Self::Row, k: usize) -> *const u8;
}

impl Source for Int8Rows<'_> {
    type Row = *const u8;
    const LINES: usize = 2;

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        self.data[row * self.cols..][..self.cols].as_ptr()
    }

    #[inline(always)]
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I {
        let from = Self::address(row, k);
        let left = self.cols - k;
        // SAFETY: the caller's; what lies behind the row is not read.
        unsafe {
            if left >= I::WIDTH {
                return I::codes(from);
            }
            let mut padded = [0u8; 64];
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), left);
            I::codes(padded.as_ptr())
        }
    }

    #[inline(always)]
    fn address(row: Self::Row, k: usize) -> *const u8 {
        row.wrapping_add(k)
    }
}

impl Source for Int4Rows<'_> {
    /// Codes and scales.
    type Row = (*const u8, *const u8);
    const LINES: usize = 1;

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        let codes = &self.data[row * self.groups * 32..][..self.groups * 32];
        (codes.as_ptr(), self.scales[row * self.groups..][..self.groups].as_ptr())
    }

    #[inline(always)]
    unsafe fn load<I: Ints>(self, row: Self::Row, k: usize) -> I {
        // SAFETY: the caller's; rows are stored padded, and each group has a scale.
        unsafe {
            let table = Int4Rows::table(*row.1.add(k / 64), I::BIASED);
            I::lookup(Self::address(row, k), table, k % PADDING >= 64)
        }
    }

    #[inline(always)]
    fn address(row: Self::Row, k: usize) -> *const u8 {
        row.0.wrapping_add(k / PADDING * 64 + k % 64)
    }
}

/// Rows that are streamed at once.
const STREAMS: usize = 4;

/// [`few`] over the registers of one instruction set.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
unsafe fn few_with<I: Ints>(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, sums: &mut [i32]) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => few_rows::<I, _, STREAMS>(w, w.cols, rows, x, sums),
            CodeRows::Int4(w) => few_rows::<I, _, STREAMS>(w, w.cols, rows, x, sums),
        }
    }
}

#[inline(always)]
unsafe fn few_rows<I: Ints, S: Source, const R: usize>(
    w: S,
    cols: usize,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    sums: &mut [i32],
) {
    // Each stream has its own part of the rows, so that it goes on where it is, far from the others.
    let count = rows.len();
    let part = count.div_ceil(R);
    for index in 0..part {
        let place = |stream: usize| stream * part + index;
        let here = (0..R).take_while(|&stream| place(stream) < count).count();
        // Where there are fewer rows, the first stands in; its copies are not stored.
        let mut streams = [w.row(rows.start + index); R];
        for (stream, row) in streams.iter_mut().enumerate().take(here) {
            *row = w.row(rows.start + place(stream));
        }
        let mut token = 0;
        while token < x.count {
            // SAFETY: rows and tokens exist.
            let (tile, four) = unsafe {
                match x.count - token {
                    1 => few_tile::<I, S, R, 1>(w, cols, streams, x, token),
                    2 => few_tile::<I, S, R, 2>(w, cols, streams, x, token),
                    3 => few_tile::<I, S, R, 3>(w, cols, streams, x, token),
                    _ => few_tile::<I, S, R, 4>(w, cols, streams, x, token),
                }
            };
            for of_token in &four[..tile] {
                for (stream, sum) in of_token[..here].iter().enumerate() {
                    sums[token * count + place(stream)] = *sum;
                }
                token += 1;
            }
        }
    }
}

/// `R` rows, up to 4, with `T` tokens from `token` on; returns `T`, and the sums of each.
#[inline(always)]
unsafe fn few_tile<I: Ints, S: Source, const R: usize, const T: usize>(
    w: S,
    cols: usize,
    rows: [S::Row; R],
    x: TokenCodes<'_>,
    token: usize,
) -> (usize, [[i32; 4]; 4]) {
    // SAFETY: rows and tokens exist, and tokens are padded.
    unsafe {
        let mut sums = [[I::zero(); R]; T];
        let mut tokens = [x.token(token); T];
        for i in 1..T {
            tokens[i] = x.token(token + i);
        }
        let whole = cols - cols % PADDING;
        let mut start = 0;
        while start < whole {
            unroll!(O < R, {
                for line in 0..S::LINES {
                    I::prefetch(S::address(rows[O], start).wrapping_add(AHEAD + 64 * line));
                }
            });
            for i in 0..PADDING / I::WIDTH {
                few_step::<I, S, R, T>(w, rows, tokens, start + i * I::WIDTH, &mut sums);
            }
            start += PADDING;
        }
        while start < cols {
            few_step::<I, S, R, T>(w, rows, tokens, start, &mut sums);
            start += I::WIDTH;
        }
        let mut folded = [[0; 4]; 4];
        unroll!(U < T, { folded[U % 4] = I::sums(first_four(sums[U])) });
        (T, folded)
    }
}

/// One register of each row.
#[inline(always)]
unsafe fn few_step<I: Ints, S: Source, const R: usize, const T: usize>(
    w: S,
    rows: [S::Row; R],
    tokens: [*const u8; T],
    k: usize,
    sums: &mut [[I; R]; T],
) {
    // SAFETY: rows and tokens exist, and tokens are padded.
    unsafe {
        let mut weights = [I::zero(); R];
        unroll!(O < R, { weights[O] = w.load::<I>(rows[O], k) });
        unroll!(U < T, {
            let activations = I::load(tokens[U].add(k * 4 / I::STEP));
            unroll!(O < R, { sums[U][O] = sums[U][O].add_products(weights[O], activations) });
        });
    }
}

/// As many registers as there are, and the first again.
#[inline(always)]
fn first_four<I: Copy, const R: usize>(x: [I; R]) -> [I; 4] {
    let mut four = [x[0]; 4];
    unroll!(O < R, { four[O % 4] = x[O] });
    four
}

/// How many bytes ahead rows are asked for.
const AHEAD: usize = 2048;

/// [`many`] over the registers of one instruction set, in tiles of `M` tokens by `N` registers.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
unsafe fn many_with<I: Ints, const M: usize, const N: usize>(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => many_rows::<I, _, M, N>(w, w.cols, rows, x, done),
            CodeRows::Int4(w) => many_rows::<I, _, M, N>(w, w.cols, rows, x, done),
        }
    }
}

#[inline(always)]
unsafe fn many_rows<I: Ints, S: Source, const M: usize, const N: usize>(
    w: S,
    cols: usize,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    mut done: impl FnMut(usize, &[Sums]),
) {
    const { assert!(N * I::LANES <= MOST_OUTPUTS && M <= 8) };
    let (outputs, register) = (N * I::LANES, I::LANES * 4);
    let block = cols.min(BLOCK).next_multiple_of(PADDING);
    let mut panel = Scratch::new(block / I::STEP * outputs);
    let panel: &mut [u8] = bytemuck::cast_slice_mut(&mut panel);
    let panel = panel.as_mut_ptr();
    let tiles = x.count.div_ceil(M);
    // Sums that wait for the next block of columns.
    let mut waiting = Scratch::new(if cols > BLOCK { tiles * M * outputs } else { 0 });
    let waiting: &mut [u8] = bytemuck::cast_slice_mut(&mut waiting);
    let waiting = waiting.as_mut_ptr();
    let mut sums = [[0i32; MOST_OUTPUTS]; M];
    // SAFETY: the panel has room for a block, `waiting` for every tile, rows and tokens exist.
    unsafe {
        for start in (0..cols).step_by(BLOCK) {
            let end = cols.min(start + BLOCK);
            pack::<I, S, N>(w, rows.clone(), start..end, panel);
            let steps = (end - start).next_multiple_of(I::WIDTH) / I::STEP;
            let (first, last) = (start == 0, end == cols);
            for tile in 0..tiles {
                let token = tile * M;
                let mut from = [x.token(token).wrapping_add(start * 4 / I::STEP); M];
                for i in 1..M.min(x.count - token) {
                    from[i] = x.token(token + i).wrapping_add(start * 4 / I::STEP);
                }
                let kept = waiting.wrapping_add(token * outputs * 4);
                let mut tile_sums = [[I::zero(); N]; M];
                if !first {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O] = I::load(kept.add((T * N + O) * register)) });
                    });
                }
                let tile_sums = many_tile::<I, M, N>(panel, steps, from, tile_sums);
                if last {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O].store(sums[T].as_mut_ptr().add(O * I::LANES).cast()) });
                    });
                    done(token, &sums[..M.min(x.count - token)]);
                } else {
                    unroll!(T < M, {
                        unroll!(O < N, { tile_sums[T][O].store(kept.add((T * N + O) * register)) });
                    });
                }
            }
        }
    }
}

/// Packs columns of rows into a panel; rows that are not there are 0.
#[inline(always)]
unsafe fn pack<I: Ints, S: Source, const N: usize>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
    let register = I::LANES * 4;
    for k in cols.clone().step_by(I::WIDTH) {
        let step = (k - cols.start) / I::STEP;
        for n in 0..N {
            // SAFETY: the rows that are read exist, and the panel has room for all steps of the block.
            unsafe {
                let mut lanes = [I::zero(); MOST_LANES];
                for lane in 0..I::LANES {
                    let row = rows.start + n * I::LANES + lane;
                    if row < rows.end {
                        lanes[lane] = w.load::<I>(w.row(row), k);
                    }
                }
                I::transpose(&mut lanes);
                for lane in 0..I::LANES {
                    lanes[lane].store(panel.add(((step + lane) * N + n) * register));
                }
            }
        }
    }
}

/// The hot loop: continues the sums of a tile over a panel.
#[inline(always)]
unsafe fn many_tile<I: Ints, const M: usize, const N: usize>(
    panel: *const u8,
    steps: usize,
    tokens: [*const u8; M],
    mut sums: [[I; N]; M],
) -> [[I; N]; M] {
    let register = I::LANES * 4;
    // SAFETY: the caller vouches for `steps` in the panel and in each token.
    unsafe {
        for step in 0..steps {
            let mut weights = [I::zero(); N];
            unroll!(O < N, { weights[O] = I::load(panel.add((step * N + O) * register)) });
            unroll!(T < M, {
                let activations = I::broadcast(tokens[T].add(step * 4));
                unroll!(O < N, { sums[T][O] = sums[T][O].add_products(weights[O], activations) });
            });
        }
    }
    sums
}

/// Takes off what unsigned codes have too much: `sum` is that of the token's codes.
pub(crate) fn correction(isa: Isa, sum: i32) -> i32 {
    match isa {
        Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => sum.wrapping_mul(-BIAS),
        Isa::Scalar | Isa::Avx2 | Isa::Avx512 | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 0,
    }
}

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
unsafe fn spin_with<I: Ints, const CHAINS: usize>(steps: usize) -> u64 {
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
unsafe fn reads_with<I: Ints, const R: usize>(memory: &[u8]) {
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
