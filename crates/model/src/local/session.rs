//! Sessions of a [`LocalSpan`]: what one keeps, and how many are stepped together.

use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_kernels::ops::elementwise;
use bouquet_span::{HiddenStates, Pass, Result, Session, SessionState, SpanError, Step};

use super::LocalSpan;
use super::memory_budget::Reservation;
use crate::block::batch::Batch;
use crate::kv_cache::KvCache;

/// What a session keeps here.
pub(super) struct LocalSession {
    pub(super) pass: Arc<Pass>,
    /// `[blocks][sequences]`.
    pub(super) caches: Vec<Vec<KvCache>>,
    pub(super) _reservation: Reservation,
}

/// What a step needs to know of its session while the caches are written.
struct Member {
    pass: Arc<Pass>,
    lengths: Vec<usize>,
    positions: Vec<usize>,
}

impl LocalSpan {
    /// Steps sessions whose hidden states have the right shape; each can still fail by its limits or its numbers.
    pub(super) fn step_admitted(&self, mut steps: Vec<&mut Step<'_>>) -> Vec<Result<HiddenStates>> {
        let members: Vec<Member> = steps.iter_mut().map(|step| Member::new(step)).collect();
        let requests = members.iter().map(|member| (&*member.pass, &*member.lengths, &*member.positions));
        let batch = Batch::new(&requests.collect::<Vec<_>>(), &self.spec.attention.positions);
        let mut failures: Vec<Option<SpanError>> = steps.iter().map(|_| None).collect();
        let values = self.run_steps(&mut steps, &batch, &mut failures);
        let rows = batch.requests.iter().map(|request| request.rows.clone());
        let mut results = Vec::with_capacity(steps.len());
        for (((step, member), failure), rows) in steps.into_iter().zip(&members).zip(failures).zip(rows) {
            results.push(self.finish(step, member, failure, values.slice(rows).to_matrix()));
        }
        results
    }

    /// Runs all blocks over the rows of all steps. Rows of a step that failed run on beside the others, which they
    /// cannot touch; their numbers are of no use.
    fn run_steps(&self, steps: &mut [&mut Step<'_>], batch: &Batch<'_>, failures: &mut [Option<SpanError>]) -> Matrix {
        let mut values = Matrix::zeros(0, self.spec.hidden_size);
        steps.iter().for_each(|step| values.push_rows(step.hidden.values().view()));
        for (place, block) in self.blocks.iter().enumerate() {
            for (step, failure) in steps.iter().zip(failures.iter_mut()) {
                *failure = failure.take().or_else(|| step.limits.check().err());
            }
            if failures.iter().all(Option::is_some) {
                break;
            }
            let mut caches: Vec<&mut KvCache> = Vec::with_capacity(batch.sequences.len());
            for step in steps.iter_mut() {
                let Step { session, hidden, .. } = &mut **step;
                let of_sequences = state(session).caches[place].iter_mut().zip(hidden.lengths());
                caches.extend(of_sequences.filter(|(_, length)| **length > 0).map(|(cache, _)| cache));
            }
            values = block.forward(&self.cpu, batch, values, &mut caches).0;
            for (request, failure) in batch.requests.iter().zip(failures.iter_mut()) {
                let token = elementwise::first_row_not_finite(&self.cpu, values.slice(request.rows.clone()));
                let not_finite = token.map(|token| SpanError::NotFinite { block: block.index, token });
                *failure = failure.take().or(not_finite);
            }
        }
        values
    }

    /// Moves a session on, or its caches back to where it stands.
    fn finish(
        &self,
        step: &mut Step<'_>,
        member: &Member,
        failure: Option<SpanError>,
        output: Matrix,
    ) -> Result<HiddenStates> {
        if let Some(failure) = failure {
            for caches in &mut state(step.session).caches {
                caches.iter_mut().zip(&member.positions).for_each(|(cache, &position)| cache.truncate(position));
            }
            return Err(failure);
        }
        step.session.advance(&member.lengths);
        self.forget(step.session);
        Ok(step.returned.select(HiddenStates::new(output, member.lengths.clone())?))
    }

    /// Drops pieces that no later query can see, where attention has a window.
    fn forget(&self, session: &mut Session) {
        let floors = session.floors().to_vec();
        for (block, caches) in self.blocks.iter().zip(&mut state(session).caches) {
            let Some(window) = block.attention.window() else { continue };
            for (cache, floor) in caches.iter_mut().zip(&floors) {
                cache.forget_before((floor + 1).saturating_sub(window));
            }
        }
    }
}

impl Member {
    fn new(step: &mut Step<'_>) -> Self {
        let positions = step.session.positions().to_vec();
        let pass = state(step.session).pass.clone();
        Member { pass, lengths: step.hidden.lengths().to_vec(), positions }
    }
}

/// What this span keeps of a session that it admitted.
fn state(session: &mut Session) -> &mut LocalSession {
    session.state_mut().expect("an admitted session was opened by this span, which gives each the same kind of state")
}

impl SessionState for LocalSession {
    fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        self.caches.iter_mut().for_each(|caches| caches[sequence].truncate(position));
        Ok(())
    }

    fn reorder(&mut self, from: &[usize]) -> Result<()> {
        for caches in &mut self.caches {
            *caches = from.iter().map(|&sequence| caches[sequence].clone()).collect();
        }
        Ok(())
    }
}
