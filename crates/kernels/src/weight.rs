//! A weight matrix as it is stored: its encoding and the three operations that everything else needs. The *format*
//! and arithmetic of an encoding live here; the *choice* of its values is not made in this crate.

use bytes::Bytes;

use crate::cpu::SharedOut;
use crate::simd::{Chain, chains, decode_bf16, decode_f16, dots};
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
    pub fn product(&self, cpu: &Cpu, x: MatrixView<'_>, mut y: MatrixViewMut<'_>) {
        assert_eq!(x.cols(), self.cols(), "columns of x for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((y.rows(), y.cols()), (x.rows(), self.rows()), "the shape of y");
        let out = SharedOut::new(&mut y);
        cpu.run(self.rows().div_ceil(TASK_ROWS), |task| {
            let mut decoded = vec![0.0; self.cols()];
            for row in task * TASK_ROWS..self.rows().min((task + 1) * TASK_ROWS) {
                self.decode_row(cpu, row, &mut decoded);
                for token in 0..x.rows() {
                    // SAFETY: each task has its own columns.
                    dots(cpu, x.row(token), &decoded, unsafe { out.part(token, row, 1) });
                }
            }
        });
    }

    /// `dx = dy W`, the gradient of [`product`](Self::product): `dy` is `[tokens, rows]`, `dx` is `[tokens, cols]`.
    /// Rule 3. Panics on other shapes.
    pub fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, mut dx: MatrixViewMut<'_>) {
        assert_eq!(dy.cols(), self.rows(), "columns of dy for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((dx.rows(), dx.cols()), (dy.rows(), self.cols()), "the shape of dx");
        dx.data_mut().fill(0.0);
        let mut decoded = vec![0.0; self.cols()];
        for row in 0..self.rows() {
            self.decode_row(cpu, row, &mut decoded);
            cpu.for_each_row(dx.reborrow(), |token, dx| {
                chains(cpu, Chain { data: &dy.row(token)[row..], step: 1, len: 1 }, &decoded, dx);
            });
        }
    }

    /// Copies rows, decoded to f32: `out` is `[ids.len(), cols]`. Panics when an id is not a row.
    pub fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        assert_eq!((out.rows(), out.cols()), (ids.len(), self.cols()), "the shape of gathered rows");
        for &id in ids {
            assert!((id as usize) < self.rows(), "row {id} of a [{}, {}] weight", self.rows(), self.cols());
        }
        cpu.for_each_row(out, |index, out| self.decode_row(cpu, ids[index] as usize, out));
    }

    /// One row, widened to f32.
    fn decode_row(&self, cpu: &Cpu, row: usize, out: &mut [f32]) {
        match self {
            Weight::Float { encoding, cols, data, .. } => {
                let width = cols * encoding.bytes();
                let bytes = &data[row * width..][..width];
                match encoding {
                    FloatEncoding::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
                    FloatEncoding::F16 => decode_f16(cpu, bytes, out),
                    FloatEncoding::Bf16 => decode_bf16(cpu, bytes, out),
                }
            }
        }
    }
}

/// Outputs of a task.
const TASK_ROWS: usize = 16;
