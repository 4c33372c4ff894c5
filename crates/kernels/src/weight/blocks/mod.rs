//! The block formats of ggml as stored weights: `format` tells what a block is. Rows are whole blocks, one row
//! after the other.
//!
//! In float arithmetic activations stay as they are: numbers are decoded where they are used, and summed by rules 1 and 3,
//! as gradients are in either arithmetic. `integer.rs` tells how activations are rounded in the other.

mod encode;
pub(crate) mod format;
mod integer;
pub(crate) mod layouts;
mod tokens;

use std::ops::Range;

use bytes::Bytes;

pub use self::encode::encode;
pub use self::format::BlockFormat;
use self::format::{Block, MOST_GROUPS, MOST_NUMBERS, in_format};
use crate::matrix::numbers;
use crate::product::{chains_with_on_threads, dots_with_on_threads};
use crate::simd::bytes::Bytes32;
use crate::simd::{Factors, per_isa};
use crate::{Arithmetic, Cpu, MatrixView, MatrixViewMut};

/// `[rows, cols]` numbers in blocks of one [`BlockFormat`].
#[derive(Clone, Debug)]
pub struct BlockWeight {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    data: Bytes,
}

/// Bytes of the blocks of a weight. Panics unless `cols` is a multiple of the size of a block.
pub fn block_bytes(format: BlockFormat, rows: usize, cols: usize) -> usize {
    let (size, name) = (format.block_size(), format.name());
    assert!(cols.is_multiple_of(size), "{cols} columns in blocks of {size} ({name})");
    numbers(numbers(rows, cols / size), format.block_bytes())
}

impl BlockWeight {
    /// Wraps stored blocks, row after row. Panics unless there are exactly [`block_bytes`] of them, and where `cols` is no
    /// multiple of the size of a block.
    pub fn new(format: BlockFormat, rows: usize, cols: usize, data: Bytes) -> Self {
        let bytes = block_bytes(format, rows, cols);
        assert_eq!(data.len(), bytes, "bytes of a [{rows}, {cols}] {} weight", format.name());
        BlockWeight { format, rows, cols, data }
    }

    /// How the numbers are stored.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the blocks occupy.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The blocks, row after row.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// See [`Weight::product`](super::Weight::product), which has checked the shapes.
    pub(super) fn product(&self, cpu: &Cpu, arithmetic: Arithmetic, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
        if arithmetic == Arithmetic::Integer {
            return integer::product(cpu, self, x, y);
        }
        dots_with_on_threads(cpu, x, self.rows, y, |rows, out| self.decode(cpu, rows, 0..self.cols, out));
    }

    /// See [`Weight::product_backward`](super::Weight::product_backward), which has checked the shapes.
    pub(super) fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
        dx.data_mut().fill(0.0);
        let factors = Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1);
        chains_with_on_threads(cpu, factors, self.rows, dx, |rows, cols, out| self.decode(cpu, rows, cols, out));
    }

    /// See [`Weight::gather`](super::Weight::gather), which has checked the shapes and ids.
    pub(super) fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        cpu.for_each_row(out, |index, out| {
            let id = ids[index] as usize;
            self.decode(cpu, id..id + 1, 0..self.cols, out);
        });
    }

    /// A part of the columns of some rows, as floats.
    fn decode(&self, cpu: &Cpu, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * cols.len(), "numbers decoded");
        if cols.len() == self.cols {
            return decode_numbers(cpu, self.format, &self.data, rows.start * self.cols, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            decode_numbers(cpu, self.format, &self.data, row * self.cols + cols.start, out);
        }
    }
}

per_isa! {
    /// The numbers from `first` on, as many as there is room for.
    fn decode_numbers<R>(format: BlockFormat, data: &[u8], first: usize, out: &mut [f32]) {
        // SAFETY: the caller's.
        unsafe { in_format!(format, B => decode_blocks::<B, R>(data, first, out)) };
    }
}

#[inline(always)]
unsafe fn decode_blocks<B: Block, R: Bytes32>(data: &[u8], first: usize, mut out: &mut [f32]) {
    let mut skip = first % B::SIZE;
    for block in data[first / B::SIZE * B::BYTES..].chunks_exact(B::BYTES) {
        if out.is_empty() {
            return;
        }
        let count = out.len().min(B::SIZE - skip);
        let here;
        (here, out) = out.split_at_mut(count);
        if count == B::SIZE {
            // SAFETY: the caller's.
            unsafe { decode_block::<B, R>(block, here) };
        } else {
            let mut numbers = [0.0; MOST_NUMBERS];
            // SAFETY: the caller's.
            unsafe { decode_block::<B, R>(block, &mut numbers[..B::SIZE]) };
            here.copy_from_slice(&numbers[skip..][..count]);
        }
        skip = 0;
    }
}

/// The formula of [`format`](mod@format).
#[inline(always)]
unsafe fn decode_block<B: Block, R: Bytes32>(block: &[u8], out: &mut [f32]) {
    let mut codes = [0i8; MOST_NUMBERS];
    let (mut scales, mut minimums) = ([0.0; MOST_GROUPS], [0.0; MOST_GROUPS]);
    // SAFETY: the caller's.
    unsafe { B::all_codes::<R>(block, &mut codes[..B::SIZE]) };
    B::scales(block, &mut scales, &mut minimums);
    let groups = out.chunks_exact_mut(B::GROUP).zip(codes.chunks_exact(B::GROUP));
    for ((out, codes), (scale, minimum)) in groups.zip(scales.iter().zip(&minimums)) {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(*code) - minimum;
        }
    }
}
