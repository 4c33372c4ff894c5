//! The network as it is: TCP, encrypted with the key of the swarm and then with keys of the two machines, with many
//! streams over one connection. libp2p does the work, in a thread of its own; here is what it is told.
//!
//! | module | job |
//! |---|---|
//! | `node` | the loop on the network's thread: connections |
//! | `open` | how a stream to a machine comes about, and in how much time |
//! | `streams` | streams over the connections, none lost |
//! | `bytes` | a stream's bytes and its end |
//! | `gate` | the way in: the key is shown before anything else is said |
//! | `listen` | what is listened on, and what of that others are told |
//! | `names` | addresses of names |
//! | `lan` | machines of the same swarm that are near (multicast DNS) |

mod bytes;
mod gate;
mod lan;
mod listen;
mod names;
mod node;
mod open;
mod streams;

use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;

use libp2p_identity::{Keypair, PeerId};
use multiaddr::Multiaddr;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::lan::Lan;
use self::node::{Command, Node};
use self::streams::{Inbound, Queue};
use crate::transport::Pending;
use crate::{Result, Stream, SwarmError, Transport};

/// What of a packet of multicast DNS would be believed by `me`: whose addresses it says, if it is an answer of the swarm whose
/// key is this. For those who look for bytes that it cannot take.
#[doc(hidden)]
pub fn heard_nearby(bytes: &[u8], key: &[u8; 32], me: PeerId) -> Option<(PeerId, Vec<Multiaddr>)> {
    lan::heard(bytes, key, me)
}

/// A packet that [`heard_nearby`] takes.
#[doc(hidden)]
pub fn said_nearby(key: &[u8; 32], me: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    lan::said(key, me, addresses)
}

/// The port that a server listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 31330;

/// How long the network's thread is waited for.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// How this machine takes part in a network.
pub struct Settings {
    /// Who it is ([`load_or_create`](crate::identity::load_or_create)).
    pub keypair: Keypair,
    /// The key of the swarm, which an invite has.
    pub key: [u8; 32],
    /// Where it listens: `/ip4/ADDRESS/tcp/PORT`, `/ip6/ADDRESS/tcp/PORT`, or `/dns/NAME/tcp/PORT` for a name of this
    /// machine. Port 0 is any that is free. Nowhere, if there are none: it can open streams but nobody can reach it first.
    pub listen: Vec<Multiaddr>,
    /// Whether it looks for others, and is found, on the local networks of the addresses that it listens on; one that
    /// listens nowhere looks on those that it reaches others over. Nothing is sent on loopback, nor on other interfaces.
    pub mdns: bool,
}

/// This machine in a network. Dropping it leaves the network: what is written is sent, connections are closed, and the
/// thread ends, all within two seconds.
pub struct Network {
    peer: PeerId,
    handle: Handle,
    commands: mpsc::UnboundedSender<Command>,
    accepted: tokio::sync::Mutex<Queue>,
    addresses: Arc<Mutex<Vec<Multiaddr>>>,
    /// What others are told instead of them.
    announced: Vec<Multiaddr>,
    lan: Arc<Lan>,
    /// Ends when the thread does.
    thread: (std::thread::ThreadId, Mutex<blocking::Receiver<()>>),
}

impl Network {
    /// Joins. Returns when it is listened on all addresses, within about a second.
    ///
    /// # Errors
    /// [`SwarmError::Network`], in one sentence: a port that is in use or not allowed, an address of another machine.
    pub fn start(settings: Settings) -> Result<Network> {
        let failed = |error: std::io::Error| SwarmError::Network(format!("no network: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (peer, handle) = (settings.keypair.public().to_peer_id(), runtime.handle().clone());
        let (commands, commanded) = mpsc::unbounded_channel();
        let (inbound, accepted) = Inbound::new();
        let addresses = Arc::new(Mutex::new(Vec::new()));
        let lan = Lan::new(peer, &settings.key, settings.mdns, settings.listen.is_empty());
        let (started, starting) = blocking::channel();
        let (running, ended) = blocking::channel();
        let (told, near) = (addresses.clone(), lan.clone());
        let thread = std::thread::Builder::new().name("network".to_owned());
        let thread = thread.spawn(move || {
            let _running: blocking::Sender<()> = running;
            runtime.block_on(async {
                match Node::start(&settings, inbound, commanded, told, near).await {
                    Ok(node) => {
                        let _ = started.send(Ok(()));
                        node.run().await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
            runtime.shutdown_timeout(Duration::from_millis(500));
        });
        let thread = thread.map_err(failed)?.thread().id();
        let stopped = || SwarmError::Network("the network's thread has stopped".to_owned());
        starting.recv().map_err(|_| stopped())??;
        let (accepted, thread) = (tokio::sync::Mutex::new(accepted), (thread, Mutex::new(ended)));
        Ok(Network { peer, handle, commands, accepted, addresses, announced: Vec::new(), lan, thread })
    }

    /// Others are told these addresses instead of those that are listened on, if there are any: where a port is forwarded
    /// to this machine, it does not see how others reach it.
    #[must_use]
    pub fn announcing(mut self, addresses: Vec<Multiaddr>) -> Network {
        self.announced = addresses;
        self
    }

    /// The addresses that are listened on, as others would use them.
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The runtime of the network's thread, for what must go on whatever the others compute. What is spawned there must
    /// not block; it ends with the network.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Leaves the network: [`accept`](Transport::accept) ends, streams break.
    pub fn leave(&self) {
        let _ = self.commands.send(Command::Leave);
    }
}

impl Transport for Network {
    fn peer_id(&self) -> PeerId {
        self.peer
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        if self.announced.is_empty() { self.listening() } else { self.announced.clone() }
    }

    fn open(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Pending<'_, Result<Stream>> {
        Box::pin(async move {
            if peer == self.peer {
                return Err(open::unreachable(peer, "it is this machine"));
            }
            // Timers and deadlines are those of the network's thread, whoever asks.
            let opening = self.handle.spawn(open::open(self.commands.clone(), self.lan.clone(), peer, addresses));
            match opening.await {
                Ok(bytes) => bytes.map(|bytes| stream(peer, bytes)),
                Err(_) => Err(open::unreachable(peer, open::LEFT)),
            }
        })
    }

    /// Only their key proves who they are, which is what opening a stream asks for.
    fn nearby(&self) -> Option<Vec<PeerId>> {
        self.lan.all()
    }

    fn accept(&self) -> Pending<'_, Option<Stream>> {
        Box::pin(async move {
            let (peer, bytes, _place) = self.accepted.lock().await.recv().await?;
            Some(stream(peer, bytes))
        })
    }
}

fn stream(peer: PeerId, bytes: bytes::Bytes) -> Stream {
    let (reader, writer) = tokio::io::split(bytes);
    Stream { peer, reader: Box::new(reader), writer: Box::new(writer) }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.leave();
        let (thread, ended) = &self.thread;
        if *thread != std::thread::current().id() {
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(LEAVE_DEADLINE);
        }
    }
}
