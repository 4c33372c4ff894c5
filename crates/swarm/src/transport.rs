//! What a swarm needs of a network: streams of bytes between machines that know each other by their keys. One
//! implementation speaks TCP through libp2p ([`network`](crate::network)), one is simulated, with a time of its own and
//! with faults (`simulated`).

use std::future::Future;
use std::pin::Pin;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// What comes in on a stream.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// What goes out on a stream.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A future of a trait's method.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes in order, both ways, between this machine and one whose key is proven.
///
/// Only so many bytes are under way that the other end has not read; then writing waits. Two ends that both write
/// and do not read wait for each other, so who writes much reads meanwhile.
pub struct Stream {
    /// The machine at the other end.
    pub peer: PeerId,
    /// What it sends.
    pub reader: Reader,
    /// What is sent to it. Dropping both ends the stream.
    pub writer: Writer,
}

/// Opens and accepts streams. What is written may wait in buffers, but no opened stream is lost without its opener being told.
pub trait Transport: Send + Sync {
    /// The key of this machine.
    fn peer_id(&self) -> PeerId;

    /// Where others reach this machine.
    fn addresses(&self) -> Vec<Multiaddr>;

    /// Opens a stream to a machine, which may be reached by these addresses if there is no connection yet.
    ///
    /// # Errors
    /// [`SwarmError::Unreachable`](crate::SwarmError::Unreachable), after a time that is bounded.
    fn open(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Pending<'_, Result<Stream>>;

    /// Machines of the swarm that are heard of on the local network, without their addresses having been told;
    /// [`open`](Self::open) knows how to reach them. `None` where nobody listens for that.
    fn nearby(&self) -> Option<Vec<PeerId>> {
        None
    }

    /// The next stream that another machine opens; `None` when this machine has left the network.
    fn accept(&self) -> Pending<'_, Option<Stream>>;
}
