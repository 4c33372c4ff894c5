//! Activations of the feed-forward, plain and gated.

use crate::{Cpu, MatrixView, MatrixViewMut};

/// A pointwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(0.79788456 x (1 + 0.044715 x²)))`, BLOOM's approximation of GELU (arXiv 1606.08415).
    GeluTanh,
    /// `x / (1 + e⁻ˣ)`, also called swish.
    Silu,
}

/// `y = f(x)`.
pub fn activate(cpu: &Cpu, activation: Activation, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    let _ = (cpu, activation, x, y);
    todo!()
}

/// `dx = dy · f′(x)`.
pub fn activate_backward(
    cpu: &Cpu,
    activation: Activation,
    x: MatrixView<'_>,
    dy: MatrixView<'_>,
    dx: MatrixViewMut<'_>,
) {
    let _ = (cpu, activation, x, dy, dx);
    todo!()
}

/// `y = f(gate) · up` (Shazeer 2020, arXiv 2002.05202).
pub fn gated(cpu: &Cpu, activation: Activation, gate: MatrixView<'_>, up: MatrixView<'_>, y: MatrixViewMut<'_>) {
    let _ = (cpu, activation, gate, up, y);
    todo!()
}

/// The gradients of [`gated`]: `d_gate = dy · up · f′(gate)`, `d_up = dy · f(gate)`.
pub fn gated_backward(
    cpu: &Cpu,
    activation: Activation,
    gate: MatrixView<'_>,
    up: MatrixView<'_>,
    dy: MatrixView<'_>,
    d_gate: MatrixViewMut<'_>,
    d_up: MatrixViewMut<'_>,
) {
    let _ = (cpu, activation, gate, up, dy, d_gate, d_up);
    todo!()
}
