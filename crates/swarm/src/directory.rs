//! What a machine knows of its swarm: the table of records, what it has measured, and who has failed; and how it hears more,
//! by exchanging tables with others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use crate::client::guide::{Guide, Need, Purpose, Stop};
use crate::invite::Peer;
use crate::registry::{News, Summary};
use crate::transport::{Reader, Stream, Writer};
use crate::wire::PROTOCOL_VERSION;
use crate::wire::frame::{self, Frame};
use crate::wire::message::{Greeting, Request, Tables};
use crate::{
    Digest, Health, Hop, Measured, Record, Registry, Result, Servers, SignedRecord, SwarmError, Transport, route,
};

/// How long an exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked who is heard of on the local network, and how long they are waited for where nobody else answers.
const NEAR_EVERY: Duration = Duration::from_millis(200);
const NEAR_PATIENCE: Duration = Duration::from_secs(3);

/// Machines that are met at once when a swarm is found, and how long that may take.
const MEET: usize = 16;
const MEET_PATIENCE: Duration = Duration::from_millis(500);

/// How often somebody is looked for who was lost.
const SEEK_EVERY: Duration = Duration::from_secs(3);

/// Tokens that a session is expected to bring as a prompt, and to make.
const USUAL_PROMPT: usize = 128;
const USUAL_TOKENS: usize = 128;

/// What a machine knows of its swarm.
pub struct Directory {
    me: PeerId,
    fingerprint: Digest,
    start: Instant,
    known: Mutex<Known>,
}

struct Known {
    registry: Registry,
    measured: Measured,
    health: Health,
    /// Whom the invite names.
    invited: Vec<(PeerId, Vec<Multiaddr>)>,
}

impl Known {
    fn measure(&mut self, peer: PeerId, took: Duration) {
        self.measured.round_trip(peer, took);
        // What was measured of who is gone for good is of no use.
        self.measured.keep(|peer| self.registry.number(peer).is_some());
    }
}

impl Directory {
    /// Of a machine that knows nobody yet.
    pub fn new(me: PeerId, fingerprint: Digest) -> Directory {
        let (registry, measured, health) = (Registry::new(fingerprint), Measured::new(), Health::new());
        let known = Mutex::new(Known { registry, measured, health, invited: Vec::new() });
        Directory { me, fingerprint, start: Instant::now(), known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no task panics while it holds this")
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes in what a server said of itself just now.
    ///
    /// # Errors
    /// [`SwarmError::Record`], [`SwarmError::OtherModel`].
    pub fn learn(&self, signed: SignedRecord) -> Result<()> {
        self.known().registry.learn(signed, Duration::ZERO, self.now()).map(|_| ())
    }

    /// All whose records hold, in order of peers.
    pub fn records(&self) -> Vec<(PeerId, Record)> {
        self.known().registry.live(self.now()).map(|(peer, record)| (peer, record.clone())).collect()
    }

    /// The largest number that was heard of a server.
    pub fn number(&self, peer: &PeerId) -> Option<u64> {
        self.known().registry.number(peer)
    }

    /// What this machine thinks of a route at this moment.
    pub fn with_servers<T>(&self, look: impl FnOnce(&Servers<'_>) -> T) -> T {
        let (known, now) = (self.known(), self.now());
        let Known { registry, measured, health, .. } = &*known;
        look(&Servers::new(self.me, registry.live(now), measured, health, now))
    }

    /// Exchanges tables with a machine: afterwards both know what either knew. Measures the round trip as well.
    ///
    /// # Errors
    /// [`SwarmError::Unreachable`], [`SwarmError::Garbage`].
    pub async fn exchange(&self, transport: &dyn Transport, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<()> {
        let unreachable = |problem: String| SwarmError::Unreachable { peer, problem };
        let talk = async {
            let Stream { mut reader, mut writer, .. } = transport.open(peer, addresses).await?;
            let asked = Instant::now();
            let summary = self.known().registry.summary();
            let request = Request::Exchange(summary);
            let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint: self.fingerprint, request };
            let sent = Frame::new(&greeting, &[]).write(&mut writer).await;
            sent.map_err(|error| unreachable(error.to_string()))?;
            let (tables, _) = read(&mut reader).await.map_err(|error| unreachable(error.to_string()))?;
            match tables {
                Tables::News(news, theirs) => {
                    let took = asked.elapsed();
                    self.hear(news);
                    self.known().measure(peer, took);
                    let news = self.known().registry.news_for(&theirs, self.now());
                    let sent = Frame::new(&Tables::Thanks(news), &[]).write(&mut writer).await;
                    sent.map_err(|error| unreachable(error.to_string()))
                }
                Tables::Other(found) => {
                    Err(SwarmError::OtherModel { peer, fingerprints: Box::new([self.fingerprint, found]) })
                }
                Tables::Thanks(_) => Err(SwarmError::Garbage { peer, problem: "thanks for nothing".to_owned() }),
            }
        };
        timeout(EXCHANGE_TIMEOUT, talk).await.unwrap_or_else(|_| Err(unreachable("no answer in time".to_owned())))
    }

    /// Answers a machine that exchanges tables with this one.
    pub async fn answer(&self, summary: &Summary, reader: &mut Reader, writer: &mut Writer) {
        let (news, mine) = {
            let known = self.known();
            (known.registry.news_for(summary, self.now()), known.registry.summary())
        };
        let talk = async {
            Frame::new(&Tables::News(news, mine), &[]).write(writer).await.ok()?;
            if let (Tables::Thanks(news), _) = read(reader).await.ok()? {
                self.hear(news);
            }
            Some(())
        };
        let _ = timeout(EXCHANGE_TIMEOUT, talk).await;
    }

    /// Takes in what others passed on; what is not valid is passed over.
    fn hear(&self, news: News) {
        let mut known = self.known();
        let now = self.now();
        for aged in news.records {
            let age = aged.age();
            let _ = known.registry.learn(aged.signed, age, now);
        }
    }

    /// Finds a swarm: exchanges tables with whoever of these answers first, or of the machines on the local network.
    ///
    /// # Errors
    /// That of the last one that was asked.
    pub async fn find(&self, transport: &dyn Transport, peers: &[Peer]) -> Result<()> {
        let others: Vec<&Peer> = peers.iter().filter(|peer| peer.id != self.me).collect();
        self.known().invited = others.iter().map(|peer| (peer.id, peer.addresses.clone())).collect();
        let named = async {
            let mut last = SwarmError::Network("the invite names nobody".to_owned());
            for Peer { id, addresses } in others {
                match self.exchange(transport, *id, addresses.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let near = self.find_near(transport);
        tokio::pin!(named, near);
        tokio::select! {
            biased;
            found = &mut named => match found {
                // Some take a moment to be heard of.
                Err(error) if transport.nearby().is_some() => timeout(NEAR_PATIENCE, near).await.map_err(|_| error)?,
                found => found?,
            },
            () = &mut near => {}
        }
        self.meet(transport).await;
        Ok(())
    }

    /// Exchanges tables with several others at once, for a moment: whoever has measured the way to one machine alone would
    /// think all others far, and go there with everybody else who was given the same invite.
    async fn meet(&self, transport: &dyn Transport) {
        let records = self.records();
        let others = records.into_iter().filter(|(peer, _)| *peer != self.me && !self.known().measured.knows(peer));
        let mut others: Vec<(PeerId, Record)> = others.collect();
        // Not all the same ones.
        others.sort_by_key(|(peer, _)| {
            Sha256::new().chain_update(self.me.to_bytes()).chain_update(peer.to_bytes()).finalize()
        });
        others.truncate(MEET);
        let talks = others.into_iter().map(|(peer, record)| self.exchange(transport, peer, record.addresses));
        let _ = timeout(MEET_PATIENCE, futures::future::join_all(talks)).await;
    }

    /// Exchanges tables with the first machine that is heard of on the local network and answers. Anybody of the swarm will
    /// do, so that an invite is good where none of its addresses is right any more.
    async fn find_near(&self, transport: &dyn Transport) {
        let mut asked = BTreeSet::new();
        loop {
            tokio::time::sleep(NEAR_EVERY).await;
            for peer in transport.nearby().unwrap_or_default() {
                let new = peer != self.me && asked.insert(peer);
                if new && self.exchange(transport, peer, Vec::new()).await.is_ok() {
                    return;
                }
            }
        }
    }

    /// Machines that are not known to serve now, and may all the same: those whose records ended not long ago, those of the
    /// invite, and those of the local network. After a partition this is how its parts find each other.
    fn lost(&self, transport: &dyn Transport) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let (known, now) = (self.known(), self.now());
        let mut lost: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        lost.extend(transport.nearby().unwrap_or_default().into_iter().map(|peer| (peer, Vec::new())));
        lost.extend(known.invited.iter().cloned());
        lost.extend(known.registry.ended(now).map(|(peer, record)| (peer, record.addresses.clone())));
        lost.retain(|peer, _| *peer != self.me && known.registry.record(peer, now).is_none());
        lost.into_iter().collect()
    }

    /// Looks for those that are lost, one after another, for ever.
    async fn seek(&self, transport: &dyn Transport) {
        let mut turn = 0usize;
        loop {
            tokio::time::sleep(SEEK_EVERY).await;
            let lost = self.lost(transport);
            if !lost.is_empty() {
                turn = turn.wrapping_add(1);
                let (peer, addresses) = lost[turn % lost.len()].clone();
                let _ = self.exchange(transport, peer, addresses).await;
            }
        }
    }

    /// Exchanges tables with others, one after another, for ever, and looks for those that were lost. `wake` makes it do so
    /// at once with several.
    pub async fn gossip(
        self: Arc<Self>,
        transport: Arc<dyn Transport>,
        wake: Arc<tokio::sync::Notify>,
        every: Duration,
    ) {
        tokio::join!(self.tell(&*transport, &wake, every), self.seek(&*transport));
    }

    async fn tell(&self, transport: &dyn Transport, wake: &tokio::sync::Notify, every: Duration) {
        let mut turn = 0usize;
        loop {
            let woken = timeout(every, wake.notified()).await.is_ok();
            let others: Vec<(PeerId, Vec<Multiaddr>)> = {
                let records = self.records().into_iter().filter(|(peer, _)| *peer != self.me);
                records.map(|(peer, record)| (peer, record.addresses)).collect()
            };
            for _ in 0..others.len().min(if woken { 4 } else { 1 }) {
                turn = turn.wrapping_add(1);
                let (peer, addresses) = others[turn % others.len()].clone();
                // Who does not answer is gone when its record ends.
                let _ = self.exchange(transport, peer, addresses).await;
            }
        }
    }
}

async fn read(reader: &mut Reader) -> std::result::Result<(Tables, Vec<u8>), frame::FrameError> {
    frame::read(reader, 0).await
}

impl Known {
    /// A route as one machine sees it at a moment, with those that it keeps and those that it does without.
    fn route(
        &self,
        me: PeerId,
        now: Duration,
        health: &Health,
        blocks: Range<usize>,
        (kept, without): (&[Hop], &BTreeSet<PeerId>),
        need: Need,
    ) -> Result<Vec<Stop>> {
        let live = self.registry.live(now).filter(|(peer, _)| !without.contains(peer));
        let servers = Servers::new(me, live, &self.measured, health, now);
        let hops = match need.purpose {
            Purpose::Session => {
                let need = route::Need {
                    prompt_tokens: need.past_tokens.max(USUAL_PROMPT),
                    chunk_tokens: USUAL_PROMPT,
                    new_tokens: USUAL_TOKENS,
                    cache_tokens: need.cache_tokens,
                };
                if kept.is_empty() { servers.fastest(blocks, &need)? } else { servers.complete(blocks, kept, &need)? }
            }
            Purpose::Pass => servers.spread(blocks, &[need.tokens])?.remove(0),
        };
        let stop = |hop: Hop| {
            let addresses = self.registry.record(&hop.peer, now).map(|record| record.addresses.clone());
            Stop { peer: hop.peer, addresses: addresses.unwrap_or_default(), blocks: hop.blocks }
        };
        Ok(hops.into_iter().map(stop).collect())
    }
}

impl Guide for Directory {
    fn route(&self, blocks: Range<usize>, kept: &[Hop], without: &BTreeSet<PeerId>, need: Need) -> Result<Vec<Stop>> {
        let (known, now) = (self.known(), self.now());
        let found = known.route(self.me, now, &known.health, blocks.clone(), (kept, without), need);
        match found {
            // Who failed and has said something since is better than nobody: it may have been this machine that was slow.
            Err(SwarmError::Missing(_)) => {
                let mut health = known.health.clone();
                for (peer, _) in known.registry.live(now) {
                    if health.failed_at(&peer) < known.registry.said_at(&peer) {
                        health.succeeded(&peer);
                    }
                }
                known.route(self.me, now, &health, blocks, (kept, without), need).or(found)
            }
            found => found,
        }
    }

    fn has_route(&self, blocks: Range<usize>, without: &BTreeSet<PeerId>, need: Need) -> bool {
        let (known, now) = (self.known(), self.now());
        known.route(self.me, now, &known.health, blocks, (&[], without), need).is_ok()
    }

    fn failed(&self, peer: PeerId) {
        let now = self.now();
        self.known().health.failed(peer, now);
    }

    fn worked(&self, peer: PeerId) {
        self.known().health.succeeded(&peer);
    }

    fn asked(&self, peer: PeerId, work: u64) -> u64 {
        self.known().measured.asked(peer, work)
    }

    fn answered(&self, peer: PeerId, work: u64, took: Option<(Duration, u64)>) {
        let now = self.now();
        self.known().measured.answered(peer, work, took, now);
    }
}
