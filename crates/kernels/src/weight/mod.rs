//! A weight matrix as it is stored: its encoding and the three operations that everything else needs. The *format*
//! and arithmetic of an encoding live here, one file each; the *choice* of its values is not made in this crate.
//!
//! This file checks shapes, which are the same for all, and hands on.

mod float;

use bytes::Bytes;

use crate::{Cpu, MatrixView, MatrixViewMut};

pub use float::{FloatEncoding, FloatWeight};

/// A weight `[rows, cols]` = `[outputs, inputs]`. Its bytes may lie in a mapped file; they are never copied and need
/// no alignment.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Floats as stored, computed in f32.
    Float(FloatWeight),
}

impl Weight {
    /// Wraps stored floats. Panics when `data` is not exactly `rows * cols` numbers.
    pub fn from_bytes(encoding: FloatEncoding, rows: usize, cols: usize, data: Bytes) -> Self {
        Weight::Float(FloatWeight::new(encoding, rows, cols, data))
    }

    /// An f32 weight from numbers in memory. Panics when their count is not `rows * cols`.
    pub fn from_f32(rows: usize, cols: usize, numbers: &[f32]) -> Self {
        let data = Bytes::from(bytemuck::cast_slice::<f32, u8>(numbers).to_vec());
        Weight::from_bytes(FloatEncoding::F32, rows, cols, data)
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Weight::Float(weight) => weight.rows(),
        }
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        match self {
            Weight::Float(weight) => weight.cols(),
        }
    }

    /// Bytes that the weight occupies.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Float(weight) => weight.bytes(),
        }
    }

    /// `y = x Wᵀ`: `x` is `[tokens, cols]`, `y` is `[tokens, rows]`. Rule 1. Panics on other shapes.
    pub fn product(&self, cpu: &Cpu, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
        assert_eq!(x.cols(), self.cols(), "columns of x for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((y.rows(), y.cols()), (x.rows(), self.rows()), "the shape of y");
        match self {
            Weight::Float(weight) => weight.product(cpu, x, y),
        }
    }

    /// `dx = dy W`, the gradient of [`product`](Self::product): `dy` is `[tokens, rows]`, `dx` is `[tokens, cols]`.
    /// Rule 3. Panics on other shapes.
    pub fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, dx: MatrixViewMut<'_>) {
        assert_eq!(dy.cols(), self.rows(), "columns of dy for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((dx.rows(), dx.cols()), (dy.rows(), self.cols()), "the shape of dx");
        match self {
            Weight::Float(weight) => weight.product_backward(cpu, dy, dx),
        }
    }

    /// Copies rows, decoded to f32: `out` is `[ids.len(), cols]`. Panics when an id is not a row.
    pub fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        assert_eq!((out.rows(), out.cols()), (ids.len(), self.cols()), "the shape of gathered rows");
        for &id in ids {
            assert!((id as usize) < self.rows(), "row {id} of a [{}, {}] weight", self.rows(), self.cols());
        }
        match self {
            Weight::Float(weight) => weight.gather(cpu, ids, out),
        }
    }
}
