//! The decoder block: the one block of all families, forward and backward. What differs between families is data
//! ([`BlockSpec`](crate::spec::BlockSpec)).
//!
//! ```text
//!          NormInput (usual)                           NormOutput (some BLOOM checkpoints)
//!
//! hidden ──┬─> norm ─> attention ─┐            hidden ─> norm ─┬─> attention ─┐
//!          └──────────────────────+─ middle                    └──────────────+─ middle
//! middle ──┬─> norm ─> feed-forward ─┐         middle ─> norm ─┬─> feed-forward ─┐
//!          └─────────────────────────+─> out                   └─────────────────+─> out
//! ```

pub(crate) mod attention;
pub(crate) mod batch;
pub(crate) mod feed_forward;

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::adapter::LeafGrad;

use self::attention::{Attention, AttentionActivations};
use self::batch::{Batch, Call};
use self::feed_forward::{FeedForward, FeedForwardActivations};
use crate::kv_cache::KvCache;
use crate::norm::Norm;
use crate::spec::Residual;

/// The weights of a block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its number, counted from the start of the model.
    pub(crate) index: usize,
    /// Which residual is added.
    pub(crate) residual: Residual,
    /// Before attention.
    pub(crate) attention_norm: Norm,
    /// Attention.
    pub(crate) attention: Attention,
    /// Before the feed-forward.
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
    /// The sum after attention.
    middle: Matrix,
    feed_forward: FeedForwardActivations,
}

impl Block {
    /// Its weights, in the order in which data passes them.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        let linears = self.attention.linears().into_iter().chain(self.feed_forward.linears());
        linears.map(|linear| &linear.weight)
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
        let (activations, normed) = self.activations_and_norm(call, input, caches);
        let mut output = self.feed_forward.output(call, &activations.feed_forward);
        let residual = self.residual_of(&activations.middle, &normed);
        cpu.timed("residual", || elementwise::add(cpu, residual, output.view_mut()));
        batch.round(cpu, &mut output);
        (output, activations)
    }

    /// What [`forward`](Self::forward) leaves for the backward, without its output, whose product would be a quarter of the
    /// work or more.
    pub(crate) fn activations(
        &self,
        cpu: &Cpu,
        batch: &Batch<'_>,
        input: Matrix,
        caches: &mut [&mut KvCache],
    ) -> Activations {
        self.activations_and_norm(Call { cpu, block: self.index, batch }, input, caches).0
    }

    /// Those, and the input of the feed-forward.
    fn activations_and_norm(
        &self,
        call: Call<'_>,
        mut input: Matrix,
        caches: &mut [&mut KvCache],
    ) -> (Activations, Matrix) {
        let Call { cpu, batch, .. } = call;
        batch.add_prompts(self.index, &mut input);

        let normed = self.attention_norm.forward(cpu, input.view());
        let (mut middle, attention) = self.attention.forward(call, normed.view(), caches);
        cpu.timed("residual", || elementwise::add(cpu, self.residual_of(&input, &normed), middle.view_mut()));

        let normed = self.feed_forward_norm.forward(cpu, middle.view());
        let feed_forward = self.feed_forward.activations(call, normed.view());
        (Activations { input, attention, middle, feed_forward }, normed)
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
        let Activations { input, attention, middle, feed_forward } = activations;

        let needed = self.feed_forward.needs_input(call);
        let normed = needed.then(|| self.feed_forward_norm.forward(cpu, middle.view()));
        let normed = normed.as_ref().map(Matrix::view);
        let d_normed = self.feed_forward.backward(call, normed, feed_forward, d_output.view(), leaves);
        let d_middle = self.sublayer_backward(cpu, &self.feed_forward_norm, middle, d_normed, d_output);

        let needed = self.attention.needs_input(call);
        let normed = needed.then(|| self.attention_norm.forward(cpu, input.view()));
        let normed = normed.as_ref().map(Matrix::view);
        let d_normed = self.attention.backward(call, normed, attention, caches, d_middle.view(), leaves);
        let d_input = self.sublayer_backward(cpu, &self.attention_norm, input, d_normed, d_middle);

        batch.add_prompt_gradients(self.index, &d_input, leaves);
        d_input
    }

    fn residual_of<'a>(&self, norm_input: &'a Matrix, norm_output: &'a Matrix) -> MatrixView<'a> {
        match self.residual {
            Residual::NormInput => norm_input.view(),
            Residual::NormOutput => norm_output.view(),
        }
    }

    /// The gradient for the input of a norm, from that for its output along the branch and that for the sum.
    fn sublayer_backward(&self, cpu: &Cpu, norm: &Norm, x: &Matrix, mut d_normed: Matrix, d_sum: Matrix) -> Matrix {
        match self.residual {
            Residual::NormInput => {
                let mut dx = norm.backward(cpu, x.view(), d_normed.view());
                cpu.timed("residual", || elementwise::add(cpu, d_sum.view(), dx.view_mut()));
                dx
            }
            Residual::NormOutput => {
                elementwise::add(cpu, d_sum.view(), d_normed.view_mut());
                norm.backward(cpu, x.view(), d_normed.view())
            }
        }
    }
}

impl Activations {
    /// Memory that they hold, without caches.
    pub(crate) fn bytes(&self) -> u64 {
        let sums = 4 * (self.input.data().len() + self.middle.data().len()) as u64;
        sums + self.attention.bytes() + self.feed_forward.bytes()
    }
}
