//! A server: blocks that others run through streams.
//!
//! | module | job |
//! |---|---|
//! | `held` | a session here: its cache, its ledger, who is next |
//! | `schedule` | what is computed next, and together |
//! | `streams` | what comes in: greetings, sessions, rows |
//! | `passes` | whole sequences, forward and backward |
//! | `link` | what goes to the next server |

mod held;
mod link;
mod passes;
mod schedule;
mod streams;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bouquet_span::Adapter;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::held::Held;
use self::passes::Adapters;
use crate::compute::{Blocks, Compute};
use crate::directory::Directory;
use crate::shelf::Shelf;
use crate::transport::Transport;
use crate::wire::message::{SessionId, ToClient};
use crate::{Digest, Figures, Wire};

/// How often a server says that it is there.
pub const BEAT: Duration = Duration::from_millis(500);

/// How long a session is kept for a client that is not heard of.
pub const GRACE: Duration = Duration::from_secs(60);

/// What a server serves, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the model as it is served.
    pub fingerprint: Digest,
    /// How hidden states travel.
    pub wire: Wire,
    /// Bytes for rows that were passed on, of all sessions together.
    pub ledger_bytes: u64,
    /// Bytes that requests without a session may take, all together, besides what their blocks work in; and that adapters may
    /// take which clients sent.
    pub pass_bytes: u64,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Tokens that are computed at a time.
    pub chunk_tokens: u32,
}

/// A server. It serves for as long as [`run`](Self::run) does; clones are of the same one.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    transport: Arc<dyn Transport>,
    blocks: Arc<dyn Blocks>,
    compute: Compute,
    directory: Arc<Directory>,
    shelf: Shelf,
    settings: Settings,
    state: Mutex<State>,
    /// There may be something to compute.
    work: Notify,
    counters: Counters,
}

/// What a server has done so far.
#[derive(Debug, Default)]
struct Counters {
    pushed: AtomicU64,
    returned: AtomicU64,
    steps: AtomicU64,
    stepped: AtomicU64,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages with rows that went to another server.
    pub pushed: u64,
    /// Messages with rows that went to a client.
    pub returned: u64,
    /// Times that blocks were computed for sessions.
    pub steps: u64,
    /// Sessions in all of these together.
    pub stepped: u64,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Held>,
    /// Sessions so far.
    opened: u64,
    /// Bytes of ledgers that are promised.
    ledger_bytes: u64,
    /// The session that was computed last, so that all have their turn.
    last: Option<SessionId>,
    leaving: bool,
    adapters: Adapters,
    /// Bytes of requests without a session that are here.
    pass_bytes: u64,
}

impl Server {
    /// A server of `blocks`, which shares what it knows of the swarm in `directory`, and hands on the
    /// files of `shelf`.
    pub fn new(
        transport: Arc<dyn Transport>,
        blocks: Arc<dyn Blocks>,
        compute: Compute,
        directory: Arc<Directory>,
        shelf: Shelf,
        settings: Settings,
    ) -> Server {
        let (state, work, counters) = (Mutex::default(), Notify::new(), Counters::default());
        Server(Arc::new(Shared { transport, blocks, compute, directory, shelf, settings, state, work, counters }))
    }

    /// From now on clients that use this adapter need not send it.
    pub fn preload(&self, adapter: Arc<Adapter>) {
        self.0.state().adapters.preload(adapter);
    }

    /// Its blocks.
    pub fn blocks(&self) -> Range<usize> {
        self.0.blocks.range()
    }

    /// What is free and waits at the moment, beside what does not change.
    pub fn figures(&self, measured: Figures) -> Figures {
        let state = self.0.state();
        let row = 4 * self.0.blocks.span(self.blocks()).hidden_size() as u64;
        let free = (self.0.settings.ledger_bytes - state.ledger_bytes) / row.max(1);
        let waiting: usize = state.sessions.values().filter_map(Held::waiting).sum();
        Figures {
            free_cache_tokens: free.min(measured.cache_tokens),
            queued_seconds: waiting as f32 * measured.prompt_seconds_per_block * self.blocks().len() as f32,
            sessions: state.sessions.len() as u32,
            ..measured
        }
    }

    /// Serves until the machine leaves the network. Dropping the future ends all of it.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(schedule::run(self.0.clone()));
        tasks.spawn(held::reap(self.0.clone()));
        while let Some(stream) = self.0.transport.accept().await {
            tasks.spawn(streams::serve(self.0.clone(), stream));
            // Those that have ended are forgotten.
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Takes no more sessions, and tells the clients of those that are here.
    pub fn leave(&self) {
        let mut state = self.0.state();
        state.leaving = true;
        for held in state.sessions.values() {
            held.tell(&ToClient::Leaving);
        }
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.0.state().sessions.len()
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let Counters { pushed, returned, steps, stepped } = &self.0.counters;
        let [pushed, returned, steps, stepped] =
            [pushed, returned, steps, stepped].map(|counter| counter.load(Ordering::Relaxed));
        Counts { pushed, returned, steps, stepped }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no task panics while it holds this")
    }
}

impl Counters {
    fn count(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }
}
