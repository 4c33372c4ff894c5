//! The sessions of a fake: their memories, their share of the cache, and the faults that tests ask for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Pass, Result, SessionState, SpanError};

/// What a span and its sessions share.
pub(super) struct Shared {
    pub(super) free_tokens: usize,
    pub(super) opened: usize,
    pub(super) calls_left: Option<usize>,
    pub(super) failing_session: Option<usize>,
}

/// The cache of a session.
pub(super) struct FakeSession {
    pub(super) pass: Pass,
    pub(super) number: usize,
    pub(super) reserved_tokens: usize,
    pub(super) hidden_size: usize,
    /// For each block and each sequence, the memory after each token so far. History makes rewinding a truncation.
    pub(super) memories: Vec<Vec<Vec<f32>>>,
    pub(super) shared: Arc<Mutex<Shared>>,
}

impl FakeSession {
    pub(super) fn forget(&mut self, sequence: usize, position: usize) {
        for memories in &mut self.memories {
            memories[sequence].truncate(position * self.hidden_size);
        }
    }
}

impl SessionState for FakeSession {
    fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        lock(&self.shared).check_alive()?;
        self.forget(sequence, position);
        Ok(())
    }

    fn reorder(&mut self, from: &[usize]) -> Result<()> {
        lock(&self.shared).check_alive()?;
        for memories in &mut self.memories {
            *memories = from.iter().map(|&sequence| memories[sequence].clone()).collect();
        }
        Ok(())
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        lock(&self.shared).free_tokens += self.reserved_tokens;
    }
}

impl Shared {
    /// Counts one call, of a session's step or of something else, and fails it where that was asked for.
    pub(super) fn call(&mut self, session: Option<usize>) -> Result<()> {
        self.check_alive()?;
        self.calls_left = self.calls_left.map(|calls| calls - 1);
        match session {
            Some(number) if self.failing_session == Some(number) => {
                Err(SpanError::Failed(format!("session {number} was told to fail")))
            }
            _ => Ok(()),
        }
    }

    fn check_alive(&self) -> Result<()> {
        if self.calls_left == Some(0) { Err(SpanError::Failed("the span was told to fail".into())) } else { Ok(()) }
    }
}

/// A test that panicked elsewhere has not left anything half done in here.
pub(super) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
