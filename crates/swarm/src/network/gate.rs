//! The way in: TCP, then the key of the swarm, then Noise and yamux.
//!
//! A machine that does not have the key hears nothing but noise: libp2p's private networks encrypt all that follows two
//! nonces (XSalsa20), and both machines then show that they have the same key by a line that is known, before anything
//! else is said. Without that line a wrong key would only be noticed when a deadline passes.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p_core::muxing::StreamMuxerBox;
use libp2p_core::transport::{Boxed, Transport as _};
use libp2p_core::upgrade::Version;
use libp2p_identity::{Keypair, PeerId};
use libp2p_noise as noise;
use libp2p_pnet::{PnetConfig, PnetOutput, PreSharedKey};
use libp2p_tcp as tcp;
use libp2p_yamux as yamux;
use tokio::sync::oneshot;

use super::streams::MAX_OPEN_PER_CONNECTION;

/// What both machines say first, encrypted with the key of the swarm.
const GREETING: &[u8; 16] = b"bouquet swarm 1\n";

/// How long a machine has to show that it has the key.
const KEY_DEADLINE: Duration = Duration::from_secs(5);

/// How long a connection may take from its first byte until it can carry streams.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Machines at the door that have not shown the key yet. One more, and the one that has waited longest is sent away, so
/// that nobody who has no key can keep out those who have.
const MAX_AT_THE_DOOR: usize = 64;

/// The other machine has another key, or is no server of a swarm at all.
#[derive(Debug, thiserror::Error)]
#[error("the key of the invite may be of another swarm")]
pub(super) struct WrongKey;

/// Who comes in over TCP.
pub(super) fn transport(keypair: &Keypair, key: [u8; 32]) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let noise = noise::Config::new(keypair).map_err(io::Error::other)?;
    let mut yamux = yamux::Config::default();
    // With room for those that are just being closed.
    yamux.set_max_num_streams(2 * MAX_OPEN_PER_CONNECTION + 128);
    let config = PnetConfig::new(PreSharedKey::new(key));
    let door = Arc::new(Door::default());
    let keyed = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .and_then(move |socket, point| async move {
            let ticket = point.is_listener().then(|| door.enter());
            greet(config, socket, ticket).await
        })
        .map_err(|error| error.into_inner());
    Ok(keyed
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(HANDSHAKE_DEADLINE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

/// Exchanges nonces and the greeting.
async fn greet<S>(config: PnetConfig, socket: S, ticket: Option<Ticket>) -> io::Result<PnetOutput<S>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let greeted = async {
        let mut socket = config.handshake(socket).await.map_err(|error| match error {
            libp2p_pnet::PnetError::HandshakeError(error) | libp2p_pnet::PnetError::IoError(error) => error,
        })?;
        socket.write_all(GREETING).await?;
        socket.flush().await?;
        let mut theirs = [0; GREETING.len()];
        socket.read_exact(&mut theirs).await?;
        if theirs == *GREETING { Ok(socket) } else { Err(io::Error::other(WrongKey)) }
    };
    let sent_away = async {
        match ticket {
            Some(mut ticket) => {
                let _ = (&mut ticket.sent_away).await;
                drop(ticket);
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        greeted = tokio::time::timeout(KEY_DEADLINE, greeted) => greeted.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
        () = sent_away => Err(io::Error::other("too many machines wait at the door")),
    }
}

/// Machines that have not shown the key yet, in the order in which they came.
#[derive(Default)]
struct Door {
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    came: AtomicU64,
}

/// One of them. Dropping it leaves the door.
struct Ticket {
    number: u64,
    sent_away: oneshot::Receiver<()>,
    door: Arc<Door>,
}

impl Door {
    fn enter(self: Arc<Self>) -> Ticket {
        let (sender, sent_away) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.came.fetch_add(1, Ordering::Relaxed);
        if waiting.len() == MAX_AT_THE_DOOR {
            waiting.pop_first();
        }
        waiting.insert(number, sender);
        drop(waiting);
        Ticket { number, sent_away, door: self }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.door.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The first error of a type among an error and those behind it. [`io::Error`] does not name what it holds as its
/// source, so it is looked into.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = behind(error);
    }
    None
}

/// What is behind an error, at the very end.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = behind(last) {
        last = next;
    }
    last.to_string()
}

fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
