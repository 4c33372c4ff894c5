//! A weight, its bias, and what an adapter adds: `y = x Wᵀ + bias + (scale · dropout(x) Aᵀ) Bᵀ`. The linear knows
//! neither its name nor the adapter; both come with the call.

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight, product};
use bouquet_span::adapter::LeafGrad;
use bouquet_span::{LinearId, LowRank, Site};

use crate::block::batch::{Batch, Call, Token, runs};

/// One weight matrix of a block.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[outputs, inputs]`.
    pub(crate) weight: Weight,
    /// `[outputs]`.
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// `[tokens, inputs]` to `[tokens, outputs]`; `tokens` says whose rows these are.
    pub(crate) fn forward(&self, call: Call<'_>, site: Site, tokens: &[Token], x: MatrixView<'_>) -> Matrix {
        let Call { cpu, batch, .. } = call;
        let id = call.linear(site);
        let mut y = cpu.timed(product_at(site), || {
            let mut y = Matrix::unset(x.rows(), self.weight.rows());
            self.weight.product(cpu, x, self.bias.as_deref(), y.view_mut());
            y
        });
        for (request, rows) in runs(tokens, |token| token.request) {
            let Some(pair) = batch.low_rank(request, id) else { continue };
            cpu.timed("adapter", || {
                let input = adapter_input(cpu, id, batch, &tokens[rows.clone()], x.slice(rows.clone()));
                let inner = inner_product(cpu, pair, input.view());
                product::add_product(cpu, inner.view(), pair.b.view(), y.slice_mut(rows));
            });
        }
        y
    }

    /// The gradient for `x` from `dy`; gradients of the adapter are added to the leaf of each row. Only they need `x`, which
    /// may be left out where no request [adapts](Call::adapts) this linear.
    pub(crate) fn backward(
        &self,
        call: Call<'_>,
        site: Site,
        tokens: &[Token],
        x: Option<MatrixView<'_>>,
        dy: MatrixView<'_>,
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        let Call { cpu, batch, .. } = call;
        let id = call.linear(site);
        let mut dx = Matrix::unset(dy.rows(), self.weight.cols());
        cpu.timed("products backward", || self.weight.product_backward(cpu, dy, dx.view_mut()));
        for ((request, leaf), rows) in runs(tokens, |token| (token.request, token.leaf)) {
            let Some(pair) = batch.low_rank(request, id) else { continue };
            let x = x.expect("the input of a linear with an adapter");
            cpu.timed("adapter backward", || {
                let (tokens, dy) = (&tokens[rows.clone()], dy.slice(rows.clone()));
                let input = adapter_input(cpu, id, batch, tokens, x.slice(rows.clone()));
                let inner = inner_product(cpu, pair, input.view());

                let gradient = leaves[leaf].adapter.get_mut(&id).expect("leaves begin with a zero for each pair");
                product::weight_gradient(cpu, dy, inner.view(), gradient.b.view_mut());
                let mut d_inner = Matrix::unset(rows.len(), pair.rank());
                product::product_backward(cpu, dy, pair.b.view(), d_inner.view_mut());
                scale(&mut d_inner, pair.scale);
                product::weight_gradient(cpu, d_inner.view(), input.view(), gradient.a.view_mut());

                let mut d_input = Matrix::unset(rows.len(), x.cols());
                product::product_backward(cpu, d_inner.view(), pair.a.view(), d_input.view_mut());
                batch.drop_channels(cpu, id, tokens, d_input.view_mut());
                elementwise::add(cpu, d_input.view(), dx.slice_mut(rows));
            });
        }
        dx
    }
}

/// What a profile calls the product of a site.
fn product_at(site: Site) -> &'static str {
    match site {
        Site::Qkv => "product qkv",
        Site::Q => "product q",
        Site::K => "product k",
        Site::V => "product v",
        Site::O => "product o",
        Site::Gate => "product gate",
        Site::Up => "product up",
        Site::Down => "product down",
        Site::Router => "product router",
        Site::ExpertGate(_) => "product expert gate",
        Site::ExpertUp(_) => "product expert up",
        Site::ExpertDown(_) => "product expert down",
    }
}

/// `dropout(x)`.
fn adapter_input(cpu: &Cpu, id: LinearId, batch: &Batch<'_>, tokens: &[Token], x: MatrixView<'_>) -> Matrix {
    let mut input = x.to_matrix();
    batch.drop_channels(cpu, id, tokens, input.view_mut());
    input
}

/// `scale · x Aᵀ`, `[tokens, rank]`.
fn inner_product(cpu: &Cpu, pair: &LowRank, x: MatrixView<'_>) -> Matrix {
    let mut inner = Matrix::unset(x.rows(), pair.rank());
    product::product(cpu, x, pair.a.view(), inner.view_mut());
    scale(&mut inner, pair.scale);
    inner
}

fn scale(matrix: &mut Matrix, factor: f32) {
    matrix.data_mut().iter_mut().for_each(|value| *value *= factor);
}
