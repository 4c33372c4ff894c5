//! What one machine has measured of others. It outweighs what they say of themselves, for as long as it is fresh.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;

/// The share of a new measurement in a mean.
const NEW_SHARE: f64 = 0.25;

/// A time that was measured long ago counts half as much after so many seconds.
const HALF_LIFE: f64 = 30.0;

/// Pairs of other machines that a round trip is kept of, since others can say what they like.
const MAX_PAIRS: usize = 1 << 14;

/// Round trips and times of whole sequences, as exponential means, and what is under way. How long sessions' steps take is
/// seen by servers alone, which say it in their records.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    round_trips: BTreeMap<PeerId, f64>,
    between: BTreeMap<(PeerId, PeerId), f64>,
    paces: BTreeMap<PeerId, Pace>,
    under_way: BTreeMap<PeerId, u64>,
}

/// Seconds that a token takes in a block.
#[derive(Clone, Copy, Debug)]
struct Pace {
    seconds: f64,
    at: Duration,
}

impl Measured {
    /// Nothing is measured.
    pub fn new() -> Measured {
        Measured::default()
    }

    /// A message to a machine and its answer took so long.
    pub fn round_trip(&mut self, peer: PeerId, took: Duration) {
        blend(self.round_trips.entry(peer).or_insert(took.as_secs_f64()), took.as_secs_f64());
    }

    /// The same between two other machines, as one of them said. Beyond a bound, new pairs are ignored.
    pub fn round_trip_between(&mut self, one: PeerId, other: PeerId, took: Duration) {
        if self.between.len() >= MAX_PAIRS && !self.between.contains_key(&pair(one, other)) {
            return;
        }
        blend(self.between.entry(pair(one, other)).or_insert(took.as_secs_f64()), took.as_secs_f64());
    }

    /// A server is asked to take so many tokens, times blocks, through its blocks. Returns what this machine has under way
    /// there, this included.
    pub fn asked(&mut self, peer: PeerId, work: u64) -> u64 {
        let under_way = self.under_way.entry(peer).or_default();
        *under_way += work;
        *under_way
    }

    /// It is not at it any more. `took` is how long it was, if it has answered, behind how much that was `under_way`.
    pub fn answered(&mut self, peer: PeerId, work: u64, took: Option<(Duration, u64)>, now: Duration) {
        if let Some(left) = self.under_way.get_mut(&peer) {
            *left = left.saturating_sub(work);
            if *left == 0 {
                self.under_way.remove(&peer);
            }
        }
        let Some((took, under_way)) = took else { return };
        let seconds = took.as_secs_f64() / under_way.max(1) as f64;
        let pace = self.paces.entry(peer).or_insert(Pace { seconds, at: now });
        blend(&mut pace.seconds, seconds);
        pace.at = now;
    }

    /// Forgets a machine that is gone.
    pub fn forget(&mut self, peer: &PeerId) {
        self.round_trips.remove(peer);
        self.between.retain(|(one, other), _| one != peer && other != peer);
        self.paces.remove(peer);
        self.under_way.remove(peer);
    }

    /// Keeps what was measured of machines that are still known, and forgets the rest.
    pub fn keep(&mut self, known: impl Fn(&PeerId) -> bool) {
        self.round_trips.retain(|peer, _| known(peer));
        self.between.retain(|(one, other), _| known(one) && known(other));
        self.paces.retain(|peer, _| known(peer));
        self.under_way.retain(|peer, _| known(peer));
    }

    /// Whether a round trip to a machine was measured.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.round_trips.contains_key(peer)
    }

    pub(super) fn seconds_to(&self, peer: &PeerId) -> Option<f64> {
        self.round_trips.get(peer).copied()
    }

    pub(super) fn seconds_between(&self, one: PeerId, other: PeerId) -> Option<f64> {
        self.between.get(&pair(one, other)).copied()
    }

    /// All pairs of others that are known, the smaller first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&(PeerId, PeerId), f64)> {
        self.between.iter().map(|(pair, seconds)| (pair, *seconds))
    }

    /// Seconds of a token in a block where many go through together, of a server that says `told`: more and more of that as
    /// what was measured grows old.
    pub(super) fn pace(&self, peer: &PeerId, told: f64, now: Duration) -> f64 {
        self.paces.get(peer).map_or(told, |pace| {
            let age = now.saturating_sub(pace.at).as_secs_f64();
            told + (pace.seconds - told) * 0.5_f64.powf(age / HALF_LIFE)
        })
    }

    /// What this machine has under way at a server, in tokens times blocks.
    pub(super) fn under_way(&self, peer: &PeerId) -> u64 {
        self.under_way.get(peer).copied().unwrap_or(0)
    }
}

fn blend(mean: &mut f64, new: f64) {
    *mean += NEW_SHARE * (new - *mean);
}

fn pair(one: PeerId, other: PeerId) -> (PeerId, PeerId) {
    if one < other { (one, other) } else { (other, one) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_follow_what_is_measured_and_fade_to_what_is_told() {
        let (mut measured, peer) = (Measured::new(), PeerId::random());
        let now = Duration::from_secs(5);
        assert_eq!(measured.pace(&peer, 0.5, now), 0.5);
        assert_eq!((measured.asked(peer, 4), measured.asked(peer, 12)), (4, 16));
        measured.answered(peer, 4, Some((Duration::from_secs(4), 4)), now);
        assert_eq!((measured.pace(&peer, 0.5, now), measured.under_way(&peer)), (1.0, 12));
        // It had all of both to do.
        measured.answered(peer, 12, Some((Duration::from_secs(32), 16)), now);
        assert_eq!((measured.pace(&peer, 0.5, now), measured.under_way(&peer)), (1.25, 0));
        assert_eq!(measured.pace(&peer, 0.25, now + Duration::from_secs(30)), 0.75);
        assert!((measured.pace(&peer, 0.25, now + Duration::from_secs(3000)) - 0.25).abs() < 1e-9);
        measured.asked(peer, 5);
        measured.answered(peer, 5, None, now);
        assert_eq!((measured.pace(&peer, 0.5, now), measured.under_way(&peer)), (1.25, 0));

        let other = PeerId::random();
        measured.round_trip(peer, Duration::from_secs(1));
        measured.round_trip(peer, Duration::from_secs(3));
        assert_eq!(measured.seconds_to(&peer), Some(1.5));
        measured.round_trip_between(peer, other, Duration::from_secs(1));
        assert_eq!(measured.seconds_between(other, peer), Some(1.0));
        measured.forget(&other);
        assert_eq!(measured.seconds_between(other, peer), None);
        measured.forget(&peer);
        assert_eq!((measured.seconds_to(&peer), measured.pace(&peer, 0.5, now)), (None, 0.5));
    }
}
