//! The streams of sessions: of a client, which opens it, steers it and hears what comes out, and of the machine before, which
//! pushes rows.

use std::sync::Arc;
use std::time::Duration;

use bouquet_kernels::Matrix;
use libp2p_identity::PeerId;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::arriving::Room;
use super::held::{Arrived, Held, QUEUED_FRAMES};
use super::passes::NoSense;
use super::streams::WRITE_TIMEOUT;
use super::{BEAT, Shared, link};
use crate::ledger::{Ledger, Link, Rows, check_edits};
use crate::transport::{Reader, Writer};
use crate::wire::frame::{self, Frame, FrameError, MAX_BODY_BYTES};
use crate::wire::message::{MAX_SEQUENCES, Next, OpenSession, Pushed, SessionId, ToServer};
use crate::wire::{codes, pass};
use crate::{Refusal, Wire};

/// How long a stream may be silent. Clients beat as servers do.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the blocks may take to open a session, which waits for what is being computed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client is heard after it stopped to hear.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Makes room for a session.
pub(super) async fn open(shared: &Arc<Shared>, open: OpenSession, body: &[u8]) -> Result<(), Refusal> {
    let wrong = |problem: &str| Refusal::Wrong(problem.to_owned());
    let OpenSession { id, blocks, sequences, max_tokens, revision, edits, pass: header } = open;
    let (range, served) = (blocks.start as usize..blocks.end as usize, shared.blocks.range());
    if range.is_empty() || range.start < served.start || range.end > served.end {
        return Err(Refusal::NotServed(blocks));
    }
    if sequences as usize > MAX_SEQUENCES || max_tokens > i32::MAX as u32 {
        return Err(wrong("a session of so many sequences or tokens is not taken"));
    }
    check_edits(&edits, sequences as usize).map_err(|_| wrong("it edits a sequence that is not there"))?;
    let span = shared.blocks.span(range.clone());
    let width = span.hidden_size();
    let adapter = shared.adapter(header.adapter, range.clone())?;
    let pass = pass::unpack(&header, body, width, adapter, shared.settings.wire)
        .ok_or_else(|| wrong("what the session carries contradicts itself"))?;
    shared.is_closed()?;
    {
        let mut state = shared.state();
        // One of the same name, from before its client lost sight of this server, is no more.
        state.close(id);
        if state.sessions.len() >= shared.settings.max_sessions {
            return Err(Refusal::Busy);
        }
    }
    let needed = shared.cache_bytes(u64::from(sequences) * u64::from(max_tokens.max(1)), range.len());
    let promise = shared.cache.promise(needed).map_err(|available| Refusal::CacheFull { needed, available })?;
    // All of it can be taken back, since a client may have to bring the ring to where its weakest member stands.
    let (tokens, sequences) = (max_tokens as usize, sequences as usize);
    let shape = bouquet_span::SessionShape { sequences, max_tokens: tokens, max_rewind: tokens };
    let opening = span.clone();
    let open = shared.compute.run(0, 0, move || opening.open(shape, &pass).map(|session| (session, promise)));
    let opened = timeout(OPEN_TIMEOUT, open).await.map_err(|_| Refusal::Busy)?;
    let (session, promise) = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => return Err(Refusal::Span(error.into())),
        None => return Err(Refusal::Failed("its blocks failed".to_owned())),
    };
    let ledger = Ledger::new(width, sequences, max_tokens, revision, edits);
    let mut state = shared.state();
    state.opened += 1;
    let number = state.opened;
    state.sessions.insert(id, Held::new(number, range, span, session, ledger, promise));
    Ok(())
}

/// Hears a client and answers it, until either is gone.
pub(super) async fn serve_client(
    shared: Arc<Shared>,
    (peer, id): (PeerId, SessionId),
    mut reader: Reader,
    writer: Writer,
) {
    let (sender, frames) = mpsc::channel(QUEUED_FRAMES);
    let number = match shared.state().sessions.get_mut(&id) {
        Some(held) => {
            held.attach(sender.clone());
            held.number
        }
        None => return,
    };
    let writing = write_all(shared.clone(), id, writer, frames);
    let reading = async {
        let heard = loop {
            match next(&shared, &mut reader).await {
                Ok((message, body)) => match hear(&shared, id, number, message, body).await {
                    Heard::On => {}
                    heard => break heard,
                },
                Err(FrameError::Garbage(_)) => break Heard::Wrong,
                Err(_) => break Heard::Last,
            }
        };
        if heard == Heard::Wrong {
            shared.state().tolerance.mistake(peer);
        }
    };
    tokio::pin!(reading);
    tokio::select! {
        biased;
        () = &mut reading => {}
        // Who hears no more may have said that the session is over.
        () = writing => drop(timeout(LAST_WORDS, reading).await),
    }
    if let Some(held) = shared.state().sessions.get_mut(&id) {
        held.detach(&sender);
    }
}

/// Writes what is for a client, and beats.
async fn write_all(shared: Arc<Shared>, id: SessionId, mut writer: Writer, mut frames: mpsc::Receiver<Frame>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame,
            _ = beat.tick() => shared.state().sessions.get(&id).map(Held::beat),
        };
        let Some(frame) = frame else { return };
        if !matches!(timeout(WRITE_TIMEOUT, frame.write(&mut writer)).await, Ok(Ok(()))) {
            return;
        }
        if let Some(held) = shared.state().sessions.get_mut(&id) {
            held.pump(shared.settings.wire, &shared.counters);
        }
    }
}

/// Hears the machine before, and tells it that this one is there, until either is gone.
///
/// # Errors
/// What it said makes no sense.
pub(super) async fn hear_pushed(
    shared: &Arc<Shared>,
    id: SessionId,
    block: u32,
    mut reader: Reader,
    writer: Writer,
) -> Result<(), NoSense> {
    // Rows that were meant for this machine when it had other blocks in the session say nothing to these.
    let meant = |held: &Held| held.range.start == block as usize;
    let hearing = async {
        loop {
            match next(shared, &mut reader).await {
                Ok((Pushed::Beat, _)) => {}
                Ok((Pushed::Rows(rows), body)) => match take_in(shared, id, &meant, rows, body).await {
                    Heard::On => {}
                    Heard::Last => return Ok(()),
                    Heard::Wrong => return Err(NoSense),
                },
                Err(FrameError::Garbage(_)) => return Err(NoSense),
                Err(_) => return Ok(()),
            }
        }
    };
    tokio::select! {
        biased;
        heard = hearing => heard,
        () = beat(writer) => Ok(()),
    }
}

/// Says to the machine before that this one is there, until that is gone.
async fn beat(mut writer: Writer) {
    let beat = Frame::new(&Pushed::Beat, &[]);
    while let Ok(Ok(())) = timeout(WRITE_TIMEOUT, beat.write(&mut writer)).await {
        tokio::time::sleep(BEAT).await;
    }
}

/// What came behind a header, and the room that it takes until it is computed.
struct Body {
    bytes: Vec<u8>,
    room: Room,
}

/// The next message of a session. Its body is read when there is room for it.
async fn next<H: DeserializeOwned>(shared: &Shared, reader: &mut Reader) -> Result<(H, Body), FrameError> {
    let silent = |_| FrameError::Ended;
    let header = timeout(SILENCE, frame::read_header(reader, MAX_BODY_BYTES));
    let (header, bytes) = header.await.map_err(silent)??;
    let (width, wire) = (shared.width(), shared.settings.wire);
    // In memory it is floats.
    let (row, coded) = (4 * width, codes::bytes(wire, 1, width).unwrap_or(usize::MAX).max(1));
    let room = shared.arriving.room((bytes.div_ceil(coded) * row) as u64, row as u64).await;
    let bytes = timeout(SILENCE, frame::read_body(reader, bytes)).await.map_err(silent)??;
    Ok((header, Body { bytes, room }))
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// The next one is waited for.
    On,
    /// It was the last.
    Last,
    /// It makes no sense, and is the last.
    Wrong,
}

/// Does what a client says.
async fn hear(shared: &Arc<Shared>, id: SessionId, number: u64, message: ToServer, body: Body) -> Heard {
    match message {
        ToServer::Rows(rows) => return take_in(shared, id, &|held: &Held| held.number == number, rows, body).await,
        ToServer::Beat => {}
        ToServer::Close => {
            // One of the same name that was opened since stays.
            let mut state = shared.state();
            if state.same(id, number).is_some() {
                state.close(id);
            }
            return Heard::Last;
        }
        ToServer::Report => {
            if let Some(held) = shared.state().same(id, number) {
                held.report();
            }
        }
        ToServer::Steer(next) => {
            let mut state = shared.state();
            let Some(held) = state.same(id, number) else { return Heard::Last };
            match next {
                Next::Client(standing) => {
                    held.steer(Link::to_client(standing), None);
                }
                Next::Server { peer, addresses, standing } => {
                    let (sender, frames) = mpsc::channel(QUEUED_FRAMES);
                    let hop = held.steer(Link::to_server(standing), Some((peer, sender)));
                    let block = held.range.end as u32;
                    tokio::spawn(link::run(Arc::downgrade(shared), id, block, hop, peer, addresses, frames));
                }
            }
            held.pump(shared.settings.wire, &shared.counters);
        }
    }
    Heard::On
}

/// Takes rows in that are meant for a session, when there is room for them.
async fn take_in(
    shared: &Shared,
    id: SessionId,
    meant: &(dyn Fn(&Held) -> bool + Sync),
    rows: Rows,
    Body { bytes, room }: Body,
) -> Heard {
    let width = match shared.state().sessions.get(&id) {
        Some(held) if meant(held) => held.span.hidden_size(),
        _ => return Heard::Last,
    };
    let Some(values) = decode(shared.settings.wire, width, &rows, &bytes) else { return Heard::Wrong };
    drop(bytes);
    let mut arrived = Some(Arrived { rows, values, room });
    while arrived.is_some() {
        let drained = {
            let mut state = shared.state();
            let ticket = state.schedule.ticket();
            let Some(held) = state.sessions.get_mut(&id).filter(|held| meant(held)) else { return Heard::Last };
            held.take_in(&mut arrived, ticket);
            held.drained.clone()
        };
        if arrived.is_some() {
            // Whoever empties the inbox may have done so just now.
            let _ = timeout(BEAT, drained.notified()).await;
        }
    }
    shared.work.notify_one();
    Heard::On
}

fn decode(wire: Wire, width: usize, rows: &Rows, body: &[u8]) -> Option<Matrix> {
    let tokens = rows.lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length as usize))?;
    codes::decode(wire, body, tokens, width)
}
