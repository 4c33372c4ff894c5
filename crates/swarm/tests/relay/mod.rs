//! A relay for tests: a TCP port that passes everything on to another, over a link that is as slow as it is told, and
//! that can be cut, healed and frozen. It needs nothing but the standard library, so that any test can include it.
//!
//! Each direction of the link has its own capacity, which all connections share. A lost packet is one that comes late, as
//! TCP makes it: what is behind it waits too.

#![allow(dead_code, reason = "no test needs all of it")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that travel together.
const PIECE: usize = 16 * 1024;

/// Pieces of a connection that may be under way in one direction.
const UNDER_WAY: usize = 4096;

/// How long a lost packet takes more than others: the shortest time after which Linux sends it again.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// What a link is like, the same both ways.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// How long a byte travels in one direction: half of a round trip.
    pub(crate) delay: Duration,
    /// How many of them per second; any number if it says nothing.
    pub(crate) bytes_per_second: Option<u64>,
    /// Of 1000 pieces, how many are lost.
    pub(crate) lost_per_mille: u32,
}

impl Link {
    /// 100 Mbit/s and 100 ms for a round trip.
    pub(crate) fn far() -> Link {
        Link { delay: Duration::from_millis(50), bytes_per_second: Some(12_500_000), lost_per_mille: 0 }
    }

    /// 1 Gbit/s and 5 ms for a round trip.
    pub(crate) fn near() -> Link {
        Link { delay: Duration::from_micros(2500), bytes_per_second: Some(125_000_000), lost_per_mille: 0 }
    }
}

/// A relay. Dropping it ends all that goes through it.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where it leads to, if anywhere yet.
    target: Option<SocketAddr>,
    link: Link,
    condition: Condition,
    /// When each direction has sent all that it was given.
    free: [Option<Instant>; 2],
    /// Both sockets of every connection.
    open: Vec<[TcpStream; 2]>,
    /// For the loss.
    random: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Whole,
    Frozen,
    Cut,
    Gone,
}

impl Relay {
    /// A port on loopback that leads to another.
    pub(crate) fn start(target: SocketAddr, link: Link) -> Relay {
        let relay = Relay::to_nowhere(link);
        relay.lead_to(target);
        relay
    }

    /// A port on loopback behind which nothing is yet.
    pub(crate) fn to_nowhere(link: Link) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Mutex::new(State { link, random: 1, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Relay { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to another port from now on; connections that are there stay.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.shared.state().target = Some(target);
    }

    /// Changes the link, for what comes in from now on.
    pub(crate) fn set(&self, link: Link) {
        self.shared.state().link = link;
    }

    /// Breaks all connections; new ones end at once.
    pub(crate) fn cut(&self) {
        self.shared.enter(Condition::Cut);
    }

    /// Passes nothing on, and says nothing of it: connections stay, new ones seem to be accepted.
    pub(crate) fn freeze(&self) {
        self.shared.enter(Condition::Frozen);
    }

    /// Undoes [`cut`](Relay::cut) and [`freeze`](Relay::freeze). What was frozen goes on.
    pub(crate) fn heal(&self) {
        self.shared.enter(Condition::Whole);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.enter(Condition::Gone);
        // The thread that accepts wakes up, and sees it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, condition: Condition) {
        let mut state = self.state();
        state.condition = condition;
        if matches!(condition, Condition::Cut | Condition::Gone) {
            for socket in state.open.drain(..).flatten() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming() {
            match (self.state().condition, socket) {
                (Condition::Gone, _) => return,
                (Condition::Cut, _) | (_, Err(_)) => {}
                (Condition::Whole | Condition::Frozen, Ok(socket)) => {
                    let shared = self.clone();
                    thread::spawn(move || shared.carry(socket));
                }
            }
        }
    }

    /// Connects and carries both directions.
    fn carry(self: Arc<Self>, here: TcpStream) {
        if !self.wait_while_frozen() {
            return;
        }
        let target = self.state().target;
        let Some(Ok(there)) = target.map(TcpStream::connect) else { return };
        let clones = || -> std::io::Result<_> {
            here.set_nodelay(true)?;
            there.set_nodelay(true)?;
            let [one, two] = [&here, &there].map(|socket| socket.try_clone());
            Ok([one?, two?])
        };
        let (Ok(sockets), Ok(from_here), Ok(from_there)) = (clones(), clones(), clones()) else { return };
        {
            let mut state = self.state();
            if matches!(state.condition, Condition::Cut | Condition::Gone) {
                return;
            }
            state.open.retain(|[socket, _]| socket.take_error().is_ok() && socket.peer_addr().is_ok());
            state.open.push(sockets);
        }
        let [here_in, there_out] = from_here;
        let [here_out, there_in] = from_there;
        for (direction, input, output) in [(0, here_in, there_out), (1, there_in, here_out)] {
            let (sender, receiver) = sync_channel(UNDER_WAY);
            let (reading, writing) = (self.clone(), self.clone());
            thread::spawn(move || reading.read(direction, input, sender));
            thread::spawn(move || writing.write(output, receiver));
        }
    }

    /// Reads pieces, and says when each arrives. An empty one is the end.
    fn read(&self, direction: usize, mut input: TcpStream, sender: SyncSender<(Instant, Vec<u8>)>) {
        let mut last = Instant::now();
        loop {
            let mut piece = vec![0; PIECE];
            let length = input.read(&mut piece).unwrap_or(0);
            piece.truncate(length);
            // Bytes stay in order, whatever becomes of the link.
            last = last.max(self.arrival(direction, length));
            if sender.send((last, piece)).is_err() || length == 0 {
                return;
            }
        }
    }

    /// When so many bytes arrive that are sent now.
    fn arrival(&self, direction: usize, length: usize) -> Instant {
        let mut state = self.state();
        let Link { delay, bytes_per_second, lost_per_mille } = state.link;
        let begins = state.free[direction].map_or(Instant::now(), |free| free.max(Instant::now()));
        let takes =
            bytes_per_second.map(|rate| Duration::from_secs_f64(length as f64 / rate as f64)).unwrap_or_default();
        state.free[direction] = Some(begins + takes);
        // Numerical Recipes' generator: the same losses in the same order of pieces.
        state.random = state.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xffff_ffff;
        let lost = (state.random >> 16) % 1000 < u64::from(lost_per_mille);
        begins + takes + delay + if lost { RETRANSMISSION + 2 * delay } else { Duration::ZERO }
    }

    /// Writes pieces when it is time.
    fn write(&self, mut output: TcpStream, receiver: Receiver<(Instant, Vec<u8>)>) {
        for (arrives, piece) in receiver {
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if !self.wait_while_frozen() || piece.is_empty() || output.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = output.shutdown(Shutdown::Write);
    }

    /// Whether something can be passed on, once it can be known.
    fn wait_while_frozen(&self) -> bool {
        let frozen = |state: &mut State| state.condition == Condition::Frozen;
        let state = self.changed.wait_while(self.state(), frozen).unwrap_or_else(PoisonError::into_inner);
        state.condition == Condition::Whole
    }
}
