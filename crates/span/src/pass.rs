//! All that a request carries besides hidden states, defined once for every place where blocks can run.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::{Adapter, Prompts, Result, SpanError};

/// Sequences in a leaf unless said otherwise.
pub const DEFAULT_LEAF: usize = 8;

/// A request. `Pass::default()` is plain inference: no adapter, no rounding, nothing kept, no deadline.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Low-rank matrices added to linears. Those of blocks elsewhere are ignored.
    pub adapter: Option<Arc<Adapter>>,
    /// Deep prompts. Those of blocks elsewhere are ignored.
    pub prompts: Option<Arc<Prompts>>,
    /// Present in training: adapters drop channels of their input by this key.
    pub dropout: Option<Dropout>,
    /// What the forward keeps for a backward.
    pub keep: Keep,
    /// The length that each sequence may grow to. Some positions (dynamic rope) depend on it. `None`: its own length.
    pub reserved_tokens: Option<usize>,
    /// How the output of each block is rounded.
    pub rounding: Rounding,
    /// Sequences in a leaf, at least 1: gradients are summed inside a leaf and never across.
    pub leaf: usize,
    /// When to give up.
    pub limits: Limits,
}

/// The key of dropout: with a sequence, a position, a linear and a channel it says what is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Which of several passes over the same text.
    pub view: u32,
    /// Index, in the logical batch, of the first sequence of this pass.
    pub first_sequence: u64,
}

/// What a forward keeps so that a backward need not compute it again. The results are the same bits either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be no backward.
    #[default]
    Nothing,
    /// The input of the span. A remote span never keeps more.
    Input,
    /// The input of each block.
    BlockInputs,
    /// The input of each block and, for as many blocks as fit into this many bytes, all activations.
    Activations {
        /// Bytes for activations.
        bytes: u64,
    },
}

/// What is done to the output of each block (and, by the caller, to that of the embedding): what a swarm's wire
/// carries, computed at the producer so that the result does not depend on where a route is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing: f32.
    #[default]
    None,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to 8 bits with a scale per 64 channels of a token.
    Int8,
}

/// When to give up: a deadline, a cancel token, both or neither. Checked at least once a block.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The moment after which the result is of no use.
    pub deadline: Option<Instant>,
    /// Set from another thread.
    pub cancel: CancelToken,
}

/// A flag shared between who asks and who works.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl Default for Pass {
    fn default() -> Self {
        Pass {
            adapter: None,
            prompts: None,
            dropout: None,
            keep: Keep::Nothing,
            reserved_tokens: None,
            rounding: Rounding::None,
            leaf: DEFAULT_LEAF,
            limits: Limits::default(),
        }
    }
}

impl Pass {
    /// The sequences of each leaf, of `sequences` in all.
    pub fn leaves(&self, sequences: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let leaf = self.leaf.max(1);
        (0..sequences).step_by(leaf).map(move |first| first..(first + leaf).min(sequences))
    }
}

impl Limits {
    /// An error once the deadline passed or the work was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(SpanError::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(SpanError::DeadlinePassed),
            _ => Ok(()),
        }
    }
}

impl CancelToken {
    /// Asks all who hold this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
