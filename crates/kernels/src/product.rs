//! Products between f32 matrices, with the sums of `lib.rs`: for adapters, whose matrices are trained, and for
//! gradients. Frozen weights go through [`Weight`](crate::Weight), which shares these kernels.

use crate::{Cpu, MatrixView, MatrixViewMut};

/// `y = x wᵀ`: `x` is `[tokens, inner]`, `w` is `[outputs, inner]`, `y` is `[tokens, outputs]`. Rule 1.
pub fn product(cpu: &Cpu, x: MatrixView<'_>, w: MatrixView<'_>, y: MatrixViewMut<'_>) {
    let _ = (cpu, x, w, y);
    todo!()
}

/// `dx = dy w`: `dy` is `[tokens, outputs]`, `w` is `[outputs, inner]`, `dx` is `[tokens, inner]`. Rule 3.
pub fn product_backward(cpu: &Cpu, dy: MatrixView<'_>, w: MatrixView<'_>, dx: MatrixViewMut<'_>) {
    let _ = (cpu, dy, w, dx);
    todo!()
}

/// `dw += dyᵀ x`, token by token, continuing the chain from what `dw` holds: `dy` is `[tokens, outputs]`, `x` is
/// `[tokens, inner]`, `dw` is `[outputs, inner]`. Rule 3, so a gradient may be accumulated over several calls.
pub fn weight_gradient(cpu: &Cpu, dy: MatrixView<'_>, x: MatrixView<'_>, dw: MatrixViewMut<'_>) {
    let _ = (cpu, dy, x, dw);
    todo!()
}
