//! Requests without a session: whole sequences forward, or backward. Nothing of them stays here; a backward computes again
//! what it needs, so that any server of the same blocks can answer it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Adapter, HiddenStates, Keep, Pass, Span};
use tokio::time::{MissedTickBehavior, interval};

use super::{BEAT, Shared};
use crate::transport::{Reader, Writer};
use crate::wire::frame::Frame;
use crate::wire::message::{Answer, MAX_SEQUENCES, PassRequest};
use crate::wire::{Wire, bulk, codes, pass};
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

/// Room for the bytes of a request, given back when it is dropped.
struct Room<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl<'a> Room<'a> {
    fn take(shared: &'a Shared, bytes: u64) -> Result<Room<'a>, Refusal> {
        let mut state = shared.state();
        let available = shared.settings.pass_bytes - state.pass_bytes;
        if state.leaving {
            return Err(Refusal::Leaving);
        }
        if bytes > available {
            // What will never fit is another matter than what does not fit now.
            let never = bytes > shared.settings.pass_bytes;
            return Err(if never { Refusal::CacheFull { needed: bytes, available } } else { Refusal::Busy });
        }
        state.pass_bytes += bytes;
        Ok(Room { shared, bytes })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.shared.state().pass_bytes -= self.bytes;
    }
}

impl Shared {
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

/// Takes an adapter that a client sends.
pub(super) async fn keep_adapter(shared: &Shared, digest: Digest, bytes: u64, mut reader: Reader, mut writer: Writer) {
    let kept = async {
        let room = Room::take(shared, bytes)?;
        let read = bulk::read(&mut reader, bytes as usize, bulk::PART_TIMEOUT).await;
        let read = read.map_err(|error| Refusal::Wrong(error.to_string()))?;
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
    if let Some(result) = beating(&mut writer, kept).await {
        answer(&mut writer, result).await;
    }
}

/// Does a request and answers it.
pub(super) async fn serve(shared: &Arc<Shared>, request: PassRequest, mut reader: Reader, mut writer: Writer) {
    let work = work(shared, request, &mut reader);
    if let Some(result) = beating(&mut writer, work).await {
        answer(&mut writer, result).await;
    }
}

/// Works, and says meanwhile that it is at it; `None` when nobody hears it any more.
async fn beating<T>(writer: &mut Writer, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            _ = beat.tick() => Frame::new(&Answer::Beat, &[]).write(writer).await.ok()?,
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
    let _room = Room::take(shared, bytes)?;
    let sent =
        bulk::read(reader, total, bulk::PART_TIMEOUT).await.map_err(|error| Refusal::Wrong(error.to_string()))?;
    let pass = pass::unpack(&header, &sent[..prompts], width, adapter, wire);
    let values = codes::decode(wire, &sent[prompts..prompts + rows], tokens, width);
    let (Some(pass), Some(values)) = (pass, values) else { return Err(wrong("the request contradicts itself")) };
    let lengths: Vec<usize> = lengths.iter().map(|&length| length as usize).collect();
    let gradient = backward.then(|| pass::floats(&sent[prompts + rows..], tokens, width));
    drop(sent);
    let keep = Keep::Activations { bytes: shared.settings.pass_bytes };
    let blocks = span.range().len();
    let computed =
        shared.compute.run(tokens, blocks, move || compute(&*span, wire, values, lengths, pass, gradient, keep));
    computed.await.unwrap_or_else(|| Err(Refusal::Failed("its blocks failed".to_owned())))
}

fn compute(
    span: &dyn Span,
    wire: Wire,
    values: Matrix,
    lengths: Vec<usize>,
    pass: Pass,
    gradient: Option<Matrix>,
    keep: Keep,
) -> Result<Vec<u8>, Refusal> {
    let refused = |error: bouquet_span::SpanError| Refusal::Span(error.into());
    let hidden = HiddenStates::new(values, lengths.clone()).map_err(refused)?;
    let pass = Pass { keep: if gradient.is_some() { keep } else { Keep::Nothing }, ..pass };
    let (output, saved) = span.forward(hidden, &pass).map_err(refused)?;
    let Some(gradient) = gradient else {
        let encoded = codes::encode(wire, output.values().data(), span.hidden_size());
        return encoded.ok_or_else(|| Refusal::Failed("its output is not rounded".to_owned()));
    };
    drop(output);
    let gradient = HiddenStates::new(gradient, lengths).map_err(refused)?;
    let (gradient, gradients) = span.backward(saved, gradient, &pass).map_err(refused)?;
    let mut bytes: Vec<u8> = gradient.values().data().iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.extend(pass::pack_gradients(&gradients));
    Ok(bytes)
}
