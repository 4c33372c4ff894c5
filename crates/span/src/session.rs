//! A session: sequences that grow step by step, with their keys and values cached where their blocks run. This module
//! keeps the positions and the promises; an implementation keeps the cache behind [`SessionState`].

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{HiddenStates, Limits, Result, SpanError};

/// How much a session may grow and go back; decided when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionShape {
    /// Number of sequences (a batch, or the beams of one text).
    pub sequences: usize,
    /// The longest that each sequence may become.
    pub max_tokens: usize,
    /// How many tokens back a rewind may go, beyond the last step, which can always be taken back.
    pub max_rewind: usize,
}

/// Sequences with a cache. Dropping it frees the cache, here or there.
pub struct Session {
    owner: SpanKey,
    shape: SessionShape,
    positions: Vec<usize>,
    /// Nothing before these positions can be returned to.
    floors: Vec<usize>,
    state: Box<dyn SessionState>,
}

/// The cache of a session, kept by the span that opened it. Its implementation can rely on the checks of [`Session`].
pub trait SessionState: Any + Send {
    /// Forgets the tokens of `sequence` from `position` on.
    fn rewind(&mut self, sequence: usize, position: usize) -> Result<()>;

    /// Sequence `i` becomes a copy of what sequence `from[i]` was (beams).
    fn reorder(&mut self, from: &[usize]) -> Result<()>;
}

/// Tells spans apart, so that a session or a saved forward is only used where it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanKey(u64);

/// One session's part of a step.
#[derive(Debug)]
pub struct Step<'a> {
    /// Which session.
    pub session: &'a mut Session,
    /// The next tokens of each of its sequences; a sequence may have none.
    pub hidden: HiddenStates,
    /// Which positions to return.
    pub returned: Returned,
    /// When to give up.
    pub limits: Limits,
}

/// Which of the positions that went in come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// All of them.
    All,
    /// The last of each sequence that had any.
    Last,
    /// None: only the cache is filled.
    None,
}

impl SpanKey {
    /// A key that no other span of this process has.
    #[allow(clippy::new_without_default, reason = "each call returns another key")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        SpanKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Session {
    /// A session at position 0, for the implementation that keeps `state`.
    pub fn new(owner: SpanKey, shape: SessionShape, state: impl SessionState) -> Self {
        let (positions, floors) = (vec![0; shape.sequences], vec![0; shape.sequences]);
        Session { owner, shape, positions, floors, state: Box::new(state) }
    }

    /// What was promised when it was opened.
    pub fn shape(&self) -> SessionShape {
        self.shape
    }

    /// The number of tokens that each sequence has so far: the position of its next one.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Takes back tokens of one sequence, so that `position` is the next one. Possible as far back as the last step
    /// began, and as [`SessionShape::max_rewind`] promises.
    ///
    /// # Errors
    /// [`SpanError::Rewind`] for a position further back, or ahead; the session is as it was.
    pub fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        self.check_sequence(sequence)?;
        let kept = self.floors[sequence]..self.positions[sequence];
        if position < kept.start || position > kept.end {
            return Err(SpanError::Rewind { sequence, to: position, kept });
        }
        self.state.rewind(sequence, position)?;
        self.positions[sequence] = position;
        Ok(())
    }

    /// Sequence `i` becomes a copy of what sequence `from[i]` was.
    ///
    /// # Errors
    /// [`SpanError::Shape`] when `from` has another length or names a sequence that is not there.
    pub fn reorder(&mut self, from: &[usize]) -> Result<()> {
        if from.len() != self.shape.sequences {
            return Err(self.wrong_sequences(from.len()));
        }
        from.iter().try_for_each(|&sequence| self.check_sequence(sequence))?;
        self.state.reorder(from)?;
        self.positions = from.iter().map(|&sequence| self.positions[sequence]).collect();
        self.floors = from.iter().map(|&sequence| self.floors[sequence]).collect();
        Ok(())
    }

    /// Whether the span with this key opened it.
    pub fn belongs_to(&self, owner: SpanKey) -> bool {
        owner == self.owner
    }

    /// For implementations, before a step: whether these hidden states may be appended.
    ///
    /// # Errors
    /// [`SpanError::Foreign`], [`SpanError::Shape`] or [`SpanError::TooManyTokens`].
    pub fn admit(&self, owner: SpanKey, hidden: &HiddenStates, hidden_size: usize) -> Result<()> {
        if !self.belongs_to(owner) {
            return Err(SpanError::Foreign("a session"));
        }
        if hidden.sequences() != self.shape.sequences {
            return Err(self.wrong_sequences(hidden.sequences()));
        }
        if hidden.hidden_size() != hidden_size {
            return Err(SpanError::Shape { what: "hidden_size", expected: hidden_size, found: hidden.hidden_size() });
        }
        for (&position, &length) in self.positions.iter().zip(hidden.lengths()) {
            let needed = position.saturating_add(length);
            if needed > self.shape.max_tokens {
                return Err(SpanError::TooManyTokens { needed, limit: self.shape.max_tokens });
            }
        }
        Ok(())
    }

    /// For implementations, after a step that succeeded: its tokens are in the cache. This step can still be taken
    /// back; older tokens only as far as promised.
    pub fn advance(&mut self, lengths: &[usize]) {
        for ((position, floor), &length) in self.positions.iter_mut().zip(&mut self.floors).zip(lengths) {
            if length > 0 {
                *floor = (*floor).max(position.saturating_sub(self.shape.max_rewind));
            }
            *position += length;
        }
    }

    /// The position that each sequence can rewind to. A windowed cache keeps the window before it.
    pub fn floors(&self) -> &[usize] {
        &self.floors
    }

    /// For implementations: the state that [`new`](Self::new) was given.
    ///
    /// # Errors
    /// [`SpanError::Foreign`] when it is of another type.
    pub fn state_mut<T: SessionState>(&mut self) -> Result<&mut T> {
        (self.state.as_mut() as &mut dyn Any).downcast_mut().ok_or(SpanError::Foreign("a session"))
    }

    fn check_sequence(&self, sequence: usize) -> Result<()> {
        if sequence < self.shape.sequences { Ok(()) } else { Err(self.wrong_sequences(sequence + 1)) }
    }

    fn wrong_sequences(&self, found: usize) -> SpanError {
        SpanError::Shape { what: "the number of sequences", expected: self.shape.sequences, found }
    }
}

impl Returned {
    /// Picks the positions to return out of all.
    pub fn select(self, hidden: HiddenStates) -> HiddenStates {
        match self {
            Returned::All => hidden,
            Returned::Last => hidden.last_positions(),
            Returned::None => hidden.no_positions(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("shape", &self.shape).field("positions", &self.positions).finish()
    }
}
