//! Where blocks run.

use std::any::Any;
use std::fmt;
use std::ops::Range;

use crate::{HiddenStates, Pass, PassGrad, Result, Session, SessionShape, SpanError, Step};

/// Blocks in a row, in one place. Every implementation passes the suite in [`contract`](crate::contract).
///
/// All calls block until they are done, fail, or their limits are reached, and can be made from several threads.
pub trait Span: Send + Sync {
    /// Indices of the blocks, counted from the start of the model.
    fn range(&self) -> Range<usize>;

    /// Channels of the hidden states that go in and come out.
    fn hidden_size(&self) -> usize;

    /// Whether a [`forward`](Self::forward) of sequences of these lengths would be taken on, asked before hidden states
    /// are made for it. Reserves nothing. A span that can only tell by trying says yes.
    ///
    /// # Errors
    /// As `forward`: what does not fit, by what the pass brings, by its tokens, or by the memory left for them.
    fn admit(&self, _lengths: &[usize], _pass: &Pass) -> Result<()> {
        Ok(())
    }

    /// Tokens of a prompt that are best stepped at a time. The result does not depend on it. In one place: enough to be
    /// bound by arithmetic, few enough for their activations to stay small (some hundred thousand bytes a token at a hidden
    /// size of 4096) and for a cancel to be heard.
    fn prompt_chunk(&self) -> usize {
        ((1 << 20) / self.hidden_size().max(1)).clamp(128, 512)
    }

    /// Whole sequences from position 0, without a session: training and one-off work. The result has the input's
    /// shape; [`Saved`] holds what [`Pass::keep`] asks for.
    ///
    /// # Errors
    /// Shapes, limits, [`SpanError::PassTooLarge`], or outputs that are not finite.
    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)>;

    /// The gradients for the input of a [`forward`](Self::forward) and for what `pass` brought along, from `grad`, the
    /// gradient for its output. `pass` must be that of the forward. What was not kept is computed again, so that any
    /// span of the same blocks and bits can answer.
    ///
    /// # Errors
    /// As `forward`; [`SpanError::NothingSaved`] when nothing was kept, [`SpanError::GradientNotFinite`] for the first
    /// gradient on the way back that is not.
    fn backward(&self, saved: Saved, grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)>;

    /// Reserves a cache. The session keeps `pass` as [`Pass::in_session`] makes it: without its limits, since each step
    /// has its own, and with the length that is reserved here.
    ///
    /// # Errors
    /// [`SpanError::CacheFull`] when the cache does not fit, [`SpanError::TooManyTokens`] when `pass` reserves less.
    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session>;

    /// Steps many sessions at once, each by some tokens, and returns for each what it asked for, in their order. A step
    /// that fails leaves its session where it was, with every bit still to come as it would have been, and does not
    /// touch the others; only what a rewind may reach can shrink to [`SessionShape::max_rewind`].
    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>>;
}

/// What a forward kept for its backward. Only the span that made it can look inside.
pub struct Saved {
    value: Box<dyn Any + Send>,
    bytes: u64,
}

impl Saved {
    /// Wraps what an implementation keeps; `bytes` is the memory that it holds.
    pub fn new<T: Any + Send>(value: T, bytes: u64) -> Self {
        Saved { value: Box::new(value), bytes }
    }

    /// Memory that is held until the backward.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What [`new`](Self::new) wrapped, for the implementation that made it.
    ///
    /// # Errors
    /// [`SpanError::Foreign`] when another kind of span made it.
    pub fn downcast<T: Any + Send>(self) -> Result<T> {
        match self.value.downcast::<T>() {
            Ok(value) => Ok(*value),
            Err(_) => Err(SpanError::Foreign("what was saved")),
        }
    }
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Saved({} bytes)", self.bytes)
    }
}
