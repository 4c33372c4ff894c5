//! The block of a fake, forward and backward. Per token `t`, every channel on its own:
//!
//! ```text
//! x[t] += prompt[t]                                      where the block has prompts that long
//! m[t]  = m[t-1] / 2 + x[t]                              the memory: what keys and values are to a real block
//! a[t]  = m[t] / (1 + m[t]²)
//! y[t]  = x[t] + w · a[t] + scale · (dropout(a[t]) Aᵀ) Bᵀ   the linear O of this block, with its adapter
//! ```

use bouquet_kernels::ops::dropout::{DropoutRow, dropout};
use bouquet_kernels::{Cpu, Matrix, MatrixViewMut};

use crate::adapter::{LeafGrad, LowRankGrad};
use crate::{LinearId, LowRank, Pass, Site};

/// One block, about to serve one pass.
pub(super) struct Block<'a> {
    pub(super) index: usize,
    pub(super) weight: f32,
    pub(super) hidden_size: usize,
    pub(super) pass: &'a Pass,
}

impl Block<'_> {
    /// The only linear that an adapter can reach.
    pub(super) fn linear(&self) -> LinearId {
        LinearId::new(self.index, Site::O)
    }

    /// Turns the next tokens of `sequence` into the block's output. `memory` has a row for each token before them, and
    /// then for each token up to their end.
    pub(super) fn forward(&self, sequence: usize, mut tokens: MatrixViewMut<'_>, memory: &mut Vec<f32>) {
        for row in 0..tokens.rows() {
            let position = memory.len() / self.hidden_size;
            let x = tokens.row_mut(row);
            if let Some(prompt) = self.prompt(position) {
                add(x, 1.0, prompt);
            }
            for c in 0..self.hidden_size {
                let before = if position == 0 { 0.0 } else { memory[(position - 1) * self.hidden_size + c] };
                memory.push(0.5 * before + x[c]);
            }
            let activation: Vec<f32> = self.memory_row(memory, position).iter().map(|&m| m / (1.0 + m * m)).collect();
            add(x, self.weight, &activation);
            if let Some(pair) = self.pair() {
                let down = times(&pair.a, &self.dropped(sequence, position, activation));
                add(x, pair.scale, &times(&pair.b, &down));
            }
        }
    }

    /// Turns the gradient for the output of a whole `sequence` into that for its input, and adds to the leaf's.
    pub(super) fn backward(&self, sequence: usize, memory: &[f32], mut grad: MatrixViewMut<'_>, leaf: &mut LeafGrad) {
        // The adapter's own gradients are summed in ascending order of the tokens, as everywhere.
        let mut activation_grads = Matrix::zeros(grad.rows(), self.hidden_size);
        for position in 0..grad.rows() {
            let dy = grad.row_mut(position);
            let da = activation_grads.row_mut(position);
            add(da, self.weight, dy);
            if let (Some(pair), Some(pair_grad)) = (self.pair(), leaf.adapter.get_mut(&self.linear())) {
                let activation = self.memory_row(memory, position).iter().map(|&m| m / (1.0 + m * m)).collect();
                let dropped = self.dropped(sequence, position, activation);
                let through = pair_backward(pair, &dropped, dy, pair_grad);
                add(da, 1.0, &self.dropped(sequence, position, through));
            }
        }
        // The memory hands gradients back from each token to the one before.
        let mut memory_grad = vec![0.0; self.hidden_size];
        for position in (0..grad.rows()).rev() {
            let dx = grad.row_mut(position);
            for (c, &m) in self.memory_row(memory, position).iter().enumerate() {
                let square = m * m;
                let slope = (1.0 - square) / ((1.0 + square) * (1.0 + square));
                memory_grad[c] = 0.5 * memory_grad[c] + slope * activation_grads.row(position)[c];
                dx[c] += memory_grad[c];
            }
            if let Some(prompt_grad) = leaf.prompts.get_mut(&self.index).filter(|prompt| position < prompt.rows()) {
                add(prompt_grad.row_mut(position), 1.0, dx);
            }
        }
    }

    fn memory_row<'m>(&self, memory: &'m [f32], position: usize) -> &'m [f32] {
        &memory[position * self.hidden_size..][..self.hidden_size]
    }

    fn prompt(&self, position: usize) -> Option<&[f32]> {
        let prompts = self.pass.prompts.as_ref()?.blocks.get(&self.index)?;
        (position < prompts.rows()).then(|| prompts.row(position))
    }

    fn pair(&self) -> Option<&LowRank> {
        self.pass.adapter.as_ref()?.pairs.get(&self.linear())
    }

    /// Dropout where the pass asks for it. Its own backward.
    fn dropped(&self, sequence: usize, position: usize, mut channels: Vec<f32>) -> Vec<f32> {
        if let (Some(key), Some(adapter)) = (self.pass.dropout, &self.pass.adapter) {
            let row = DropoutRow {
                seed: key.seed,
                step: key.step,
                view: key.view,
                sequence: key.first_sequence + sequence as u64,
                position: position as u64,
                linear: self.linear().counter(),
            };
            dropout(&Cpu::new(1), row, adapter.dropout, &mut channels);
        }
        channels
    }
}

/// Adds the gradients of one pair for one token, and returns the one for the pair's input `x`.
fn pair_backward(pair: &LowRank, x: &[f32], dy: &[f32], grad: &mut LowRankGrad) -> Vec<f32> {
    let down = times(&pair.a, x);
    let mut down_grad = vec![0.0; down.len()];
    for (output, &dy) in dy.iter().enumerate() {
        add(grad.b.row_mut(output), pair.scale * dy, &down);
        add(&mut down_grad, pair.scale * dy, pair.b.row(output));
    }
    let mut x_grad = vec![0.0; x.len()];
    for (rank, &down_grad) in down_grad.iter().enumerate() {
        add(grad.a.row_mut(rank), down_grad, x);
        add(&mut x_grad, down_grad, pair.a.row(rank));
    }
    x_grad
}

/// `matrix · x`.
fn times(matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    (0..matrix.rows()).map(|row| matrix.row(row).iter().zip(x).map(|(&w, &x)| w * x).sum()).collect()
}

/// `sum += factor · x`.
fn add(sum: &mut [f32], factor: f32, x: &[f32]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}
