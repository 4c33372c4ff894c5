//! What is computed next: decoding steps of many sessions together, since they share the reading of weights, and parts of
//! prompts by themselves, in turn, so that neither waits for all of the other.

use std::ops::Range;
use std::sync::Arc;

use bouquet_span::{HiddenStates, Limits, Returned, Session, SpanError, Step};

use super::held::Work;
use super::{Counters, Shared, State};
use crate::Refusal;
use crate::ledger::Edit;
use crate::wire::fault::Fault;
use crate::wire::message::{SessionId, ToClient};

/// Tokens of a session that are few enough to be computed with those of others.
const FEW_TOKENS: usize = 16;

/// Sessions that are stepped together.
const MAX_TOGETHER: usize = 64;

/// What became of a session's part.
struct Done {
    work: Work,
    /// The edits were done.
    edited: bool,
    output: Result<HiddenStates, SpanError>,
}

/// Computes what waits, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let batch = take_batch(&mut shared.state());
        if batch.is_empty() {
            shared.work.notified().await;
            continue;
        }
        let tokens = batch.iter().map(|work| work.hidden.tokens()).sum();
        let blocks = batch[0].span.range().len();
        Counters::count(&shared.counters.steps, 1);
        Counters::count(&shared.counters.stepped, batch.len());
        let ids: Vec<(SessionId, u64)> = batch.iter().map(|work| (work.id, work.number)).collect();
        match shared.compute.run(tokens, blocks, move || compute(batch)).await {
            Some(done) => finish(&shared, done),
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
    }
}

/// What is computed together now, and taken out of its sessions for it.
fn take_batch(state: &mut State) -> Vec<Work> {
    let State { sessions, last, .. } = state;
    // All have their turn: from the one after the last to the end, and then from the start.
    let all: Vec<SessionId> = sessions.keys().copied().collect();
    let begin = last.map_or(0, |last| all.partition_point(|id| *id <= last));
    let mut batch: Vec<Work> = Vec::new();
    let mut range: Option<Range<usize>> = None;
    for id in all[begin..].iter().chain(&all[..begin]) {
        let held = sessions.get_mut(id).expect("one of its keys");
        if range.as_ref().is_some_and(|range| *range != held.range) {
            continue;
        }
        // What was there already is passed over.
        while let Some(tokens) = held.waiting() {
            if !batch.is_empty() && tokens > FEW_TOKENS {
                break;
            }
            let Some(work) = held.begin_work(*id) else { continue };
            range = Some(held.range.clone());
            batch.push(work);
            *last = Some(*id);
            if tokens > FEW_TOKENS {
                return batch;
            }
            break;
        }
        if batch.len() == MAX_TOGETHER {
            break;
        }
    }
    batch
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
