//! What is computed next: decoding steps of many sessions together, since they share the reading of weights, and long
//! work in parts: chunks of prompts, and pieces of requests without a session. The two take turns, so that a token waits
//! for one part of something long at most, however much there is of it, and nothing long waits for ever. Among equals it
//! goes by who has waited longest.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bouquet_span::{HiddenStates, Limits, Returned, Session, SpanError, Step};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::gather::Gather;
use super::held::{Held, Work};
use super::{Counters, Shared, State};
use crate::Refusal;
use crate::compute::Job;
use crate::ledger::Edit;
use crate::wire::fault::Fault;
use crate::wire::message::{SessionId, ToClient};

/// Tokens of a session that are few enough to be computed with those of others.
pub(super) const FEW_TOKENS: usize = 16;

/// Sessions that are stepped together.
const MAX_TOGETHER: usize = 64;

/// After so long without an end a computation is not believed to have one. A part of a prompt can take minutes in large blocks
/// on an old machine.
pub(super) const STUCK: Duration = Duration::from_secs(300);

/// What waits, beside what sessions have.
#[derive(Default)]
pub(super) struct Schedule {
    /// Counts who begins to wait.
    tickets: u64,
    /// A piece of the request without a session whose turn it is.
    piece: Option<Piece>,
    /// Something long was computed last.
    was_long: bool,
    /// Since when something is being computed.
    since: Option<Instant>,
}

/// A part of a request without a session.
struct Piece {
    ticket: u64,
    tokens: usize,
    blocks: usize,
    job: Job,
    /// Whether anybody waits for it.
    asked: Weak<()>,
}

/// What is computed in one go.
enum Turn {
    Together(Vec<Work>),
    Piece(Piece),
}

/// What became of a session's part.
struct Done {
    work: Work,
    /// The edits were done.
    edited: bool,
    output: Result<HiddenStates, SpanError>,
}

impl Schedule {
    /// A place behind all who wait.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// For how long the same has been computed.
    pub(super) fn computing(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Shared {
    /// Has a piece of a request computed in its turn; `None` when that failed. One at a time: see `passes`.
    pub(super) async fn piece<T: Send + 'static>(
        &self,
        tokens: usize,
        blocks: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asks = Arc::new(());
        let job = Box::new(move || drop(answer.send(job())));
        {
            let schedule = &mut self.state().schedule;
            let ticket = schedule.ticket();
            schedule.piece = Some(Piece { ticket, tokens, blocks, job, asked: Arc::downgrade(&asks) });
        }
        self.work.notify_one();
        answered.await.ok()
    }
}

/// Computes what waits, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut gather = Gather::default();
    loop {
        gather.wait(&shared).await;
        let turn = {
            let mut state = shared.state();
            let turn = take_turn(&mut state);
            state.schedule.since = turn.as_ref().map(|_| Instant::now());
            turn
        };
        match turn {
            None => shared.work.notified().await,
            // Whoever asked notices if it panics.
            Some(Turn::Piece(Piece { tokens, blocks, job, .. })) => drop(shared.compute.run(tokens, blocks, job).await),
            Some(Turn::Together(batch)) => gather.took(step(&shared, batch).await),
        }
    }
}

/// Steps sessions; returns how long that took.
async fn step(shared: &Shared, batch: Vec<Work>) -> Duration {
    let tokens = batch.iter().map(|work| work.hidden.tokens()).sum();
    let (sessions, blocks) = (batch.len(), batch[0].span.range().len());
    Counters::count(&shared.counters.steps, 1);
    Counters::count(&shared.counters.stepped, batch.len());
    let ids: Vec<(SessionId, u64)> = batch.iter().map(|work| (work.id, work.number)).collect();
    let begun = Instant::now();
    let computed = shared.compute.run(tokens, blocks, move || compute(batch)).await;
    let took = begun.elapsed();
    match computed {
        Some(done) => {
            shared.state().pace.saw(tokens, sessions, blocks, took);
            finish(shared, done);
        }
        // Their caches are gone with the panic.
        None => {
            let mut state = shared.state();
            for (id, number) in ids {
                if let Some(held) = state.same(id, number) {
                    held.tell(&ToClient::Refused(Refusal::Failed("its blocks failed".to_owned())));
                    state.close(id);
                }
            }
        }
    }
    took
}

/// What is computed now, and taken out of its sessions for it.
fn take_turn(state: &mut State) -> Option<Turn> {
    let turn = match state.schedule.was_long {
        true => take_short(state).or_else(|| take_long(state)),
        false => take_long(state).or_else(|| take_short(state)),
    };
    let is_long = |work: &Work| work.hidden.tokens() > FEW_TOKENS;
    state.schedule.was_long = match &turn {
        Some(Turn::Together(batch)) => batch.iter().any(is_long),
        Some(Turn::Piece(_)) => true,
        None => false,
    };
    turn
}

/// Sessions that wait with as many tokens at a time, those first that have waited longest.
fn waiting(state: &State, tokens: Range<usize>) -> Vec<SessionId> {
    let waits = |(id, held): (&SessionId, &Held)| {
        held.waiting().filter(|waiting| tokens.contains(waiting)).map(|_| (held.ticket, *id))
    };
    let mut waiting: Vec<(u64, SessionId)> = state.sessions.iter().filter_map(waits).collect();
    waiting.sort_unstable();
    waiting.into_iter().map(|(_, id)| id).collect()
}

/// Steps of sessions with few tokens each, of the same blocks.
fn take_short(state: &mut State) -> Option<Turn> {
    let few = 0..FEW_TOKENS + 1;
    let mut batch: Vec<Work> = Vec::new();
    for id in waiting(state, few.clone()) {
        if batch.first().is_some_and(|first| state.sessions[&id].range != first.span.range()) {
            continue;
        }
        batch.extend(state.begin_work(id, &few));
        if batch.len() == MAX_TOGETHER {
            break;
        }
    }
    (!batch.is_empty()).then_some(Turn::Together(batch))
}

/// A part of a prompt, or of a request without a session.
fn take_long(state: &mut State) -> Option<Turn> {
    state.schedule.piece.take_if(|piece| piece.asked.strong_count() == 0);
    let many = FEW_TOKENS + 1..usize::MAX;
    let piece = state.schedule.piece.as_ref().map_or(u64::MAX, |piece| piece.ticket);
    for id in waiting(state, many.clone()) {
        if state.sessions[&id].ticket > piece {
            break;
        }
        if let Some(work) = state.begin_work(id, &many) {
            return Some(Turn::Together(vec![work]));
        }
    }
    state.schedule.piece.take().map(Turn::Piece)
}

impl State {
    /// What is to be computed now of a session that has waited; what was there already is passed over.
    fn begin_work(&mut self, id: SessionId, tokens: &Range<usize>) -> Option<Work> {
        let ticket = self.schedule.ticket();
        let held = self.sessions.get_mut(&id)?;
        // What comes next waits behind all others.
        held.ticket = ticket;
        while held.waiting().is_some_and(|waiting| tokens.contains(&waiting)) {
            if let Some(work) = held.begin_work(id) {
                return Some(work);
            }
        }
        None
    }
}

/// Does the edits of each, and steps them together.
fn compute(batch: Vec<Work>) -> Vec<Done> {
    let mut done: Vec<Done> = Vec::with_capacity(batch.len());
    for mut work in batch {
        let edited = work.admitted.edits.iter().try_for_each(|change| edit(&mut work.session, change));
        let nothing = work.hidden.no_positions();
        done.push(Done { edited: edited.is_ok(), output: edited.map(|()| nothing), work });
    }
    let span = done[0].work.span.clone();
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut results = Vec::new();
    for one in &mut done {
        if one.output.is_ok() && one.work.hidden.tokens() > 0 {
            let hidden = one.work.hidden.clone();
            let session = &mut one.work.session;
            steps.push(Step { session, hidden, returned: Returned::All, limits: Limits::default() });
            results.push(&mut one.output);
        }
    }
    if !steps.is_empty() {
        for (result, output) in results.into_iter().zip(span.step(&mut steps)) {
            *result = output;
        }
    }
    done
}

fn edit(session: &mut Session, edit: &Edit) -> Result<(), SpanError> {
    match edit {
        Edit::Rewind { sequence, position } => {
            let (sequence, position) = (*sequence as usize, *position as usize);
            // One that did not get that far has nothing to take back.
            if session.positions()[sequence] <= position { Ok(()) } else { session.rewind(sequence, position) }
        }
        Edit::Reorder(from) => session.reorder(&from.iter().map(|&from| from as usize).collect::<Vec<_>>()),
    }
}

/// Gives everything back, and sends on what was made.
fn finish(shared: &Shared, done: Vec<Done>) {
    let mut state = shared.state();
    for Done { work, edited, output } in done {
        // A session that was closed meanwhile is gone.
        let Some(held) = state.same(work.id, work.number) else { continue };
        match output {
            Ok(output) => {
                let lengths: Vec<u32> = work.hidden.lengths().iter().map(|&length| length as u32).collect();
                held.finish_work(work.session, &work.rows, &lengths, output.values().data());
                held.pump(shared.settings.wire, &shared.counters);
            }
            Err(error) if !edited => {
                held.tell(&ToClient::Refused(Refusal::Span(error.into())));
                state.close(work.id);
            }
            Err(error) => {
                let starts = work.rows.starts.iter().zip(&work.admitted.skip).map(|(start, skip)| start + skip);
                let failed = ToClient::Failed {
                    revision: work.rows.revision,
                    starts: starts.collect(),
                    lengths: work.hidden.lengths().iter().map(|&length| length as u32).collect(),
                    fault: Fault::from(error),
                };
                held.fail_work(work.session, &work.rows);
                held.tell(&failed);
                // Whoever is next goes through the same revisions.
                held.pump(shared.settings.wire, &shared.counters);
            }
        }
    }
}
