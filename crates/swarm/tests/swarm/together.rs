//! Twenty machines that find each other, and clients that find them.

use std::sync::Arc;
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_swarm::client::{Client, Patience};
use bouquet_swarm::compute::Compute;
use bouquet_swarm::directory::Directory;
use bouquet_swarm::invite::Peer;
use bouquet_swarm::member::{GOSSIP, Member};
use bouquet_swarm::server::{Server, Settings};
use bouquet_swarm::shelf::Shelf;
use bouquet_swarm::simulated::{Road, Simulation};
use bouquet_swarm::{Figures, ServerState, SwarmError, Transport, Wire, balance};
use libp2p_identity::{Keypair, PeerId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::world::{FINGERPRINT, Fakes, alone, ring, stride, strides};

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
    let blocks = balance::choose(BLOCKS, &joiner, &others);
    let compute = Compute::Simulated { call: Duration::from_millis(1), token: Duration::from_micros(200) };
    let settings = Settings {
        fingerprint: FINGERPRINT,
        wire: Wire::F32,
        ledger_bytes: 1 << 24,
        pass_bytes: 1 << 24,
        max_sessions: 100,
        chunk_tokens: 128,
    };
    let fakes = Arc::new(Fakes::new(blocks));
    let server = Server::new(transport.clone(), fakes, compute, directory.clone(), Shelf::empty(), settings);
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
