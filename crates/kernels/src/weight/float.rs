//! Floats as they are stored, row-major and little-endian, widened to f32 where they are used (rule 4).

use std::ops::Range;

use bytes::Bytes;

use crate::matrix::numbers;
use crate::product::{chains_on_threads, dots_on_threads};
use crate::simd::{Factors, Out, Rows, decode};
use crate::{Cpu, MatrixView, MatrixViewMut};

/// How the numbers of an unquantized weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatEncoding {
    /// 4 bytes, IEEE single precision.
    F32,
    /// 2 bytes, IEEE half precision.
    F16,
    /// 2 bytes, the upper half of an f32.
    Bf16,
}

impl FloatEncoding {
    /// As everyone calls it.
    pub fn name(self) -> &'static str {
        match self {
            FloatEncoding::F32 => "f32",
            FloatEncoding::F16 => "f16",
            FloatEncoding::Bf16 => "bf16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            FloatEncoding::F32 => 4,
            FloatEncoding::F16 | FloatEncoding::Bf16 => 2,
        }
    }
}

/// `[rows, cols]` numbers of one [`FloatEncoding`]; exactly as many as there are bytes for.
#[derive(Clone, Debug)]
pub struct FloatWeight {
    encoding: FloatEncoding,
    rows: usize,
    cols: usize,
    data: Bytes,
}

impl FloatWeight {
    /// Panics when `data` is not exactly `rows * cols` numbers.
    pub fn new(encoding: FloatEncoding, rows: usize, cols: usize, data: Bytes) -> Self {
        let bytes = numbers(numbers(rows, cols), encoding.bytes());
        assert_eq!(data.len(), bytes, "bytes of a [{rows}, {cols}] {encoding:?} weight");
        FloatWeight { encoding, rows, cols, data }
    }

    /// Some of the rows, sharing their bytes. Panics when the weight does not have them.
    pub fn slice(&self, rows: Range<usize>) -> FloatWeight {
        let row_bytes = self.cols * self.encoding.bytes();
        let data = self.data.slice(rows.start * row_bytes..rows.end * row_bytes);
        FloatWeight { rows: rows.len(), data, ..*self }
    }

    /// The numbers as they are stored, row after row.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// How each number is stored.
    pub fn encoding(&self) -> FloatEncoding {
        self.encoding
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the numbers occupy.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// See [`Weight::product`](super::Weight::product), which has checked the shapes.
    pub(super) fn product(&self, cpu: &Cpu, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
        dots_on_threads(cpu, x, self.as_rows(), y);
    }

    /// See [`Weight::product_backward`](super::Weight::product_backward), which has checked the shapes.
    pub(super) fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
        dx.data_mut().fill(0.0);
        let factors = Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1);
        chains_on_threads(cpu, factors, self.as_rows(), dx);
    }

    /// See [`Weight::gather`](super::Weight::gather), which has checked the shapes and ids.
    pub(super) fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        let rows = self.as_rows();
        cpu.for_each_row(out, |index, out| {
            let id = ids[index] as usize;
            decode(cpu, rows.part(id..id + 1, 0..self.cols), Out::new(out, self.cols, 1, self.cols));
        });
    }

    /// Rows as f32.
    pub(super) fn decode(&self, cpu: &Cpu, rows: Range<usize>, out: &mut [f32]) {
        let count = rows.len();
        decode(cpu, self.as_rows().part(rows, 0..self.cols), Out::new(out, self.cols, count, self.cols));
    }

    /// Some of all the numbers, row after row, as f32.
    pub(super) fn decode_flat(&self, cpu: &Cpu, range: Range<usize>, out: &mut [f32]) {
        let (bytes, len) = (self.encoding.bytes(), range.len());
        let data = &self.data[range.start * bytes..range.end * bytes];
        decode(cpu, Rows::new(data, self.encoding, len, 1, len), Out::new(out, len, 1, len));
    }

    /// As the kernels read it.
    fn as_rows(&self) -> Rows<'_> {
        Rows::new(&self.data, self.encoding, self.cols, self.rows, self.cols)
    }
}
