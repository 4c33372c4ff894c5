//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split pairing of Hugging Face: channel
//! `i` of a head turns with channel `i + rotary/2`. Angles are made once per batch and shared by all blocks.

use crate::math::{pow, sin_cos};
use crate::simd::per_isa;
use crate::{Cpu, Matrix, MatrixViewMut};

/// The cosines and sines of a batch's positions, `[tokens, rotary/2]` each.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Matrix,
    sin: Matrix,
}

/// Inverse frequencies `theta^(−2i/rotary)` for `i < rotary/2`, rounded where transformers rounds them to f32: the
/// exponent, the power, its reciprocal. A position multiplies what they are off, so a better rounding would be further
/// from the model that was trained.
pub fn frequencies(rotary: usize, theta: f64) -> Vec<f32> {
    let theta = f64::from(theta as f32);
    let frequency = |i: usize| {
        let exponent = (2 * i) as f32 / rotary as f32;
        1.0 / pow(theta, f64::from(exponent)) as f32
    };
    (0..rotary / 2).map(frequency).collect()
}

impl Angles {
    /// The angle of a position and a frequency is their product rounded to f32, as transformers computes it; its
    /// cosine and sine are multiplied by `scaling` (1 unless the rope variant says otherwise).
    pub fn new(positions: &[usize], frequencies: &[f32], scaling: f32) -> Self {
        let mut cos = Matrix::zeros(positions.len(), frequencies.len());
        let mut sin = cos.clone();
        for (token, &position) in positions.iter().enumerate() {
            let turned = cos.row_mut(token).iter_mut().zip(sin.row_mut(token));
            for ((cos, sin), frequency) in turned.zip(frequencies) {
                let (s, c) = sin_cos(f64::from(position as f32 * frequency));
                (*cos, *sin) = (c as f32 * scaling, s as f32 * scaling);
            }
        }
        Angles { cos, sin }
    }

    /// Appends the angles of more tokens. Panics when they turn another number of channels.
    pub fn append(&mut self, more: &Angles) {
        self.cos.push_rows(more.cos.view());
        self.sin.push_rows(more.sin.view());
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.cos.rows()
    }
}

/// Turns the first `rotary` channels of each head, in place: `x` is `[tokens, heads * head_dim]`. Panics when the
/// angles are of another number of tokens, or a head is narrower than they turn.
pub fn rotate(cpu: &Cpu, angles: &Angles, heads: usize, x: MatrixViewMut<'_>) {
    turn(cpu, angles, heads, 1.0, x);
}

/// The gradient of [`rotate`], in place: turns back.
pub fn rotate_backward(cpu: &Cpu, angles: &Angles, heads: usize, dx: MatrixViewMut<'_>) {
    turn(cpu, angles, heads, -1.0, dx);
}

/// Turns by `sign` times the angles.
fn turn(cpu: &Cpu, angles: &Angles, heads: usize, sign: f32, x: MatrixViewMut<'_>) {
    assert_eq!(angles.tokens(), x.rows(), "tokens of the angles and of what they turn");
    assert!(heads > 0 && x.cols().is_multiple_of(heads), "{heads} heads in {} columns", x.cols());
    let head_dim = x.cols() / heads;
    assert!(2 * angles.cos.cols() <= head_dim, "{} channels turned in heads of {head_dim}", 2 * angles.cos.cols());
    cpu.for_each_row(x, |token, x| turn_row(cpu, angles.cos.row(token), angles.sin.row(token), sign, head_dim, x));
}

per_isa! {
    fn turn_row(cos: &[f32], sin: &[f32], sign: f32, head_dim: usize, x: &mut [f32]) {
        let half = cos.len();
        let sin = &sin[..half];
        for head in x.chunks_exact_mut(head_dim.max(1)) {
            let (first, rest) = head.split_at_mut(half);
            let second = &mut rest[..half];
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cos[i] - b * (sign * sin[i]);
                second[i] = b * cos[i] + a * (sign * sin[i]);
            }
        }
    }
}
