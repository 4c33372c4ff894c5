//! A server's life in a swarm: it says what it is, again and again, hears of the others, and takes its leave.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::Keypair;
use multiaddr::Multiaddr;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::directory::Directory;
use crate::server::Server;
use crate::{Digest, Figures, Record, Result, ServerState, Transport};

/// How often a server says what it is.
pub const EVERY: Duration = Duration::from_secs(5);

/// How often it looks whether so much has changed that others should hear of it before.
pub const SOONEST: Duration = Duration::from_secs(1);

/// For how long that holds.
pub const LIFETIME: Duration = Duration::from_secs(16);

/// How often a server exchanges tables with another.
pub const GOSSIP: Duration = Duration::from_secs(1);

/// What a server says of itself that does not change.
pub struct Member {
    /// Its key.
    pub keypair: Keypair,
    /// Of the model as it is served.
    pub fingerprint: Digest,
    /// What its owner calls it.
    pub name: String,
    /// The table that it shares with others.
    pub directory: Arc<Directory>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Makes it exchange tables at once.
    pub wake: Arc<Notify>,
}

impl Member {
    /// Says what this server is, now.
    ///
    /// # Errors
    /// [`SwarmError::Record`](crate::SwarmError::Record) for what nobody would accept.
    pub fn announce(&self, state: ServerState, blocks: Range<usize>, figures: Figures) -> Result<()> {
        let me = self.transport.peer_id();
        let addresses: Vec<Multiaddr> =
            self.transport.addresses().into_iter().take(crate::record::MAX_ADDRESSES).collect();
        // One that started anew goes on behind its own number, which others may remember.
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let number = self.directory.number(&me).map_or(0, |number| number + 1).max(clock.as_millis() as u64);
        let record = Record {
            number,
            lifetime_ms: LIFETIME.as_millis() as u32,
            fingerprint: self.fingerprint,
            name: self.name.clone(),
            addresses,
            state,
            blocks: blocks.start as u32..blocks.end as u32,
            figures,
        };
        self.directory.learn(record.sign(&self.keypair)?)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Says that it serves, again and again, with what is free and waits at the moment: sooner when that has changed a lot,
    /// so that clients who come at once do not all come here.
    pub async fn serve(&self, server: &Server, measured: Figures) {
        let mut told: Option<(Figures, Instant)> = None;
        loop {
            let figures = server.figures(measured);
            if told.is_none_or(|(before, at)| at.elapsed() >= EVERY || figures.are_news(&before)) {
                // What was accepted once is accepted again.
                let _ = self.announce(ServerState::Serving, server.blocks(), figures);
                told = Some((figures, Instant::now()));
            }
            tokio::time::sleep(SOONEST).await;
        }
    }

    /// Takes its leave: no more sessions are taken, clients are told, and others hear of it. Waits until nobody needs it any
    /// more, for a while.
    pub async fn leave(&self, server: &Server, patience: Duration) {
        let _ = self.announce(ServerState::Leaving, server.blocks(), Figures::default());
        server.leave();
        let gone = async {
            while server.sessions() > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let _ = tokio::time::timeout(patience, gone).await;
    }
}
