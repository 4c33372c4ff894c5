//! Each choice, case by case, and the swarms for it.

// Blocks that are missing are one range, mostly.
#![allow(clippy::single_range_in_vec_init)]

use libp2p_identity::Keypair;

use super::*;
use crate::{Digest, Figures};

/// A swarm as one client sees it, and the figures of its servers.
pub(super) struct Scene {
    pub client: PeerId,
    pub records: BTreeMap<PeerId, Record>,
    pub measured: Measured,
    pub health: Health,
}

pub(super) const NOW: Duration = Duration::from_secs(1000);

/// The peer with a number; its number is not its place in order.
pub(super) fn peer(number: u8) -> PeerId {
    Keypair::ed25519_from_bytes([number; 32]).unwrap().public().to_peer_id()
}

impl Scene {
    /// Servers of these blocks, one token of which takes so many milliseconds in each block, 10 ms from each other and
    /// from the client.
    pub(super) fn new(servers: &[(Range<u32>, f32)]) -> Scene {
        let mut scene =
            Scene { client: peer(255), records: BTreeMap::new(), measured: Measured::new(), health: Health::new() };
        for (number, (blocks, decode_ms)) in servers.iter().enumerate() {
            let figures = Figures {
                decode_seconds_per_block: decode_ms / 1000.0,
                prompt_seconds_per_block: decode_ms / 10_000.0,
                free_cache_tokens: 1000,
                cache_tokens: 1000,
                ..Figures::default()
            };
            let record = Record {
                number: 1,
                lifetime_ms: 20_000,
                fingerprint: Digest([7; 32]),
                name: String::new(),
                addresses: Vec::new(),
                state: ServerState::Serving,
                blocks: blocks.clone(),
                figures,
            };
            scene.records.insert(peer(number as u8), record);
            scene.measured.round_trip(peer(number as u8), Duration::from_millis(10));
        }
        scene
    }

    pub(super) fn record(&mut self, number: u8) -> &mut Record {
        self.records.get_mut(&peer(number)).unwrap()
    }

    pub(super) fn servers(&self) -> Servers<'_> {
        let live = self.records.iter().map(|(peer, record)| (*peer, record));
        Servers::new(self.client, live, &self.measured, &self.health, NOW)
    }

    /// A route after some of its servers have failed.
    pub(super) fn fail_and_replace(&mut self, route: &[Hop], failed: &[u8]) -> Result<Vec<Hop>> {
        let failed: Vec<PeerId> = failed.iter().map(|number| peer(*number)).collect();
        failed.iter().for_each(|peer| self.health.failed(*peer, NOW));
        self.replace(route, &failed, &Need::token(1))
    }

    /// The same without some of its servers.
    pub(super) fn replace(&self, route: &[Hop], failed: &[PeerId], need: &Need) -> Result<Vec<Hop>> {
        let kept: Vec<Hop> = route.iter().filter(|hop| !failed.contains(&hop.peer)).cloned().collect();
        let blocks = route[0].blocks.start..route[route.len() - 1].blocks.end;
        self.servers().complete(blocks, &kept, need)
    }

    fn fastest(&self, blocks: Range<usize>, need: &Need) -> Vec<(u8, Range<usize>)> {
        numbered(&self.servers().fastest(blocks, need).unwrap())
    }
}

/// A route with the numbers of its peers.
pub(super) fn numbered(route: &[Hop]) -> Vec<(u8, Range<usize>)> {
    let number = |hop: &Hop| (0..=255).find(|number| peer(*number) == hop.peer).unwrap();
    route.iter().map(|hop| (number(hop), hop.blocks.clone())).collect()
}

fn hops(route: Numbered) -> Vec<Hop> {
    route.iter().map(|(number, blocks)| Hop { peer: peer(*number), blocks: blocks.clone() }).collect()
}

/// A change to a swarm.
type Change = fn(&mut Scene);

/// A route, by the numbers of its servers.
type Numbered<'a> = &'a [(u8, Range<usize>)];

#[test]
fn one_token_takes_the_quickest_way_round() {
    // Two servers hold all, two a half each. A token takes 120 ms in all blocks of server 0.
    let servers = [(0..12, 10.0), (0..12, 12.0), (0..6, 6.0), (4..12, 6.0)];
    let cases: [(&str, Change, Numbered); 9] = [
        // 72 ms of blocks, and one leg more. Server 2 hands over where its span ends, or before.
        ("as told", |_| (), &[(2, 0..6), (3, 6..12)]),
        (
            "a far server is not used",
            |s| s.measured.round_trip(peer(3), Duration::from_secs(1)),
            &[(2, 0..6), (0, 6..12)],
        ),
        (
            "two that are far from each other, with one between them",
            |s| s.measured.round_trip_between(peer(2), peer(3), Duration::from_millis(200)),
            &[(2, 0..6), (0, 6..7), (3, 7..12)],
        ),
        ("a queue", |s| s.record(2).figures.queued_seconds = 0.2, &[(0, 0..4), (3, 4..12)]),
        ("sessions", |s| s.record(2).figures.sessions = 30, &[(0, 0..4), (3, 4..12)]),
        ("no room", |s| s.record(2).figures.free_cache_tokens = 9, &[(0, 0..4), (3, 4..12)]),
        ("a server that leaves", |s| s.record(3).state = ServerState::Leaving, &[(2, 0..6), (0, 6..12)]),
        ("a server that loads", |s| s.record(2).state = ServerState::Joining, &[(0, 0..4), (3, 4..12)]),
        ("a server that failed", |s| s.health.failed(peer(2), NOW), &[(0, 0..4), (3, 4..12)]),
    ];
    for (name, change, expected) in cases {
        let mut scene = Scene::new(&servers);
        change(&mut scene);
        assert_eq!(scene.fastest(0..12, &Need::token(100)), expected, "{name}");
    }
}

#[test]
fn what_was_measured_and_is_under_way_outweighs_what_is_told() {
    let mut scene = Scene::new(&[(0..4, 1.0), (0..4, 2.0)]);
    let asked = |scene: &Scene| numbered(&scene.servers().spread(0..4, &[1000]).unwrap()[0])[0].0;
    assert_eq!(asked(&scene), 0);
    // Behind 1500 tokens of this machine, 1000 more take longer than at the slower one.
    let behind = scene.measured.asked(peer(0), 4 * 1500);
    assert_eq!((behind, asked(&scene)), (6000, 1));
    scene.measured.answered(peer(0), 4 * 1500, None, NOW);
    assert_eq!(asked(&scene), 0);
    // It takes 3 s for what it said it does in 0.6 s.
    scene.measured.answered(peer(0), 0, Some((Duration::from_secs(3), 6000)), NOW);
    assert_eq!(asked(&scene), 1);
}

#[test]
fn a_part_of_a_span_needs_a_part_of_its_cache() {
    // 1000 tokens through 10 blocks are 2000 through 5.
    let scene = Scene::new(&[(0..10, 1.0), (5..10, 2.0)]);
    assert_eq!(scene.fastest(0..10, &Need::token(1000)), [(0, 0..10)]);
    let route = scene.fastest(0..10, &Need::token(1001));
    assert_eq!(route, [(0, 0..9), (1, 9..10)]);
}

#[test]
fn where_there_is_no_room_the_full_server_is_still_asked() {
    let scene = Scene::new(&[(0..4, 1.0)]);
    assert_eq!(scene.fastest(0..4, &Need::token(u64::MAX)), [(0, 0..4)]);
}

#[test]
fn a_long_prompt_is_shared_and_a_short_one_is_not() {
    // 12 blocks at 1 ms a token of a prompt; 10 ms to anybody.
    let scene = Scene::new(&[(0..12, 10.0), (0..12, 10.0), (0..12, 10.0)]);
    let prompt = |tokens| Need { prompt_tokens: tokens, chunk_tokens: 128, ..Need::default() };
    assert_eq!(scene.fastest(0..12, &prompt(8)).len(), 1);
    let long = scene.fastest(0..12, &prompt(4096));
    assert_eq!(long.iter().map(|(_, blocks)| blocks.len()).collect::<Vec<_>>(), [4, 4, 4]);
    // Many tokens after it make one server better again.
    let talk = Need { new_tokens: 10_000, ..prompt(1024) };
    assert_eq!(scene.fastest(0..12, &talk).len(), 1);
}

#[test]
fn holes_are_named_and_so_are_blocks_of_those_that_failed() {
    let mut scene = Scene::new(&[(0..3, 1.0), (2..5, 1.0), (7..9, 1.0), (8..20, 1.0)]);
    let missing = |scene: &Scene, blocks| match scene.servers().fastest(blocks, &Need::token(1)) {
        Err(SwarmError::Missing(missing)) => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&scene, 0..12), [5..7]);
    assert_eq!(missing(&scene, 5..7), [5..7]);
    assert_eq!(missing(&scene, 6..30), [6..7, 20..30]);
    scene.health.failed(peer(1), NOW);
    scene.health.failed(peer(0), NOW - Duration::from_secs(1));
    assert_eq!(missing(&scene, 1..5), [1..5]);
    assert_eq!(Scene::new(&[]).servers().fastest(3..3, &Need::token(1)).unwrap(), []);
    assert_eq!(missing(&Scene::new(&[]), 0..2), [0..2]);
}

#[test]
fn clients_do_not_all_run_to_the_same_server() {
    let mut scene = Scene::new(&[(0..4, 10.0), (0..4, 10.0), (0..4, 10.0), (0..4, 12.0)]);
    let mut chosen = [0; 4];
    for client in 4..104 {
        scene.client = peer(client);
        let route = scene.fastest(0..4, &Need::token(1));
        assert_eq!(route, scene.fastest(0..4, &Need::token(1)), "the same client chooses the same");
        chosen[usize::from(route[0].0)] += 1;
    }
    assert!(chosen[..3].iter().all(|clients| *clients > 20) && chosen[3] == 0, "{chosen:?}");
}

#[test]
fn a_gap_is_filled_and_all_else_stays() {
    let servers = [(0..4, 1.0), (4..8, 1.0), (8..12, 1.0), (3..9, 5.0), (4..6, 1.0), (6..8, 1.0)];
    let route = hops(&[(0, 0..4), (1, 4..8), (2, 8..12)]);
    let cases: [(&str, Change, &[u8], Numbered); 5] = [
        ("one server is fewer than two", |_| (), &[1], &[(0, 0..4), (3, 4..8), (2, 8..12)]),
        (
            "two that are quick, for one that is stuck",
            |s| s.record(3).figures.queued_seconds = 30.0,
            &[1],
            &[(0, 0..4), (4, 4..6), (5, 6..8), (2, 8..12)],
        ),
        (
            "two in place of one that failed itself",
            |s| s.health.failed(peer(3), NOW),
            &[1],
            &[(0, 0..4), (4, 4..6), (5, 6..8), (2, 8..12)],
        ),
        (
            "a survivor whose record has ended is kept",
            |s| drop(s.records.remove(&peer(0))),
            &[1],
            &[(0, 0..4), (3, 4..8), (2, 8..12)],
        ),
        ("nobody failed", |_| (), &[], &[(0, 0..4), (1, 4..8), (2, 8..12)]),
    ];
    for (name, change, failed, expected) in cases {
        let mut scene = Scene::new(&servers);
        change(&mut scene);
        let replaced = scene.fail_and_replace(&route, failed).unwrap();
        assert_eq!(numbered(&replaced), expected, "{name}");
    }
}

#[test]
fn a_neighbour_takes_over_only_where_nobody_else_can() {
    let mut scene = Scene::new(&[(0..6, 1.0), (4..8, 1.0), (6..12, 1.0)]);
    let route = hops(&[(0, 0..4), (1, 4..8), (2, 8..12)]);
    assert_eq!(numbered(&scene.fail_and_replace(&route, &[1]).unwrap()), [(0, 0..6), (2, 6..12)]);
}

#[test]
fn two_gaps_that_need_the_same_server_become_one() {
    let mut scene = Scene::new(&[(0..2, 1.0), (2..4, 1.0), (4..6, 1.0), (0..6, 1.0), (0..2, 9.0)]);
    let route = hops(&[(0, 0..2), (1, 2..4), (2, 4..6)]);
    assert_eq!(numbered(&scene.fail_and_replace(&route, &[0, 2]).unwrap()), [(3, 0..6)]);
}

#[test]
fn where_nobody_else_can_the_one_that_failed_is_waited_for() {
    let mut scene = Scene::new(&[(0..6, 1.0), (4..8, 1.0), (8..12, 1.0)]);
    let route = hops(&[(0, 0..4), (1, 4..8), (2, 8..12)]);
    let lost = scene.fail_and_replace(&route, &[1]);
    assert!(matches!(lost, Err(SwarmError::Missing(missing)) if missing == [6..8]));
    scene.health.succeeded(&peer(1));
    assert_eq!(scene.replace(&route, &[peer(1)], &Need::token(1)).unwrap(), route);
}

#[test]
fn micro_batches_are_spread_in_proportion_to_speed() {
    // Server 0 is three times as fast as server 1; server 2 is needed by all.
    let scene = Scene::new(&[(0..4, 10.0), (0..4, 30.0), (4..8, 1.0)]);
    let routes = scene.servers().spread(0..8, &[512; 40]).unwrap();
    let through = |number| routes.iter().filter(|route| route.iter().any(|hop| hop.peer == peer(number))).count();
    assert_eq!(through(2), 40);
    let whole = |route: &&Vec<Hop>| numbered(route) == [(0, 0..4), (2, 4..8)];
    assert!(routes.iter().filter(whole).count() >= 20, "{}", routes.iter().filter(whole).count());
    let blocks = |number| -> usize {
        routes.iter().flatten().filter(|hop| hop.peer == peer(number)).map(|hop| hop.blocks.len()).sum()
    };
    let share = blocks(0) as f64 / blocks(1) as f64;
    assert!((2.5..3.5).contains(&share), "{share}");
    assert_eq!(scene.servers().spread(0..0, &[1, 2]).unwrap(), [[], []]);
}

#[test]
fn a_plan_says_where_the_time_goes() {
    let mut scene = Scene::new(&[(0..6, 10.0), (6..12, 20.0)]);
    scene.record(1).figures.queued_seconds = 0.25;
    scene.record(1).figures.free_cache_tokens = 9;
    scene.measured.round_trip_between(peer(0), peer(1), Duration::from_millis(4));
    let servers = scene.servers();
    let route = servers.fastest(0..12, &Need::token(10)).unwrap();
    let plan = servers.plan(&route, 10).unwrap();
    let [first, second] = &plan.hops[..] else { panic!("{plan:?}") };
    let near = |seconds: f64, expected: f64| (seconds - expected).abs() < 1e-6 * expected;
    assert!(near(first.link_seconds, 0.005) && near(first.compute_seconds, 0.06 + HOP_SECONDS) && first.fits);
    assert!(near(second.link_seconds, 0.002) && near(second.queue_seconds, 0.25) && !second.fits);
    assert!(near(plan.back_seconds, 0.005));
    assert!(near(plan.token_seconds(), 0.012 + 0.18 + 0.25 + 2.0 * HOP_SECONDS));
    assert!(near(plan.prompt_tokens_per_second(), 1.0 / 0.012));
    assert_eq!(plan.slowest(), Some(second));
    assert_eq!(servers.plan(&hops(&[(9, 0..12)]), 10), None);
}

#[test]
fn a_large_swarm_has_a_route_too() {
    // 120 servers of 4 to 12 of 70 blocks, in many copies: more than are looked at.
    let servers: Vec<(Range<u32>, f32)> = (0..120u32)
        .map(|number| (number * 37 % 67..(number * 37 % 67 + 4 + number % 9).min(70), 1.0 + (number % 7) as f32))
        .collect();
    let scene = Scene::new(&servers);
    let route = scene.servers().fastest(0..70, &Need::token(10)).unwrap();
    assert_eq!((route[0].blocks.start, route[route.len() - 1].blocks.end), (0, 70));
    assert!(route.windows(2).all(|pair| pair[0].blocks.end == pair[1].blocks.start));
    assert!((6..=12).contains(&route.len()), "{}", route.len());
}
