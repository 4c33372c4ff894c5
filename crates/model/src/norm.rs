//! A normalization with its parameters.

use bouquet_kernels::ops::norm;
use bouquet_kernels::{Cpu, Matrix, MatrixView};

use crate::spec::{NormKind, NormSpec};

/// Layer norm or RMS norm over `hidden_size`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which, and its epsilon.
    pub spec: NormSpec,
    /// `[hidden_size]`.
    pub weight: Vec<f32>,
    /// `[hidden_size]`; zeros where the kind has none.
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
}
