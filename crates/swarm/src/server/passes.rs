//! Requests without a session: whole sequences forward, or backward. Nothing of them stays here; a backward computes again
//! what it needs, so that any server of the same blocks can answer it. How it is computed is in `pieces`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bouquet_span::{Adapter, HiddenStates, SpanError};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::budget::Promise;
use super::pieces::{BACKWARD, Pieces, Waits};
use super::schedule::STUCK;
use super::streams::WRITE_TIMEOUT;
use super::{BEAT, STUCK_BLOCKS, Shared};
use crate::transport::{Reader, Writer};
use crate::wire::frame::{Frame, FrameError};
use crate::wire::message::{Answer, MAX_SEQUENCES, PassRequest};
use crate::wire::{bulk, codes, pass};
use crate::{Digest, Refusal};

/// Adapters that clients sent, the one that was used last at the end; and those that are here whoever asks.
#[derive(Default)]
pub(super) struct Adapters {
    known: BTreeMap<Digest, (u64, Arc<Adapter>)>,
    order: Vec<Digest>,
    preloaded: Vec<Arc<Adapter>>,
}

impl Adapters {
    fn get(&mut self, digest: Digest) -> Option<Arc<Adapter>> {
        let (_, adapter) = self.known.get(&digest)?;
        self.order.retain(|known| *known != digest);
        self.order.push(digest);
        Some(adapter.clone())
    }

    pub(super) fn preload(&mut self, adapter: Arc<Adapter>) {
        self.preloaded.push(adapter);
    }

    fn keep(&mut self, digest: Digest, bytes: u64, adapter: Adapter, budget: u64) {
        self.known.insert(digest, (bytes, Arc::new(adapter)));
        self.get(digest);
        while self.known.values().map(|(bytes, _)| bytes).sum::<u64>() > budget && self.order.len() > 1 {
            let oldest = self.order.remove(0);
            self.known.remove(&oldest);
        }
    }
}

impl Shared {
    /// Room for the bytes of a request.
    fn room(&self, bytes: u64) -> Result<Promise, Refusal> {
        self.is_closed()?;
        self.passes.promise(bytes).map_err(|available| {
            // What will never fit is another matter than what does not fit now.
            let never = bytes > self.passes.limit();
            if never { Refusal::CacheFull { needed: bytes, available } } else { Refusal::Busy }
        })
    }

    /// The adapter that a request for these blocks names.
    pub(super) fn adapter(
        &self,
        digest: Option<Digest>,
        blocks: Range<usize>,
    ) -> Result<Option<Arc<Adapter>>, Refusal> {
        let Some(digest) = digest else { return Ok(None) };
        let preloaded = {
            let mut state = self.state();
            if let Some(known) = state.adapters.get(digest) {
                return Ok(Some(known));
            }
            state.adapters.preloaded.clone()
        };
        // As the client would have sent it: a request names what of an adapter concerns its blocks.
        let packed = preloaded.iter().filter_map(|adapter| pass::pack_adapter(adapter, blocks.clone()));
        let same = packed.into_iter().find(|packed| pass::hash(packed) == digest).ok_or(Refusal::NoAdapter)?;
        let adapter = pass::unpack_adapter(&same).ok_or(Refusal::NoAdapter)?;
        let adapters = &mut self.state().adapters;
        adapters.keep(digest, same.len() as u64, adapter, self.settings.pass_bytes);
        Ok(adapters.get(digest))
    }
}

/// What was asked makes no sense, whoever is asked.
pub(super) struct NoSense;

impl NoSense {
    fn unless(result: &Result<Vec<u8>, Refusal>) -> Result<(), NoSense> {
        if matches!(result, Err(Refusal::Wrong(_))) { Err(NoSense) } else { Ok(()) }
    }
}

/// Takes an adapter that a client sends.
///
/// # Errors
/// [`NoSense`].
pub(super) async fn keep_adapter(
    shared: &Shared,
    digest: Digest,
    bytes: u64,
    mut reader: Reader,
    mut writer: Writer,
) -> Result<(), NoSense> {
    let kept = async {
        let room = shared.room(bytes)?;
        let read = bulk::read(&mut reader, bytes as usize, bulk::PART_TIMEOUT).await.map_err(not_read)?;
        if pass::hash(&read) != digest {
            return Err(Refusal::Wrong("the adapter is not what its hash says".to_owned()));
        }
        let wrong = || Refusal::Wrong("the adapter contradicts itself".to_owned());
        let adapter = pass::unpack_adapter(&read).ok_or_else(wrong)?;
        shared.state().adapters.keep(digest, bytes, adapter, shared.settings.pass_bytes);
        drop(room);
        Ok(Vec::new())
    };
    // An adapter may take a while over a slow link.
    let Some(kept) = beating(shared, &mut writer, kept).await else { return Ok(()) };
    let sense = NoSense::unless(&kept);
    answer(&mut writer, kept).await;
    sense
}

/// Does a request and answers it.
///
/// # Errors
/// [`NoSense`].
pub(super) async fn serve(
    shared: &Arc<Shared>,
    request: PassRequest,
    mut reader: Reader,
    mut writer: Writer,
) -> Result<(), NoSense> {
    let work = work(shared, request, &mut reader);
    let Some(result) = beating(shared, &mut writer, work).await else { return Ok(()) };
    let sense = NoSense::unless(&result);
    answer(&mut writer, result).await;
    sense
}

/// Works, and says meanwhile that it is at it, unless the blocks do not come to an end; `None` when nobody hears it any
/// more.
async fn beating(
    shared: &Shared,
    writer: &mut Writer,
    work: impl Future<Output = Result<Vec<u8>, Refusal>>,
) -> Option<Result<Vec<u8>, Refusal>> {
    tokio::pin!(work);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            _ = beat.tick() => {
                if shared.state().schedule.computing() > STUCK {
                    return Some(Err(Refusal::Failed(STUCK_BLOCKS.to_owned())));
                }
                // Others wait for their turn: whoever does not read is not waited for.
                timeout(WRITE_TIMEOUT, Frame::new(&Answer::Beat, &[]).write(writer)).await.ok()?.ok()?;
            }
        }
    }
}

pub(super) async fn answer(writer: &mut Writer, result: Result<Vec<u8>, Refusal>) {
    let sent = async {
        match result {
            Ok(bytes) => {
                Frame::new(&Answer::Done { bytes: bytes.len() as u64 }, &[]).write(writer).await?;
                bulk::write(writer, &bytes).await
            }
            Err(refusal) => Frame::new(&Answer::Refused(refusal), &[]).write(writer).await,
        }
    };
    let _ = sent.await;
}

async fn work(shared: &Arc<Shared>, request: PassRequest, reader: &mut Reader) -> Result<Vec<u8>, Refusal> {
    let wrong = |problem: &str| Refusal::Wrong(problem.to_owned());
    let PassRequest { blocks, lengths, backward, pass: header, bytes } = request;
    let (range, served) = (blocks.start as usize..blocks.end as usize, shared.blocks.range());
    if range.is_empty() || range.start < served.start || range.end > served.end {
        return Err(Refusal::NotServed(blocks));
    }
    if lengths.len() > MAX_SEQUENCES {
        return Err(wrong("so many sequences are not taken at a time"));
    }
    let span = shared.blocks.span(range.clone());
    let (width, wire) = (span.hidden_size(), shared.settings.wire);
    let sizes = || {
        let tokens = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length as usize))?;
        let (prompts, rows) = (pass::prompt_bytes(&header, width)?, codes::bytes(wire, tokens, width)?);
        let gradient = if backward { tokens.checked_mul(width)?.checked_mul(4)? } else { 0 };
        let total = prompts.checked_add(rows)?.checked_add(gradient)?;
        (total as u64 == bytes).then_some((tokens, prompts, rows, total))
    };
    let (tokens, prompts, rows, total) = sizes().ok_or_else(|| wrong("the request contradicts itself"))?;
    let adapter = shared.adapter(header.adapter, range.clone())?;
    let _room = shared.room(bytes)?;
    let sent = bulk::read(reader, total, bulk::PART_TIMEOUT).await.map_err(not_read)?;
    let pass = pass::unpack(&header, &sent[..prompts], width, adapter, wire);
    let values = codes::decode(wire, &sent[prompts..prompts + rows], tokens, width);
    let (Some(pass), Some(values)) = (pass, values) else { return Err(wrong("the request contradicts itself")) };
    let lengths: Vec<usize> = lengths.iter().map(|&length| length as usize).collect();
    let gradient = backward.then(|| pass::floats(&sent[prompts + rows..], tokens, width));
    drop(sent);
    let waits = Waits::new(shared, tokens * span.range().len() * if backward { BACKWARD + 1 } else { 1 });
    let _turn = shared.pass_turn.acquire().await.map_err(|_| Refusal::Leaving)?;
    let refused = |error: SpanError| Refusal::Span(error.into());
    let hidden = HiddenStates::new(values, lengths.clone()).map_err(refused)?;
    let gradient = gradient.map(|gradient| HiddenStates::new(gradient, lengths)).transpose().map_err(refused)?;
    let (output, gradients) = Pieces { shared, waits, range: span.range(), pass }.run(hidden, gradient).await?;
    let encode = move || match gradients {
        None => codes::encode(wire, output.values().data(), width),
        Some(gradients) => {
            let mut bytes: Vec<u8> = output.values().data().iter().flat_map(|value| value.to_le_bytes()).collect();
            bytes.extend(pass::pack_gradients(&gradients));
            Some(bytes)
        }
    };
    let encoded = shared.compute.run(0, 0, encode).await.ok_or_else(failed)?;
    encoded.ok_or_else(|| Refusal::Failed("its output is not rounded".to_owned()))
}

/// Why what was announced did not come.
fn not_read(error: FrameError) -> Refusal {
    match error {
        FrameError::Garbage(problem) => Refusal::Wrong(problem),
        broken => Refusal::Failed(broken.to_string()),
    }
}

pub(super) fn failed() -> Refusal {
    Refusal::Failed("its blocks failed".to_owned())
}
