//! A weight matrix as it is stored: its encoding and the three operations that everything else needs. The *format*
//! and arithmetic of an encoding live here; the *choice* of its values is not made in this crate.

use bytes::Bytes;

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

/// A weight `[rows, cols]` = `[outputs, inputs]`. Its bytes may lie in a mapped file; they are never copied and need
/// no alignment.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Floats as stored, row-major, computed in f32.
    Float {
        /// How each number is stored.
        encoding: FloatEncoding,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// `rows * cols` little-endian numbers.
        data: Bytes,
    },
}

impl FloatEncoding {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            FloatEncoding::F32 => 4,
            FloatEncoding::F16 | FloatEncoding::Bf16 => 2,
        }
    }
}

impl Weight {
    /// Wraps stored floats. Panics when `data` is not exactly `rows * cols` numbers.
    pub fn from_bytes(encoding: FloatEncoding, rows: usize, cols: usize, data: Bytes) -> Self {
        assert_eq!(data.len(), rows * cols * encoding.bytes(), "bytes of a [{rows}, {cols}] {encoding:?} weight");
        Weight::Float { encoding, rows, cols, data }
    }

    /// An f32 weight from numbers in memory. Panics when their count is not `rows * cols`.
    pub fn from_f32(rows: usize, cols: usize, numbers: &[f32]) -> Self {
        let data = Bytes::from(bytemuck::cast_slice::<f32, u8>(numbers).to_vec());
        Weight::from_bytes(FloatEncoding::F32, rows, cols, data)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Weight::Float { rows, .. } => *rows,
        }
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        match self {
            Weight::Float { cols, .. } => *cols,
        }
    }

    /// Bytes that the weight occupies.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Float { data, .. } => data.len(),
        }
    }

    /// `y = x Wᵀ`: `x` is `[tokens, cols]`, `y` is `[tokens, rows]`. Rule 1. Panics on other shapes.
    pub fn product(&self, cpu: &Cpu, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
        assert_eq!(x.cols(), self.cols(), "columns of x for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((y.rows(), y.cols()), (x.rows(), self.rows()), "the shape of y");
        dots_on_threads(cpu, x, self.as_rows(), y);
    }

    /// `dx = dy W`, the gradient of [`product`](Self::product): `dy` is `[tokens, rows]`, `dx` is `[tokens, cols]`.
    /// Rule 3. Panics on other shapes.
    pub fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
        assert_eq!(dy.cols(), self.rows(), "columns of dy for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((dx.rows(), dx.cols()), (dy.rows(), self.cols()), "the shape of dx");
        dx.data_mut().fill(0.0);
        let factors = Factors::new(dy.data(), dy.rows(), dy.cols(), dy.cols(), 1);
        chains_on_threads(cpu, factors, self.as_rows(), dx);
    }

    /// Copies rows, decoded to f32: `out` is `[ids.len(), cols]`. Panics when an id is not a row.
    pub fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        assert_eq!((out.rows(), out.cols()), (ids.len(), self.cols()), "the shape of gathered rows");
        for &id in ids {
            assert!((id as usize) < self.rows(), "row {id} of a [{}, {}] weight", self.rows(), self.cols());
        }
        let rows = self.as_rows();
        cpu.for_each_row(out, |index, out| {
            let id = ids[index] as usize;
            decode(cpu, rows.part(id..id + 1, 0..self.cols()), Out::new(out, self.cols(), 1, self.cols()));
        });
    }

    /// As the kernels read it.
    fn as_rows(&self) -> Rows<'_> {
        match self {
            Weight::Float { encoding, rows, cols, data } => Rows::new(data, *encoding, *cols, *rows, *cols),
        }
    }
}
