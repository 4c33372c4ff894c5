//! Who has failed, and for how long to leave it alone: a machine that fails is out of every route at once, and comes back
//! after a time that doubles with each failure in a row.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;

/// How long a machine is left alone after its first failure.
pub const FIRST_BAN: Duration = Duration::from_secs(2);

/// How long it is left alone at most.
pub const LONGEST_BAN: Duration = Duration::from_secs(60);

/// After so long without another failure, those before no longer count.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The failures of each machine, as one other machine has seen them. Times are counted by the caller, from a start of
/// its own.
#[derive(Clone, Debug, Default)]
pub struct Health {
    peers: BTreeMap<PeerId, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    in_a_row: u32,
    at: Duration,
    until: Duration,
}

impl Health {
    /// Nobody has failed.
    pub fn new() -> Health {
        Health::default()
    }

    /// It failed. What fails while it is banned already is the same failure, seen from another stream.
    pub fn failed(&mut self, peer: PeerId, now: Duration) {
        self.peers.retain(|_, failures| now < failures.until + FORGIVEN);
        let failures = self.peers.entry(peer).or_insert(Failures { in_a_row: 0, at: now, until: now });
        if failures.until <= now {
            failures.until = now + LONGEST_BAN.min(FIRST_BAN * (1 << failures.in_a_row.min(16)));
            failures.in_a_row += 1;
        }
        failures.at = now;
    }

    /// It did what it was asked, which makes up for all failures.
    pub fn succeeded(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// When it failed last, as far as that counts.
    pub fn failed_at(&self, peer: &PeerId) -> Option<Duration> {
        self.peers.get(peer).map(|failures| failures.at)
    }

    /// When it comes back, if it is banned.
    pub fn banned_until(&self, peer: &PeerId, now: Duration) -> Option<Duration> {
        self.peers.get(peer).map(|failures| failures.until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_after_a_time_that_doubles() {
        let (mut health, peer) = (Health::new(), PeerId::random());
        let mut now = Duration::from_secs(10);
        assert_eq!(health.banned_until(&peer, now), None);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            health.failed(peer, now);
            let until = now + Duration::from_secs(expected);
            assert_eq!(health.banned_until(&peer, now), Some(until));
            // The other streams to it break as well.
            health.failed(peer, until - Duration::from_millis(1));
            assert_eq!(health.banned_until(&peer, until - Duration::from_millis(1)), Some(until));
            assert_eq!(health.banned_until(&peer, until), None);
            now = until + Duration::from_secs(60);
        }
        health.succeeded(&peer);
        assert_eq!(health.banned_until(&peer, now), None);
        health.failed(peer, now);
        assert_eq!(health.banned_until(&peer, now), Some(now + FIRST_BAN));
    }

    #[test]
    fn what_is_long_past_is_forgiven() {
        let (mut health, peer) = (Health::new(), PeerId::random());
        for start in [0, 3, 700] {
            health.failed(peer, Duration::from_secs(start));
        }
        assert_eq!(health.banned_until(&peer, Duration::from_secs(700)), Some(Duration::from_secs(702)));
    }
}
