//! What a run will take, in bytes, before it begins; and, from that and a budget, how batches go through the model: as
//! fast as memory allows. Every plan gives the same bits.

use std::ops::Range;

use bouquet_kernels::MOST_IDLE_BYTES;
use bouquet_model::adapter::Learned;
use bouquet_model::ends::LOGIT_BYTES;
use bouquet_model::local::PassBytes;
use bouquet_model::spec::BlockSpec;
use bouquet_span::{Keep, Pass};

use crate::gradient::PassPlan;
use crate::optimizer::Optimizer;
use crate::parameters::tensors;

/// Tokens of a pass where memory allows: enough to keep the kernels busy, and no more.
const TOKENS_PER_PASS: usize = 1024;

/// Code that has not run yet, buffers that threads keep for their kernels, and what the allocator cannot give back: as much
/// was measured beside what is counted.
const OTHER_BYTES: u64 = 8 << 20;

/// What a budget leaves to chance, as a share of what was counted: 1 of so many.
const MARGIN: u64 = 16;

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
    /// Whether all batches have as many tokens as that.
    pub alike: bool,
    /// Sequences of a leaf.
    pub leaf: usize,
    /// For batches of texts: what is predicted. Such passes go one after another; those of sentences all go forward before
    /// the first goes backward.
    pub predicted: Option<Predicted<'a>>,
    /// Tokens of a pass of an evaluation, which come between steps; 0 where none are made.
    pub evaluated: usize,
    /// Vectors of sentences that an evaluation compares, and holds meanwhile.
    pub vectors: usize,
    /// Bytes that what comes behind the last step works in, when no pass does.
    pub afterwards: u64,
}

/// Tokens that are predicted.
#[derive(Clone, Copy)]
pub struct Predicted<'a> {
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Of each sequence of the largest batch, how many are predicted.
    pub tokens: &'a [usize],
}

/// What a run takes at its peak, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// [`Request::held`].
    pub held: u64,
    /// What is learned, its gradients, the optimizer's state, and the copies that a checkpoint is written from.
    pub learned: u64,
    /// What a pass works in, and what lies idle for the next one.
    pub working: u64,
    /// Of that, what lies idle at most; the run has to see to it ([`bouquet_kernels::set_most_idle_bytes`]).
    pub idle: u64,
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
    /// The fastest plan within `budget` bytes: all activations kept; else those of some blocks, and the inputs of all; else
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
            let of_block = self.activations_kept(plan);
            let kept = (0..=self.blocks as u64).rev().map(|blocks| Some(blocks.saturating_mul(of_block)));
            let mut needed = u64::MAX;
            for kept_bytes in kept.chain([None]) {
                plan.kept_bytes = kept_bytes;
                let memory = self.memory(plan);
                needed = memory.total().saturating_add(memory.total() / MARGIN);
                if needed <= budget {
                    return Ok((plan, memory));
                }
            }
            if tokens_per_pass <= largest_leaf {
                return Err(TooLarge { needed, budget });
            }
            tokens_per_pass = (tokens_per_pass / 2).max(largest_leaf);
        }
    }

    /// What a plan takes.
    pub fn memory(&self, plan: PassPlan) -> MemoryPlan {
        let passes: Vec<Range<usize>> = plan.passes(self.lengths);
        let most_idle = self.most_idle(&passes);
        let (kept, working) = if self.predicted.is_some() {
            self.one_by_one(plan, &passes, most_idle)
        } else {
            self.all_forward_first(plan, &passes, most_idle)
        };
        // Evaluations keep nothing.
        let others = self.evaluation().max(self.afterwards);
        let working = working.max(others.saturating_sub(kept)).saturating_add(OTHER_BYTES);
        let parameters: u64 = tensors(self.learned).iter().map(|(_, matrix)| 4 * matrix.data().len() as u64).sum();
        // Itself and the best of it, twice: the run's and a checkpoint's; what travels with passes; gradients.
        let copies = if self.keeps_best { 6 } else { 4 };
        let learned = copies * parameters + 2 * self.optimizer.bytes() as u64;
        let idle = idle_beside(self.worked_in(plan, &passes), most_idle);
        MemoryPlan { held: self.held, learned, working, idle, kept }
    }

    /// The most that a pass works in, one way or the other, or an evaluation: what can lie idle beside the next one.
    fn worked_in(&self, plan: PassPlan, passes: &[Range<usize>]) -> u64 {
        let all: usize = self.lengths.iter().sum();
        let of_pass = |pass: &Range<usize>| {
            let lengths = &self.lengths[pass.clone()];
            let keep = match plan.kept_bytes {
                None => Keep::BlockInputs,
                Some(bytes) if self.predicted.is_some() => Keep::Activations { bytes },
                Some(bytes) => PassPlan::keep(bytes, lengths.iter().sum(), all),
            };
            let bytes = self.bytes(lengths);
            let logits = self.predicted.map_or(0, |predicted| {
                2 * logit_bytes(predicted.vocab_size, predicted.tokens[pass.clone()].iter().sum())
            });
            let forward = bytes.forward(keep).saturating_sub(bytes.kept(keep));
            let worked_in = forward.max(bytes.backward(keep).saturating_add(2 * self.hidden(lengths)));
            worked_in.saturating_add(logits).saturating_add(made_again(&bytes, keep))
        };
        passes.iter().map(of_pass).max().unwrap_or(0).max(self.evaluation())
    }

    /// Matrices that wait for the next pass, at most. Where all passes are of one size, each takes the matrices of the one
    /// before, and what lies idle is what only one direction works in.
    fn most_idle(&self, passes: &[Range<usize>]) -> u64 {
        let tokens = |pass: &Range<usize>| self.lengths[pass.clone()].iter().sum::<usize>();
        let one_size =
            self.alike && self.evaluated == 0 && passes.windows(2).all(|two| tokens(&two[0]) == tokens(&two[1]));
        match passes.first() {
            Some(pass) if one_size => {
                let bytes = self.bytes(&self.lengths[pass.clone()]);
                bytes.forward(Keep::Nothing).saturating_sub(bytes.activations()).min(MOST_IDLE_BYTES as u64)
            }
            _ => MOST_IDLE_BYTES as u64,
        }
    }

    /// What batches of sentences keep and work in.
    fn all_forward_first(&self, plan: PassPlan, passes: &[Range<usize>], most_idle: u64) -> (u64, u64) {
        let hidden = |pass: &Range<usize>| self.hidden(&self.lengths[pass.clone()]);
        let Some(kept_bytes) = plan.kept_bytes else {
            let peak = |pass: &Range<usize>| {
                let (bytes, keep) = (self.bytes(&self.lengths[pass.clone()]), Keep::BlockInputs);
                // Its output; and the gradient that comes back.
                let backward = bytes.kept(keep).saturating_add(bytes.backward(keep)).saturating_add(2 * hidden(pass));
                with_idle(backward.max(bytes.forward(keep)), made_again(&bytes, keep), most_idle)
            };
            return (0, passes.iter().map(peak).max().unwrap_or(0));
        };
        let all: usize = self.lengths.iter().sum();
        let own = |pass: &Range<usize>| self.lengths[pass.clone()].iter().sum();
        let counted = |pass: &Range<usize>| {
            (self.bytes(&self.lengths[pass.clone()]), PassPlan::keep(kept_bytes, own(pass), all), hidden(pass))
        };
        let passes: Vec<(PassBytes, Keep, u64)> = passes.iter().map(counted).collect();
        // Activations, and the output.
        let kept = |(bytes, keep, hidden): &(PassBytes, Keep, u64)| bytes.kept(*keep).saturating_add(*hidden);
        let working = |(bytes, keep, hidden): &(PassBytes, Keep, u64)| {
            let forward = bytes.forward(*keep).saturating_sub(bytes.kept(*keep));
            let backward = bytes.backward(*keep).saturating_add(*hidden);
            with_idle(forward.max(backward), made_again(bytes, *keep), most_idle)
        };
        let sum = passes.iter().map(kept).fold(0, u64::saturating_add);
        (sum, passes.iter().map(working).max().unwrap_or(0))
    }

    /// What batches of texts keep and work in.
    fn one_by_one(&self, plan: PassPlan, passes: &[Range<usize>], most_idle: u64) -> (u64, u64) {
        let idle = |worked_in: u64| idle_beside(worked_in, most_idle);
        let keep = plan.kept_bytes.map_or(Keep::BlockInputs, |bytes| Keep::Activations { bytes });
        let both = passes.iter().map(|pass| {
            let lengths = &self.lengths[pass.clone()];
            let (bytes, hidden) = (self.bytes(lengths), self.hidden(lengths));
            let kept = bytes.kept(keep);
            let (forward, backward) = (bytes.forward(keep).saturating_sub(kept), bytes.backward(keep));
            // And their gradient.
            let logits = self.predicted.map_or(0, |predicted| {
                2 * logit_bytes(predicted.vocab_size, predicted.tokens[pass.clone()].iter().sum())
            });
            // The output, normalized, and its gradient: with logits, and then with the gradients of a block. What one of
            // them held lies idle beside the other.
            let again = made_again(&bytes, keep);
            let with_logits = logits.saturating_add(2 * hidden).saturating_add(idle(forward));
            let with_gradients = backward.saturating_add(idle(logits.saturating_add(backward).saturating_add(again)));
            (kept, with_idle(forward, 0, most_idle).max(with_logits.max(with_gradients).saturating_add(3 * hidden)))
        });
        both.max_by_key(|(kept, working)| kept.saturating_add(*working)).unwrap_or((0, 0))
    }

    /// What an evaluation works in.
    fn evaluation(&self) -> u64 {
        let lengths = [self.evaluated];
        let logits = self.predicted.map_or(0, |predicted| logit_bytes(predicted.vocab_size, self.evaluated));
        let working = self.bytes(&lengths).forward(Keep::Nothing).max(logits.saturating_add(2 * self.hidden(&lengths)));
        let idle = with_idle(working.saturating_add(self.hidden(&lengths)), 0, MOST_IDLE_BYTES as u64);
        idle.saturating_add(self.hidden(&[self.vectors]))
    }

    /// Activations of one block that are held at once.
    fn activations_kept(&self, plan: PassPlan) -> u64 {
        if self.predicted.is_none() {
            return self.bytes(self.lengths).activations();
        }
        let passes = plan.passes(self.lengths).into_iter();
        passes.map(|pass| self.bytes(&self.lengths[pass]).activations()).max().unwrap_or(0)
    }

    /// Bytes of a row for each token.
    fn hidden(&self, lengths: &[usize]) -> u64 {
        4 * (lengths.iter().sum::<usize>() * self.block.hidden_size) as u64
    }

    fn bytes(&self, lengths: &[usize]) -> PassBytes {
        let pass = self.learned.with(Pass { leaf: self.leaf, ..Pass::default() });
        PassBytes::new(self.block, 0..self.blocks, lengths, &pass)
    }
}

/// What a pass works in, and what lies idle beside it for the next one.
fn with_idle(working: u64, made_again: u64, most_idle: u64) -> u64 {
    working.saturating_add(idle_beside(working.saturating_add(made_again), most_idle))
}

/// What may lie idle where so much is worked in: less than that, since matrices of one direction serve the other, too.
fn idle_beside(worked_in: u64, most_idle: u64) -> u64 {
    (worked_in - worked_in / 4).min(most_idle)
}

/// Activations of a block that are not kept and are made again for its backward.
fn made_again(bytes: &PassBytes, keep: Keep) -> u64 {
    let all = bytes.kept(Keep::Activations { bytes: u64::MAX });
    if bytes.kept(keep) < all { bytes.activations() } else { 0 }
}

/// Of the logits of so many tokens, as many as are held at a time.
fn logit_bytes(vocab_size: usize, tokens: usize) -> u64 {
    let each = 4 * vocab_size.max(1);
    (each * tokens.min((LOGIT_BYTES / each).max(1))) as u64
}
