//! What is learned as a list of tensors, for those who treat all of them alike: optimizers, checkpoints, gradients. The
//! order is that of the blocks and is the same in every list here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_model::adapter::Learned;
use bouquet_span::adapter::LowRankGrad;
use bouquet_span::{LeafGrad, LinearId};

/// The name of a tensor, unique within what is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `A` of a linear.
    A(LinearId),
    /// `B` of a linear.
    B(LinearId),
    /// The prompt before the first token.
    SoftPrompt,
    /// The prompt at the input of a block.
    DeepPrompt(usize),
}

/// Gradients of all that is learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients {
    pairs: BTreeMap<LinearId, LowRankGrad>,
    soft_prompt: Option<Matrix>,
    deep_prompts: BTreeMap<usize, Matrix>,
}

impl Name {
    /// The linear that it is beside; a prompt is beside none.
    pub fn linear(self) -> Option<LinearId> {
        match self {
            Name::A(linear) | Name::B(linear) => Some(linear),
            Name::SoftPrompt | Name::DeepPrompt(_) => None,
        }
    }

    /// The block that it is in; the prompt before the first token is in none.
    pub fn block(self) -> Option<usize> {
        match self {
            Name::A(linear) | Name::B(linear) => Some(linear.block),
            Name::DeepPrompt(block) => Some(block),
            Name::SoftPrompt => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::A(linear) => write!(f, "{}.{}.A", linear.block, linear.site),
            Name::B(linear) => write!(f, "{}.{}.B", linear.block, linear.site),
            Name::SoftPrompt => f.write_str("soft_prompt"),
            Name::DeepPrompt(block) => write!(f, "{block}.prompt"),
        }
    }
}

/// The tensors of `learned`, in order.
pub fn tensors(learned: &Learned) -> Vec<(Name, &Matrix)> {
    let pairs = learned.low_rank.pairs.iter();
    let pairs = pairs.flat_map(|(&linear, pair)| [(Name::A(linear), &pair.a), (Name::B(linear), &pair.b)]);
    let soft = learned.soft_prompt.iter().map(|prompt| (Name::SoftPrompt, prompt));
    let deep = learned.deep_prompts.blocks.iter().map(|(&block, prompt)| (Name::DeepPrompt(block), prompt));
    pairs.chain(soft).chain(deep).collect()
}

/// The same, to write to.
pub fn tensors_mut(learned: &mut Learned) -> Vec<(Name, &mut [f32])> {
    let pairs = Arc::make_mut(&mut learned.low_rank).pairs.iter_mut();
    let pairs =
        pairs.flat_map(|(&linear, pair)| [(Name::A(linear), pair.a.data_mut()), (Name::B(linear), pair.b.data_mut())]);
    let soft = learned.soft_prompt.iter_mut().map(|prompt| (Name::SoftPrompt, prompt.data_mut()));
    let deep = Arc::make_mut(&mut learned.deep_prompts).blocks.iter_mut();
    let deep = deep.map(|(&block, prompt)| (Name::DeepPrompt(block), prompt.data_mut()));
    pairs.chain(soft).chain(deep).collect()
}

impl Gradients {
    /// Zeros in the shapes of `learned`.
    pub fn zeros(learned: &Learned) -> Self {
        let zeros = |matrix: &Matrix| Matrix::zeros(matrix.rows(), matrix.cols());
        let pairs = learned.low_rank.pairs.iter();
        Gradients {
            pairs: pairs.map(|(&id, pair)| (id, LowRankGrad { a: zeros(&pair.a), b: zeros(&pair.b) })).collect(),
            soft_prompt: learned.soft_prompt.as_ref().map(zeros),
            deep_prompts: learned.deep_prompts.blocks.iter().map(|(&block, prompt)| (block, zeros(prompt))).collect(),
        }
    }

    /// Adds those of one leaf; leaves come in the order of their sequences.
    pub fn add_leaf(&mut self, leaf: &LeafGrad) {
        for (linear, grad) in &leaf.adapter {
            let sum = self.pairs.get_mut(linear).expect("a gradient of what is learned");
            add(grad.a.data(), sum.a.data_mut());
            add(grad.b.data(), sum.b.data_mut());
        }
        for (block, grad) in &leaf.prompts {
            add(grad.data(), self.deep_prompts.get_mut(block).expect("a gradient of what is learned").data_mut());
        }
    }

    /// Adds that of the soft prompt; leaves come in the order of their sequences.
    pub fn add_soft_prompt(&mut self, leaf: &Matrix) {
        add(leaf.data(), self.soft_prompt.as_mut().expect("a gradient of what is learned").data_mut());
    }

    /// Adds other gradients of the same shapes.
    pub fn add(&mut self, other: &Gradients) {
        for (sum, more) in self.slices_mut().into_iter().zip(other.slices()) {
            add(more, sum);
        }
    }

    /// Multiplies all by a factor.
    pub fn scale(&mut self, factor: f32) {
        for slice in self.slices_mut() {
            slice.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// In the order of [`tensors`].
    pub fn slices(&self) -> Vec<&[f32]> {
        let pairs = self.pairs.values().flat_map(|grad| [grad.a.data(), grad.b.data()]);
        pairs.chain(self.soft_prompt.iter().chain(self.deep_prompts.values()).map(Matrix::data)).collect()
    }

    /// The same, to write to.
    pub fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let pairs = self.pairs.values_mut().flat_map(|grad| [grad.a.data_mut(), grad.b.data_mut()]);
        let prompts = self.soft_prompt.iter_mut().chain(self.deep_prompts.values_mut());
        pairs.chain(prompts.map(Matrix::data_mut)).collect()
    }
}

fn add(more: &[f32], sum: &mut [f32]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}
