//! What the tiles read and write: rows of numbers somewhere in memory, checked once at the door.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Bf16, F16, F32, Lanes, Stored, in_isa};
use crate::lanes::LANES;
use crate::matrix::{extent, numbers};
use crate::{Cpu, FloatEncoding, MatrixView};

/// Rows of stored numbers, each `stride` numbers after the one before.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: *const u8,
    encoding: FloatEncoding,
    stride: usize,
    count: usize,
    cols: usize,
    /// Bytes from here to rows that will be read next; 0 where nobody knows.
    ahead: isize,
    bytes: PhantomData<&'a [u8]>,
}

// SAFETY: a borrowed slice in another form.
unsafe impl Sync for Rows<'_> {}
// SAFETY: as above.
unsafe impl Send for Rows<'_> {}

impl<'a> Rows<'a> {
    /// `count` rows of `cols` numbers. Panics when `data` ends before the last.
    pub(crate) fn new(data: &'a [u8], encoding: FloatEncoding, stride: usize, count: usize, cols: usize) -> Self {
        let bytes = numbers(extent(count, stride, cols), encoding.bytes());
        assert!(bytes <= data.len(), "{count} rows of {cols}, {stride} apart, in {}", data.len());
        Rows { data: data.as_ptr(), encoding, stride, count, cols, ahead: 0, bytes: PhantomData }
    }

    /// The same rows, and while they are read, those at `next` are asked for, which lie alike: what is too far apart for
    /// the machine to guess. Any address will do.
    pub(crate) fn before(self, next: *const u8) -> Self {
        Rows { ahead: (next as isize).wrapping_sub(self.data as isize), ..self }
    }

    /// `count` rows of `cols` f32, one after the other.
    pub(crate) fn of(data: &'a [f32], count: usize, cols: usize) -> Self {
        Rows::new(bytemuck::cast_slice(data), FloatEncoding::F32, cols, count, cols)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes to rows that will be read next, or 0.
    pub(crate) fn ahead(&self) -> isize {
        self.ahead
    }

    pub(crate) fn encoding(&self) -> FloatEncoding {
        self.encoding
    }

    /// A part of the rows, and of the columns of each.
    pub(crate) fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.count && cols.start <= cols.end && cols.end <= self.cols);
        if rows.is_empty() {
            return Rows { count: 0, cols: cols.len(), ..*self };
        }
        // SAFETY: the first number of the part lies in the rows.
        let data = unsafe { self.data.add((rows.start * self.stride + cols.start) * self.encoding.bytes()) };
        Rows { data, count: rows.len(), cols: cols.len(), ..*self }
    }

    /// Where a row begins; an address to nowhere unless the row exists.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        debug_assert!(row < self.count);
        self.data.wrapping_add(row * self.stride * self.encoding.bytes())
    }

    /// Where a row of f32 begins.
    #[inline(always)]
    pub(crate) fn row_f32(&self, row: usize) -> *const f32 {
        debug_assert_eq!(self.encoding, FloatEncoding::F32);
        self.row(row).cast()
    }
}

impl<'a> From<MatrixView<'a>> for Rows<'a> {
    fn from(matrix: MatrixView<'a>) -> Self {
        Rows::of(matrix.data(), matrix.rows(), matrix.cols())
    }
}

/// A block of f32 for writing: a part of the columns of some rows.
pub(crate) struct Out<'a> {
    data: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    numbers: PhantomData<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// `rows` rows of `cols` numbers, `stride` apart. Panics when `data` ends before the last.
    pub(crate) fn new(data: &'a mut [f32], stride: usize, rows: usize, cols: usize) -> Self {
        assert!(extent(rows, stride, cols) <= data.len(), "{rows} rows of {cols} in {}", data.len());
        Out { data: data.as_mut_ptr(), stride, rows, cols, numbers: PhantomData }
    }

    /// # Safety
    /// As for [`new`](Self::new), and nobody else touches the block while it lives.
    pub(crate) unsafe fn from_raw(data: *mut f32, stride: usize, rows: usize, cols: usize) -> Self {
        Out { data, stride, rows, cols, numbers: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// A part of the rows, and of the columns of each.
    pub(crate) fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> Out<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows && cols.start <= cols.end && cols.end <= self.cols);
        let first = if rows.is_empty() { 0 } else { rows.start * self.stride + cols.start };
        // SAFETY: the first number of the part lies in the block.
        let data = unsafe { self.data.add(first) };
        Out { data, stride: self.stride, rows: rows.len(), cols: cols.len(), numbers: PhantomData }
    }

    /// Copies `numbers` into its one row.
    pub(crate) fn copy_from(&mut self, numbers: &[f32]) {
        assert_eq!((self.rows, self.cols), (1, numbers.len()), "numbers copied");
        // SAFETY: the row has as many.
        unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), self.data, self.cols) }
    }

    /// Where `(row, col)` is; an address to nowhere unless it is in the block, or at the end of a row.
    #[inline(always)]
    pub(crate) fn at(&self, row: usize, col: usize) -> *mut f32 {
        debug_assert!(row < self.rows && col <= self.cols);
        self.data.wrapping_add(row * self.stride + col)
    }
}

/// Widens rows into an `Out` of the same shape.
pub(crate) fn decode(cpu: &Cpu, rows: Rows<'_>, out: Out<'_>) {
    assert_eq!((rows.count, rows.cols), (out.rows, out.cols), "rows decoded");
    in_isa!(cpu, decode(rows, out));
}

/// [`decode`] over the lanes of one instruction set.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn decode_with<L: Lanes>(rows: Rows<'_>, out: Out<'_>) {
    // SAFETY: rows and out are of one shape.
    unsafe {
        match rows.encoding {
            FloatEncoding::F32 => decode_stored::<L, F32>(rows, out),
            FloatEncoding::F16 => decode_stored::<L, F16>(rows, out),
            FloatEncoding::Bf16 => decode_stored::<L, Bf16>(rows, out),
        }
    }
}

#[inline(always)]
unsafe fn decode_stored<L: Lanes, E: Stored>(rows: Rows<'_>, out: Out<'_>) {
    for row in 0..rows.count {
        // SAFETY: rows and out are of one shape.
        unsafe { decode_row::<L, E>(rows.row(row), rows.cols, out.at(row, 0)) };
    }
}

/// Widens `cols` numbers.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn decode_row<L: Lanes, E: Stored>(from: *const u8, cols: usize, to: *mut f32) {
    let tail = cols % LANES;
    // SAFETY: the caller vouches for `cols` numbers at both ends.
    unsafe {
        for col in (0..cols - tail).step_by(LANES) {
            E::load::<L>(from.add(col * E::BYTES)).store(to.add(col));
        }
        if tail > 0 {
            let done = cols - tail;
            E::load_first::<L>(from.add(done * E::BYTES), tail).store_first(to.add(done), tail);
        }
    }
}
