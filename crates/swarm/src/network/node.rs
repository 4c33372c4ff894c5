//! The loop on the network's thread: libp2p's swarm, and what is asked of it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p_connection_limits::{self as connection_limits, ConnectionLimits};
use libp2p_core::transport::{ListenerId, TransportError};
use libp2p_identity::PeerId;
use libp2p_swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p_swarm::{Config, ConnectionId, DialError, NetworkBehaviour, Swarm, SwarmEvent};
use multiaddr::{Multiaddr, Protocol};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::lan::Lan;
use super::streams::{Inbound, Reply, Streams};
use super::{Settings, gate, listen, names};
use crate::{Result, SwarmError};

/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Connections that others are opening. Those who have not shown the key are counted by the gate, where the oldest
/// makes room; this is for those who have.
const MAX_PENDING_INBOUND: u32 = 256;

/// Connections that this machine is opening.
const MAX_PENDING_OUTBOUND: u32 = 128;

/// Connections in all, and with one machine.
const MAX_ESTABLISHED: u32 = 512;
const MAX_ESTABLISHED_PER_PEER: u32 = 8;

/// How long the first addresses may take to be known, and how long those of one listener follow each other.
const FIRST_ADDRESS: Duration = Duration::from_secs(1);
const NEXT_ADDRESS: Duration = Duration::from_millis(50);

/// How long leaving may take: what is written goes out, and the others are told.
const FAREWELL: Duration = Duration::from_millis(500);

/// What is asked of the loop.
pub(super) enum Command {
    /// A connection to a machine: the newest there is, but not this one; or else a new one.
    Connect { peer: PeerId, addresses: Vec<Multiaddr>, except: Option<ConnectionId>, reply: oneshot::Sender<Dialled> },
    /// A stream over a connection.
    Open { peer: PeerId, connection: ConnectionId, reply: Reply },
    /// Leave the network.
    Leave,
}

/// A connection, or why there is none.
pub(super) type Dialled = std::result::Result<Connected, Failure>;

/// A connection to use.
#[derive(Clone, Copy)]
pub(super) struct Connected {
    pub(super) connection: ConnectionId,
    /// It was there before it was asked for, and may be dead without anyone knowing.
    pub(super) old: bool,
}

/// Why there is no connection.
#[derive(Clone)]
pub(super) enum Failure {
    /// Another machine is at this address. The others have not been tried to the end.
    Stranger(Multiaddr),
    /// In words.
    Other(String),
}

/// A connection that is being opened.
struct Dial {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    waiting: Vec<oneshot::Sender<Dialled>>,
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p_swarm::derive_prelude")]
struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: Streams,
}

/// The loop's state.
pub(super) struct Node {
    swarm: Swarm<Behaviour>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// In the order in which they were established.
    connections: BTreeMap<PeerId, Vec<ConnectionId>>,
    dials: Vec<(ConnectionId, Dial)>,
    listeners: Vec<(ListenerId, Multiaddr)>,
    /// What is listened on, as others see it.
    addresses: Arc<Mutex<Vec<Multiaddr>>>,
    lan: Arc<Lan>,
}

impl Node {
    /// Begins to listen, and returns when it is known where.
    pub(super) async fn start(
        settings: &Settings,
        inbound: Arc<Inbound>,
        commands: mpsc::UnboundedReceiver<Command>,
        addresses: Arc<Mutex<Vec<Multiaddr>>>,
        lan: Arc<Lan>,
    ) -> Result<Node> {
        let network = |error: std::io::Error| SwarmError::Network(format!("no network: {error}"));
        let transport = gate::transport(&settings.keypair, settings.key).map_err(network)?;
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING_INBOUND))
            .with_max_pending_outgoing(Some(MAX_PENDING_OUTBOUND))
            .with_max_established(Some(MAX_ESTABLISHED))
            .with_max_established_per_peer(Some(MAX_ESTABLISHED_PER_PEER));
        let behaviour = Behaviour { limits: connection_limits::Behaviour::new(limits), streams: Streams::new(inbound) };
        let config = Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE)
            .with_notify_handler_buffer_size(NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))
            // A stream is confirmed in any case; so its negotiation need not be waited for.
            .with_substream_upgrade_protocol_override(libp2p_core::upgrade::Version::V1Lazy);
        let swarm = Swarm::new(transport, behaviour, settings.keypair.public().to_peer_id(), config);
        let (connections, dials, listeners) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut node = Node { swarm, commands, connections, dials, listeners, addresses, lan };
        let mut listened = Vec::new();
        for address in &settings.listen {
            let resolved = names::resolve(vec![address.clone()]).await;
            if resolved.is_empty() {
                return Err(SwarmError::Network(format!("cannot listen on {address}: nobody knows that name")));
            }
            listened.extend(resolved);
        }
        listened.iter().try_for_each(listen::check)?;
        let mut waited_for = Vec::new();
        for address in &listened {
            let listener = node.swarm.listen_on(address.clone()).map_err(|error| listen::refused(address, &error))?;
            waited_for.push(listener);
        }
        let any = listened.iter().filter_map(listen::socket_address).any(|socket| socket.ip().is_unspecified());
        let latest = Instant::now() + FIRST_ADDRESS;
        while !waited_for.is_empty() || any {
            let until = if waited_for.is_empty() { latest.min(Instant::now() + NEXT_ADDRESS) } else { latest };
            let Ok(event) = timeout_at(until, node.swarm.select_next_some()).await else { break };
            if let SwarmEvent::NewListenAddr { listener_id, .. } = &event {
                waited_for.retain(|listener| listener != listener_id);
            }
            node.happened(event);
        }
        Ok(node)
    }

    /// Runs until it is told to leave.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Connect { peer, addresses, except, reply }) => {
                        self.connect(peer, addresses, except, reply);
                    }
                    Some(Command::Open { peer, connection, reply }) => {
                        self.swarm.behaviour_mut().streams.open(peer, connection, reply);
                    }
                    Some(Command::Leave) | None => break,
                },
                event = self.swarm.select_next_some() => self.happened(event),
            }
        }
        let leave = async {
            self.lan.leave().await;
            let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
            for peer in peers {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = timeout(FAREWELL, leave).await;
    }

    fn connect(
        &mut self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        except: Option<ConnectionId>,
        reply: oneshot::Sender<Dialled>,
    ) {
        let established = self.connections.get(&peer).and_then(|all| all.last()).copied();
        if let Some(connection) = established.filter(|newest| Some(*newest) != except) {
            let _ = reply.send(Ok(Connected { connection, old: true }));
            return;
        }
        // A dial that all have given up waiting for is not going to end well.
        let same = |dial: &Dial| dial.peer == peer && dial.addresses == addresses;
        let alive = |dial: &Dial| dial.waiting.iter().any(|reply| !reply.is_closed());
        if let Some((_, dial)) = self.dials.iter_mut().find(|(_, dial)| same(dial) && alive(dial)) {
            dial.waiting.push(reply);
            return;
        }
        self.lan.reaches(&addresses);
        // What is listened on is not where connections come from: the port of a broken connection may still be taken.
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses.clone())
            .allocate_new_port()
            .build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => self.dials.push((connection, Dial { peer, addresses, waiting: vec![reply] })),
            Err(error) => drop(reply.send(Err(failure(&error)))),
        }
    }

    fn happened(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                self.connections.entry(peer_id).or_default().push(connection_id);
                // Whoever waits for this machine has what it waits for, even if another dial goes on.
                for (dialled, dial) in self.dials.iter_mut().filter(|(_, dial)| dial.peer == peer_id) {
                    let connected = Connected { connection: connection_id, old: *dialled != connection_id };
                    for reply in dial.waiting.drain(..) {
                        let _ = reply.send(Ok(connected));
                    }
                }
                self.dials.retain(|(dialled, _)| *dialled != connection_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                if let Some(all) = self.connections.get_mut(&peer_id) {
                    all.retain(|connection| *connection != connection_id);
                    if all.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let Some(at) = self.dials.iter().position(|(dialled, _)| *dialled == connection_id) else { return };
                let failure = failure(&error);
                for reply in self.dials.swap_remove(at).1.waiting {
                    let _ = reply.send(Err(failure.clone()));
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listeners.push((listener_id, address));
                self.listens();
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                self.listeners.retain(|listener| *listener != (listener_id, address.clone()));
                self.listens();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                self.listeners.retain(|(listener, _)| *listener != listener_id);
                self.listens();
            }
            _ => {}
        }
    }

    /// What is listened on has changed.
    fn listens(&mut self) {
        let all: Vec<Multiaddr> = self.listeners.iter().map(|(_, address)| address.clone()).collect();
        self.lan.listens(&all);
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = listen::told(&all);
    }
}

/// Why a dial failed. Addresses are told without the key at their end, which is the machine's.
fn failure(error: &DialError) -> Failure {
    let place = |address: &Multiaddr| -> Multiaddr {
        address.iter().take_while(|part| !matches!(part, Protocol::P2p(_))).collect()
    };
    let told = |(address, error): &(Multiaddr, TransportError<std::io::Error>)| {
        format!("{} ({})", gate::reason(error), place(address))
    };
    Failure::Other(match error {
        DialError::WrongPeerId { address, .. } => return Failure::Stranger(place(address)),
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::LocalPeerId { .. } => "this machine itself is at its address".to_owned(),
        DialError::Denied { .. } => "this machine has too many connections".to_owned(),
        DialError::Transport(errors) => {
            match errors.iter().find(|(_, error)| gate::find::<gate::WrongKey>(error).is_some()) {
                Some(wrong_key) => told(wrong_key),
                None => errors.iter().map(told).collect::<Vec<_>>().join(", "),
            }
        }
        other => other.to_string(),
    })
}
