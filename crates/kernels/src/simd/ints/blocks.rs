//! Products of codes in groups of 16 or 32 columns, each with a scale: rows are packed into a panel, some columns at a time,
//! and all tokens pass by. The sum of each group is exact; scaled, it is added to what those before it gave.

use super::many::{many_tile, pack};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{BIAS, BLOCK, Ints, MOST_OUTPUTS, PADDING, TokenCodes, code_bytes, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, vnni};
use crate::scratch::Scratch;
use crate::simd::unroll;
use crate::weight::codes::Int8Rows;
use crate::{Cpu, Isa};

/// Words beside the codes of a group of a token: its scale; the sum of its codes, an integer; and that sum times the scale.
pub(crate) const TERMS: usize = 3;

/// Codes of tokens, and the [`TERMS`] of each `group` of columns.
#[derive(Clone, Copy)]
pub(crate) struct BlockCodes<'a> {
    /// Both, in the bytes of each token.
    pub(crate) tokens: TokenCodes<'a>,
    /// Bytes from the first code of a token to its first terms.
    pub(crate) terms: usize,
    /// Columns of a group: 16 or 32.
    pub(crate) group: usize,
}

impl BlockCodes<'_> {
    /// Panics unless each token has codes and terms for `cols` columns in groups of `group`.
    pub(super) fn check(&self, group: usize, cols: usize, isa: Isa) {
        assert!(self.group == group && matches!(group, 16 | 32) && cols.is_multiple_of(group), "columns");
        self.tokens.check(cols, 4 / code_bytes(isa));
        let terms = self.terms.checked_add(4 * TERMS * (cols / group)).expect("terms of a token");
        assert!(terms <= self.tokens.stride, "terms of {cols} columns");
    }

    /// The terms of a group.
    #[inline(always)]
    pub(super) fn terms(&self, token: usize, group: usize) -> Terms {
        let at = token * self.tokens.stride + self.terms + 4 * TERMS * group;
        let [scale, sum, scaled]: [f32; TERMS] = bytemuck::pod_read_unaligned(&self.tokens.data[at..at + 4 * TERMS]);
        Terms { scale, sum: sum.to_bits() as i32, scaled }
    }
}

/// The [`TERMS`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Terms {
    pub(super) scale: f32,
    pub(super) sum: i32,
    pub(super) scaled: f32,
}

/// Some columns of up to [`MOST_OUTPUTS`] rows.
#[derive(Clone, Copy)]
pub(crate) struct BlockRows<'a> {
    pub(crate) codes: Int8Rows<'a>,
    /// `[groups][MOST_OUTPUTS]`.
    pub(crate) scales: &'a [f32],
    /// The same, in formats that have them.
    pub(crate) minimums: Option<&'a [f32]>,
}

impl BlockRows<'_> {
    /// `to[o] += sums[o] · (scale(o) · scale) - minimum(o) · sum` for the outputs of a group, two roundings of the sum.
    #[inline(always)]
    pub(super) fn add_group(&self, group: usize, sums: &[i32], terms: Terms, to: &mut [f32]) {
        let here = group * MOST_OUTPUTS..group * MOST_OUTPUTS + to.len();
        for ((to, sum), row_scale) in to.iter_mut().zip(sums).zip(&self.scales[here.clone()]) {
            *to = (*sum as f32).mul_add(row_scale * terms.scale, *to);
        }
        if let Some(minimums) = self.minimums {
            for (to, minimum) in to.iter_mut().zip(&minimums[here]) {
                *to = (-minimum).mul_add(terms.scaled, *to);
            }
        }
    }
}

/// Outputs that go into one panel on an instruction set.
pub(crate) fn block_outputs(isa: Isa) -> usize {
    match isa {
        Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 16,
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => 64,
    }
}

/// `y[t * MOST_OUTPUTS + r] += Σ_g (Σ_(k in g) code(row r, k) code(token t, first + k)) (scale(r, g) scale(t, g)) -
/// minimum(r, g) sum(t, g)`: the inner sum is exact, the outer one continues a chain in ascending order. What lies behind
/// the rows may be anything. Panics on shapes that do not fit, and unless `first` is a multiple of [`PADDING`].
pub(crate) fn blocks(cpu: &Cpu, w: BlockRows<'_>, first: usize, x: BlockCodes<'_>, y: &mut [f32]) {
    let (rows, cols) = (w.codes.rows, w.codes.cols);
    assert!(rows <= block_outputs(cpu.isa()) && w.codes.data.len() == rows * cols, "rows");
    assert!(cols <= BLOCK, "columns");
    assert!(first.is_multiple_of(PADDING), "the first column");
    assert_eq!(y.len(), x.tokens.count * MOST_OUTPUTS, "room for sums");
    x.check(x.group, first + cols, cpu.isa());
    match cpu.isa() {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has; shapes are checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::blocks(w, first, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { vnni::blocks_256(w, first, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::blocks(w, first, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => unsafe { vnni::blocks_512(w, first, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::blocks(w, first, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::blocks_dot(w, first, x, y) },
        _ => scalar::blocks(w, first, x, y),
    }
}

/// [`blocks`] over the registers of one instruction set, in tiles of up to `M` tokens by `N` registers.
///
/// # Safety
/// As for [`Ints`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn blocks_with<I: Ints, const M: usize, const N: usize>(
    w: BlockRows<'_>,
    first: usize,
    x: BlockCodes<'_>,
    y: &mut [f32],
) {
    const { assert!(N * I::LANES <= MOST_OUTPUTS && M <= 8) };
    let mut panel = Scratch::new(w.codes.cols.next_multiple_of(I::WIDTH) / I::STEP * N * I::LANES);
    let panel: *mut u8 = panel.as_mut_ptr().cast();
    // SAFETY: the panel has room for all columns; tokens have them.
    unsafe {
        pack::<I, _, N>(w.codes, 0..w.codes.rows, 0..w.codes.cols, panel);
        let mut token = 0;
        while token < x.tokens.count {
            token += match x.tokens.count - token {
                1 => tile::<I, 1, N>(w, panel, first, x, token, y),
                left if left < M => tile::<I, 2, N>(w, panel, first, x, token, y),
                _ => tile::<I, M, N>(w, panel, first, x, token, y),
            };
        }
    }
}

/// `M` tokens from `token` on; returns `M`.
#[inline(always)]
unsafe fn tile<I: Ints, const M: usize, const N: usize>(
    w: BlockRows<'_>,
    panel: *const u8,
    first: usize,
    x: BlockCodes<'_>,
    token: usize,
    y: &mut [f32],
) -> usize {
    let (steps, register) = (x.group / I::STEP, I::LANES * 4);
    let y: &mut [f32] = &mut y[token * MOST_OUTPUTS..][..M * MOST_OUTPUTS];
    let y = y.as_mut_ptr();
    assert!(w.scales.len() >= w.codes.cols / x.group * MOST_OUTPUTS, "scales");
    assert!(w.minimums.is_none_or(|minimums| minimums.len() >= w.codes.cols / x.group * MOST_OUTPUTS), "minimums");
    for (group, start) in (0..w.codes.cols).step_by(x.group).enumerate() {
        let (mut codes, mut terms) = ([x.tokens.token(token); M], [Terms::default(); M]);
        // SAFETY: the caller's.
        let mut sums = [[unsafe { I::zero() }; N]; M];
        for i in 0..M {
            codes[i] = x.tokens.token(token + i).wrapping_add((first + start) * 4 / I::STEP);
            terms[i] = x.terms(token + i, (first + start) / x.group);
        }
        // SAFETY: the caller's.
        unsafe {
            if I::BIASED {
                unroll!(T < M, {
                    let biased = terms[T].sum.wrapping_mul(-BIAS);
                    sums[T] = [I::broadcast((&raw const biased).cast()); N];
                });
            }
            let sums = many_tile::<I, M, N>(panel.add(group * steps * N * register), steps, codes, sums);
            let scales = w.scales.as_ptr().add(group * MOST_OUTPUTS);
            let minimums = w.minimums.map(|minimums| minimums.as_ptr().add(group * MOST_OUTPUTS));
            unroll!(T < M, {
                unroll!(O < N, {
                    let (place, to) = (O * I::LANES, y.add(T * MOST_OUTPUTS + O * I::LANES));
                    let minimums = minimums.map(|minimums| minimums.wrapping_add(place));
                    sums[T][O].add_group(scales.add(place), minimums, terms[T], to);
                });
            });
        }
    }
    M
}
