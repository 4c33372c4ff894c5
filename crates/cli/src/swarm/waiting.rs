//! What is said while nobody hosts some blocks: a line on a terminal, which goes when somebody does.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bouquet_swarm::client::guide::{Guide, Need, Stop};
use bouquet_swarm::directory::Directory;
use bouquet_swarm::{Hop, Result, SwarmError};
use libp2p_identity::PeerId;

use crate::output::{self, Progress};

/// For how long nothing is said: most holes are closed sooner, by others who have the same blocks.
const QUIET: Duration = Duration::from_millis(1500);

/// A guide that says what it cannot find.
pub(super) struct Waiting {
    directory: Arc<Directory>,
    /// How long the client waits.
    patience: Duration,
    hole: Mutex<Option<Hole>>,
}

/// Blocks that nobody hosts.
struct Hole {
    since: Instant,
    said: bool,
    line: Progress,
}

impl Waiting {
    pub(super) fn new(directory: Arc<Directory>, patience: Duration) -> Waiting {
        Waiting { directory, patience, hole: Mutex::default() }
    }

    fn say(&self, missing: &str) {
        let mut hole = self.hole.lock().unwrap_or_else(PoisonError::into_inner);
        let Hole { since, said, line } =
            hole.get_or_insert_with(|| Hole { since: Instant::now(), said: false, line: Progress::new() });
        let waited = since.elapsed();
        if waited < QUIET {
            return;
        }
        let text = format!("{missing}; waiting for somebody to host them");
        if Progress::is_seen() {
            line.show(&format!("{text}, {} s of {} s", waited.as_secs(), self.patience.as_secs()));
        } else if !std::mem::replace(said, true) {
            output::note(&format!("{text}, for {} s at most", self.patience.as_secs()));
        }
    }
}

impl Guide for Waiting {
    fn route(&self, blocks: Range<usize>, kept: &[Hop], without: &BTreeSet<PeerId>, need: Need) -> Result<Vec<Stop>> {
        let found = self.directory.route(blocks, kept, without, need);
        match &found {
            Ok(_) => *self.hole.lock().unwrap_or_else(PoisonError::into_inner) = None,
            Err(missing @ SwarmError::Missing(_)) => self.say(&missing.to_string()),
            Err(_) => {}
        }
        found
    }

    fn has_route(&self, blocks: Range<usize>, without: &BTreeSet<PeerId>, need: Need) -> bool {
        self.directory.has_route(blocks, without, need)
    }

    fn failed(&self, peer: PeerId) {
        self.directory.failed(peer);
    }

    fn worked(&self, peer: PeerId) {
        self.directory.worked(peer);
    }

    fn asked(&self, peer: PeerId, work: u64) -> u64 {
        self.directory.asked(peer, work)
    }

    fn answered(&self, peer: PeerId, work: u64, took: Option<(Duration, u64)>) {
        self.directory.answered(peer, work, took);
    }
}
