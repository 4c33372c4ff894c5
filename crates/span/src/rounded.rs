//! Blocks as a swarm with a narrow wire computes them.

use std::ops::Range;
use std::sync::Arc;

use crate::{HiddenStates, Pass, PassGrad, Result, Rounding, Saved, Session, SessionShape, Span, Step};

/// A span whose every block's output is rounded, whatever a pass asks for: so those who make passes need not know what
/// wire a model is computed for.
pub struct Rounded {
    span: Arc<dyn Span>,
    rounding: Rounding,
}

impl Rounded {
    /// `span`, rounded so.
    pub fn new(span: Arc<dyn Span>, rounding: Rounding) -> Self {
        Rounded { span, rounding }
    }

    fn pass(&self, pass: &Pass) -> Pass {
        Pass { rounding: self.rounding, ..pass.clone() }
    }
}

impl Span for Rounded {
    fn range(&self) -> Range<usize> {
        self.span.range()
    }

    fn hidden_size(&self) -> usize {
        self.span.hidden_size()
    }

    fn prompt_chunk(&self) -> usize {
        self.span.prompt_chunk()
    }

    fn admit(&self, lengths: &[usize], pass: &Pass) -> Result<()> {
        self.span.admit(lengths, &self.pass(pass))
    }

    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        self.span.forward(hidden, &self.pass(pass))
    }

    fn backward(&self, saved: Saved, grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        self.span.backward(saved, grad, &self.pass(pass))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        self.span.open(shape, &self.pass(pass))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        self.span.step(steps)
    }
}
