//! A route over a swarm as a span: what stands on [`Span`] works through it unchanged.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bouquet_span::session::SpanKey;
use bouquet_span::{
    HiddenStates, Keep, Limits, Pass, PassGrad, Result, Returned, Saved, Session, SessionShape, SessionState, Span,
    SpanError, Step,
};
use futures::future::join_all;
use tokio::runtime::Handle;

use super::Client;
use super::passes::{self, Legs};
use super::ring::Ring;
use crate::Wire;
use crate::wire::message::SessionId;

/// How often a call looks whether it was cancelled.
const WATCH: Duration = Duration::from_millis(20);

/// Numbers of hidden states that are given to a route at once, at most: 64 MiB.
const STEP_VALUES: usize = 16 << 20;

/// Blocks that others run.
#[derive(Clone)]
pub struct RoutedSpan {
    key: SpanKey,
    client: Arc<Client>,
    runtime: Handle,
    range: Range<usize>,
    hidden_size: usize,
    new_id: Arc<dyn Fn() -> SessionId + Send + Sync>,
}

/// A session's ring, away while it is stepped.
struct RoutedSession {
    ring: Arc<Mutex<Option<Ring>>>,
}

impl RoutedSpan {
    /// The blocks of `range`, whose hidden states have so many channels. `runtime` is driven elsewhere; `new_id` draws
    /// names of sessions, which nobody must be able to guess.
    pub fn new(
        client: Arc<Client>,
        runtime: Handle,
        range: Range<usize>,
        hidden_size: usize,
        new_id: Arc<dyn Fn() -> SessionId + Send + Sync>,
    ) -> RoutedSpan {
        RoutedSpan { key: SpanKey::new(), client, runtime, range, hidden_size, new_id }
    }

    /// Some of its blocks as a span of their own.
    pub fn slice(&self, range: Range<usize>) -> RoutedSpan {
        RoutedSpan { key: SpanKey::new(), range, ..self.clone() }
    }

    fn check_width(&self, found: usize) -> Result<()> {
        let expected = self.hidden_size;
        if expected == found { Ok(()) } else { Err(SpanError::Shape { what: "hidden_size", expected, found }) }
    }

    /// What can be refused without asking anybody.
    fn check_pass(&self, sequences: usize, pass: &Pass) -> Result<()> {
        let wire = self.client.wire;
        if wire != Wire::F32 && pass.rounding != wire.rounding() {
            let name = wire.name();
            return Err(SpanError::Failed(format!(
                "this swarm rounds to {name} after each block, and this pass does not"
            )));
        }
        if let Some(adapter) = &pass.adapter {
            adapter.check_dropout(self.range.clone())?;
        }
        if let Some(prompts) = &pass.prompts {
            prompts.check(self.range.clone(), self.hidden_size)?;
        }
        match pass.dropout {
            Some(dropout) if dropout.first_sequence.checked_add(sequences as u64).is_none() => {
                Err(SpanError::SequenceNumbers { first: dropout.first_sequence, sequences })
            }
            _ => Ok(()),
        }
    }

    /// Waits for what is done elsewhere, as long as the limits allow.
    fn wait<T>(&self, limits: &Limits, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::pin!(work);
            loop {
                limits.check()?;
                if let Ok(done) = tokio::time::timeout(WATCH, &mut work).await {
                    return done;
                }
            }
        })
    }
}

impl Span for RoutedSpan {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn prompt_chunk(&self) -> usize {
        // It is cut on the way, so that servers work on its parts side by side.
        (STEP_VALUES / self.hidden_size.max(1)).max(1)
    }

    fn admit(&self, lengths: &[usize], pass: &Pass) -> Result<()> {
        self.check_pass(lengths.len(), pass)?;
        pass.check_lengths(lengths)
    }

    fn forward(&self, hidden: HiddenStates, pass: &Pass) -> Result<(HiddenStates, Saved)> {
        self.check_width(hidden.hidden_size())?;
        self.admit(hidden.lengths(), pass)?;
        let keep = pass.keep != Keep::Nothing;
        let work = passes::forward(&self.client, self.range.clone(), hidden, pass, keep);
        let (output, legs) = self.wait(&pass.limits, work)?;
        let bytes = legs.bytes();
        Ok((output, Saved::new((self.key, legs), bytes)))
    }

    fn backward(&self, saved: Saved, grad: HiddenStates, pass: &Pass) -> Result<(HiddenStates, PassGrad)> {
        let (key, legs) = saved.downcast::<(SpanKey, Legs)>()?;
        if key != self.key {
            return Err(SpanError::Foreign("what was saved"));
        }
        if !legs.is_kept() {
            return Err(SpanError::NothingSaved);
        }
        grad.check_lengths(&legs.lengths())?;
        self.check_width(grad.hidden_size())?;
        self.check_pass(grad.sequences(), pass)?;
        self.wait(&pass.limits, passes::backward(&self.client, legs, grad, pass))
    }

    fn open(&self, shape: SessionShape, pass: &Pass) -> Result<Session> {
        self.check_pass(shape.sequences, pass)?;
        let session_pass = pass.in_session(shape)?;
        let opening = async {
            let (client, id) = (self.client.clone(), (self.new_id)());
            let ring = Ring::open(client, id, self.range.clone(), self.hidden_size, shape, &session_pass);
            Ok(ring.await?)
        };
        let ring = self.wait(&pass.limits, opening)?;
        Ok(Session::new(self.key, shape, RoutedSession { ring: Arc::new(Mutex::new(Some(ring))) }))
    }

    fn step(&self, steps: &mut [Step<'_>]) -> Vec<Result<HiddenStates>> {
        let admitted: Vec<Result<Moving>> = steps.iter_mut().map(|step| self.begin(step)).collect();
        let (mut waiting, mut results) = (Vec::new(), Vec::with_capacity(steps.len()));
        for moving in admitted {
            match moving {
                Ok(moving) => {
                    waiting.push(moving.step());
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        // All at once: servers step them together.
        let mut done = self.runtime.block_on(join_all(waiting)).into_iter();
        let results = results.into_iter().map(|result| result.unwrap_or_else(|| done.next().expect("one for each")));
        let results: Vec<Result<HiddenStates>> = results.collect();
        for (step, result) in steps.iter_mut().zip(&results) {
            if result.is_ok() {
                step.session.advance(step.hidden.lengths());
            }
        }
        results
    }
}

/// A session's part of a step.
struct Moving {
    place: Arc<Mutex<Option<Ring>>>,
    ring: Ring,
    hidden: HiddenStates,
    returned: Returned,
    limits: Limits,
}

impl RoutedSpan {
    fn begin(&self, step: &mut Step<'_>) -> Result<Moving> {
        step.session.admit(self.key, &step.hidden, self.hidden_size)?;
        step.limits.check()?;
        let place = step.session.state_mut::<RoutedSession>()?.ring.clone();
        let taken = lock(&place).take();
        let ring = taken.ok_or_else(|| SpanError::Failed("a call before this one panicked".to_owned()))?;
        Ok(Moving { place, ring, hidden: step.hidden.clone(), returned: step.returned, limits: step.limits.clone() })
    }
}

impl Moving {
    async fn step(self) -> Result<HiddenStates> {
        let Moving { place, mut ring, hidden, returned, limits } = self;
        let output = ring.step(&hidden, returned, &limits).await;
        *lock(&place) = Some(ring);
        output
    }
}

fn lock(place: &Mutex<Option<Ring>>) -> MutexGuard<'_, Option<Ring>> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl SessionState for RoutedSession {
    fn rewind(&mut self, sequence: usize, position: usize) -> Result<()> {
        self.change(|ring| ring.rewind(sequence, position))
    }

    fn reorder(&mut self, from: &[usize]) -> Result<()> {
        self.change(|ring| ring.reorder(from))
    }
}

impl RoutedSession {
    fn change(&self, change: impl FnOnce(&mut Ring)) -> Result<()> {
        match lock(&self.ring).as_mut() {
            Some(ring) => {
                change(ring);
                Ok(())
            }
            None => Err(SpanError::Failed("a call before this one panicked".to_owned())),
        }
    }
}
