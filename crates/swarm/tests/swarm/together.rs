//! Twenty machines that find each other, and clients that find them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_swarm::client::guide::{Guide as _, Need, Purpose};
use bouquet_swarm::client::ring::Ring;
use bouquet_swarm::client::{Client, Patience};
use bouquet_swarm::compute::Compute;
use bouquet_swarm::directory::Directory;
use bouquet_swarm::invite::Peer;
use bouquet_swarm::member::{GOSSIP, Member};
use bouquet_swarm::server::Server;
use bouquet_swarm::shelf::Shelf;
use bouquet_swarm::simulated::{Road, Simulation};
use bouquet_swarm::{Figures, Record, ServerState, SwarmError, Transport, Wire, balance};
use libp2p_identity::{Keypair, PeerId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::world::{FINGERPRINT, Fakes, SETTINGS, alone, ring, stride, strides};

const BLOCKS: usize = 24;

struct Machine {
    peer: PeerId,
    directory: Arc<Directory>,
    tasks: JoinSet<()>,
}

const FIGURES: Figures = Figures {
    decode_seconds_per_block: 0.002,
    prompt_seconds_per_block: 0.0002,
    free_cache_tokens: 10_000,
    cache_tokens: 10_000,
    queued_seconds: 0.0,
    sessions: 0,
};

/// A machine that knows one other, chooses its blocks by what it hears, and serves them.
async fn join(simulation: &Simulation, number: u8, known: Option<PeerId>) -> Machine {
    join_with(simulation, number, known, None).await
}

/// The same, with blocks that were chosen for it.
async fn join_with(
    simulation: &Simulation,
    number: u8,
    known: Option<PeerId>,
    blocks: Option<Range<usize>>,
) -> Machine {
    let keypair = Keypair::ed25519_from_bytes([number; 32]).unwrap();
    let peer = keypair.public().to_peer_id();
    let transport: Arc<dyn Transport> = simulation.join(peer);
    let directory = Arc::new(Directory::new(peer, FINGERPRINT));
    if let Some(id) = known {
        directory.find(&*transport, &[Peer { id, addresses: Vec::new() }]).await.unwrap();
    }
    let records = directory.records();
    let others = balance::others(&peer, &Default::default(), records.iter().map(|(peer, record)| (*peer, record)));
    let joiner = balance::Joiner { fits: 3 + usize::from(number) % 5, seconds_per_block: 0.002 };
    let blocks = blocks.unwrap_or_else(|| balance::choose(BLOCKS, &joiner, &others));
    let compute = Compute::Simulated { call: Duration::from_millis(1), token: Duration::from_micros(200) };
    let fakes = Arc::new(Fakes::new(blocks));
    let server = Server::new(transport.clone(), fakes, compute, directory.clone(), Shelf::empty(), SETTINGS);
    let wake = Arc::new(Notify::new());
    let member = Member {
        keypair,
        fingerprint: FINGERPRINT,
        name: format!("machine {number}"),
        directory: directory.clone(),
        transport: transport.clone(),
        wake: wake.clone(),
    };
    let mut tasks = JoinSet::new();
    let running = server.clone();
    tasks.spawn(async move { running.run().await });
    tasks.spawn(async move { member.serve(&server, FIGURES).await });
    tasks.spawn(directory.clone().gossip(transport, wake, GOSSIP));
    tokio::time::sleep(Duration::from_millis(300)).await;
    Machine { peer, directory, tasks }
}

#[tokio::test(start_paused = true)]
async fn twenty_machines_find_each_other_and_serve_through_losses() {
    let simulation = Simulation::new(Road { delay: Duration::from_millis(3), bytes_per_second: 0 });
    let mut machines = vec![join(&simulation, 1, None).await];
    for number in 2..=20 {
        let known = machines[usize::from(number) / 3].peer;
        machines.push(join(&simulation, number, Some(known)).await);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    for machine in &machines {
        assert_eq!(machine.directory.records().len(), 20, "{} knows all", machine.peer);
    }
    let me = Keypair::ed25519_from_bytes([99; 32]).unwrap().public().to_peer_id();
    let transport: Arc<dyn Transport> = simulation.join(me);
    let directory = Arc::new(Directory::new(me, FINGERPRINT));
    let invited = [Peer { id: machines[7].peer, addresses: Vec::new() }];
    directory.find(&*transport, &invited).await.unwrap();
    assert_eq!(directory.records().len(), 20, "one exchange brings all");
    let wake = Arc::new(Notify::new());
    let gossip = tokio::spawn(directory.clone().gossip(transport.clone(), wake, GOSSIP));
    let patience = Patience::default();
    let client =
        Arc::new(Client { transport, guide: directory.clone(), fingerprint: FINGERPRINT, wire: Wire::F32, patience });
    let strides = strides(5, 100, 60);
    let expected = alone(0..BLOCKS, &strides);
    let mut ring = ring(&client, 1, 0..BLOCKS).await;
    let (mut positions, mut random) = (vec![0; 2], Random::new(5));
    for (number, (one, expected)) in strides.iter().zip(&expected).enumerate() {
        assert_eq!(&stride(&mut ring, &mut positions, one).await.unwrap(), expected, "stride {number}");
        // Every sixth token a server of the route is killed, as long as all blocks have another.
        if number % 6 == 5 {
            let servers = ring.servers();
            let victim = servers[random.below(servers.len())].0;
            let place = machines.iter().position(|machine| machine.peer == victim).unwrap();
            let mut others = directory.records();
            others.retain(|(peer, _)| *peer != victim && machines.iter().any(|machine| machine.peer == *peer));
            let covered = |block: u32| others.iter().any(|(_, record)| record.blocks.contains(&block));
            if (0..BLOCKS as u32).all(covered) {
                simulation.kill(victim);
                machines.remove(place).tasks.abort_all();
            }
        }
    }
    assert!(machines.len() < 16, "some were killed: {} are left", machines.len());
    gossip.abort();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_not_asked_any_more_and_another_swarm_is_told_apart() {
    let simulation = Simulation::new(Road::default());
    let machine = join(&simulation, 1, None).await;
    let me = Keypair::ed25519_from_bytes([99; 32]).unwrap().public().to_peer_id();
    let transport: Arc<dyn Transport> = simulation.join(me);
    let directory = Directory::new(me, bouquet_swarm::Digest([1; 32]));
    let other = directory.exchange(&*transport, machine.peer, Vec::new()).await;
    assert!(matches!(other, Err(SwarmError::OtherModel { .. })), "{other:?}");
    let directory = Directory::new(me, FINGERPRINT);
    directory.exchange(&*transport, machine.peer, Vec::new()).await.unwrap();
    let range = directory.records()[0].1.blocks.clone();
    let range = range.start as usize..range.end as usize;
    assert!(directory.with_servers(|servers| servers.missing(&range).is_empty()));
    assert_eq!(directory.records()[0].1.state, ServerState::Serving);
    // Nothing is heard of it any more: after the lifetime of its record it is gone.
    simulation.kill(machine.peer);
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert!(directory.records().is_empty());
}

/// A client that finds a swarm by a machine of it, and keeps hearing of it.
async fn client(simulation: &Simulation, number: u8, known: PeerId) -> Arc<Client> {
    let me = Keypair::ed25519_from_bytes([number; 32]).unwrap().public().to_peer_id();
    let transport: Arc<dyn Transport> = simulation.join(me);
    let directory = Arc::new(Directory::new(me, FINGERPRINT));
    directory.find(&*transport, &[Peer { id: known, addresses: Vec::new() }]).await.unwrap();
    tokio::spawn(directory.clone().gossip(transport.clone(), Arc::default(), GOSSIP));
    let patience = Patience::default();
    Arc::new(Client { transport, guide: directory, fingerprint: FINGERPRINT, wire: Wire::F32, patience })
}

#[tokio::test(start_paused = true)]
async fn clients_spread_over_equal_servers_and_stay_there() {
    let simulation = Simulation::new(Road { delay: Duration::from_millis(3), bytes_per_second: 0 });
    let mut machines = vec![join_with(&simulation, 1, None, Some(0..4)).await];
    for number in 2..=3 {
        machines.push(join_with(&simulation, number, Some(machines[0].peer), Some(0..4)).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let known = machines[0].peer;
    let count = |rings: &[Ring]| {
        let on = |machine: &Machine| rings.iter().filter(|ring| ring.servers()[0].0 == machine.peer).count();
        machines.iter().map(on).collect::<Vec<usize>>()
    };
    // Twelve at once, of whom nobody knows of the others.
    let mut rings = Vec::new();
    for client in futures::future::join_all((100..112).map(|number| client(&simulation, number, known))).await {
        rings.push(ring(&client, rings.len() as u8, 0..4).await);
    }
    let at_once = count(&rings);
    assert!(at_once.iter().all(|count| (1..=8).contains(count)), "{at_once:?}");
    // Twelve more, one after another: by the load that is told these go where there is room.
    for number in 112..124 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let client = client(&simulation, number, known).await;
        rings.push(ring(&client, rings.len() as u8, 0..4).await);
    }
    let later = count(&rings);
    assert!(later.iter().max().unwrap() - later.iter().min().unwrap() <= 4, "{at_once:?}, then {later:?}");
    // Nobody moves.
    let strides = strides(5, 20, 10);
    for ring in &mut rings {
        let mut positions = vec![0; 2];
        for one in &strides {
            stride(ring, &mut positions, one).await.unwrap();
        }
        assert_eq!(ring.mended(), 1);
    }
    assert_eq!(count(&rings), later);
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_swarm_that_lost_each_other_find_each_other_again() {
    let simulation = Simulation::new(Road { delay: Duration::from_millis(3), bytes_per_second: 0 });
    let mut machines = vec![join(&simulation, 1, None).await];
    for number in 2..=6 {
        machines.push(join(&simulation, number, Some(machines[0].peer)).await);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let sees = |machine: &Machine| machine.directory.records().len();
    assert!(machines.iter().all(|machine| sees(machine) == 6));
    for (one, other) in (0..3).flat_map(|one| (3..6).map(move |other| (one, other))) {
        simulation.cut(machines[one].peer, machines[other].peer);
    }
    // An hour, after which nobody remembers the records of the others.
    for wait in [60, 3600] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert!(
            machines.iter().all(|machine| sees(machine) == 3),
            "{:?}",
            machines.iter().map(sees).collect::<Vec<_>>()
        );
    }
    simulation.heal();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machines.iter().all(|machine| sees(machine) == 6), "{:?}", machines.iter().map(sees).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_invite_with_stale_addresses_is_good_where_somebody_is_near() {
    let simulation = Simulation::new(Road { delay: Duration::from_millis(3), bytes_per_second: 0 });
    let machine = join(&simulation, 1, None).await;
    let me = Keypair::ed25519_from_bytes([99; 32]).unwrap().public().to_peer_id();
    let transport: Arc<dyn Transport> = simulation.join(me);
    let directory = Directory::new(me, FINGERPRINT);
    let stale = [Peer { id: PeerId::random(), addresses: Vec::new() }];
    assert!(directory.find(&*transport, &stale).await.is_err(), "nobody is heard of");
    simulation.speak_nearby();
    directory.find(&*transport, &stale).await.unwrap();
    assert_eq!(directory.records()[0].0, machine.peer);
}

/// A machine that was slow itself takes others for dead. Those who go on to announce themselves are asked when there is
/// nobody else, and only then.
#[tokio::test(start_paused = true)]
async fn who_failed_and_is_there_all_the_same_is_better_than_nobody() {
    let keypair = Keypair::ed25519_from_bytes([3; 32]).unwrap();
    let peer = keypair.public().to_peer_id();
    let directory = Directory::new(PeerId::random(), FINGERPRINT);
    let announce = |number: u64| {
        let record = Record {
            number,
            lifetime_ms: 60_000,
            fingerprint: FINGERPRINT,
            name: String::new(),
            addresses: Vec::new(),
            state: ServerState::Serving,
            blocks: 0..4,
            figures: FIGURES,
        };
        directory.learn(record.sign(&keypair).unwrap()).unwrap();
    };
    let need = Need { purpose: Purpose::Session, cache_tokens: 10, past_tokens: 0, tokens: 1 };
    let none = BTreeSet::new();
    announce(1);
    assert!(directory.route(0..4, &[], &none, need).is_ok());
    tokio::time::sleep(Duration::from_secs(1)).await;
    directory.failed(peer);
    assert!(directory.route(0..4, &[], &none, need).is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    announce(2);
    let route = directory.route(0..4, &[], &none, need).unwrap();
    assert_eq!(route.iter().map(|stop| stop.peer).collect::<Vec<_>>(), [peer]);
    assert!(!directory.has_route(0..4, &none, need), "it is no reason to leave another");
    assert!(directory.route(0..4, &[], &BTreeSet::from([peer]), need).is_err());
}
