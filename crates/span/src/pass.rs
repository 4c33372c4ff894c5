//! All that a request carries besides hidden states, defined once for every place where blocks can run.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bouquet_kernels::ops::rounding;
use bouquet_kernels::{Cpu, Matrix, MatrixViewMut};

use crate::adapter::{LeafGrad, LowRankGrad};
use crate::{Adapter, Prompts, Result, SessionShape, Site, SpanError};

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
    /// The length that each sequence may grow to, which some positions (dynamic rope) are made for. In a forward, no
    /// sequence may be longer; `None` is the own length of each. In a session, `None` is its
    /// [`max_tokens`](SessionShape::max_tokens), and a session of more than is reserved is refused. So a forward has the
    /// bits of a session when it reserves what the session does.
    pub reserved_tokens: Option<usize>,
    /// How the output of each block is rounded.
    pub rounding: Rounding,
    /// Sequences in a leaf, at least 1 (0 counts as 1): sequence `i` of the pass belongs to leaf `i / leaf`, and its
    /// gradients are summed there and never across. Part of a run's configuration, since another number gives other
    /// sums. A batch is cut into passes between leaves only, so that each pass begins with one.
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
    /// Number, in the logical batch, of the first sequence of this pass; the next ones count up from it. So a sequence
    /// draws the same in whichever pass, on whichever machine, it is computed.
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
    /// Rounded to 8 bits with a scale per 16 channels of a token.
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

impl Pass {
    /// For implementations: whether what it brings fits `blocks` and so many sequences. `shape` is that of the weight at
    /// a site, `[outputs, inputs]`.
    ///
    /// # Errors
    /// [`SpanError::Adapter`], [`SpanError::Shape`] for prompts, [`SpanError::SequenceNumbers`].
    pub fn check(
        &self,
        blocks: Range<usize>,
        hidden_size: usize,
        sequences: usize,
        shape: impl Fn(Site) -> Option<[usize; 2]>,
    ) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            adapter.check(blocks.clone(), shape)?;
        }
        if let Some(prompts) = &self.prompts {
            prompts.check(blocks, hidden_size)?;
        }
        match self.dropout {
            Some(Dropout { first_sequence: first, .. }) if first.checked_add(sequences as u64).is_none() => {
                Err(SpanError::SequenceNumbers { first, sequences })
            }
            _ => Ok(()),
        }
    }

    /// For implementations, before a forward: whether all sequences fit into what is reserved.
    ///
    /// # Errors
    /// [`SpanError::TooManyTokens`].
    pub fn check_lengths(&self, lengths: &[usize]) -> Result<()> {
        let needed = lengths.iter().copied().max().unwrap_or(0);
        match self.reserved_tokens {
            Some(limit) if needed > limit => Err(SpanError::TooManyTokens { needed, limit }),
            _ => Ok(()),
        }
    }

    /// For implementations: this pass as a session of `shape` keeps it, without limits, and with
    /// [`reserved_tokens`](Self::reserved_tokens).
    ///
    /// # Errors
    /// [`SpanError::TooManyTokens`] when the session may grow beyond what this reserves.
    pub fn in_session(&self, shape: SessionShape) -> Result<Pass> {
        self.check_lengths(&[shape.max_tokens])?;
        let reserved_tokens = self.reserved_tokens.or(Some(shape.max_tokens));
        Ok(Pass { reserved_tokens, limits: Limits::default(), ..self.clone() })
    }

    /// Zero gradients, for each leaf of so many sequences, of all that this pass brings for `blocks`.
    pub fn zero_leaves(&self, blocks: Range<usize>, sequences: usize) -> Vec<LeafGrad> {
        let zeros = |matrix: &Matrix| Matrix::zeros(matrix.rows(), matrix.cols());
        let mut zero = LeafGrad::default();
        let pairs = self.adapter.iter().flat_map(|adapter| &adapter.pairs);
        for (&linear, pair) in pairs.filter(|(linear, _)| blocks.contains(&linear.block)) {
            zero.adapter.insert(linear, LowRankGrad { a: zeros(&pair.a), b: zeros(&pair.b) });
        }
        let prompts = self.prompts.iter().flat_map(|prompts| &prompts.blocks);
        for (&block, prompt) in prompts.filter(|(block, _)| blocks.contains(block)) {
            zero.prompts.insert(block, zeros(prompt));
        }
        self.leaves(sequences).map(|_| zero.clone()).collect()
    }
}

impl Rounding {
    /// All of them.
    pub const ALL: [Rounding; 3] = [Rounding::None, Rounding::Bf16, Rounding::Int8];

    /// As flags and files call it: what a wire carries of numbers that are rounded so.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::None => "f32",
            Rounding::Bf16 => "bf16",
            Rounding::Int8 => "int8",
        }
    }

    /// Rounds rows of hidden states, `[tokens, hidden_size]`, in place. The gradient passes through unchanged.
    pub fn apply(self, cpu: &Cpu, hidden: MatrixViewMut<'_>) {
        match self {
            Rounding::None => {}
            Rounding::Bf16 => rounding::round_bf16(cpu, hidden),
            Rounding::Int8 => rounding::round_int8(cpu, hidden),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rounding {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = Rounding::ALL.into_iter().find(|rounding| rounding.name() == name);
        known.ok_or_else(|| format!("there is no wire {name}"))
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
