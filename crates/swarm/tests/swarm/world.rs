//! Servers of fake blocks, a guide that knows them, and a client.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bouquet_span::contract::Random;
use bouquet_span::fake::FakeSpan;
use bouquet_span::{HiddenStates, Limits, Pass, Returned, SessionShape, Span, Step};
use bouquet_swarm::client::guide::{Guide, Need, Stop};
use bouquet_swarm::client::ring::Ring;
use bouquet_swarm::client::{Client, Patience};
use bouquet_swarm::compute::{Blocks, Compute};
use bouquet_swarm::directory::Directory;
use bouquet_swarm::server::{Server, Settings};
use bouquet_swarm::shelf::Shelf;
use bouquet_swarm::simulated::{Road, Simulation};
use bouquet_swarm::wire::message::SessionId;
use bouquet_swarm::{Digest, Hop, Result, SwarmError, Transport, Wire};
use libp2p_identity::{Keypair, PeerId};
use tokio::task::JoinHandle;

pub(crate) const WIDTH: usize = 4;

/// How long a token takes in a block, of simulated time.
pub(crate) const TOKEN: Duration = Duration::from_micros(200);

/// Of a token in the cache of a block.
pub(crate) const CACHE_BYTES: u64 = 8;
pub(crate) const FINGERPRINT: Digest = Digest([9; 32]);

pub(crate) const SETTINGS: Settings = Settings {
    fingerprint: FINGERPRINT,
    wire: Wire::F32,
    cache_bytes: 1 << 24,
    pass_bytes: 1 << 24,
    max_sessions: 100,
    chunk_tokens: 128,
};

/// Fake blocks, of which the same cuts are the same spans.
pub(crate) struct Fakes {
    range: Range<usize>,
    spans: Mutex<BTreeMap<(usize, usize), Arc<dyn Span>>>,
}

impl Fakes {
    pub(crate) fn new(range: Range<usize>) -> Fakes {
        Fakes { range, spans: Mutex::default() }
    }
}

impl Blocks for Fakes {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    fn span(&self, range: Range<usize>) -> Arc<dyn Span> {
        let mut spans = self.spans.lock().unwrap();
        let span = spans.entry((range.start, range.end));
        span.or_insert_with(|| Arc::new(FakeSpan::new(range, WIDTH))).clone()
    }

    fn cache_bytes(&self) -> u64 {
        CACHE_BYTES
    }
}

/// A network of servers.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) book: Arc<Book>,
    pub(crate) running: BTreeMap<PeerId, (Server, JoinHandle<()>)>,
    /// Blocks are computed in threads, as in a program; otherwise by simulated time.
    pub(crate) threads: bool,
    /// Of clients that come.
    pub(crate) patience: Patience,
    pub(crate) settings: Settings,
    /// How long a token takes in a block, of simulated time.
    pub(crate) token: Duration,
    numbers: u8,
}

/// A guide that knows who is there, and whom it may not ask for a while.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) servers: Mutex<Vec<(PeerId, Range<usize>)>>,
    failed: Mutex<BTreeMap<PeerId, tokio::time::Instant>>,
}

impl Guide for Book {
    fn route(&self, blocks: Range<usize>, kept: &[Hop], without: &BTreeSet<PeerId>, _need: Need) -> Result<Vec<Stop>> {
        let (failed, servers) = (self.failed.lock().unwrap(), self.servers.lock().unwrap());
        let banned = |peer: &PeerId| failed.get(peer).is_some_and(|at| at.elapsed() < Duration::from_secs(2));
        let (mut kept, mut at) = (kept, blocks.start);
        let mut stops: Vec<Stop> = Vec::new();
        while at < blocks.end {
            let stays = kept.iter().find(|hop| hop.blocks.start == at);
            let next = kept.iter().map(|hop| hop.blocks.start).find(|start| *start > at).unwrap_or(blocks.end);
            let taken =
                |peer: &PeerId| kept.iter().any(|hop| hop.peer == *peer) || stops.iter().any(|stop| stop.peer == *peer);
            let free = |peer: &PeerId| !without.contains(peer) && !taken(peer) && !banned(peer);
            let serves = |(peer, range): &&(PeerId, Range<usize>)| range.contains(&at) && free(peer);
            let best = servers.iter().filter(serves).max_by_key(|(_, range)| range.end);
            let (peer, end) = match (stays, best) {
                (Some(hop), _) => (hop.peer, hop.blocks.end),
                (None, Some((peer, range))) => (*peer, range.end.min(next)),
                (None, None) if kept.is_empty() => return Err(missing(at..blocks.end)),
                (None, None) => {
                    // Some of those have to be laid anew.
                    (kept, at) = (&[], blocks.start);
                    stops.clear();
                    continue;
                }
            };
            stops.push(Stop { peer, addresses: Vec::new(), blocks: at..end });
            at = end;
        }
        Ok(stops)
    }

    fn failed(&self, peer: PeerId) {
        self.failed.lock().unwrap().insert(peer, tokio::time::Instant::now());
    }

    fn worked(&self, peer: PeerId) {
        self.failed.lock().unwrap().remove(&peer);
    }

    fn asked(&self, _peer: PeerId, work: u64) -> u64 {
        work
    }

    fn answered(&self, _peer: PeerId, _work: u64, _took: Option<(Duration, u64)>) {}
}

fn missing(blocks: Range<usize>) -> SwarmError {
    SwarmError::Missing([blocks].into())
}

impl World {
    pub(crate) fn new(road: Road) -> World {
        World {
            simulation: Simulation::new(road),
            book: Arc::default(),
            running: BTreeMap::new(),
            threads: false,
            patience: Patience::default(),
            settings: SETTINGS,
            token: TOKEN,
            numbers: 0,
        }
    }

    /// A key that is the same in every run.
    pub(crate) fn peer(&mut self) -> PeerId {
        self.numbers += 1;
        Keypair::ed25519_from_bytes([self.numbers; 32]).unwrap().public().to_peer_id()
    }

    pub(crate) fn serve(&mut self, blocks: Range<usize>) -> PeerId {
        let peer = self.peer();
        self.serve_as(peer, blocks);
        peer
    }

    /// The same by a machine that takes so long for each token in a block.
    pub(crate) fn serve_slowly(&mut self, blocks: Range<usize>, token: Duration) -> PeerId {
        let peer = self.peer();
        self.serve_in(peer, blocks, Compute::Simulated { call: Duration::from_millis(1), token });
        peer
    }

    pub(crate) fn serve_as(&mut self, peer: PeerId, blocks: Range<usize>) {
        let simulated = Compute::Simulated { call: Duration::from_millis(1), token: self.token };
        let compute = if self.threads { Compute::thread().unwrap() } else { simulated };
        self.serve_in(peer, blocks, compute);
    }

    fn serve_in(&mut self, peer: PeerId, blocks: Range<usize>, compute: Compute) {
        let transport = self.simulation.join(peer);
        let directory = Arc::new(Directory::new(peer, FINGERPRINT));
        let blocks_here = Arc::new(Fakes::new(blocks.clone()));
        let server = Server::new(transport, blocks_here, compute, directory, Shelf::empty(), self.settings);
        let running = server.clone();
        let task = tokio::spawn(async move { running.run().await });
        self.running.insert(peer, (server, task));
        let mut servers = self.book.servers.lock().unwrap();
        servers.retain(|(known, _)| *known != peer);
        servers.push((peer, blocks));
    }

    /// As `kill -9`: nobody is told.
    pub(crate) fn kill(&mut self, peer: PeerId) {
        self.simulation.kill(peer);
        if let Some((_, task)) = self.running.remove(&peer) {
            task.abort();
        }
        self.book.servers.lock().unwrap().retain(|(known, _)| *known != peer);
    }

    pub(crate) fn client(&mut self) -> Arc<Client> {
        let peer = self.peer();
        let transport: Arc<dyn Transport> = self.simulation.join(peer);
        let (guide, patience): (Arc<dyn Guide>, _) = (self.book.clone(), self.patience);
        Arc::new(Client { transport, guide, fingerprint: FINGERPRINT, wire: Wire::F32, patience })
    }

    pub(crate) fn counts(&self, peer: PeerId) -> bouquet_swarm::server::Counts {
        self.running[&peer].0.counts()
    }
}

pub(crate) fn id(number: u8) -> SessionId {
    SessionId([number; 16])
}

pub(crate) const SHAPE: SessionShape = SessionShape { sequences: 2, max_tokens: 600, max_rewind: 8 };

pub(crate) async fn ring(client: &Arc<Client>, number: u8, blocks: Range<usize>) -> Ring {
    Ring::open(client.clone(), id(number), blocks, WIDTH, SHAPE, &Pass::default()).await.unwrap()
}

/// What a text does to a session: some tokens for each sequence, which of them come back, and what is edited before.
#[derive(Clone, Debug)]
pub(crate) struct Stride {
    pub(crate) rewind: Option<(usize, usize)>,
    pub(crate) reorder: Option<Vec<usize>>,
    pub(crate) hidden: HiddenStates,
    pub(crate) returned: Returned,
}

/// A prompt, and then tokens, with a few rewinds and reorders.
pub(crate) fn strides(seed: u64, prompt: usize, tokens: usize) -> Vec<Stride> {
    let mut random = Random::new(seed);
    let lengths = [prompt, prompt / 2 + 1];
    let hidden = random.hidden(&lengths, WIDTH);
    let mut strides = vec![Stride { rewind: None, reorder: None, hidden, returned: Returned::Last }];
    for _ in 0..tokens {
        let kind = random.below(10);
        let lengths = [1 + random.below(3) * usize::from(kind == 1), random.below(8).min(1)];
        strides.push(Stride {
            rewind: (kind == 2).then(|| (random.below(2), 1 + random.below(2))),
            reorder: (kind == 3).then(|| vec![random.below(2), random.below(2)]),
            hidden: random.hidden(&lengths, WIDTH),
            returned: [Returned::Last, Returned::All, Returned::None][random.below(5).saturating_sub(2)],
        });
    }
    strides
}

/// What one machine makes of it.
pub(crate) fn alone(blocks: Range<usize>, strides: &[Stride]) -> Vec<HiddenStates> {
    let span = FakeSpan::new(blocks, WIDTH);
    let mut session = span.open(SHAPE, &Pass::default()).unwrap();
    let mut outputs = Vec::new();
    for Stride { rewind, reorder, hidden, returned } in strides {
        if let Some((sequence, back)) = rewind {
            let position = session.positions()[*sequence].saturating_sub(*back);
            session.rewind(*sequence, position).unwrap();
        }
        if let Some(from) = reorder {
            session.reorder(from).unwrap();
        }
        let limits = Limits::default();
        let step = Step { session: &mut session, hidden: hidden.clone(), returned: *returned, limits };
        outputs.push(span.step(&mut [step]).remove(0).unwrap());
    }
    outputs
}

/// What the ring makes of one stride; `positions` are kept by the caller, as a session does.
pub(crate) async fn stride(
    ring: &mut Ring,
    positions: &mut Vec<usize>,
    stride: &Stride,
) -> bouquet_span::Result<HiddenStates> {
    let Stride { rewind, reorder, hidden, returned } = stride;
    if let Some((sequence, back)) = rewind {
        positions[*sequence] = positions[*sequence].saturating_sub(*back);
        ring.rewind(*sequence, positions[*sequence]);
    }
    if let Some(from) = reorder {
        ring.reorder(from);
        *positions = from.iter().map(|&from| positions[from]).collect();
    }
    let output = ring.step(hidden, *returned, &Limits::default()).await?;
    positions.iter_mut().zip(hidden.lengths()).for_each(|(position, length)| *position += length);
    Ok(output)
}
