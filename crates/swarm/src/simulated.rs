//! A network that is not there: streams in memory with delays, limits and faults, over tokio's paused time. With the same
//! seed everything happens again in the same order, and an hour takes as long as what is computed in it.
//!
//! A machine that freezes is one that nobody hears and that hears nobody, until it thaws and everything that was held
//! arrives; a link that is cut does the same to two machines, as TCP does when a cable is pulled and put back. One that is
//! killed loses its streams at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::transport::{Pending, Stream, Transport};
use crate::{Result, SwarmError};

/// Bytes on their way in one direction of a stream before its writer has to wait.
const WINDOW_BYTES: usize = 1 << 20;

/// How long an opener waits for a machine that does not answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What lies between two machines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Road {
    /// How long a byte takes, one way.
    pub delay: Duration,
    /// Bytes that go onto the road in a second; 0 is no limit.
    pub bytes_per_second: u64,
}

/// The network. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Simulation(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    road: Road,
    roads: BTreeMap<(PeerId, PeerId), Road>,
    machines: BTreeMap<PeerId, mpsc::UnboundedSender<Stream>>,
    frozen: BTreeSet<PeerId>,
    cut: BTreeSet<(PeerId, PeerId)>,
    pipes: Vec<Arc<Mutex<Pipe>>>,
    /// Whoever waits for a fault to end.
    waiting: Vec<Waker>,
    opened: u64,
    /// Machines hear of each other, as on a local network.
    near: bool,
}

/// One direction of a stream.
struct Pipe {
    from: PeerId,
    to: PeerId,
    /// What is on its way, and when it arrives.
    bytes: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    /// When the road is free for the next bytes.
    free: Instant,
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A machine's place in the network.
pub struct Place {
    simulation: Simulation,
    peer: PeerId,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>,
}

impl Simulation {
    /// A network in which everything takes as long as `road` says.
    pub fn new(road: Road) -> Simulation {
        let simulation = Simulation::default();
        simulation.world().road = road;
        simulation
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no task panics while it holds this")
    }

    /// A machine joins; one of this key that was there before is gone.
    pub fn join(&self, peer: PeerId) -> Arc<Place> {
        self.kill(peer);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.world().machines.insert(peer, sender);
        Arc::new(Place { simulation: self.clone(), peer, accepted: tokio::sync::Mutex::new(receiver) })
    }

    /// What lies between two machines, both ways.
    pub fn set_road(&self, one: PeerId, other: PeerId, road: Road) {
        let mut world = self.world();
        world.roads.insert((one, other), road);
        world.roads.insert((other, one), road);
    }

    /// A machine is gone, and all its streams break.
    pub fn kill(&self, peer: PeerId) {
        let mut world = self.world();
        world.machines.remove(&peer);
        world.frozen.remove(&peer);
        world.pipes.retain(|pipe| {
            let mut pipe = lock(pipe);
            let ends = pipe.from == peer || pipe.to == peer;
            if ends {
                pipe.break_();
            }
            !ends
        });
        world.wake();
    }

    /// Nobody hears a machine, nor does it hear anybody, until [`thaw`](Self::thaw).
    pub fn freeze(&self, peer: PeerId) {
        self.world().frozen.insert(peer);
    }

    /// The end of [`freeze`](Self::freeze).
    pub fn thaw(&self, peer: PeerId) {
        let mut world = self.world();
        world.frozen.remove(&peer);
        world.wake();
    }

    /// Two machines do not hear each other, until [`heal`](Self::heal).
    pub fn cut(&self, one: PeerId, other: PeerId) {
        self.world().cut.extend([(one, other), (other, one)]);
    }

    /// The end of all [`cut`](Self::cut)s.
    pub fn heal(&self) {
        let mut world = self.world();
        world.cut.clear();
        world.wake();
    }

    /// From now on machines hear of each other, as on a local network.
    pub fn speak_nearby(&self) {
        self.world().near = true;
    }

    /// Directions of streams that somebody holds.
    pub fn pipes(&self) -> usize {
        self.world().pipes.iter().filter(|pipe| Arc::strong_count(pipe) > 1).count()
    }

    /// Streams opened so far.
    pub fn opened(&self) -> u64 {
        self.world().opened
    }
}

impl World {
    fn holds(&self, from: PeerId, to: PeerId) -> bool {
        self.frozen.contains(&from) || self.frozen.contains(&to) || self.cut.contains(&(from, to))
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn pipe(&mut self, from: PeerId, to: PeerId) -> Arc<Mutex<Pipe>> {
        let pipe = Arc::new(Mutex::new(Pipe {
            from,
            to,
            bytes: VecDeque::new(),
            held: 0,
            free: Instant::now(),
            ended: false,
            broken: false,
            reader: None,
            writer: None,
        }));
        self.pipes.retain(|pipe| Arc::strong_count(pipe) > 1);
        self.pipes.push(pipe.clone());
        pipe
    }
}

impl Pipe {
    fn break_(&mut self) {
        self.broken = true;
        self.wake();
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

fn lock(pipe: &Arc<Mutex<Pipe>>) -> MutexGuard<'_, Pipe> {
    pipe.lock().expect("no task panics while it holds this")
}

impl Transport for Place {
    fn peer_id(&self) -> PeerId {
        self.peer
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        vec!["/memory/1".parse().expect("an address")]
    }

    fn open(&self, peer: PeerId, _addresses: Vec<Multiaddr>) -> Pending<'_, Result<Stream>> {
        let unreachable = move |problem: &str| SwarmError::Unreachable { peer, problem: problem.to_owned() };
        Box::pin(async move {
            let until = Instant::now() + OPEN_TIMEOUT;
            // There and back: a connection, or the word that there is none.
            let delay = self.simulation.world().road(self.peer, peer).delay;
            if !delay.is_zero() {
                tokio::time::sleep(2 * delay).await;
            }
            while self.simulation.world().holds(self.peer, peer) {
                if Instant::now() >= until {
                    return Err(unreachable("no answer"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let mut world = self.simulation.world();
            let Some(machine) = world.machines.get(&peer).cloned() else {
                return Err(unreachable("nobody is there"));
            };
            if !world.machines.contains_key(&self.peer) {
                return Err(unreachable("this machine has left"));
            }
            world.opened += 1;
            let (there, back) = (world.pipe(self.peer, peer), world.pipe(peer, self.peer));
            drop(world);
            let stream = |peer, reader: &Arc<Mutex<Pipe>>, writer: &Arc<Mutex<Pipe>>| Stream {
                peer,
                reader: Box::new(PipeReader { simulation: self.simulation.clone(), pipe: reader.clone(), sleep: None }),
                writer: Box::new(PipeWriter { simulation: self.simulation.clone(), pipe: writer.clone() }),
            };
            let accepted = machine.send(stream(self.peer, &there, &back));
            accepted.map_err(|_| unreachable("nobody is there"))?;
            Ok(stream(peer, &back, &there))
        })
    }

    fn nearby(&self) -> Option<Vec<PeerId>> {
        let world = self.simulation.world();
        let others = world.machines.keys().filter(|peer| **peer != self.peer && !world.holds(**peer, self.peer));
        world.near.then(|| others.copied().collect())
    }

    fn accept(&self) -> Pending<'_, Option<Stream>> {
        Box::pin(async move { self.accepted.lock().await.recv().await })
    }
}

impl World {
    fn road(&self, from: PeerId, to: PeerId) -> Road {
        self.roads.get(&(from, to)).copied().unwrap_or(self.road)
    }
}

struct PipeReader {
    simulation: Simulation,
    pipe: Arc<Mutex<Pipe>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

struct PipeWriter {
    simulation: Simulation,
    pipe: Arc<Mutex<Pipe>>,
}

impl AsyncRead for PipeReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let mut world = this.simulation.world();
            let mut pipe = lock(&this.pipe);
            if pipe.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if world.holds(pipe.from, pipe.to) {
                world.waiting.push(context.waker().clone());
                pipe.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            drop(world);
            let Some(arrival) = pipe.bytes.front().map(|(arrival, _)| *arrival) else {
                if pipe.ended {
                    return Poll::Ready(Ok(()));
                }
                pipe.reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            if arrival > Instant::now() {
                pipe.reader = Some(context.waker().clone());
                drop(pipe);
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(arrival)));
                if sleep.deadline() != arrival {
                    sleep.as_mut().reset(arrival);
                }
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            let (_, bytes) = pipe.bytes.front_mut().expect("looked at");
            let taken = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..taken]);
            bytes.drain(..taken);
            if bytes.is_empty() {
                pipe.bytes.pop_front();
            }
            pipe.held -= taken;
            pipe.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for PipeWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let world = self.simulation.world();
        let mut pipe = lock(&self.pipe);
        if pipe.broken || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.held >= WINDOW_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let road = world.road(pipe.from, pipe.to);
        let taken = bytes.len().min(WINDOW_BYTES);
        let seconds = if road.bytes_per_second == 0 { 0.0 } else { taken as f64 / road.bytes_per_second as f64 };
        pipe.free = pipe.free.max(Instant::now()) + Duration::from_secs_f64(seconds);
        let arrival = pipe.free + road.delay;
        pipe.bytes.push_back((arrival, bytes[..taken].to_vec()));
        pipe.held += taken;
        pipe.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.pipe).end();
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    fn end(&mut self) {
        self.ended = true;
        self.wake();
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        lock(&self.pipe).end();
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        // Nobody reads any more: the writer is told.
        lock(&self.pipe).break_();
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_and_faults_hold_them() {
        let road = Road { delay: Duration::from_millis(50), bytes_per_second: 1000 };
        let simulation = Simulation::new(road);
        let (one, other) = (simulation.join(peer()), simulation.join(peer()));
        let start = Instant::now();
        let mut sent = one.open(other.peer_id(), Vec::new()).await.unwrap();
        let mut received = other.accept().await.unwrap();
        assert_eq!(received.peer, one.peer_id());
        assert_eq!(start.elapsed(), Duration::from_millis(100));
        sent.writer.write_all(&[7; 500]).await.unwrap();
        let mut bytes = [0; 500];
        received.reader.read_exact(&mut bytes).await.unwrap();
        assert_eq!(start.elapsed().as_millis(), 100 + 500 + 50);
        simulation.freeze(other.peer_id());
        sent.writer.write_all(&[8; 10]).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_secs(60), received.reader.read_exact(&mut bytes[..10]));
        assert!(waits.await.is_err());
        simulation.thaw(other.peer_id());
        received.reader.read_exact(&mut bytes[..10]).await.unwrap();
        simulation.kill(other.peer_id());
        assert!(sent.writer.write_all(&[1]).await.is_err());
        assert!(sent.reader.read_exact(&mut bytes).await.is_err());
        assert!(one.open(other.peer_id(), Vec::new()).await.is_err());
    }
}
