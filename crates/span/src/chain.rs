//! Spans end to end are a span.

use std::ops::Range;
use std::sync::Arc;

use crate::session::SpanKey;
use crate::{
    HiddenStates, Keep, LeafGrad, Pass, PassGrad, Result, Returned, Saved, Session, SessionShape, SessionState, Span,
    SpanError, Step,
};

/// Spans that follow each other without a gap.
pub struct Chain {
    key: SpanKey,
    spans: Vec<Arc<dyn Span>>,
}

struct ChainSession {
    sessions: Vec<Session>,
    /// A span could not be brought to where the others are: the session is of no further use.
    lost: bool,
}

impl Chain {
    /// Joins spans in the order of their blocks.
    ///
    /// # Errors
    /// [`SpanError::Gap`] when one does not begin where the one before ends, [`SpanError::Shape`] when their hidden
    /// sizes differ, [`SpanError::Failed`] when there is none.
    pub fn new(spans: Vec<Arc<dyn Span>>) -> Result<Self> {
        if spans.is_empty() {
            return Err(SpanError::Failed("a chain needs at least one span".into()));
        }
        for pair in spans.windows(2) {
            let (previous, next) = (pair[0].range(), pair[1].range());
            if previous.end != next.start {
                return Err(SpanError::Gap { previous, next });
            }
            let (expected, found) = (pair[0].hidden_size(), pair[1].hidden_size());
            if expected != found {
                return Err(SpanError::Shape { what: "hidden_size", expected, found });
            }
        }
        Ok(Chain { key: SpanKey::new(), spans })
    }
}

impl Span for Chain {
    fn range(&self) -> Range<usize> {
        self.spans[0].range().start..self.spans[self.spans.len() - 1].range().end
    }

    fn hidden_size(&self) -> usize {
        self.spans[0].hidden_size()
    }

    fn prompt_chunk(&self) -> usize {
        let chunks = self.spans.iter().map(|span| span.prompt_chunk());
        chunks.min().unwrap_or(1)
    }

    fn admit(&self, lengths: &[usize], pass: &Pass) -> Result<()> {
        self.spans.iter().try_for_each(|span| span.admit(lengths, pass))
    }

    fn forward(&self, mut hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        let mut saved = Vec::with_capacity(self.spans.len());
        let mut pass = pass.clone();
        for span in &self.spans {
            let block_inputs = size_of_val(hidden.values().data()) as u64 * span.range().len() as u64;
            let (output, kept) = span.forward(hidden, &pass)?;
            if let Keep::Activations { bytes } = &mut pass.keep {
                // The budget is one for all spans, and block inputs are kept in addition to it.
                *bytes = bytes.saturating_sub(kept.bytes().saturating_sub(block_inputs));
            }
            hidden = output;
            saved.push(kept);
        }
        let bytes = saved.iter().map(Saved::bytes).sum();
        Ok((hidden, Saved::new((self.key, saved), bytes)))
    }

    fn backward(&self, saved: Saved, mut grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        let (key, saved) = saved.downcast::<(SpanKey, Vec<Saved>)>()?;
        if key != self.key {
            return Err(SpanError::Foreign("what was saved"));
        }
        let mut pass_grad = PassGrad { leaves: vec![LeafGrad::default(); pass.leaves(grad.sequences()).count()] };
        for (span, saved) in self.spans.iter().zip(saved).rev() {
            let (input_grad, more) = span.backward(saved, grad, pass)?;
            grad = input_grad;
            pass_grad.extend(more)?;
        }
        Ok((grad, pass_grad))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        let sessions = self.spans.iter().map(|span| span.open(shape, pass)).collect::<Result<_>>()?;
        Ok(Session::new(self.key, shape, ChainSession { sessions, lost: false }))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        // What each step has come to: hidden states on their way through the spans, or why it failed.
        let mut states: Vec<Result<HiddenStates>> = steps
            .iter_mut()
            .map(|step| step.session.admit(self.key, &step.hidden, self.hidden_size()).map(|()| step.hidden.clone()))
            .collect();
        for (index, span) in self.spans.iter().enumerate() {
            let last = index + 1 == self.spans.len();
            step_span(span.as_ref(), index, last, steps, &mut states);
        }
        for (step, state) in steps.iter_mut().zip(&states) {
            match state {
                Ok(_) => step.session.advance(step.hidden.lengths()),
                Err(_) => take_back(self.key, step),
            }
        }
        states
    }
}

/// Moves every step that has not failed through one span of the chain.
fn step_span(span: &dyn Span, index: usize, last: bool, steps: &mut [Step<'_>], states: &mut [Result<HiddenStates>]) {
    let mut members = Vec::new();
    let mut inner = Vec::new();
    for (member, (step, state)) in steps.iter_mut().zip(states.iter_mut()).enumerate() {
        let Ok(hidden) = state else { continue };
        match step.session.state_mut::<ChainSession>() {
            Ok(chain) if chain.lost => {
                let problem = "an earlier failure could not be taken back: this session has to be opened again";
                *state = Err(SpanError::Failed(problem.into()));
            }
            Ok(chain) => {
                members.push(member);
                inner.push(Step {
                    session: &mut chain.sessions[index],
                    hidden: std::mem::replace(hidden, hidden.no_positions()),
                    returned: if last { step.returned } else { Returned::All },
                    limits: step.limits.clone(),
                });
            }
            Err(error) => *state = Err(error),
        }
    }
    if inner.is_empty() {
        return;
    }
    for (member, result) in members.into_iter().zip(span.step(&mut inner)) {
        states[member] = result;
    }
}

/// Brings the spans that a failed step went through back to where the session stands.
fn take_back(key: SpanKey, step: &mut Step<'_>) {
    if !step.session.belongs_to(key) {
        return;
    }
    let positions = step.session.positions().to_vec();
    let Ok(chain) = step.session.state_mut::<ChainSession>() else { return };
    let mut floors = vec![0; positions.len()];
    for session in &mut chain.sessions {
        for (sequence, &position) in positions.iter().enumerate() {
            // The last step can always be taken back, except where a span has lost the session.
            chain.lost |= session.rewind(sequence, position).is_err();
            floors[sequence] = floors[sequence].max(session.floors()[sequence]);
        }
    }
    step.session.raise_floors(&floors);
}

impl SessionState for ChainSession {
    fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        self.each(|session| session.rewind(sequence, position))
    }

    fn reorder(&mut self, from: &[usize]) -> Result<()> {
        self.each(|session| session.reorder(from))
    }
}

impl ChainSession {
    /// Does the same to the session of each span; one that fails leaves them apart.
    fn each(&mut self, change: impl FnMut(&mut Session) -> Result<()>) -> Result<()> {
        let changed = self.sessions.iter_mut().try_for_each(change);
        self.lost |= changed.is_err();
        changed
    }
}
