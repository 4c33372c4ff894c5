//! What holds for every route, over random swarms.

use proptest::prelude::*;

use super::path::{Leg, Search};
use super::tests::{NOW, Scene, peer};
use super::*;

const BLOCKS: usize = 6;

/// A server: blocks, milliseconds, round trip, queue, free cache, state of its record and of its health.
type Drawn = (u32, u32, u32, u32, u32, u64, u8);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let blocks = BLOCKS as u32;
    prop::collection::vec((0..blocks, 1..=blocks, 0..50u32, 0..100u32, 0..3u32, 0..200u64, 0..12u8), 0..5)
}

fn scene(drawn: &[Drawn]) -> Scene {
    let blocks = |server: &Drawn| server.0..(server.0 + server.1).min(BLOCKS as u32);
    let servers: Vec<(Range<u32>, f32)> = drawn.iter().map(|server| (blocks(server), server.2 as f32)).collect();
    let mut scene = Scene::new(&servers);
    for (number, server) in drawn.iter().enumerate() {
        let number = number as u8;
        scene.measured.forget(&peer(number));
        scene.measured.round_trip(peer(number), Duration::from_millis(server.3.into()));
        let record = scene.record(number);
        record.figures.queued_seconds = server.4 as f32 / 50.0;
        record.figures.free_cache_tokens = server.5;
        match server.6 {
            0 => record.state = ServerState::Joining,
            1 => record.state = ServerState::Leaving,
            2 => scene.health.failed(peer(number), NOW),
            _ => {}
        }
        // Some that are close to each other.
        if number > 0 && server.6 == 3 {
            scene.measured.round_trip_between(peer(number - 1), peer(number), Duration::from_millis(1));
        }
    }
    scene
}

fn need() -> impl Strategy<Value = Need> {
    (0..500usize, 0..128usize, 0..50usize, 0..150u64).prop_map(
        |(prompt_tokens, chunk_tokens, new_tokens, cache_tokens)| Need {
            prompt_tokens,
            chunk_tokens,
            new_tokens,
            cache_tokens,
        },
    )
}

/// Every way to cover the blocks with hops of different servers.
fn all_routes(spans: &[Range<usize>], blocks: Range<usize>) -> Vec<Vec<Leg>> {
    let mut done = Vec::new();
    let mut begun = vec![Vec::<Leg>::new()];
    while let Some(legs) = begun.pop() {
        let at = legs.last().map_or(blocks.start, |(_, blocks)| blocks.end);
        if at == blocks.end {
            done.push(legs);
            continue;
        }
        let used = |server: &usize| legs.iter().any(|leg| leg.0 == *server);
        for server in (0..spans.len()).filter(|server| !used(server) && spans[*server].contains(&at)) {
            begun.extend(
                (at + 1..=spans[server].end.min(blocks.end)).map(|end| [&legs[..], &[(server, at..end)]].concat()),
            );
        }
    }
    done
}

/// What a need takes on a route, said once more: every leg and hop in turn.
fn seconds(scene: &Scene, route: &[Hop], need: &Need) -> f64 {
    let round_trip = |peer: &PeerId| scene.measured.seconds_to(peer).unwrap();
    let [mut token, mut first, mut slowest, mut full] = [0.0, 0.0, 0.0_f64, 0.0];
    let chunk = if need.chunk_tokens == 0 { need.prompt_tokens } else { need.chunk_tokens.min(need.prompt_tokens) };
    let mut before: Option<PeerId> = None;
    for Hop { peer, blocks } in route {
        let Record { figures, blocks: span, .. } = &scene.records[peer];
        let leg = match before {
            None => round_trip(peer),
            Some(before) => {
                let farther = round_trip(peer).max(round_trip(&before));
                scene.measured.seconds_between(before, *peer).unwrap_or(farther)
            }
        };
        let waits = leg / 2.0 + f64::from(figures.queued_seconds) + HOP_SECONDS;
        let prompt = f64::from(figures.prompt_seconds_per_block) * (chunk * blocks.len()) as f64;
        token += waits + f64::from(figures.decode_seconds_per_block) * blocks.len() as f64;
        first += waits + prompt;
        slowest = slowest.max(prompt + HOP_SECONDS);
        if need.cache_tokens * blocks.len() as u64 > figures.free_cache_tokens * span.len() as u64 {
            full += 600.0;
        }
        before = Some(*peer);
    }
    let back = before.map_or(0.0, |peer| round_trip(&peer) / 2.0);
    let prompt = match need.prompt_tokens {
        0 => 0.0,
        tokens => first + back + (tokens.div_ceil(chunk) - 1) as f64 * slowest,
    };
    prompt + need.new_tokens as f64 * (token + back) + full
}

/// Whether a route covers the blocks in order, with servers that serve them, and nobody twice.
fn check(scene: &Scene, route: &[Hop], blocks: Range<usize>) -> std::result::Result<(), TestCaseError> {
    let mut at = blocks.start;
    for (place, hop) in route.iter().enumerate() {
        prop_assert!(hop.blocks.start == at && !hop.blocks.is_empty());
        at = hop.blocks.end;
        prop_assert!(route[..place].iter().all(|before| before.peer != hop.peer));
        let record = &scene.records[&hop.peer];
        let span = record.blocks.start as usize..record.blocks.end as usize;
        prop_assert!(span.start <= hop.blocks.start && hop.blocks.end <= span.end);
    }
    prop_assert_eq!(at, blocks.end);
    Ok(())
}

fn spans(scene: &Scene, peers: &[PeerId]) -> Vec<Range<usize>> {
    let span = |peer| &scene.records[peer].blocks;
    peers.iter().map(span).map(|blocks| blocks.start as usize..blocks.end as usize).collect()
}

fn usable(scene: &Scene, peer: &PeerId) -> bool {
    scene.records[peer].state == ServerState::Serving && scene.health.banned_until(peer, NOW).is_none()
}

fn served(scene: &Scene, block: usize, who: impl Fn(&PeerId) -> bool) -> bool {
    let serves = |record: &Record| record.blocks.contains(&(block as u32));
    scene.records.iter().any(|(peer, record)| who(peer) && serves(record))
}

fn blocks_of(ranges: &[Range<usize>]) -> Vec<usize> {
    ranges.iter().flat_map(Clone::clone).collect()
}

proptest! {
    #[test]
    fn a_route_has_no_hole_and_nobody_banned_and_none_is_faster(drawn in drawn(), need in need()) {
        let scene = scene(&drawn);
        match scene.servers().fastest(0..BLOCKS, &need) {
            Ok(route) => {
                check(&scene, &route, 0..BLOCKS)?;
                prop_assert!(route.iter().all(|hop| usable(&scene, &hop.peer)));
                // Whoever asks again is told the same, in whatever order it has heard of the servers.
                let live = scene.records.iter().rev().map(|(peer, record)| (*peer, record));
                let again = Servers::new(scene.client, live, &scene.measured, &scene.health, NOW);
                prop_assert_eq!(&again.fastest(0..BLOCKS, &need).unwrap(), &route);
                let peers: Vec<PeerId> = scene.records.keys().copied().filter(|peer| usable(&scene, peer)).collect();
                let spans = spans(&scene, &peers);
                let took = seconds(&scene, &route, &need);
                // The taste of a client, and the steps by which slow hops are left out.
                let allowed = (1.0 + TASTE) * if need.prompt_tokens > 0 { 1.0 / 0.95 } else { 1.0 };
                for legs in all_routes(&spans, 0..BLOCKS) {
                    let hops: Vec<Hop> =
                        legs.into_iter().map(|(server, blocks)| Hop { peer: peers[server], blocks }).collect();
                    prop_assert!(took <= allowed * seconds(&scene, &hops, &need) + 1e-9, "{hops:?}");
                }
            }
            Err(SwarmError::Missing(missing)) => {
                let unserved: Vec<usize> = (0..BLOCKS).filter(|block| !served(&scene, *block, |peer| usable(&scene, peer))).collect();
                prop_assert!(!unserved.is_empty());
                prop_assert_eq!(blocks_of(&missing), unserved);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_path_is_the_cheapest_of_all(
        spans in prop::collection::vec((0..5usize, 1..5usize), 1..5),
        costs in prop::collection::vec(0..1000u32, 64),
    ) {
        let spans: Vec<Range<usize>> = spans.into_iter().map(|(start, length)| start..start + length).collect();
        let cost = |place: usize| f64::from(costs[place % 64]);
        let entry: Vec<f64> = (0..spans.len()).map(cost).collect();
        let exit: Vec<f64> = (0..spans.len()).map(|server| cost(5 + server)).collect();
        let between = |one: usize, other: usize| cost(10 + 5 * one + other);
        // Not in proportion to the blocks.
        let hop = |server: usize, blocks: &Range<usize>| cost(7 * server + 11 * blocks.start + 3 * blocks.end);
        let all = all_routes(&spans, 0..5).into_iter().map(|legs| {
            let hops: f64 = legs.iter().map(|(server, blocks)| hop(*server, blocks)).sum();
            let links: f64 = legs.windows(2).map(|pair| between(pair[0].0, pair[1].0)).sum();
            hops + links + entry[legs[0].0] + exit[legs[legs.len() - 1].0]
        });
        let least = all.min_by(f64::total_cmp);
        let found = Search { blocks: 0..5, spans: &spans, entry: &entry, exit: &exit, between, hop }.shortest();
        prop_assert_eq!(found.map(|(cost, _)| cost), least);
    }

    #[test]
    fn whoever_fails_is_replaced_and_survivors_keep_their_ranges(drawn in drawn(), failing in 1..32u8, need in need()) {
        let mut scene = scene(&drawn);
        let Ok(route) = scene.servers().fastest(0..BLOCKS, &need) else { return Ok(()) };
        let failed: Vec<PeerId> = (0..5).filter(|place| failing >> place & 1 == 1).map(peer).collect();
        failed.iter().for_each(|peer| scene.health.failed(*peer, NOW));
        let healthy = |peer: &PeerId| usable(&scene, peer) && !failed.contains(peer);
        let lost: Vec<&Hop> = route.iter().filter(|hop| failed.contains(&hop.peer)).collect();
        let unserved = |block: &usize| !served(&scene, *block, healthy);
        let missing: Vec<usize> = lost.iter().flat_map(|hop| hop.blocks.clone()).filter(unserved).collect();
        match scene.replace(&route, &failed, &need) {
            Ok(replaced) => {
                prop_assert!(missing.is_empty());
                check(&scene, &replaced, 0..BLOCKS)?;
                prop_assert!(replaced.iter().all(|hop| healthy(&hop.peer)));
                // Where one failed, and others can fill its place, all survivors keep their ranges.
                let new = |peer: &PeerId| healthy(peer) && route.iter().all(|hop| hop.peer != *peer);
                let peers: Vec<PeerId> = scene.records.keys().copied().filter(new).collect();
                let fillable = |hop: &Hop| !all_routes(&spans(&scene, &peers), hop.blocks.clone()).is_empty();
                if lost.len() == 1 && fillable(lost[0]) {
                    prop_assert!(route.iter().all(|hop| hop == lost[0] || replaced.contains(hop)), "{replaced:?}");
                }
            }
            Err(SwarmError::Missing(ranges)) => {
                prop_assert!(!missing.is_empty());
                prop_assert_eq!(blocks_of(&ranges), missing);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn requests_side_by_side_have_no_hole_either(drawn in drawn(), tokens in prop::collection::vec(0..2000usize, 0..8)) {
        let scene = scene(&drawn);
        if let Ok(routes) = scene.servers().spread(0..BLOCKS, &tokens) {
            prop_assert_eq!(routes.len(), tokens.len());
            for route in &routes {
                check(&scene, route, 0..BLOCKS)?;
                prop_assert!(route.iter().all(|hop| usable(&scene, &hop.peer)));
            }
        }
    }

    #[test]
    fn figures_of_liars_do_no_harm(figures in prop::collection::vec(prop_oneof![Just(0.0_f32), Just(f32::MAX), Just(f32::MIN_POSITIVE)], 6)) {
        let mut scene = Scene::new(&[(0..u32::MAX, 1.0), (2..4, 1.0)]);
        for (number, figures_of) in figures.chunks(3).enumerate() {
            let figures = &mut scene.record(number as u8).figures;
            figures.decode_seconds_per_block = figures_of[0];
            figures.prompt_seconds_per_block = figures_of[1];
            figures.queued_seconds = figures_of[2];
            figures.sessions = u32::MAX;
            figures.free_cache_tokens = u64::MAX;
        }
        let need = Need { prompt_tokens: usize::MAX, chunk_tokens: 1, new_tokens: usize::MAX, cache_tokens: u64::MAX };
        let route = scene.servers().fastest(0..BLOCKS, &need).unwrap();
        check(&scene, &route, 0..BLOCKS)?;
        let routes = scene.servers().spread(0..BLOCKS, &[usize::MAX; 3]).unwrap();
        prop_assert_eq!(routes.len(), 3);
    }
}
