//! How many mistakes others may make: who sends again and again what makes no sense is not heard for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::time::Instant;

/// Mistakes of a machine within [`WHILE`] that are put up with.
pub const MISTAKES: u32 = 16;

/// For how long a mistake counts, and how long a machine is not heard that made too many.
pub const WHILE: Duration = Duration::from_secs(60);

/// Machines whose mistakes are counted; beyond, the oldest are forgotten. All of them have the key of the swarm.
const MAX_PEERS: usize = 1024;

/// What has been put up with so far.
#[derive(Default)]
pub(super) struct Tolerance {
    /// Mistakes of each, since its first.
    made: BTreeMap<PeerId, (u32, Instant)>,
}

impl Tolerance {
    /// It sent what makes no sense.
    pub(super) fn mistake(&mut self, peer: PeerId) {
        self.made.retain(|_, (_, since)| since.elapsed() < WHILE);
        if self.made.len() >= MAX_PEERS && !self.made.contains_key(&peer) {
            let oldest = self.made.iter().min_by_key(|(_, (_, since))| *since).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.made.remove(&oldest));
        }
        let (made, since) = self.made.entry(peer).or_insert((0, Instant::now()));
        *made += 1;
        if *made == MISTAKES {
            *since = Instant::now();
        }
    }

    /// Whether it made too many.
    pub(super) fn is_over(&self, peer: &PeerId) -> bool {
        self.made.get(peer).is_some_and(|(made, since)| *made >= MISTAKES && since.elapsed() < WHILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn too_many_mistakes_are_not_put_up_with_for_a_while() {
        let (mut tolerance, peer) = (Tolerance::default(), PeerId::random());
        for _ in 0..MISTAKES {
            assert!(!tolerance.is_over(&peer));
            tolerance.mistake(peer);
            tokio::time::advance(WHILE / 2 / MISTAKES).await;
        }
        assert!(tolerance.is_over(&peer) && !tolerance.is_over(&PeerId::random()));
        tokio::time::advance(WHILE - Duration::from_secs(5)).await;
        assert!(tolerance.is_over(&peer));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(!tolerance.is_over(&peer));
        for _ in 0..3 * MAX_PEERS {
            tolerance.mistake(PeerId::random());
        }
        assert!(tolerance.made.len() <= MAX_PEERS);
    }
}
