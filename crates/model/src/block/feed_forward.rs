//! Feed-forward of a block: plain, gated, or several experts of which each token uses a few.

use bouquet_kernels::ops::activation::{self, Activation};
use bouquet_kernels::ops::{elementwise, softmax};
use bouquet_kernels::{Cpu, Matrix, MatrixView, product};
use bouquet_span::Site;
use bouquet_span::adapter::LeafGrad;

use super::batch::{Call, Token};
use crate::linear::Linear;

/// The weights of the feed-forward.
#[derive(Clone, Debug)]
pub(crate) enum FeedForward {
    /// One for all tokens.
    Dense(Expert),
    /// A router chooses `per_token` of them; their weights are the softmax over all, divided by the sum of the chosen.
    Experts {
        /// One output per expert.
        router: Linear,
        /// In order.
        experts: Vec<Expert>,
        /// Experts that each token uses.
        per_token: usize,
    },
}

/// `down(f(gate x) · up x)`, or `down(f(up x))` without a gate.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    /// The nonlinearity `f`.
    pub(crate) activation: Activation,
    /// `[intermediate_size, hidden_size]`.
    pub(crate) gate: Option<Linear>,
    /// `[intermediate_size, hidden_size]`.
    pub(crate) up: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub(crate) down: Linear,
}

/// What the backward needs again.
pub(crate) enum FeedForwardActivations {
    /// Of the one.
    Dense(ExpertActivations),
    /// Of the router, and of each expert.
    Experts {
        /// Softmax over all experts, `[tokens, experts]`.
        probabilities: Matrix,
        /// What each expert was given and made.
        parts: Vec<ExpertPart>,
    },
}

/// What the backward of one expert needs again: the inputs of its nonlinearity.
pub(crate) struct ExpertActivations {
    gate: Option<Matrix>,
    up: Matrix,
}

/// One expert's share of the tokens.
pub(crate) struct ExpertPart {
    /// Rows that chose it, ascending.
    rows: Vec<usize>,
    /// Its weight in each of them.
    weights: Vec<f32>,
    activations: ExpertActivations,
    /// Its output, before the weight.
    output: Matrix,
}

/// The names of an expert's linears.
#[derive(Clone, Copy)]
struct Sites {
    gate: Site,
    up: Site,
    down: Site,
}

impl Sites {
    const DENSE: Sites = Sites { gate: Site::Gate, up: Site::Up, down: Site::Down };

    fn expert(expert: usize) -> Self {
        let expert = expert as u16;
        Sites { gate: Site::ExpertGate(expert), up: Site::ExpertUp(expert), down: Site::ExpertDown(expert) }
    }

    /// Whether an adapter reads the expert's input.
    fn need_input(self, call: Call<'_>) -> bool {
        call.adapts(self.gate) || call.adapts(self.up)
    }
}

impl FeedForward {
    /// Its linears, in the order in which data passes them.
    pub(crate) fn linears(&self) -> Vec<(Site, &Linear)> {
        match self {
            FeedForward::Dense(expert) => expert.linears(Sites::DENSE).collect(),
            FeedForward::Experts { router, experts, .. } => {
                let experts = experts.iter().enumerate();
                let experts = experts.flat_map(|(index, expert)| expert.linears(Sites::expert(index)));
                std::iter::once((Site::Router, router)).chain(experts).collect()
            }
        }
    }

    /// The first half of a forward: from `[tokens, hidden_size]` to all that the backward needs again.
    pub(crate) fn activations(&self, call: Call<'_>, x: MatrixView<'_>) -> FeedForwardActivations {
        match self {
            FeedForward::Dense(expert) => {
                FeedForwardActivations::Dense(expert.activations(call, Sites::DENSE, call.tokens(), x))
            }
            FeedForward::Experts { router, experts, per_token } => {
                let mut probabilities = router.forward(call, Site::Router, call.tokens(), x);
                softmax::softmax(call.cpu, probabilities.view_mut());
                let chosen: Vec<_> = (0..x.rows()).map(|row| choose(probabilities.row(row), *per_token)).collect();

                let part = |(index, expert): (usize, &Expert)| {
                    let share = |(row, chosen): (usize, &Vec<(usize, f32)>)| {
                        chosen.iter().find(|&&(expert, _)| expert == index).map(|&(_, weight)| (row, weight))
                    };
                    let (rows, weights): (Vec<_>, Vec<_>) = chosen.iter().enumerate().filter_map(share).unzip();
                    let (input, tokens) = gather(x, call.tokens(), &rows);
                    let activations = expert.activations(call, Sites::expert(index), &tokens, input.view());
                    let output = expert.output(call, Sites::expert(index), &tokens, &activations);
                    ExpertPart { rows, weights, activations, output }
                };
                let parts = experts.iter().enumerate().map(part).collect();
                FeedForwardActivations::Experts { probabilities, parts }
            }
        }
    }

    /// The second half: the output, `[tokens, hidden_size]`.
    pub(crate) fn output(&self, call: Call<'_>, activations: &FeedForwardActivations) -> Matrix {
        match (self, activations) {
            (FeedForward::Dense(expert), FeedForwardActivations::Dense(activations)) => {
                expert.output(call, Sites::DENSE, call.tokens(), activations)
            }
            (FeedForward::Experts { router, .. }, FeedForwardActivations::Experts { parts, .. }) => {
                let mut y = Matrix::zeros(call.tokens().len(), router.weight.cols());
                // In order of the experts, so that each row adds its experts up in ascending order.
                for ExpertPart { rows, weights, output, .. } in parts {
                    for (place, (&row, &weight)) in rows.iter().zip(weights).enumerate() {
                        let to = y.slice_mut(row..row + 1);
                        elementwise::add_scaled(call.cpu, weight, output.slice(place..place + 1), to);
                    }
                }
                y
            }
            _ => unreachable!("a feed-forward is given the activations that it made"),
        }
    }

    /// Whether [`backward`](Self::backward) needs its input.
    pub(crate) fn needs_input(&self, call: Call<'_>) -> bool {
        match self {
            FeedForward::Dense(_) => Sites::DENSE.need_input(call),
            FeedForward::Experts { experts, .. } => {
                call.adapts(Site::Router) || (0..experts.len()).any(|expert| Sites::expert(expert).need_input(call))
            }
        }
    }

    /// The gradient for `x`, which may be left out where it is not [needed](Self::needs_input).
    pub(crate) fn backward(
        &self,
        call: Call<'_>,
        x: Option<MatrixView<'_>>,
        activations: &FeedForwardActivations,
        dy: MatrixView<'_>,
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        match (self, activations) {
            (FeedForward::Dense(expert), FeedForwardActivations::Dense(activations)) => {
                expert.backward(call, Sites::DENSE, call.tokens(), x, activations, dy, leaves)
            }
            (
                FeedForward::Experts { router, experts, .. },
                FeedForwardActivations::Experts { probabilities, parts },
            ) => {
                let mut dx = Matrix::zeros(dy.rows(), dy.cols());
                let mut d_weights = Matrix::zeros(dy.rows(), experts.len());
                for (index, (expert, part)) in experts.iter().zip(parts).enumerate() {
                    let input = x.map(|x| gather(x, call.tokens(), &part.rows).0);
                    let (mut d_output, tokens) = gather(dy, call.tokens(), &part.rows);
                    for (place, (&row, &weight)) in part.rows.iter().zip(&part.weights).enumerate() {
                        d_weights.row_mut(row)[index] = dot(call.cpu, d_output.row(place), part.output.row(place));
                        d_output.row_mut(place).iter_mut().for_each(|value| *value *= weight);
                    }
                    let d_input = expert.backward(
                        call,
                        Sites::expert(index),
                        &tokens,
                        input.as_ref().map(Matrix::view),
                        &part.activations,
                        d_output.view(),
                        leaves,
                    );
                    for (place, &row) in part.rows.iter().enumerate() {
                        elementwise::add(call.cpu, d_input.slice(place..place + 1), dx.slice_mut(row..row + 1));
                    }
                }
                let d_logits = choice_backward(call.cpu, probabilities, parts, d_weights);
                let d_router = router.backward(call, Site::Router, call.tokens(), x, d_logits.view(), leaves);
                elementwise::add(call.cpu, d_router.view(), dx.view_mut());
                dx
            }
            _ => unreachable!("a feed-forward is given the activations that it made"),
        }
    }
}

impl FeedForwardActivations {
    /// Memory that they hold.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            FeedForwardActivations::Dense(activations) => activations.bytes(),
            FeedForwardActivations::Experts { probabilities, parts } => {
                4 * probabilities.data().len() as u64 + parts.iter().map(ExpertPart::bytes).sum::<u64>()
            }
        }
    }
}

impl Expert {
    fn linears(&self, sites: Sites) -> impl Iterator<Item = (Site, &Linear)> {
        let gate = self.gate.iter().map(move |gate| (sites.gate, gate));
        gate.chain([(sites.up, &self.up), (sites.down, &self.down)])
    }

    fn activations(&self, call: Call<'_>, sites: Sites, tokens: &[Token], x: MatrixView<'_>) -> ExpertActivations {
        let gate = self.gate.as_ref().map(|gate| gate.forward(call, sites.gate, tokens, x));
        ExpertActivations { gate, up: self.up.forward(call, sites.up, tokens, x) }
    }

    fn output(&self, call: Call<'_>, sites: Sites, tokens: &[Token], activations: &ExpertActivations) -> Matrix {
        let inner = self.inner(call.cpu, activations);
        self.down.forward(call, sites.down, tokens, inner.view())
    }

    fn backward(
        &self,
        call: Call<'_>,
        sites: Sites,
        tokens: &[Token],
        x: Option<MatrixView<'_>>,
        activations: &ExpertActivations,
        dy: MatrixView<'_>,
        leaves: &mut [LeafGrad],
    ) -> Matrix {
        let inner = call.adapts(sites.down).then(|| self.inner(call.cpu, activations));
        let d_inner = self.down.backward(call, sites.down, tokens, inner.as_ref().map(Matrix::view), dy, leaves);
        let up = activations.up.view();
        let mut d_up = Matrix::unset(up.rows(), up.cols());
        match (&self.gate, &activations.gate) {
            (Some(gate_linear), Some(gate)) => {
                let mut d_gate = Matrix::unset(up.rows(), up.cols());
                call.cpu.timed("activation backward", || {
                    let (d_gate, d_up) = (d_gate.view_mut(), d_up.view_mut());
                    activation::gated_backward(
                        call.cpu,
                        self.activation,
                        gate.view(),
                        up,
                        d_inner.view(),
                        d_gate,
                        d_up,
                    );
                });
                let mut dx = gate_linear.backward(call, sites.gate, tokens, x, d_gate.view(), leaves);
                let more = self.up.backward(call, sites.up, tokens, x, d_up.view(), leaves);
                elementwise::add(call.cpu, more.view(), dx.view_mut());
                dx
            }
            _ => {
                call.cpu.timed("activation backward", || {
                    activation::activate_backward(call.cpu, self.activation, up, d_inner.view(), d_up.view_mut());
                });
                self.up.backward(call, sites.up, tokens, x, d_up.view(), leaves)
            }
        }
    }

    /// The input of `down`.
    fn inner(&self, cpu: &Cpu, activations: &ExpertActivations) -> Matrix {
        cpu.timed("activation", || {
            let up = activations.up.view();
            let mut inner = Matrix::unset(up.rows(), up.cols());
            match &activations.gate {
                Some(gate) => activation::gated(cpu, self.activation, gate.view(), up, inner.view_mut()),
                None => activation::activate(cpu, self.activation, up, inner.view_mut()),
            }
            inner
        })
    }
}

impl ExpertPart {
    fn bytes(&self) -> u64 {
        let share = size_of_val(&*self.rows) + size_of_val(&*self.weights) + size_of_val(self.output.data());
        share as u64 + self.activations.bytes()
    }
}

impl ExpertActivations {
    fn bytes(&self) -> u64 {
        4 * (self.up.data().len() + self.gate.as_ref().map_or(0, |gate| gate.data().len())) as u64
    }
}

/// The experts of the largest probabilities, ascending by index, and the weight of each. Ties go to the lower index.
fn choose(probabilities: &[f32], per_token: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    order.truncate(per_token);
    order.sort_unstable();
    // Ascending by index, as the backward sums them.
    let sum = order.iter().map(|&expert| probabilities[expert]).fold(0.0, |sum, value| sum + value);
    order.into_iter().map(|expert| (expert, probabilities[expert] / sum)).collect()
}

/// The gradient for the router's logits from that for the weights of the chosen experts.
fn choice_backward(cpu: &Cpu, probabilities: &Matrix, parts: &[ExpertPart], d_weights: Matrix) -> Matrix {
    let mut d_logits = d_weights;
    let mut chosen = vec![Vec::new(); probabilities.rows()];
    for (expert, part) in parts.iter().enumerate() {
        for (&row, &weight) in part.rows.iter().zip(&part.weights) {
            chosen[row].push((expert, weight));
        }
    }
    for (row, chosen) in chosen.iter().enumerate() {
        let probabilities = probabilities.row(row);
        let gradient = d_logits.row_mut(row);
        // weight = p / Σ chosen p, so dp = (dw − Σ dw · w) / Σ chosen p.
        let sum = chosen.iter().fold(0.0, |sum, &(expert, _)| sum + probabilities[expert]);
        let mean = chosen.iter().fold(0.0, |sum, &(expert, weight)| sum + gradient[expert] * weight);
        for &(expert, _) in chosen {
            gradient[expert] = (gradient[expert] - mean) / sum;
        }
    }
    softmax::softmax_backward(cpu, probabilities.view(), d_logits.view_mut());
    d_logits
}

fn gather(x: MatrixView<'_>, tokens: &[Token], rows: &[usize]) -> (Matrix, Vec<Token>) {
    let mut gathered = Matrix::unset(rows.len(), x.cols());
    for (place, &row) in rows.iter().enumerate() {
        gathered.row_mut(place).copy_from_slice(x.row(row));
    }
    (gathered, rows.iter().map(|&row| tokens[row]).collect())
}

fn dot(cpu: &Cpu, a: &[f32], b: &[f32]) -> f32 {
    let mut result = Matrix::zeros(1, 1);
    product::product(cpu, MatrixView::new(1, a.len(), a), MatrixView::new(1, b.len(), b), result.view_mut());
    result.data()[0]
}
