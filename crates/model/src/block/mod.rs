//! The decoder block: the one block of all families, forward and backward. What differs between families is data
//! ([`BlockSpec`](crate::spec::BlockSpec)).
//!
//! ```text
//! PreNorm, the usual                              NormedResidual (some BLOOM checkpoints)
//!
//! input ──┬─> norm ─> attention ─┐                input ─> norm ─┬─> attention ─┐
//!         └──────────────────────+─ middle                       └──────────────+─ middle
//! middle ─┬─> norm ─> feed-forward ─┐             middle ─> norm ─┬─> feed-forward ─┐
//!         └─────────────────────────+─> output                    └─────────────────+─> output
//!
//! PostNorm (some OPT checkpoints)                 Parallel (Falcon)
//!
//! input ──┬─> attention ─┐                        input ──┬─> norm ─> attention ────┐
//!         └──────────────+─ middle                        ├─> norm ─> feed-forward ─+
//! middle ─> norm ─┬─> feed-forward ─┐                     └─────────────────────────+─> output
//!                 └─────────────────+─> norm ─> output
//! ```

pub(crate) mod attention;
pub(crate) mod batch;
pub(crate) mod feed_forward;

use std::mem::replace;

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::Site;
use bouquet_span::adapter::LeafGrad;

use self::attention::{Attention, AttentionActivations};
use self::batch::{Batch, Call};
use self::feed_forward::{FeedForward, FeedForwardActivations};
use crate::kv_cache::KvCache;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::Wiring;

/// The weights of a block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its number, counted from the start of the model.
    pub(crate) index: usize,
    /// How the parts below hang together.
    pub(crate) wiring: Wiring,
    /// The norm of attention: before it, or behind its sum.
    pub(crate) attention_norm: Norm,
    /// Attention.
    pub(crate) attention: Attention,
    /// The norm of the feed-forward: before it, or behind its sum.
    pub(crate) feed_forward_norm: Norm,
    /// Feed-forward.
    pub(crate) feed_forward: FeedForward,
}

/// What the backward of a block needs again. Norms and nonlinearities are cheap and computed again; the outputs of
/// products are kept.
pub(crate) struct Activations {
    /// The block's input, with prompts.
    input: Matrix,
    attention: AttentionActivations,
    /// The sum after attention, where the feed-forward comes after it.
    middle: Option<Matrix>,
    feed_forward: FeedForwardActivations,
    /// The sum after the feed-forward, where a norm follows.
    sum: Option<Matrix>,
}

impl Block {
    /// Its linears, in the order in which data passes them.
    pub(crate) fn linears(&self) -> impl Iterator<Item = (Site, &Linear)> {
        self.attention.linears().into_iter().chain(self.feed_forward.linears())
    }

    /// Their weights.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.linears().map(|(_, linear)| &linear.weight)
    }

    /// The output for packed rows, `[tokens, hidden_size]`; `caches` holds that of each sequence of the batch.
    pub(crate) fn forward(
        &self,
        cpu: &Cpu,
        batch: &Batch<'_>,
        input: Matrix,
        caches: &mut [&mut KvCache],
    ) -> (Matrix, Activations) {
        let call = Call { cpu, block: self.index, batch };
        let (mut activations, rest) = self.until_output(call, input, caches);
        let mut output = self.feed_forward.output(call, &activations.feed_forward);
        match (self.wiring, &activations.middle) {
            (Wiring::PreNorm, Some(middle)) => add(cpu, middle.view(), &mut output),
            _ => add(cpu, rest.view(), &mut output),
        }
        if self.wiring == Wiring::PostNorm {
            let normed = self.feed_forward_norm.forward(cpu, output.view());
            activations.sum = Some(replace(&mut output, normed));
        }
        batch.round(cpu, &mut output);
        (output, activations)
    }

    /// What [`forward`](Self::forward) leaves for the backward; without its output, whose product would be a quarter of the
    /// work or more, unless a norm follows that.
    pub(crate) fn activations(
        &self,
        cpu: &Cpu,
        batch: &Batch<'_>,
        input: Matrix,
        caches: &mut [&mut KvCache],
    ) -> Activations {
        match self.wiring {
            Wiring::PostNorm => self.forward(cpu, batch, input, caches).1,
            _ => self.until_output(Call { cpu, block: self.index, batch }, input, caches).0,
        }
    }

    /// All up to the last matrix of the feed-forward. Returned is also what came out of the last norm, or, side by side, what
    /// is added to the output.
    fn until_output(&self, call: Call<'_>, mut input: Matrix, caches: &mut [&mut KvCache]) -> (Activations, Matrix) {
        let Call { cpu, batch, .. } = call;
        batch.add_prompts(self.index, &mut input);
        let (middle, rest, attention, feed_forward);
        match self.wiring {
            Wiring::PreNorm | Wiring::NormedResidual => {
                let normed = self.attention_norm.forward(cpu, input.view());
                let mut attended;
                (attended, attention) = self.attention.forward(call, normed.view(), caches);
                let residual = if self.wiring == Wiring::PreNorm { &input } else { &normed };
                add(cpu, residual.view(), &mut attended);
                rest = self.feed_forward_norm.forward(cpu, attended.view());
                feed_forward = self.feed_forward.activations(call, rest.view());
                middle = Some(attended);
            }
            Wiring::PostNorm => {
                let mut attended;
                (attended, attention) = self.attention.forward(call, input.view(), caches);
                add(cpu, input.view(), &mut attended);
                rest = self.attention_norm.forward(cpu, attended.view());
                feed_forward = self.feed_forward.activations(call, rest.view());
                middle = Some(attended);
            }
            Wiring::Parallel => {
                let normed = self.attention_norm.forward(cpu, input.view());
                let mut attended;
                (attended, attention) = self.attention.forward(call, normed.view(), caches);
                add(cpu, input.view(), &mut attended);
                rest = attended;
                let normed = self.feed_forward_norm.forward(cpu, input.view());
                feed_forward = self.feed_forward.activations(call, normed.view());
                middle = None;
            }
        }
        (Activations { input, attention, middle, feed_forward, sum: None }, rest)
    }

    /// The gradient for the block's input, from that for its output; `caches` are those that the forward filled.
    /// Gradients of what the request brought are added to `leaves`.
    pub(crate) fn backward(
        &self,
        cpu: &Cpu,
        batch: &Batch<'_>,
        activations: &Activations,
        caches: &[KvCache],
        d_output: Matrix,
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        let call = Call { cpu, block: self.index, batch };
        let Activations { input, attention, middle, feed_forward, sum } = activations;
        let (attention_norm, feed_forward_norm) = (&self.attention_norm, &self.feed_forward_norm);
        // Made again only where an adapter reads it.
        let attention_input = |norm_input: &Matrix| {
            self.attention.needs_input(call).then(|| attention_norm.forward(cpu, norm_input.view()))
        };
        let feed_forward_input = |norm: &Norm, norm_input: &Matrix| {
            self.feed_forward.needs_input(call).then(|| norm.forward(cpu, norm_input.view()))
        };
        let d_input = match (self.wiring, middle, sum) {
            (Wiring::PreNorm | Wiring::NormedResidual, Some(middle), _) => {
                let normed = feed_forward_input(feed_forward_norm, middle);
                let d_normed = self.feed_forward.backward(call, view(&normed), feed_forward, d_output.view(), leaves);
                let d_middle = self.sublayer_backward(cpu, feed_forward_norm, middle, d_normed, d_output);
                let normed = attention_input(input);
                let d_normed = self.attention.backward(call, view(&normed), attention, caches, d_middle.view(), leaves);
                self.sublayer_backward(cpu, attention_norm, input, d_normed, d_middle)
            }
            (Wiring::PostNorm, Some(middle), Some(sum)) => {
                let d_sum = feed_forward_norm.backward(cpu, sum.view(), d_output.view());
                let normed = feed_forward_input(attention_norm, middle);
                let mut d_normed = self.feed_forward.backward(call, view(&normed), feed_forward, d_sum.view(), leaves);
                add(cpu, d_sum.view(), &mut d_normed);
                let d_middle = attention_norm.backward(cpu, middle.view(), d_normed.view());
                let mut d_input =
                    self.attention.backward(call, Some(input.view()), attention, caches, d_middle.view(), leaves);
                add(cpu, d_middle.view(), &mut d_input);
                d_input
            }
            (Wiring::Parallel, _, _) => {
                let normed = feed_forward_input(feed_forward_norm, input);
                let d_normed = self.feed_forward.backward(call, view(&normed), feed_forward, d_output.view(), leaves);
                let mut d_input = feed_forward_norm.backward(cpu, input.view(), d_normed.view());
                let normed = attention_input(input);
                let d_normed = self.attention.backward(call, view(&normed), attention, caches, d_output.view(), leaves);
                add(cpu, attention_norm.backward(cpu, input.view(), d_normed.view()).view(), &mut d_input);
                add(cpu, d_output.view(), &mut d_input);
                d_input
            }
            _ => unreachable!("a block is given the activations that it made"),
        };
        batch.add_prompt_gradients(self.index, &d_input, leaves);
        d_input
    }

    /// The gradient for the input of a norm before a sublayer, from that for its output along the branch and that for the
    /// sum.
    fn sublayer_backward(&self, cpu: &Cpu, norm: &Norm, x: &Matrix, mut d_normed: Matrix, d_sum: Matrix) -> Matrix {
        if self.wiring == Wiring::NormedResidual {
            add(cpu, d_sum.view(), &mut d_normed);
            return norm.backward(cpu, x.view(), d_normed.view());
        }
        let mut dx = norm.backward(cpu, x.view(), d_normed.view());
        add(cpu, d_sum.view(), &mut dx);
        dx
    }
}

fn view(matrix: &Option<Matrix>) -> Option<MatrixView<'_>> {
    matrix.as_ref().map(Matrix::view)
}

/// `to += more`.
fn add(cpu: &Cpu, more: MatrixView<'_>, to: &mut Matrix) {
    cpu.timed("residual", || elementwise::add(cpu, more, to.view_mut()));
}

impl Activations {
    /// Memory that they hold, without caches.
    pub(crate) fn bytes(&self) -> u64 {
        let sums = [Some(&self.input), self.middle.as_ref(), self.sum.as_ref()];
        let numbers: usize = sums.into_iter().flatten().map(|sum| sum.data().len()).sum();
        4 * numbers as u64 + self.attention.bytes() + self.feed_forward.bytes()
    }
}
