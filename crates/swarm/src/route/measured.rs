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

/// Round trips and times of steps, as exponential means.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    round_trips: BTreeMap<PeerId, f64>,
    between: BTreeMap<(PeerId, PeerId), f64>,
    decode: BTreeMap<PeerId, Pace>,
    prompt: BTreeMap<PeerId, Pace>,
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

    /// A server took so long to decode one token of one session in so many of its blocks, waiting included.
    pub fn decoded(&mut self, peer: PeerId, blocks: usize, took: Duration, now: Duration) {
        note(&mut self.decode, peer, blocks, took, now);
    }

    /// A server took so long for tokens of a prompt in so many of its blocks, waiting included.
    pub fn prompted(&mut self, peer: PeerId, blocks: usize, tokens: usize, took: Duration, now: Duration) {
        note(&mut self.prompt, peer, blocks * tokens, took, now);
    }

    /// Forgets a machine that is gone.
    pub fn forget(&mut self, peer: &PeerId) {
        self.round_trips.remove(peer);
        self.between.retain(|(one, other), _| one != peer && other != peer);
        self.decode.remove(peer);
        self.prompt.remove(peer);
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

    /// Seconds of a decoded token in a block, of a server that says `told`.
    pub(super) fn decode(&self, peer: &PeerId, told: f64, now: Duration) -> f64 {
        believed(self.decode.get(peer), told, now)
    }

    /// Seconds of a token of a prompt in a block, of a server that says `told`.
    pub(super) fn prompt(&self, peer: &PeerId, told: f64, now: Duration) -> f64 {
        believed(self.prompt.get(peer), told, now)
    }
}

fn blend(mean: &mut f64, new: f64) {
    *mean += NEW_SHARE * (new - *mean);
}

fn note(paces: &mut BTreeMap<PeerId, Pace>, peer: PeerId, units: usize, took: Duration, now: Duration) {
    if units > 0 {
        let seconds = took.as_secs_f64() / units as f64;
        let pace = paces.entry(peer).or_insert(Pace { seconds, at: now });
        blend(&mut pace.seconds, seconds);
        pace.at = now;
    }
}

/// What was measured, and more and more of what was told as that grows old.
fn believed(pace: Option<&Pace>, told: f64, now: Duration) -> f64 {
    pace.map_or(told, |pace| {
        let age = now.saturating_sub(pace.at).as_secs_f64();
        told + (pace.seconds - told) * 0.5_f64.powf(age / HALF_LIFE)
    })
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
        assert_eq!(measured.decode(&peer, 0.5, now), 0.5);
        measured.decoded(peer, 4, Duration::from_secs(4), now);
        assert_eq!(measured.decode(&peer, 0.5, now), 1.0);
        measured.decoded(peer, 4, Duration::from_secs(8), now);
        assert_eq!(measured.decode(&peer, 0.5, now), 1.25);
        assert_eq!(measured.decode(&peer, 0.25, now + Duration::from_secs(30)), 0.75);
        assert!((measured.decode(&peer, 0.25, now + Duration::from_secs(3000)) - 0.25).abs() < 1e-9);
        measured.prompted(peer, 2, 8, Duration::from_secs(16), now);
        assert_eq!(measured.prompt(&peer, 0.0, now), 1.0);
        measured.prompted(peer, 0, 8, Duration::from_secs(16), now);
        assert_eq!(measured.prompt(&peer, 0.0, now), 1.0);

        let other = PeerId::random();
        measured.round_trip(peer, Duration::from_secs(1));
        measured.round_trip(peer, Duration::from_secs(3));
        assert_eq!(measured.seconds_to(&peer), Some(1.5));
        measured.round_trip_between(peer, other, Duration::from_secs(1));
        assert_eq!(measured.seconds_between(other, peer), Some(1.0));
        measured.forget(&other);
        assert_eq!(measured.seconds_between(other, peer), None);
        measured.forget(&peer);
        assert_eq!((measured.seconds_to(&peer), measured.decode(&peer, 0.5, now)), (None, 0.5));
    }
}
