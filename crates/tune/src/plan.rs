//! What a run will take, in bytes, before it begins; and, from that and a budget, how batches go through the model: as
//! fast as memory allows. Every plan gives the same bits.

use bouquet_model::adapter::Learned;
use bouquet_model::local::PassBytes;
use bouquet_model::spec::BlockSpec;
use bouquet_span::{Keep, Pass};

use crate::gradient::PassPlan;
use crate::optimizer::Optimizer;
use crate::parameters::tensors;

/// Tokens of a pass where memory allows: enough to keep the kernels busy, and no more.
const TOKENS_PER_PASS: usize = 1024;

/// What a plan is made from.
pub struct Request<'a> {
    /// What is held already, or will be whatever the plan: the program, the tokenizer, the data, the weights.
    pub held: u64,
    /// A block.
    pub block: &'a BlockSpec,
    /// Blocks.
    pub blocks: usize,
    /// What is learned.
    pub learned: &'a Learned,
    /// What updates it.
    pub optimizer: &'a dyn Optimizer,
    /// Whether evaluations keep the best of what was learned.
    pub keeps_best: bool,
    /// Tokens of each sequence of the largest batch, with the soft prompt.
    pub lengths: &'a [usize],
    /// Sequences of a leaf.
    pub leaf: usize,
    /// Bytes of the logits that are held at a time: 0 where none are.
    pub logits: u64,
}

/// What a run takes at its peak, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// [`Request::held`].
    pub held: u64,
    /// What is learned, its gradients, the optimizer's state, and the copies that a checkpoint is written from.
    pub learned: u64,
    /// What a pass works in.
    pub working: u64,
    /// What the passes of a batch keep for their backward.
    pub kept: u64,
}

/// A budget that nothing can be done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run needs {needed} bytes, and may take {budget}")]
pub struct TooLarge {
    /// Bytes that it needs at least.
    pub needed: u64,
    /// Bytes that it may take.
    pub budget: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.learned, self.working, self.kept].iter().fold(self.held, |sum, part| sum.saturating_add(*part))
    }
}

impl Request<'_> {
    /// The fastest plan within `budget` bytes: everything kept; else activations of some blocks, and the inputs of all; else
    /// nothing, with passes of fewer tokens.
    ///
    /// # Errors
    /// [`TooLarge`] when not even a pass of one leaf fits.
    pub fn plan(&self, budget: u64) -> Result<(PassPlan, MemoryPlan), TooLarge> {
        let largest_leaf: usize =
            self.lengths.chunks(self.leaf.max(1)).map(|leaf| leaf.iter().sum()).max().unwrap_or(0);
        let mut tokens_per_pass = TOKENS_PER_PASS.max(largest_leaf);
        loop {
            let mut plan = PassPlan { leaf: self.leaf, tokens_per_pass, kept_bytes: None };
            let mut memory = self.memory(plan, 0, 0);
            if memory.total() <= budget {
                let left = budget - memory.total();
                let (inputs, activations) = self.kept();
                if left >= inputs {
                    let activations = activations.min(left - inputs);
                    plan.kept_bytes = Some(activations);
                    memory = self.memory(plan, inputs, activations);
                }
                return Ok((plan, memory));
            }
            if tokens_per_pass <= largest_leaf {
                return Err(TooLarge { needed: memory.total(), budget });
            }
            tokens_per_pass = (tokens_per_pass / 2).max(largest_leaf);
        }
    }

    fn memory(&self, plan: PassPlan, inputs: u64, activations: u64) -> MemoryPlan {
        let passes = plan.passes(self.lengths);
        let working = passes.into_iter().map(|pass| self.working(&self.lengths[pass])).max().unwrap_or(0);
        let parameters: u64 = tensors(self.learned).iter().map(|(_, matrix)| 4 * matrix.data().len() as u64).sum();
        // Itself and the best of it, twice: the run's and a checkpoint's; what travels with passes; gradients.
        let copies = if self.keeps_best { 6 } else { 4 };
        let learned = copies * parameters + 2 * self.optimizer.bytes() as u64;
        MemoryPlan {
            held: self.held,
            learned,
            working: working.saturating_add(self.logits),
            kept: inputs + activations,
        }
    }

    /// What a pass works in, forward and backward, besides what is kept.
    fn working(&self, lengths: &[usize]) -> u64 {
        let bytes = self.bytes(lengths);
        bytes.forward().max(bytes.backward())
    }

    /// What the inputs of all blocks take for the whole batch, and all other activations.
    fn kept(&self) -> (u64, u64) {
        let bytes = self.bytes(self.lengths);
        let inputs = bytes.kept(Keep::BlockInputs);
        (inputs, bytes.kept(Keep::Activations { bytes: u64::MAX }).saturating_sub(inputs))
    }

    fn bytes(&self, lengths: &[usize]) -> PassBytes {
        let pass = self.learned.with(Pass { leaf: self.leaf, ..Pass::default() });
        PassBytes::new(self.block, 0..self.blocks, lengths, &pass)
    }
}
