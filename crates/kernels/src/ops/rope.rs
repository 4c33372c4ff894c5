//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split pairing of Hugging Face: channel
//! `i` of a head turns with channel `i + rotary/2`. Angles are made once per batch and shared by all blocks.

use crate::{Cpu, Matrix, MatrixViewMut};

/// The cosines and sines of a batch's positions, `[tokens, rotary/2]` each.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Matrix,
    sin: Matrix,
}

/// Inverse frequencies `theta^(−2i/rotary)` for `i < rotary/2`, each rounded to f32.
pub fn frequencies(rotary: usize, theta: f64) -> Vec<f32> {
    let _ = (rotary, theta);
    todo!()
}

impl Angles {
    /// The angle of a position and a frequency is their product rounded to f32, as transformers computes it; its
    /// cosine and sine are multiplied by `scaling` (1 unless the rope variant says otherwise).
    pub fn new(positions: &[usize], frequencies: &[f32], scaling: f32) -> Self {
        let _ = (positions, frequencies, scaling);
        todo!()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.cos.rows()
    }
}

/// Turns the first `rotary` channels of each head, in place: `x` is `[tokens, heads * head_dim]`.
pub fn rotate(cpu: &Cpu, angles: &Angles, heads: usize, x: MatrixViewMut<'_>) {
    let _ = (cpu, angles, heads, x, &angles.sin);
    todo!()
}

/// The gradient of [`rotate`], in place: turns back.
pub fn rotate_backward(cpu: &Cpu, angles: &Angles, heads: usize, dx: MatrixViewMut<'_>) {
    let _ = (cpu, angles, heads, dx);
    todo!()
}
