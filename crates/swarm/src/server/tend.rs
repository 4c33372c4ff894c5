//! What a server looks after again and again: sessions whose clients are gone, how much waits, and whether its blocks still
//! come to an end.

use std::sync::Arc;

use super::held::Held;
use super::schedule::STUCK;
use super::{BEAT, STUCK_BLOCKS, Shared, State};
use crate::Refusal;
use crate::wire::message::{SessionId, ToClient};

/// The share of a moment in the mean of what waits: a mean over about 4 s.
const MOMENT: f32 = 1.0 / 8.0;

/// Looks after all of it, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut stuck = false;
    loop {
        tokio::time::sleep(BEAT).await;
        let mut state = shared.state();
        let abandoned: Vec<SessionId> =
            state.sessions.iter().filter(|(_, held)| held.is_abandoned()).map(|(id, _)| *id).collect();
        abandoned.into_iter().for_each(|id| state.close(id));
        let waits = waits(&state);
        state.load.mean += MOMENT * (waits - state.load.mean);
        let was_stuck = std::mem::replace(&mut stuck, state.schedule.computing() > STUCK);
        if stuck && !was_stuck {
            // Their clients need not find out by themselves.
            let refused = ToClient::Refused(Refusal::Failed(STUCK_BLOCKS.to_owned()));
            state.sessions.values().for_each(|held| held.tell(&refused));
        }
    }
}

/// What waits now, in tokens times blocks.
fn waits(state: &State) -> f32 {
    let waits = |held: &Held| (held.queued() * held.range.len()) as u64;
    (state.load.passes + state.sessions.values().map(waits).sum::<u64>()) as f32
}
