//! A normalization with its parameters.

use bouquet_kernels::ops::norm;
use bouquet_kernels::{Cpu, Matrix, MatrixView};

use crate::spec::{NormKind, NormSpec};

/// Layer norm or RMS norm over a row, or over each head of one.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which, and its epsilon.
    pub spec: NormSpec,
    /// `[size]`.
    pub weight: Vec<f32>,
    /// `[size]`; zeros where the kind has none.
    pub bias: Vec<f32>,
}

impl Norm {
    /// The normalized rows.
    pub fn forward(&self, cpu: &Cpu, x: MatrixView<'_>) -> Matrix {
        cpu.timed("norms", || {
            let mut y = Matrix::unset(x.rows(), x.cols());
            match self.spec.kind {
                NormKind::LayerNorm => {
                    norm::layer_norm(cpu, x, &self.weight, &self.bias, self.spec.epsilon, y.view_mut());
                }
                NormKind::RmsNorm => norm::rms_norm(cpu, x, &self.weight, self.spec.epsilon, y.view_mut()),
            }
            y
        })
    }

    /// The gradient for `x` from that of [`forward`](Self::forward).
    pub fn backward(&self, cpu: &Cpu, x: MatrixView<'_>, dy: MatrixView<'_>) -> Matrix {
        cpu.timed("norms backward", || {
            let (mut dx, epsilon) = (Matrix::unset(x.rows(), x.cols()), self.spec.epsilon);
            match self.spec.kind {
                NormKind::LayerNorm => norm::layer_norm_backward(cpu, x, &self.weight, epsilon, dy, dx.view_mut()),
                NormKind::RmsNorm => norm::rms_norm_backward(cpu, x, &self.weight, epsilon, dy, dx.view_mut()),
            }
            dx
        })
    }

    /// The same for rows of several heads side by side, each as wide as this norm.
    pub(crate) fn forward_of_heads(&self, cpu: &Cpu, x: &Matrix) -> Matrix {
        let y = self.forward(cpu, self.heads(x));
        Matrix::from_vec(x.rows(), x.cols(), y.into_vec())
    }

    /// The gradient for `x` from that of [`forward_of_heads`](Self::forward_of_heads).
    pub(crate) fn backward_of_heads(&self, cpu: &Cpu, x: &Matrix, dy: &Matrix) -> Matrix {
        let dx = self.backward(cpu, self.heads(x), self.heads(dy));
        Matrix::from_vec(x.rows(), x.cols(), dx.into_vec())
    }

    /// A row for each head.
    fn heads<'a>(&self, x: &'a Matrix) -> MatrixView<'a> {
        let width = self.weight.len();
        MatrixView::new(x.data().len() / width, width, x.data())
    }
}
