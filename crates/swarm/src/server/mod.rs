//! A server: blocks that others run through streams.
//!
//! | module | job |
//! |---|---|
//! | `held` | a session here: its cache, its ledger, who is next |
//! | `budget` | bytes that are promised |
//! | `arriving` | bytes of rows that wait to be computed |
//! | `schedule` | what is computed next, and together |
//! | `gather` | a short wait for those who come together |
//! | `pace` | how fast all of that is |
//! | `streams` | what comes in: greetings, and what they ask for |
//! | `sessions` | the streams of a session: its client's, and that of the machine before |
//! | `passes` | whole sequences, forward and backward |
//! | `pieces` | how those are computed between the steps of sessions |
//! | `link` | what goes to the next server |
//! | `tend` | what is looked after again and again |
//! | `tolerance` | how many mistakes others may make |

mod arriving;
mod budget;
mod gather;
mod held;
mod link;
mod pace;
mod passes;
mod pieces;
mod schedule;
mod sessions;
mod streams;
mod tend;
mod tolerance;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bouquet_span::Adapter;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

pub use self::arriving::ARRIVING_BYTES;
use self::arriving::Arriving;
use self::budget::Budget;
use self::held::Held;
use self::pace::Pace;
use self::passes::Adapters;
use self::schedule::Schedule;
use self::tolerance::Tolerance;
pub use self::tolerance::{MISTAKES, WHILE};
use crate::compute::{Blocks, Compute};
use crate::directory::Directory;
use crate::shelf::Shelf;
use crate::transport::Transport;
use crate::wire::message::{SessionId, ToClient};
use crate::{Digest, Figures, Refusal, Wire};

/// How often a server says that it is there.
pub const BEAT: Duration = Duration::from_millis(500);

/// How long a session is kept for a client that is not heard of.
pub const GRACE: Duration = Duration::from_secs(60);

/// After so long something that is computed is told as what others have to wait for.
const HANGS: Duration = Duration::from_secs(5);

/// What is said when nothing comes back from the blocks.
const STUCK_BLOCKS: &str = "its blocks have not come to an end for too long";

/// What a server serves, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the model as it is served.
    pub fingerprint: Digest,
    /// How hidden states travel.
    pub wire: Wire,
    /// Bytes for the caches of all sessions together: keys and values, and the rows that were passed on.
    pub cache_bytes: u64,
    /// Bytes that requests without a session may take, all together, besides what their blocks work in; and that adapters may
    /// take which clients sent.
    pub pass_bytes: u64,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Requests without a session are computed in pieces, none of which has more to do than so many tokens through all of
    /// the blocks: as long as that others wait for their next token.
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
    /// For sessions.
    cache: Arc<Budget>,
    /// For requests without one.
    passes: Arc<Budget>,
    /// For rows that wait to be computed.
    arriving: Arriving,
    /// They are computed one after the other, since what each keeps for its backward is not small.
    pass_turn: Semaphore,
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

/// What waits to be computed, in tokens times blocks.
#[derive(Default)]
struct Load {
    /// Of requests without a session that are here, what is not done yet.
    passes: u64,
    /// Of all, as a mean over the last seconds: a moment says little.
    mean: f32,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Held>,
    /// Sessions so far.
    opened: u64,
    schedule: Schedule,
    load: Load,
    pace: Pace,
    leaving: bool,
    adapters: Adapters,
    tolerance: Tolerance,
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
        Server(Arc::new(Shared {
            transport,
            blocks,
            compute,
            directory,
            shelf,
            cache: Budget::new(settings.cache_bytes),
            passes: Budget::new(settings.pass_bytes),
            arriving: Arriving::new(ARRIVING_BYTES),
            pass_turn: Semaphore::new(1),
            settings,
            state: Mutex::default(),
            work: Notify::new(),
            counters: Counters::default(),
        }))
    }

    /// From now on clients that use this adapter need not send it.
    pub fn preload(&self, adapter: Arc<Adapter>) {
        self.0.state().adapters.preload(adapter);
    }

    /// Its blocks.
    pub fn blocks(&self) -> Range<usize> {
        self.0.blocks.range()
    }

    /// What is free and waits at the moment, beside the speeds that were measured. A session through all blocks takes exactly
    /// the tokens that it reserves from what is free, until it is closed.
    pub fn figures(&self, measured: Figures) -> Figures {
        let token = self.0.cache_bytes(1, self.blocks().len()).max(1);
        let state = self.0.state();
        let measured = state.pace.over(measured);
        let waits = state.load.mean * measured.prompt_seconds_per_block;
        // Whoever waits for something that does not end waits for at least as long again.
        let computing = state.schedule.computing();
        let hangs = if computing < HANGS { 0.0 } else { computing.as_secs_f32() };
        Figures {
            cache_tokens: self.0.cache.limit() / token,
            free_cache_tokens: self.0.cache.left() / token,
            queued_seconds: waits.max(hangs),
            sessions: state.sessions.len() as u32,
            ..measured
        }
    }

    /// Serves until the machine leaves the network. Dropping the future ends all of it.
    pub async fn run(&self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(schedule::run(self.0.clone()));
        tasks.spawn(tend::run(self.0.clone()));
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

    /// Channels of a row.
    fn width(&self) -> usize {
        self.blocks.span(self.blocks.range()).hidden_size()
    }

    /// Bytes of a session that reserves so many tokens of so many blocks: their keys and values, and the rows that are
    /// passed on.
    fn cache_bytes(&self, tokens: u64, blocks: usize) -> u64 {
        let row = 4 * self.width() as u64;
        let token = self.blocks.cache_bytes().saturating_mul(blocks as u64).saturating_add(row);
        tokens.saturating_mul(token)
    }

    /// Why nothing new is taken on, if so.
    fn is_closed(&self) -> Result<(), Refusal> {
        let state = self.state();
        if state.leaving {
            Err(Refusal::Leaving)
        } else if state.schedule.computing() > schedule::STUCK {
            Err(Refusal::Failed(STUCK_BLOCKS.to_owned()))
        } else {
            Ok(())
        }
    }
}

impl Counters {
    fn count(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }
}
