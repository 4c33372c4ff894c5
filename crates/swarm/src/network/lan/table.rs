//! What has been heard of machines nearby, as much as is believed.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::time::Instant;

/// Machines that are remembered. When one more is heard of, the one whose word ends first is forgotten.
const MAX_PEERS: usize = 256;

/// Addresses of a machine.
const MAX_ADDRESSES: usize = 16;

/// How long a word holds at most, whatever it says of itself.
const MAX_TTL: Duration = Duration::from_secs(600);

/// Machines, where they are, and until when that is believed.
#[derive(Default)]
pub(super) struct Table {
    heard: BTreeMap<PeerId, (Vec<Multiaddr>, Instant)>,
}

impl Table {
    /// A machine says where it is, which replaces what it said before; for no time at all, that it leaves.
    pub(super) fn learn(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>, ttl: Duration, now: Instant) {
        self.heard.retain(|_, (_, until)| *until > now);
        if ttl.is_zero() || addresses.is_empty() {
            self.heard.remove(&peer);
            return;
        }
        if self.heard.len() >= MAX_PEERS && !self.heard.contains_key(&peer) {
            let first = self.heard.iter().min_by_key(|(_, (_, until))| *until).map(|(peer, _)| *peer);
            first.and_then(|first| self.heard.remove(&first));
        }
        addresses.truncate(MAX_ADDRESSES);
        self.heard.insert(peer, (addresses, now + ttl.min(MAX_TTL)));
    }

    pub(super) fn addresses(&self, peer: &PeerId, now: Instant) -> Vec<Multiaddr> {
        let known = self.heard.get(peer).filter(|(_, until)| *until > now);
        known.map(|(addresses, _)| addresses.clone()).unwrap_or_default()
    }

    pub(super) fn all(&self, now: Instant) -> Vec<PeerId> {
        self.heard.iter().filter(|(_, (_, until))| *until > now).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_word_is_replaced_withdrawn_and_ends() {
        let (mut table, peer, now) = (Table::default(), PeerId::random(), Instant::now());
        let minute = Duration::from_secs(60);
        table.learn(peer, vec![address(1)], minute, now);
        table.learn(peer, vec![address(2)], minute, now);
        assert_eq!(table.addresses(&peer, now), [address(2)]);
        assert!(table.addresses(&peer, now + minute).is_empty() && table.all(now + minute).is_empty());
        table.learn(peer, vec![address(2)], 100 * minute, now);
        assert!(table.addresses(&peer, now + 10 * minute).is_empty());
        table.learn(peer, vec![address(2)], Duration::ZERO, now);
        assert!(table.all(now).is_empty());
    }

    #[test]
    fn only_so_much_is_believed() {
        let (mut table, now) = (Table::default(), Instant::now());
        let peers: Vec<PeerId> = (0..MAX_PEERS + 10).map(|_| PeerId::random()).collect();
        for (after, peer) in peers.iter().enumerate() {
            let ttl = Duration::from_secs(60 + after as u64);
            table.learn(*peer, (0..40).map(address).collect(), ttl, now);
        }
        let all = table.all(now);
        assert_eq!(all.len(), MAX_PEERS);
        assert!(all.iter().all(|peer| table.addresses(peer, now).len() == MAX_ADDRESSES));
        assert!(peers[..10].iter().all(|peer| table.addresses(peer, now).is_empty()));
    }
}
