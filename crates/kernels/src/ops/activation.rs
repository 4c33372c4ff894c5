//! Activations of the feed-forward, plain and gated.

use crate::cpu::SharedOut;
use crate::math::{exp, normal_cdf, tanh};
use crate::simd::per_isa;
use crate::{Cpu, MatrixView, MatrixViewMut};

/// A pointwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(0.79788456 x (1 + 0.044715 x²)))`, BLOOM's approximation of GELU (arXiv 1606.08415).
    GeluTanh,
    /// `x Φ(x)`, GELU itself, with the distribution function of the normal distribution (Falcon).
    Gelu,
    /// `x / (1 + e⁻ˣ)`, also called swish.
    Silu,
    /// `max(x, 0)`, with slope 0 at 0 (OPT).
    Relu,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 4] = [Activation::GeluTanh, Activation::Gelu, Activation::Silu, Activation::Relu];
}

/// `y = f(x)`. Both are of one shape.
pub fn activate(cpu: &Cpu, activation: Activation, x: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_shape(x, y.view());
    cpu.for_each_row(y, |row, y| activate_row(cpu, activation, x.row(row), y));
}

/// `dx = dy · f′(x)`. All are of one shape.
pub fn activate_backward(
    cpu: &Cpu,
    activation: Activation,
    x: MatrixView<'_>,
    dy: MatrixView<'_>,
    dx: MatrixViewMut<'_>,
) {
    assert_shape(x, dy);
    assert_shape(x, dx.view());
    cpu.for_each_row(dx, |row, dx| activate_backward_row(cpu, activation, x.row(row), dy.row(row), dx));
}

/// `y = f(gate) · up` (Shazeer 2020, arXiv 2002.05202). All are of one shape.
pub fn gated(cpu: &Cpu, activation: Activation, gate: MatrixView<'_>, up: MatrixView<'_>, y: MatrixViewMut<'_>) {
    assert_shape(gate, up);
    assert_shape(gate, y.view());
    cpu.for_each_row(y, |row, y| gated_row(cpu, activation, gate.row(row), up.row(row), y));
}

/// The gradients of [`gated`]: `d_gate = dy · up · f′(gate)`, `d_up = dy · f(gate)`. All are of one shape.
pub fn gated_backward(
    cpu: &Cpu,
    activation: Activation,
    gate: MatrixView<'_>,
    up: MatrixView<'_>,
    dy: MatrixView<'_>,
    d_gate: MatrixViewMut<'_>,
    mut d_up: MatrixViewMut<'_>,
) {
    for other in [up, dy, d_gate.view(), d_up.view()] {
        assert_shape(gate, other);
    }
    let d_up = SharedOut::new(&mut d_up);
    cpu.for_each_row(d_gate, |row, d_gate| {
        // SAFETY: each row is worked on once.
        let d_up = unsafe { d_up.row(row) };
        gated_backward_row(cpu, activation, gate.row(row), up.row(row), dy.row(row), d_gate, d_up);
    });
}

fn assert_shape(a: MatrixView<'_>, b: MatrixView<'_>) {
    assert_eq!((a.rows(), a.cols()), (b.rows(), b.cols()), "shapes of one activation");
}

/// The value and the slope of the activation at `x`; what is not used is not computed.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let square = x * x;
    let tanh = tanh(SQRT_2_OVER_PI * x * (1.0 + CUBIC * square));
    let slope = 0.5 * (1.0 + tanh) + 0.5 * x * ((1.0 - tanh * tanh) * (SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * square)));
    (0.5 * x * (1.0 + tanh), slope)
}

/// As [`gelu_tanh`].
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const INVERSE_SQRT_2_PI: f32 = 0.398_942_3;
    let probability = normal_cdf(x);
    (x * probability, probability + x * (INVERSE_SQRT_2_PI * exp(-0.5 * x * x)))
}

/// As [`gelu_tanh`].
#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    // A NaN stays one.
    (if x < 0.0 { 0.0 } else { x }, if x > 0.0 { 1.0 } else { 0.0 })
}

/// As [`gelu_tanh`].
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x / (1.0 + exp(-x)), sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// Runs `$body` with `$f` naming the activation, so that the choice is made outside of the loop.
macro_rules! for_activation {
    ($activation:expr, $f:ident => $body:expr) => {
        match $activation {
            Activation::GeluTanh => {
                let $f = gelu_tanh;
                $body
            }
            Activation::Gelu => {
                let $f = gelu;
                $body
            }
            Activation::Silu => {
                let $f = silu;
                $body
            }
            Activation::Relu => {
                let $f = relu;
                $body
            }
        }
    };
}

per_isa! {
    fn activate_row(activation: Activation, x: &[f32], y: &mut [f32]) {
        for_activation!(activation, f => for (y, x) in y.iter_mut().zip(x) {
            *y = f(*x).0;
        })
    }
}

per_isa! {
    fn activate_backward_row(activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for_activation!(activation, f => for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * f(*x).1;
        })
    }
}

per_isa! {
    fn gated_row(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
        for_activation!(activation, f => for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = f(*gate).0 * up;
        })
    }
}

per_isa! {
    fn gated_backward_row(
        activation: Activation, gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32],
    ) {
        let (up, dy, d_gate, d_up) =
            (&up[..gate.len()], &dy[..gate.len()], &mut d_gate[..gate.len()], &mut d_up[..gate.len()]);
        for_activation!(activation, f => for i in 0..gate.len() {
            let (value, slope) = f(gate[i]);
            d_gate[i] = dy[i] * up[i] * slope;
            d_up[i] = dy[i] * value;
        })
    }
}
