//! A stream to one server of a session: what it says becomes events, and its silence is noticed.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Client;
use super::guide::Stop;
use crate::ledger::{Rows, Standing};
use crate::transport::{Reader, Stream, Writer};
use crate::wire::PROTOCOL_VERSION;
use crate::wire::fault::Fault;
use crate::wire::frame::{self, Frame, MAX_BODY_BYTES};
use crate::wire::message::{Greeting, Request, ToClient, ToServer};
use crate::{Result, SwarmError};

/// How often a client says that it is there.
const BEAT: Duration = Duration::from_secs(5);

/// How long a frame may take to leave this machine.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames that wait to be written.
const QUEUED_FRAMES: usize = 16;

/// What happens at a hop.
#[derive(Debug)]
pub(super) enum Event {
    /// Output.
    Rows(Rows, Vec<u8>),
    /// It says where it stands, as it was asked.
    Standing,
    /// It was sent what does not follow.
    Gap,
    /// It could not compute.
    Failed(Failure),
    /// It does not go on with the session.
    Refused,
    /// It cannot send on.
    Lost(PeerId),
    /// It is about to leave.
    Leaving,
    /// There is room for another frame.
    Room,
    /// The stream is broken.
    Closed,
}

/// Rows that could not be computed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) revision: u64,
    pub(super) starts: Vec<u32>,
    pub(super) lengths: Vec<u32>,
    pub(super) fault: Fault,
}

/// A server of a session.
pub(super) struct Hop {
    /// Tells it from all others of its session.
    pub(super) number: u64,
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) blocks: Range<usize>,
    frames: mpsc::Sender<Frame>,
    heard: Arc<Mutex<Heard>>,
    /// Whom it sends its output to: the number of a hop, or 0, which is the client.
    pub(super) steered: Option<u64>,
    /// How often it could not be sent anything by the one before.
    pub(super) losses: u32,
    pub(super) state: HopState,
}

/// How a hop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HopState {
    Well,
    /// It does what it does until others do it.
    Leaving,
    /// Its stream broke; the server may be there all the same.
    Closed,
    /// It is of no use any more.
    Gone,
}

struct Heard {
    at: Instant,
    standing: Standing,
}

impl Hop {
    /// Opens a stream and says a greeting; the server has to say where it stands.
    ///
    /// # Errors
    /// [`SwarmError::Unreachable`], [`SwarmError::Refused`].
    pub(super) async fn open(
        client: &Client,
        stop: Stop,
        number: u64,
        (request, body): (Request, &[u8]),
        events: mpsc::Sender<(u64, Event)>,
    ) -> Result<Hop> {
        let Stop { peer, addresses, blocks } = stop;
        let unreachable = |problem: &str| SwarmError::Unreachable { peer, problem: problem.to_owned() };
        let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint: client.fingerprint, request };
        let opening = async {
            let Stream { mut reader, mut writer, .. } = client.transport.open(peer, addresses.clone()).await?;
            let frame = Frame::new(&greeting, body);
            frame.write(&mut writer).await.map_err(|error| unreachable(&error.to_string()))?;
            let answer = frame::read::<ToClient>(&mut reader, MAX_BODY_BYTES).await;
            match answer.map_err(|error| unreachable(&error.to_string()))? {
                (ToClient::Standing(standing), _) => Ok((reader, writer, standing)),
                (ToClient::Refused(refusal), _) => Err(SwarmError::Refused { peer, refusal }),
                (other, _) => Err(SwarmError::Garbage { peer, problem: format!("{other:?} as an answer") }),
            }
        };
        let opened = timeout(client.patience.open, opening).await;
        let (reader, writer, standing) = opened.map_err(|_| unreachable("no answer in time"))??;
        let heard = Arc::new(Mutex::new(Heard { at: Instant::now(), standing }));
        let (sender, frames) = mpsc::channel(QUEUED_FRAMES);
        tokio::spawn(write(writer, frames, number, events.clone()));
        tokio::spawn(listen(reader, number, heard.clone(), events));
        let (steered, losses, state) = (None, 0, HopState::Well);
        Ok(Hop { number, peer, addresses, blocks, frames: sender, heard, steered, losses, state })
    }

    /// Sends a frame, if there is room for it.
    pub(super) fn send(&self, frame: Frame) -> bool {
        self.frames.try_send(frame).is_ok()
    }

    /// Says something that has no numbers.
    pub(super) fn say(&self, message: &ToServer) -> bool {
        self.send(Frame::new(message, &[]))
    }

    /// Whether rows can be sent; a place stays free for what is not rows.
    pub(super) fn has_room(&self) -> bool {
        self.frames.capacity() > 1
    }

    /// Counts its silence from now on.
    pub(super) fn excuse(&self) {
        self.heard.lock().expect("no task panics while it holds this").at = Instant::now();
    }

    /// When it was heard last, and where it stood then.
    pub(super) fn heard(&self) -> (Instant, Standing) {
        let heard = self.heard.lock().expect("no task panics while it holds this");
        (heard.at, heard.standing.clone())
    }
}

/// Writes what is for the server, and beats; says at the end that the session is over.
async fn write(mut writer: Writer, mut frames: mpsc::Receiver<Frame>, number: u64, events: mpsc::Sender<(u64, Event)>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame,
            _ = beat.tick() => Some(Frame::new(&ToServer::Beat, &[])),
        };
        let last = frame.is_none();
        let frame = frame.unwrap_or_else(|| Frame::new(&ToServer::Close, &[]));
        let written = matches!(timeout(WRITE_TIMEOUT, frame.write(&mut writer)).await, Ok(Ok(())));
        if last {
            return;
        }
        // A session that has more events than it can take will look anyhow.
        let _ = events.try_send((number, if written { Event::Room } else { Event::Closed }));
        if !written {
            return;
        }
    }
}

/// Hears the server until its stream ends or the session does.
async fn listen(mut reader: Reader, number: u64, heard: Arc<Mutex<Heard>>, events: mpsc::Sender<(u64, Event)>) {
    loop {
        let message = tokio::select! {
            biased;
            () = events.closed() => return,
            message = frame::read::<ToClient>(&mut reader, MAX_BODY_BYTES) => message,
        };
        let now = Instant::now();
        let hear = |standing: Option<&Standing>| {
            let mut heard = heard.lock().expect("no task panics while it holds this");
            heard.at = now;
            if let Some(standing) = standing {
                heard.standing.clone_from(standing);
            }
        };
        let event = match message {
            Ok((ToClient::Beat(standing), _)) => {
                hear(Some(&standing));
                continue;
            }
            Ok((ToClient::Standing(standing), _)) => {
                hear(Some(&standing));
                Event::Standing
            }
            Ok((ToClient::Gap(standing), _)) => {
                hear(Some(&standing));
                Event::Gap
            }
            Ok((ToClient::Rows(rows), body)) => {
                hear(None);
                Event::Rows(rows, body)
            }
            Ok((ToClient::Failed { revision, starts, lengths, fault }, _)) => {
                hear(None);
                Event::Failed(Failure { revision, starts, lengths, fault })
            }
            Ok((ToClient::Refused(_), _)) => Event::Refused,
            Ok((ToClient::Lost(peer), _)) => Event::Lost(peer),
            Ok((ToClient::Leaving, _)) => Event::Leaving,
            Err(_) => Event::Closed,
        };
        let last = matches!(event, Event::Closed);
        if events.send((number, event)).await.is_err() || last {
            return;
        }
    }
}
