//! Numbers, ages, and tables that become one.

use libp2p_identity::Keypair;
use proptest::prelude::*;

use super::*;
use crate::wire::frame::MAX_HEADER_BYTES;
use crate::{Figures, ServerState};

const SWARM: Digest = Digest([7; 32]);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn keypair(name: u16) -> Keypair {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&name.to_le_bytes());
    Keypair::ed25519_from_bytes(seed).unwrap()
}

fn peer(name: u16) -> PeerId {
    keypair(name).public().to_peer_id()
}

/// Holds for 20 seconds.
fn signed(name: u16, number: u64) -> SignedRecord {
    let record = Record {
        number,
        lifetime_ms: 20_000,
        fingerprint: SWARM,
        name: format!("server {name}"),
        addresses: vec![],
        state: ServerState::Serving,
        blocks: 0..4,
        figures: Figures::default(),
    };
    record.sign(&keypair(name)).unwrap()
}

fn live(registry: &Registry, now: Duration) -> Vec<(PeerId, u64)> {
    registry.live(now).map(|(peer, record)| (peer, record.number)).collect()
}

/// `to` asks `from` until it lacks nothing.
fn exchange(from: &Registry, to: &mut Registry, now: Duration) {
    for _ in 0..100 {
        let news = from.news_for(&to.summary(), now);
        for aged in news.records {
            let age = aged.age();
            to.learn(aged.signed, age, now).unwrap();
        }
        if !news.more {
            return;
        }
    }
    panic!("news without end");
}

#[test]
fn a_larger_number_wins_and_a_smaller_never_does() {
    let mut registry = Registry::new(SWARM);
    let mut hear = |number, age, now| registry.learn(signed(1, number), seconds(age), seconds(now)).unwrap();
    assert_eq!(hear(5, 0, 0), Heard::New);
    assert_eq!(hear(4, 0, 1), Heard::Known);
    assert_eq!(hear(5, 0, 1), Heard::Known);
    assert_eq!(hear(6, 3, 2), Heard::New);
    assert_eq!(hear(7, 20, 3), Heard::Ended);
    assert_eq!(live(&registry, seconds(18)), [(peer(1), 6)]);
    assert_eq!(live(&registry, seconds(19)), []);
    assert_eq!(registry.number(&peer(1)), Some(6));
}

#[test]
fn ages_add_up_from_table_to_table() {
    let [mut first, mut second, mut third] = [0; 3].map(|_| Registry::new(SWARM));
    first.learn(signed(1, 1), seconds(0), seconds(100)).unwrap();
    exchange(&first, &mut second, seconds(108));
    exchange(&second, &mut third, seconds(115));
    for table in [first, second, third] {
        assert_eq!(live(&table, seconds(119)).len(), 1);
        assert_eq!(live(&table, seconds(120)).len(), 0);
        assert_eq!(table.news_for(&Summary::default(), seconds(120)), News::default());
    }
}

#[test]
fn a_claim_of_a_greater_age_is_put_right_and_of_a_smaller_one_does_not_prolong() {
    let mut registry = Registry::new(SWARM);
    registry.learn(signed(1, 1), seconds(15), seconds(0)).unwrap();
    assert_eq!(registry.learn(signed(1, 1), seconds(2), seconds(1)).unwrap(), Heard::Younger);
    assert!(registry.record(&peer(1), seconds(18)).is_some());
    // Whoever says again and again that it is new keeps it for its lifetime, and no longer.
    for now in 2..20 {
        registry.learn(signed(1, 1), seconds(0), seconds(now)).unwrap();
    }
    assert!(registry.record(&peer(1), seconds(19)).is_some());
    assert!(registry.record(&peer(1), seconds(20)).is_none());
    for now in 20..200 {
        assert_eq!(registry.learn(signed(1, 1), seconds(0), seconds(now)).unwrap(), Heard::Ended);
    }
    assert_eq!(registry.learn(signed(1, 2), seconds(0), seconds(200)).unwrap(), Heard::New);
}

/// Numbers may be milliseconds of a clock; nothing is read from them but which is larger, and no other time is sent.
#[test]
fn clocks_may_be_off_by_any_time() {
    const CENTURY: u64 = 100 * 365 * 24 * 3600 * 1000;
    for number in [0, 1, CENTURY, u64::MAX] {
        // Tables that have counted for different times.
        let (mut old, mut young) = (Registry::new(SWARM), Registry::new(SWARM));
        let start = seconds(CENTURY);
        assert_eq!(old.learn(signed(1, number), Duration::ZERO, start).unwrap(), Heard::New);
        let news = old.news_for(&young.summary(), start + seconds(5));
        for aged in news.records {
            assert_eq!(aged.age(), seconds(5));
            let age = aged.age();
            assert_eq!(young.learn(aged.signed, age, seconds(1)).unwrap(), Heard::New);
        }
        for (table, end) in [(&old, start + seconds(20)), (&young, seconds(1 + 15))] {
            assert_eq!(live(table, end - Duration::from_millis(1)), [(peer(1), number)]);
            assert_eq!(live(table, end), []);
        }
    }
    let mut table = Registry::new(SWARM);
    // The clock of a machine was set back, and it knows its number from before.
    table.learn(signed(1, CENTURY), Duration::ZERO, seconds(1)).unwrap();
    assert_eq!(table.learn(signed(1, 7), Duration::ZERO, seconds(2)).unwrap(), Heard::Known);
    let next = table.number(&peer(1)).unwrap() + 1;
    assert_eq!(table.learn(signed(1, next), Duration::ZERO, seconds(2)).unwrap(), Heard::New);
}

#[test]
fn what_is_forgotten_comes_back_with_a_larger_number_only() {
    let mut registry = Registry::new(SWARM);
    registry.learn(signed(1, 1), seconds(0), seconds(0)).unwrap();
    registry.forget(&peer(1), seconds(1));
    registry.forget(&peer(2), seconds(1));
    assert_eq!(live(&registry, seconds(1)), []);
    assert_eq!(registry.learn(signed(1, 1), seconds(0), seconds(2)).unwrap(), Heard::Ended);
    assert_eq!(registry.learn(signed(1, 2), seconds(0), seconds(2)).unwrap(), Heard::New);
}

#[test]
fn records_of_another_model_and_forged_ones_are_told() {
    let mut registry = Registry::new(Digest([8; 32]));
    let other = registry.learn(signed(1, 1), seconds(0), seconds(0));
    assert!(matches!(other, Err(SwarmError::OtherModel { peer: whose, .. }) if whose == peer(1)));
    let mut forged = signed(1, 1);
    forged.record[0] ^= 1;
    assert!(matches!(registry.learn(forged, seconds(0), seconds(0)), Err(SwarmError::Record(_))));
    assert_eq!(registry.summary(), Summary::default());
}

#[test]
fn a_full_table_makes_room_where_somebody_has_gone_and_its_summary_and_news_fit_a_header() {
    let mut registry = Registry::new(SWARM);
    for name in 0..MAX_SERVERS as u16 {
        let age = if name == 77 { seconds(10) } else { seconds(0) };
        registry.learn(signed(name, u64::MAX - 1), age, seconds(0)).unwrap();
    }
    let newcomer = || signed(MAX_SERVERS as u16, u64::MAX);
    assert_eq!(registry.learn(newcomer(), seconds(0), seconds(9)).unwrap(), Heard::Full);
    assert_eq!(registry.learn(signed(3, u64::MAX), seconds(0), seconds(9)).unwrap(), Heard::New);
    let summary = postcard::to_allocvec(&registry.summary()).unwrap();
    assert!(summary.len() + 1000 < MAX_HEADER_BYTES, "{}", summary.len());
    let news = registry.news_for(&Summary::default(), seconds(9));
    assert!(news.more && news.records[0].signed == signed(3, u64::MAX));
    let bytes = postcard::to_allocvec(&news).unwrap().len();
    assert!((MAX_NEWS_BYTES - 1000..MAX_HEADER_BYTES - 1000).contains(&bytes), "{bytes}");

    assert_eq!(registry.learn(newcomer(), seconds(0), seconds(10)).unwrap(), Heard::New);
    assert_eq!(registry.number(&peer(77)), None);
    let mut other = Registry::new(SWARM);
    exchange(&registry, &mut other, seconds(11));
    assert_eq!(live(&other, seconds(11)), live(&registry, seconds(11)));
}

#[derive(Clone, Debug)]
enum Event {
    /// A server tells one table something new.
    Told { server: u16, table: usize },
    /// One table asks another.
    Asked { from: usize, to: usize },
    /// An old record, kept by somebody, is said to be new.
    Replayed { server: u16, number: u64, table: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..5u16, 0..4usize).prop_map(|(server, table)| Event::Told { server, table }),
        8 => (0..4usize, 0..4usize).prop_map(|(from, to)| Event::Asked { from, to }),
        1 => (0..5u16, 0..20u64, 0..4usize).prop_map(|(server, number, table)| Event::Replayed { server, number, table }),
    ]
}

proptest! {
    #[test]
    fn tables_converge_whatever_the_order_and_never_go_back(events in prop::collection::vec((event(), 0..3u64), 0..40)) {
        let mut tables: Vec<Registry> = (0..4).map(|_| Registry::new(SWARM)).collect();
        let mut numbers = [0u64; 5];
        let mut now = seconds(0);
        let mut honest = true;
        for (event, pause) in events {
            now += seconds(pause);
            let before: Vec<Summary> = tables.iter().map(Registry::summary).collect();
            match event {
                Event::Told { server, table } => {
                    numbers[server as usize] += 1;
                    tables[table].learn(signed(server, numbers[server as usize]), seconds(0), now).unwrap();
                }
                Event::Asked { from, to } => {
                    let from = tables[from].clone();
                    exchange(&from, &mut tables[to], now);
                }
                Event::Replayed { server, number, table } if number <= numbers[server as usize] => {
                    tables[table].learn(signed(server, number), seconds(0), now).unwrap();
                    honest = false;
                }
                Event::Replayed { .. } => {}
            }
            for (table, before) in tables.iter().zip(before) {
                for (peer, number) in before.numbers {
                    prop_assert!(table.number(&peer) >= Some(number));
                }
            }
        }
        // Along a line and back, everybody hears of everything.
        for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0)] {
            let from = tables[from].clone();
            exchange(&from, &mut tables[to], now);
        }
        // Who was lied to about an age may think otherwise, until the lifetime is over.
        for table in tables.iter().filter(|_| honest) {
            prop_assert_eq!(live(table, now), live(&tables[0], now));
        }
        for table in &tables {
            prop_assert!(table.live(now + seconds(20)).next().is_none());
        }
    }
}
