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
    /// How many tokens back a rewind may go, beyond the last step, which can be taken back until another fails.
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

    /// Takes back tokens of one sequence, so that `position` is the next one. Possible as far back as
    /// [`SessionShape::max_rewind`] promises, counted from where the last step began, or from where the sequence stands
    /// once a step failed (what that step did is then already taken back).
    ///
    /// # Errors
    /// [`SpanError::Rewind`] for a position further back, or ahead; the session is as it was.
    pub fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        self.check_sequence(sequence)?;
        let kept = self.floors[sequence]..self.positions[sequence];
        if position < kept.start || position > kept.end {
            return Err(SpanError::Rewind { sequence, to: position, kept });
        }
        if position < kept.end {
            self.state.rewind(sequence, position)?;
            self.positions[sequence] = position;
        }
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

    /// For implementations, after a step that failed when part of it was already done and had to be taken back: nothing
    /// before these positions can be returned to. Floors never sink, and never rise above what
    /// [`SessionShape::max_rewind`] promises from where the sequence stands.
    pub fn raise_floors(&mut self, floors: &[usize]) {
        for ((floor, &raised), &position) in self.floors.iter_mut().zip(floors).zip(&self.positions) {
            *floor = (*floor).max(raised.min(position.saturating_sub(self.shape.max_rewind)));
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
        if sequence < self.shape.sequences { Ok(()) } else { Err(self.wrong_sequences(sequence.saturating_add(1))) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is asked to change.
    struct Counting(usize);

    impl SessionState for Counting {
        fn rewind(&mut self, _: usize, _: usize) -> Result<()> {
            self.0 += 1;
            Ok(())
        }

        fn reorder(&mut self, _: &[usize]) -> Result<()> {
            self.0 += 1;
            Ok(())
        }
    }

    fn session(sequences: usize, max_rewind: usize) -> Session {
        Session::new(SpanKey::new(), SessionShape { sequences, max_tokens: 20, max_rewind }, Counting(0))
    }

    #[test]
    fn floors_follow_the_start_of_the_last_step() {
        let mut session = session(2, 3);
        for (lengths, positions, floors) in [
            ([5, 0], [5, 0], [0, 0]),
            ([1, 2], [6, 2], [2, 0]),
            // The first waits: its last step was the one before.
            ([0, 9], [6, 11], [2, 0]),
            ([1, 1], [7, 12], [3, 8]),
        ] {
            session.advance(&lengths);
            assert_eq!((session.positions(), session.floors()), (&positions[..], &floors[..]));
        }
    }

    #[test]
    fn floors_do_not_sink_after_a_rewind() {
        let mut session = session(1, 2);
        session.advance(&[8]);
        session.advance(&[1]);
        session.rewind(0, 6).unwrap();
        session.advance(&[1]);
        assert_eq!((session.positions(), session.floors()), ([7].as_slice(), [6].as_slice()));
        assert!(matches!(session.rewind(0, 5), Err(SpanError::Rewind { to: 5, kept, .. }) if kept == (6..7)));
        assert!(matches!(session.rewind(0, 8), Err(SpanError::Rewind { to: 8, .. })));
        assert_eq!(session.positions(), [7]);
    }

    #[test]
    fn raised_floors_never_break_the_promise() {
        let mut session = session(2, 2);
        session.advance(&[6, 6]);
        session.raise_floors(&[3, 6]);
        assert_eq!(session.floors(), [3, 4]);
        session.raise_floors(&[1, 0]);
        assert_eq!(session.floors(), [3, 4]);
    }

    #[test]
    fn a_rewind_to_where_it_stands_does_not_bother_the_span() {
        let mut session = session(2, 0);
        session.advance(&[4, 4]);
        session.rewind(1, 4).unwrap();
        assert_eq!(session.state_mut::<Counting>().unwrap().0, 0);
        session.rewind(1, 3).unwrap();
        assert_eq!(session.state_mut::<Counting>().unwrap().0, 1);
        assert_eq!(session.positions(), [4, 3]);
    }

    #[test]
    fn reorder_moves_positions_and_floors_along() {
        let mut session = session(3, 1);
        session.advance(&[6, 4, 2]);
        session.advance(&[1, 1, 1]);
        session.reorder(&[1, 1, 0]).unwrap();
        assert_eq!((session.positions(), session.floors()), ([5, 5, 7].as_slice(), [3, 3, 5].as_slice()));
    }

    #[test]
    fn what_does_not_fit_is_not_admitted() {
        let mut session = session(2, 0);
        let owner = session.owner;
        let hidden = |lengths: [usize; 2]| {
            let tokens = lengths.iter().sum();
            HiddenStates::new(bouquet_kernels::Matrix::zeros(tokens, 3), lengths.to_vec()).unwrap()
        };
        session.advance(&[18, 0]);
        session.admit(owner, &hidden([2, 20]), 3).unwrap();
        let too_many = session.admit(owner, &hidden([3, 0]), 3);
        assert!(matches!(too_many, Err(SpanError::TooManyTokens { needed: 21, limit: 20 })));
        assert!(matches!(session.admit(owner, &hidden([1, 1]), 4), Err(SpanError::Shape { .. })));
        assert!(matches!(session.admit(SpanKey::new(), &hidden([1, 1]), 3), Err(SpanError::Foreign(_))));
    }
}
