//! A short wait before a step, for sessions that come at about the same time: a step of many takes little longer than a
//! step of one, since they share the reading of weights.

use tokio::task::yield_now;
use tokio::time::{Duration, Instant, timeout_at};

use super::schedule::FEW_TOKENS;
use super::{Shared, State};

/// How long it is waited, at most.
const MOST: Duration = Duration::from_millis(2);

/// What a timer can tell apart. Where a step is too short for that, only what has arrived already is looked at.
const LEAST: Duration = Duration::from_millis(1);

/// It is not waited longer than this part of what a step takes.
const SHARE: u32 = 8;

/// Turns that other tasks of this thread get, to take in what has arrived.
const TURNS: usize = 4;

/// So many steps go by without a wait, at most, once waits are in vain.
const MOST_SKIPPED: u32 = 16;

/// Who the next step waits for, and how long.
#[derive(Default)]
pub(super) struct Gather {
    step: Duration,
    /// Steps until the next wait.
    skip: u32,
    /// How many were skipped after the last wait that was in vain.
    skipped: u32,
}

impl Gather {
    /// A step took so long.
    pub(super) fn took(&mut self, step: Duration) {
        self.step = step;
    }

    /// Waits until all who were stepped lately are here again; only if somebody waits for a step, and not long.
    pub(super) async fn wait(&mut self, shared: &Shared) {
        for _ in 0..TURNS {
            if is_complete(&shared.state()) {
                return;
            }
            yield_now().await;
        }
        let patience = MOST.min(self.step / SHARE);
        if patience < LEAST || self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return;
        }
        let until = Instant::now() + patience;
        while !is_complete(&shared.state()) {
            if timeout_at(until, shared.work.notified()).await.is_err() {
                self.skipped = (2 * self.skipped + 1).min(MOST_SKIPPED);
                self.skip = self.skipped;
                return;
            }
        }
        self.skipped = 0;
    }
}

/// Whether nobody who is expected is missing, or nothing is to be stepped together.
fn is_complete(state: &State) -> bool {
    let mut held = state.sessions.values();
    let steps = |tokens: usize| tokens <= FEW_TOKENS;
    let any = held.clone().any(|held| held.waiting().is_some_and(steps));
    !any || held.all(|held| held.waiting().is_some() || !held.is_lively())
}
