//! A weight matrix as it is stored: its encoding and the three operations that everything else needs. The *format*
//! and arithmetic of an encoding live here, one file each; the *choice* of its values is not made in this crate.
//!
//! This file checks shapes, which are the same for all, and hands on.

pub mod blocks;
pub(crate) mod codes;
pub mod dynamic;
mod float;
mod gradients;
pub mod int4;
mod int8;
pub mod nf4;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::cpu::SharedSlice;
use crate::ops::elementwise;
use crate::scratch::Scratch;
use crate::{Cpu, MatrixView, MatrixViewMut};

pub use blocks::{BlockFormat, BlockWeight};
pub use float::{FloatEncoding, FloatWeight};
pub use int4::Int4Weight;
pub use int8::Int8Weight;
pub use nf4::Nf4Weight;
pub use tokens::OUTLIER;

use codes::CodeRows;

/// A weight `[rows, cols]` = `[outputs, inputs]`. Its bytes may lie in a mapped file; they are never copied and need
/// no alignment.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Floats as stored, computed in f32.
    Float(FloatWeight),
    /// int8 with a scale per row.
    Int8(Arc<Int8Weight>, Arithmetic),
    /// 4 bits with a small scale per group of 64.
    Int4(Arc<Int4Weight>, Arithmetic),
    /// 4 bits with a scale per block of 64, computed in f32.
    Nf4(Arc<Nf4Weight>),
    /// Blocks of ggml, of 2 to 8 bits.
    Blocks(BlockWeight, Arithmetic),
}

/// What a weight of integers is multiplied with, forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Activations and gradients as they are: the weight is decoded to f32 where it is used.
    Float,
    /// Activations rounded to int8 for each token, outliers apart (LLM.int8), and gradients in groups of 128 outputs:
    /// fast. The gradients are 1 to 2 % away from those of floats, in norm. With blocks, activations are rounded in groups of
    /// 32, as llama.cpp does it, and gradients stay as they are.
    Integer,
}

/// A number of a weight is not finite, or too large for f16 where its encoding begins with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// The first row that has one.
    pub row: usize,
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
            Weight::Int8(weight, _) => weight.rows(),
            Weight::Int4(weight, _) => weight.rows(),
            Weight::Nf4(weight) => weight.rows(),
            Weight::Blocks(weight, _) => weight.rows(),
        }
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        match self {
            Weight::Float(weight) => weight.cols(),
            Weight::Int8(weight, _) => weight.cols(),
            Weight::Int4(weight, _) => weight.cols(),
            Weight::Nf4(weight) => weight.cols(),
            Weight::Blocks(weight, _) => weight.cols(),
        }
    }

    /// Bytes that the weight occupies.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Float(weight) => weight.bytes(),
            Weight::Int8(weight, _) => weight.bytes(),
            Weight::Int4(weight, _) => weight.bytes(),
            Weight::Nf4(weight) => weight.bytes(),
            Weight::Blocks(weight, _) => weight.bytes(),
        }
    }

    /// What of it lies in memory in one piece, nearly all: numbers or codes, without the scales of rows. For measuring how
    /// fast it can be read.
    pub fn data(&self) -> &[u8] {
        match self {
            Weight::Float(weight) => weight.data(),
            Weight::Int8(weight, _) => weight.codes(),
            Weight::Int4(weight, _) => weight.codes(),
            Weight::Nf4(weight) => weight.codes(),
            Weight::Blocks(weight, _) => weight.data(),
        }
    }

    /// All that its products depend on but its shape: what it is stored in and computed in, in a word or two, and the bytes of
    /// numbers, codes and scales. For telling whether two weights are the same.
    pub fn contents(&self) -> (String, Vec<&[u8]>) {
        let named = |name: &str, arithmetic| match arithmetic {
            Arithmetic::Float => name.to_owned(),
            Arithmetic::Integer => format!("{name} by integers"),
        };
        let scales = |scales| bytemuck::cast_slice::<f32, u8>(scales);
        match self {
            Weight::Float(weight) => (weight.encoding().name().to_owned(), vec![weight.data()]),
            Weight::Int8(weight, by) => (named("int8", *by), vec![weight.codes(), scales(weight.absmax())]),
            Weight::Int4(weight, by) => {
                (named("int4", *by), vec![weight.codes(), weight.group_scales(), scales(weight.row_scales())])
            }
            Weight::Nf4(weight) => ("nf4".to_owned(), vec![weight.codes(), scales(weight.absmax())]),
            Weight::Blocks(weight, by) => (named(weight.format().name(), *by), vec![weight.data()]),
        }
    }

    /// `y = x Wᵀ (+ bias)`: `x` is `[tokens, cols]`, `y` is `[tokens, rows]`. Rule 1 for floats; integers are exact, and
    /// what is float about them is told in `codes.rs` and `blocks/integer.rs`. The bias is added last. Panics on other shapes.
    pub fn product(&self, cpu: &Cpu, x: MatrixView<'_>, bias: Option<&[f32]>, mut y: MatrixViewMut<'_>) {
        assert_eq!(x.cols(), self.cols(), "columns of x for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((y.rows(), y.cols()), (x.rows(), self.rows()), "the shape of y");
        assert!(bias.is_none_or(|bias| bias.len() == self.rows()), "the length of the bias");
        match self {
            Weight::Int8(_, Arithmetic::Integer) | Weight::Int4(_, Arithmetic::Integer) => {
                let (codes, scales) = self.codes().expect("integers");
                return codes::product(cpu, codes, scales, x, bias, y);
            }
            Weight::Float(weight) => weight.product(cpu, x, y.reborrow()),
            Weight::Nf4(weight) => weight.product(cpu, x, y.reborrow()),
            Weight::Blocks(weight, arithmetic) => weight.product(cpu, *arithmetic, x, y.reborrow()),
            Weight::Int8(..) | Weight::Int4(..) => {
                let (codes, scales) = self.codes().expect("integers");
                codes::float_product(cpu, codes, scales, x, y.reborrow());
            }
        }
        if let Some(bias) = bias {
            elementwise::add_bias(cpu, bias, y);
        }
    }

    /// `dx = dy W`, the gradient of [`product`](Self::product) (of integers too: their rounding of activations is passed
    /// over): `dy` is `[tokens, rows]`, `dx` is `[tokens, cols]`. Rule 3 for floats, rule 12 for integers. Panics on other
    /// shapes.
    pub fn product_backward(&self, cpu: &Cpu, dy: MatrixView<'_>, dx: MatrixViewMut<'_>) {
        assert_eq!(dy.cols(), self.rows(), "columns of dy for a [{}, {}] weight", self.rows(), self.cols());
        assert_eq!((dx.rows(), dx.cols()), (dy.rows(), self.cols()), "the shape of dx");
        match (self, self.codes()) {
            (Weight::Float(weight), _) => weight.product_backward(cpu, dy, dx),
            (Weight::Nf4(weight), _) => weight.product_backward(cpu, dy, dx),
            (Weight::Blocks(weight, _), _) => weight.product_backward(cpu, dy, dx),
            (Weight::Int8(_, Arithmetic::Integer) | Weight::Int4(_, Arithmetic::Integer), Some((codes, scales))) => {
                codes::product_backward(cpu, codes, scales, dy, dx);
            }
            (_, Some((codes, scales))) => codes::float_product_backward(cpu, codes, scales, dy, dx),
            _ => unreachable!("all others are codes"),
        }
    }

    /// Copies rows, decoded to f32: `out` is `[ids.len(), cols]`. Panics when an id is not a row.
    pub fn gather(&self, cpu: &Cpu, ids: &[u32], out: MatrixViewMut<'_>) {
        assert_eq!((out.rows(), out.cols()), (ids.len(), self.cols()), "the shape of gathered rows");
        for &id in ids {
            assert!((id as usize) < self.rows(), "row {id} of a [{}, {}] weight", self.rows(), self.cols());
        }
        match (self, self.codes()) {
            (Weight::Float(weight), _) => weight.gather(cpu, ids, out),
            (Weight::Nf4(weight), _) => weight.gather(cpu, ids, out),
            (Weight::Blocks(weight, _), _) => weight.gather(cpu, ids, out),
            (_, Some((codes, scales))) => codes::gather(cpu, codes, scales, ids, out),
            _ => unreachable!("all others are codes"),
        }
    }

    /// Codes and the scale of each row, where there are any.
    fn codes(&self) -> Option<(CodeRows<'_>, &[f32])> {
        match self {
            Weight::Float(_) | Weight::Nf4(_) | Weight::Blocks(..) => None,
            Weight::Int8(weight, _) => Some(weight.view()),
            Weight::Int4(weight, _) => Some(weight.view()),
        }
    }
}

/// Calls `encode` for each row in f32 and `width` bytes of `out`, on all threads. It returns what scales the row, which
/// is infinite if a number is not finite. Returns all scales.
fn encode_rows(
    cpu: &Cpu,
    weight: &FloatWeight,
    out: &mut [u8],
    width: usize,
    encode: impl Fn(&mut [f32], &mut [u8]) -> f32 + Sync,
) -> Result<Vec<f32>, NotFinite> {
    const ROWS: usize = 16;
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut scales = vec![0.0; rows];
    let bad = AtomicUsize::new(usize::MAX);
    let (out, shared) = (SharedSlice::new(out), SharedSlice::new(&mut scales));
    cpu.run(rows.div_ceil(ROWS), |task| {
        let rows = task * ROWS..rows.min((task + 1) * ROWS);
        let mut numbers = Scratch::new(rows.len() * cols);
        weight.decode(cpu, rows.clone(), &mut numbers);
        // SAFETY: each task has its own rows.
        let (out, scales) = unsafe { (out.part(rows.start * width..rows.end * width), shared.part(rows.clone())) };
        for (index, scale) in scales.iter_mut().enumerate() {
            *scale = encode(&mut numbers[index * cols..][..cols], &mut out[index * width..][..width]);
            if !scale.is_finite() {
                bad.fetch_min(rows.start + index, Ordering::Relaxed);
            }
        }
    });
    match bad.into_inner() {
        usize::MAX => Ok(scales),
        row => Err(NotFinite { row }),
    }
}
