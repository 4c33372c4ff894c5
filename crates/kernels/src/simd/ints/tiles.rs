//! Many tokens where an instruction multiplies whole matrices: FEAT_I8MM and AMX. The panels of [`many`](super::many) are
//! walked in tiles of [`Tiles::TOKENS`] by [`Tiles::OUTPUTS`] sums; all sums of a panel wait in memory between its blocks
//! of columns.

use std::ops::Range;

use super::{BLOCK, GROUP, GroupCodes, MOST_OUTPUTS, PADDING, PANEL, Source, Sums, TokenCodes};
use crate::scratch::Scratch;
use crate::weight::codes::CodeRows;

/// Instructions that multiply matrices.
///
/// # Safety
/// All functions need the instruction set that the implementation is for, and must be inlined into a function that
/// enables it.
pub(super) trait Tiles {
    /// Tokens of a tile.
    const TOKENS: usize;
    /// Rows of a panel.
    const OUTPUTS: usize;

    /// Packs columns of rows into a panel of `OUTPUTS` bytes for each column. Rows that are not there may be anything, and
    /// so may columns, up to a multiple of [`CODES`]: the codes of tokens are 0 there.
    unsafe fn pack<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8);

    /// Packs columns of a group of rows into panels of `OUTPUTS` columns, `GROUP * OUTPUTS` bytes each, for products along
    /// rows. Rows that are not there may be anything, and so may columns.
    unsafe fn pack_columns<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8);

    /// Continues the sums of all tiles of a block.
    unsafe fn add_products(block: Block);
}

/// What the columns of a block are a multiple of.
pub(super) const CODES: usize = 64;

/// Some tokens beside a panel.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// As [`Tiles::pack`] writes it, at the start of a cache line.
    pub(super) panel: *const u8,
    /// Columns, a multiple of [`CODES`], at least one.
    pub(super) cols: usize,
    /// Tiles of tokens, at least one.
    pub(super) tiles: usize,
    /// The codes of the first token.
    pub(super) tokens: *const u8,
    /// Bytes from one token to the next.
    pub(super) stride: usize,
    /// Of each token; what is there counts only if this is not the `first` block.
    pub(super) sums: *mut Sums,
    /// Whether the sums begin here.
    pub(super) first: bool,
}

/// [`many`](super::many) in tiles.
///
/// # Safety
/// As for [`Tiles`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn many_in_tiles<T: Tiles>(
    w: CodeRows<'_>,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    done: impl FnMut(usize, &[Sums]),
) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => many_rows::<T, _>(w, w.cols, rows, x, done),
            CodeRows::Int4(w) => many_rows::<T, _>(w, w.cols, rows, x, done),
        }
    }
}

#[inline(always)]
unsafe fn many_rows<T: Tiles, S: Source>(
    w: S,
    cols: usize,
    rows: Range<usize>,
    x: TokenCodes<'_>,
    mut done: impl FnMut(usize, &[Sums]),
) {
    const { assert!(T::OUTPUTS <= MOST_OUTPUTS && PADDING.is_multiple_of(CODES) && BLOCK.is_multiple_of(CODES)) };
    let width = cols.next_multiple_of(CODES);
    let mut panel = Scratch::new(BLOCK.min(width) * T::OUTPUTS / 4);
    let panel: &mut [u8] = bytemuck::cast_slice_mut(&mut panel);
    let mut sums = Scratch::new(x.count.next_multiple_of(T::TOKENS) * MOST_OUTPUTS);
    let sums: &mut [Sums] = bytemuck::cast_slice_mut(&mut sums);
    let x_tiles = TokenTiles::new::<T>(x, width);
    for start in (0..cols).step_by(BLOCK) {
        let end = cols.min(start + BLOCK);
        // SAFETY: rows and columns exist, and the panel, tokens and sums have room for all tiles.
        unsafe {
            T::pack(w, rows.clone(), start..end, panel.as_mut_ptr());
            let cols = start..start + (end - start).next_multiple_of(CODES);
            x_tiles.add_products::<T>(panel.as_ptr(), cols, sums.as_mut_ptr(), start == 0);
        }
    }
    done(0, &sums[..x.count]);
}

/// [`backward`](super::backward) in tiles.
///
/// # Safety
/// As for [`Tiles`]; shapes are checked.
#[inline(always)]
pub(super) unsafe fn backward_in_tiles<T: Tiles>(
    w: CodeRows<'_>,
    cols: Range<usize>,
    dy: GroupCodes<'_>,
    dx: &mut [f32],
) {
    // SAFETY: the caller's.
    unsafe {
        match w {
            CodeRows::Int8(w) => backward_cols::<T, _>(w, w.rows, cols, dy, dx),
            CodeRows::Int4(w) => backward_cols::<T, _>(w, w.rows, cols, dy, dx),
        }
    }
}

#[inline(always)]
unsafe fn backward_cols<T: Tiles, S: Source>(
    w: S,
    rows: usize,
    cols: Range<usize>,
    dy: GroupCodes<'_>,
    dx: &mut [f32],
) {
    const { assert!(PANEL.is_multiple_of(T::OUTPUTS) && PANEL == MOST_OUTPUTS && GROUP.is_multiple_of(CODES)) };
    let mut panel = Scratch::new(GROUP * PANEL / 4);
    let panel: &mut [u8] = bytemuck::cast_slice_mut(&mut panel);
    let mut sums = Scratch::new(dy.tokens.count.next_multiple_of(T::TOKENS) * MOST_OUTPUTS);
    let sums: &mut [Sums] = bytemuck::cast_slice_mut(&mut sums);
    let tiles = TokenTiles::new::<T>(dy.tokens, rows.next_multiple_of(GROUP));
    for (group, start) in (0..rows).step_by(GROUP).enumerate() {
        // SAFETY: rows and columns exist, and the panels, tokens and sums have room for all tiles.
        unsafe {
            T::pack_columns(w, start..rows.min(start + GROUP), cols.clone(), panel.as_mut_ptr());
            for first in (0..cols.len()).step_by(T::OUTPUTS) {
                let to = sums.as_mut_ptr().cast::<i32>().add(first).cast();
                tiles.add_products::<T>(panel.as_ptr().add(first * GROUP), start..start + GROUP, to, true);
            }
        }
        for (token, (sums, dx)) in sums.iter().zip(dx.chunks_exact_mut(PANEL)).enumerate() {
            // SAFETY: each token has a scale and a sum for each group.
            let [scale, begin] = unsafe { dy.scale(token, group).cast::<[u32; 2]>().read_unaligned() };
            let (scale, begin) = (f32::from_bits(scale), begin as i32);
            for (sum, dx) in sums.iter().zip(dx) {
                *dx = (begin.wrapping_add(*sum) as f32).mul_add(scale, *dx);
            }
        }
    }
}

/// Tokens in tiles: as they lie, and those that are left over, as a tile of their own.
struct TokenTiles<'a> {
    tokens: TokenCodes<'a>,
    tiles: usize,
    last: Scratch,
    /// Bytes of a token of the last tile, which may have none.
    width: usize,
}

impl<'a> TokenTiles<'a> {
    #[inline(always)]
    fn new<T: Tiles>(tokens: TokenCodes<'a>, width: usize) -> Self {
        let (tiles, left) = (tokens.count / T::TOKENS, tokens.count % T::TOKENS);
        let mut last = Scratch::zeros(if left > 0 { T::TOKENS * width / 4 } else { 0 });
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut last);
        for (token, codes) in bytes.chunks_exact_mut(width).enumerate().take(left) {
            codes.copy_from_slice(&tokens.data[(tiles * T::TOKENS + token) * tokens.stride..][..width]);
        }
        TokenTiles { tokens, tiles, last, width }
    }

    /// Continues the sums of all tokens over a panel of these codes.
    ///
    /// # Safety
    /// As for [`Tiles::add_products`].
    #[inline(always)]
    unsafe fn add_products<T: Tiles>(&self, panel: *const u8, codes: Range<usize>, sums: *mut Sums, first: bool) {
        let (tokens, stride) = (self.tokens.token(0).wrapping_add(codes.start), self.tokens.stride);
        let block = Block { panel, cols: codes.len(), tiles: self.tiles, tokens, stride, sums, first };
        // SAFETY: the caller's.
        unsafe {
            if self.tiles > 0 {
                T::add_products(block);
            }
            if !self.last.is_empty() {
                let tokens = self.last.as_ptr().cast::<u8>().add(codes.start);
                let sums = sums.add(self.tiles * T::TOKENS);
                T::add_products(Block { tiles: 1, tokens, stride: self.width, sums, ..block });
            }
        }
    }
}

/// Products of some tiles that stay in the first cache, `steps / 512` times over: as fast as this thread can. Returns how
/// many operations these were, a multiply-add counted as two.
///
/// # Safety
/// As for [`Tiles`].
#[inline(always)]
pub(super) unsafe fn spin_tiles<T: Tiles>(steps: usize) -> u64 {
    const TILES: usize = 4;
    let tokens = TILES * T::TOKENS;
    // One memory for both sides; the tokens overlap.
    let codes = Scratch::zeros((BLOCK * T::OUTPUTS).max(tokens * CODES + BLOCK) / 4);
    let mut sums = Scratch::new(tokens * MOST_OUTPUTS);
    let block = Block {
        panel: codes.as_ptr().cast(),
        cols: BLOCK,
        tiles: TILES,
        tokens: codes.as_ptr().cast(),
        stride: CODES,
        sums: sums.as_mut_ptr().cast(),
        first: true,
    };
    let calls = steps / 512;
    for _ in 0..calls {
        // SAFETY: panel, tokens and sums are there.
        unsafe { T::add_products(block) };
    }
    std::hint::black_box(&sums);
    (calls * tokens * T::OUTPUTS * BLOCK * 2) as u64
}
