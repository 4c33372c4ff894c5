//! Products between f32 matrices, with the sums of `lib.rs`: for adapters, whose matrices are trained, and for
//! gradients. Frozen weights go through [`Weight`](crate::Weight), which shares these kernels.

use crate::cpu::SharedOut;
use crate::simd::{Chain, chains, dots};
use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y = x wᵀ`: `x` is `[tokens, inner]`, `w` is `[outputs, inner]`, `y` is `[tokens, outputs]`. Rule 1. Panics on
/// other shapes.
pub fn product(cpu: &Cpu, x: MatrixView<'_>, w: MatrixView<'_>, mut y: MatrixViewMut<'_>) {
    assert_eq!(x.cols(), w.cols(), "x is [{}, {}], w is [{}, {}]", x.rows(), x.cols(), w.rows(), w.cols());
    assert_eq!((y.rows(), y.cols()), (x.rows(), w.rows()), "the shape of y");
    let out = SharedOut::new(&mut y);
    cpu.run(w.rows(), |row| {
        for token in 0..x.rows() {
            // SAFETY: each task has its own column.
            dots(cpu, x.row(token), w.row(row), unsafe { out.part(token, row, 1) });
        }
    });
}

/// `dx = dy w`: `dy` is `[tokens, outputs]`, `w` is `[outputs, inner]`, `dx` is `[tokens, inner]`. Rule 3. Panics on
/// other shapes.
pub fn product_backward(cpu: &Cpu, dy: MatrixView<'_>, w: MatrixView<'_>, dx: MatrixViewMut<'_>) {
    assert_eq!(dy.cols(), w.rows(), "dy is [{}, {}], w is [{}, {}]", dy.rows(), dy.cols(), w.rows(), w.cols());
    assert_eq!((dx.rows(), dx.cols()), (dy.rows(), w.cols()), "the shape of dx");
    cpu.for_each_row(dx, |token, dx| {
        dx.fill(0.0);
        chains(cpu, Chain { data: dy.row(token), step: 1, len: w.rows() }, w.data(), dx);
    });
}

/// `dw += dyᵀ x`, token by token, continuing the chain from what `dw` holds: `dy` is `[tokens, outputs]`, `x` is
/// `[tokens, inner]`, `dw` is `[outputs, inner]`. Rule 3, so a gradient may be accumulated over several calls. Panics
/// on other shapes.
pub fn weight_gradient(cpu: &Cpu, dy: MatrixView<'_>, x: MatrixView<'_>, dw: MatrixViewMut<'_>) {
    assert_eq!(dy.rows(), x.rows(), "tokens of dy and x");
    assert_eq!((dw.rows(), dw.cols()), (dy.cols(), x.cols()), "the shape of dw");
    cpu.for_each_row(dw, |output, dw| {
        let data = dy.data().get(output..).unwrap_or(&[]);
        chains(cpu, Chain { data, step: dy.cols(), len: x.rows() }, x.data(), dw);
    });
}
