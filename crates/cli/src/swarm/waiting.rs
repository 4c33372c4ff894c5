//! What is said while nobody hosts some blocks, or who does is slow: a line on a terminal, which goes when it goes on.

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

/// A guide that says what it cannot find, and who holds it up.
pub(super) struct Waiting {
    directory: Arc<Directory>,
    /// How long the client waits.
    patience: Duration,
    hole: Mutex<Option<Hole>>,
    slow: Mutex<Option<Slow>>,
}

/// Blocks that nobody hosts.
struct Hole {
    since: Instant,
    said: bool,
    line: Progress,
}

/// A server that is waited for.
struct Slow {
    peer: PeerId,
    line: Progress,
}

impl Waiting {
    pub(super) fn new(directory: Arc<Directory>, patience: Duration) -> Waiting {
        Waiting { directory, patience, hole: Mutex::default(), slow: Mutex::default() }
    }

    /// What a server calls itself.
    fn name(&self, peer: PeerId) -> String {
        let known = self.directory.records().into_iter().find(|(known, _)| *known == peer);
        known.map_or_else(|| peer.to_string(), |(_, record)| record.name)
    }

    /// A server goes on, or is not waited for any more.
    fn goes_on(&self, peer: PeerId) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        if slow.as_ref().is_some_and(|slow| slow.peer == peer) {
            *slow = None;
        }
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

    fn waits(&self, peer: PeerId, blocks: &Range<usize>, waited: Duration) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = slow.as_ref().is_none_or(|slow| slow.peer != peer);
        if is_new {
            *slow = Some(Slow { peer, line: Progress::new() });
        }
        let Some(Slow { line, .. }) = slow.as_mut() else { return };
        let text = format!(
            "{} is slow, and nobody else hosts {}; waiting for it",
            self.name(peer),
            bouquet_swarm::error::named(std::slice::from_ref(blocks))
        );
        if Progress::is_seen() {
            line.show(&format!("{text}, {} s", waited.as_secs()));
        } else if is_new {
            output::note(&text);
        }
    }

    fn failed(&self, peer: PeerId) {
        self.goes_on(peer);
        self.directory.failed(peer);
    }

    fn worked(&self, peer: PeerId) {
        self.goes_on(peer);
        self.directory.worked(peer);
    }

    fn asked(&self, peer: PeerId, work: u64) -> u64 {
        self.directory.asked(peer, work)
    }

    fn answered(&self, peer: PeerId, work: u64, took: Option<(Duration, u64)>) {
        self.directory.answered(peer, work, took);
    }
}
