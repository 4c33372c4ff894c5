//! Streams of the protocol `/bouquet/1` over the connections that libp2p keeps: none is lost without its opener being
//! told. A stream is the opener's once the other machine has confirmed it with one byte, which it does when the stream
//! has a place in its queue.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p_core::Endpoint;
use libp2p_core::transport::PortUse;
use libp2p_core::upgrade::ReadyUpgrade;
use libp2p_identity::PeerId;
use libp2p_swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p_swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamProtocol, StreamUpgradeError, SubstreamProtocol, ToSwarm,
};
use multiaddr::Multiaddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::bytes::Bytes;

/// What is spoken on a stream.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/bouquet/1");

/// How a stream is confirmed.
const CONFIRMED: u8 = 1;

/// Why there is no stream to a machine that has the key.
const OTHER_PROTOCOL: &str = "it does not speak the protocol of this version";

/// How long both machines wait for a stream to be agreed upon.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(5);

/// Streams of one machine that may wait to be accepted.
const MAX_QUEUED_PER_PEER: usize = 64;

/// Streams of all machines that may wait to be accepted.
const MAX_QUEUED: usize = 1024;

/// Streams that this machine has open over one connection. Twice as many, the other machine's among them, stay below
/// what yamux allows, which would end the connection.
pub(super) const MAX_OPEN_PER_CONNECTION: usize = 448;

/// Who waits for a stream that was asked for.
pub(super) type Reply = oneshot::Sender<io::Result<Bytes>>;

/// Streams that wait to be accepted, as seen from the connections.
pub(super) struct Inbound {
    queue: mpsc::UnboundedSender<(PeerId, Bytes, Place)>,
    waiting: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

/// What [`Inbound`] feeds.
pub(super) type Queue = mpsc::UnboundedReceiver<(PeerId, Bytes, Place)>;

/// A place in the queue; dropping it makes room.
pub(super) struct Place {
    peer: PeerId,
    waiting: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

impl Inbound {
    pub(super) fn new() -> (Arc<Inbound>, Queue) {
        let (queue, accepted) = mpsc::unbounded_channel();
        (Arc::new(Inbound { queue, waiting: Arc::default() }), accepted)
    }

    /// A place for a stream of this machine, if there is one.
    fn place(&self, peer: PeerId) -> Option<Place> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.values().sum::<usize>() >= MAX_QUEUED || waiting.get(&peer) >= Some(&MAX_QUEUED_PER_PEER) {
            return None;
        }
        *waiting.entry(peer).or_default() += 1;
        Some(Place { peer, waiting: self.waiting.clone() })
    }

    /// Confirms a stream and queues it. Without a place it is ended, which tells its opener.
    fn take(self: &Arc<Self>, peer: PeerId, stream: libp2p_swarm::Stream) {
        let mut bytes = Bytes::new(stream, None);
        let Some(place) = self.place(peer) else { return };
        let inbound = self.clone();
        tokio::spawn(async move {
            let confirmed = async {
                bytes.write_all(&[CONFIRMED]).await?;
                bytes.flush().await
            };
            if let Ok(Ok(())) = tokio::time::timeout(CONFIRM_DEADLINE, confirmed).await {
                let _ = inbound.queue.send((peer, bytes, place));
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.peer);
            }
        }
    }
}

/// Waits for the byte that makes an opened stream ours.
fn confirm(stream: libp2p_swarm::Stream, place: OwnedSemaphorePermit, reply: Reply) {
    tokio::spawn(async move {
        let mut bytes = Bytes::new(stream, Some(place));
        let confirmed = tokio::time::timeout(CONFIRM_DEADLINE, bytes.read_u8()).await;
        let result = match confirmed {
            Ok(Ok(CONFIRMED)) => Ok(bytes),
            Ok(Ok(_)) => Err(io::Error::other(OTHER_PROTOCOL)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::other("it takes no more streams"))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let _ = reply.send(result);
    });
}

/// The behaviour: hands requests for streams to connections.
pub(super) struct Streams {
    inbound: Arc<Inbound>,
    requests: VecDeque<(PeerId, ConnectionId, Reply)>,
}

impl Streams {
    pub(super) fn new(inbound: Arc<Inbound>) -> Streams {
        Streams { inbound, requests: VecDeque::new() }
    }

    /// Asks for a stream over a connection; the reply is dropped if there is no such connection any more.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, reply: Reply) {
        self.requests.push_back((peer, connection, reply));
    }

    fn handler(&self, peer: PeerId) -> Handler {
        let places = Arc::new(Semaphore::new(MAX_OPEN_PER_CONNECTION));
        Handler { peer, inbound: self.inbound.clone(), requests: VecDeque::new(), places }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: std::convert::Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, Reply>> {
        // Requests come from the task that polls, so nobody needs to be woken.
        match self.requests.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => Poll::Pending,
        }
    }
}

/// The streams of one connection.
pub(super) struct Handler {
    peer: PeerId,
    inbound: Arc<Inbound>,
    requests: VecDeque<Reply>,
    /// For streams that this machine opens.
    places: Arc<Semaphore>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (OwnedSemaphorePermit, Reply);

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        while let Some(reply) = self.requests.pop_front() {
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                let _ = reply.send(Err(io::Error::other("too many streams to it are open")));
                continue;
            };
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), (place, reply));
            let protocol = protocol.with_timeout(CONFIRM_DEADLINE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        self.requests.push_back(reply);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.inbound.take(self.peer, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info: (place, reply) }) => {
                confirm(protocol, place, reply);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: (_, reply), error }) => {
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::Timeout => io::ErrorKind::TimedOut.into(),
                    StreamUpgradeError::Io(_) => io::ErrorKind::ConnectionReset.into(),
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::NegotiationFailed => io::Error::other(OTHER_PROTOCOL),
                }));
            }
            _ => {}
        }
    }
}
