//! How a stream to a machine comes about: over a connection that is there, or else over a new one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;
use multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::bytes::Bytes;
use super::lan::Lan;
use super::names;
use super::node::{Command, Connected, Failure};
use crate::{Result, SwarmError};

/// How long opening a stream may take in all.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// How long a connection that is there may take to open a stream before a new one is tried beside it: when a machine's
/// address changes, nobody tells those who hold connections to the old one.
const OLD_CONNECTION_PATIENCE: Duration = Duration::from_secs(2);

/// Addresses that are tried for one machine.
const MAX_ADDRESSES: usize = 32;

/// Why nothing more can be opened.
pub(super) const LEFT: &str = "this machine has left the network";

pub(super) fn unreachable(peer: PeerId, problem: impl Into<String>) -> SwarmError {
    SwarmError::Unreachable { peer, problem: problem.into() }
}

/// Opens a stream, on the network's thread.
pub(super) async fn open(
    commands: mpsc::UnboundedSender<Command>,
    lan: Arc<Lan>,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
) -> Result<Bytes> {
    let opening = async {
        let mut addresses = names::resolve(addresses).await;
        for address in lan.addresses(&peer) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        Opener { commands, peer, addresses }.open().await
    };
    let result = match timeout(OPEN_DEADLINE, opening).await {
        Ok(result) => result,
        Err(_) => Err(format!("nothing was heard of it for {} seconds", OPEN_DEADLINE.as_secs())),
    };
    if result.is_err() {
        // It may have another address by now; the next attempt will know.
        lan.ask();
    }
    result.map_err(|problem| unreachable(peer, problem))
}

/// Fails in words.
type Outcome<T> = std::result::Result<T, String>;

struct Opener {
    commands: mpsc::UnboundedSender<Command>,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
}

impl Opener {
    async fn open(&self) -> Outcome<Bytes> {
        let Connected { connection, old } = self.connect(None).await?;
        let mut opening = Box::pin(self.stream(connection));
        if !old {
            return opening.await.map_err(|error| error.to_string());
        }
        match timeout(OLD_CONNECTION_PATIENCE, &mut opening).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            // It is there and refuses.
            Ok(Err(error)) if error.kind() == io::ErrorKind::Other => return Err(error.to_string()),
            // It broke, and should not be listed any more.
            Ok(Err(_)) => return self.over_another(connection).await,
            Err(_) => {}
        }
        let mut another = Box::pin(self.over_another(connection));
        tokio::select! {
            biased;
            Ok(bytes) = &mut opening => Ok(bytes),
            Ok(bytes) = &mut another => Ok(bytes),
            else => Err("its connection is silent, and there is no other".to_owned()),
        }
    }

    async fn over_another(&self, except: ConnectionId) -> Outcome<Bytes> {
        let Connected { connection, .. } = self.connect(Some(except)).await?;
        self.stream(connection).await.map_err(|error| error.to_string())
    }

    /// A connection. Addresses at which somebody else is are left out, one after the other.
    async fn connect(&self, except: Option<ConnectionId>) -> Outcome<Connected> {
        let mut addresses = self.addresses.clone();
        loop {
            let (reply, dialled) = oneshot::channel();
            let (peer, addresses_now) = (self.peer, addresses.clone());
            let command = Command::Connect { peer, addresses: addresses_now, except, reply };
            self.commands.send(command).map_err(|_| LEFT.to_owned())?;
            match dialled.await.map_err(|_| LEFT.to_owned())? {
                Ok(connected) => return Ok(connected),
                Err(Failure::Other(problem)) => return Err(problem),
                Err(Failure::Stranger(stranger)) => {
                    let before = addresses.len();
                    addresses.retain(|address| !is_at(address, &stranger));
                    if addresses.is_empty() || addresses.len() == before {
                        return Err(format!("another machine is at its address ({stranger})"));
                    }
                }
            }
        }
    }

    async fn stream(&self, connection: ConnectionId) -> io::Result<Bytes> {
        let (reply, stream) = oneshot::channel();
        let command = Command::Open { peer: self.peer, connection, reply };
        self.commands.send(command).map_err(|_| io::Error::other(LEFT))?;
        stream.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into()))
    }
}

/// Whether an address is that place, whatever key it ends with.
fn is_at(address: &Multiaddr, place: &Multiaddr) -> bool {
    address.iter().zip(place).all(|(one, other)| one == other) && address.iter().count() >= place.iter().count()
}
