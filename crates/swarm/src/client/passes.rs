//! Whole sequences through the swarm, forward and backward: the client goes from server to server with parts of the batch
//! that are cut between leaves, several of them at a time. It keeps what went into each server, so that a backward can ask
//! anybody; where somebody else has to, for some of the blocks only, what is missing is computed again.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bouquet_kernels::Matrix;
use bouquet_span::{Gradient, HiddenStates, Pass, PassGrad, SpanError};
use futures::StreamExt;
use libp2p_identity::PeerId;
use tokio::time::{Instant, timeout};

use super::Client;
use super::guide::{Need, Purpose, Stop};
use crate::transport::{Reader, Stream, Writer};
use crate::wire::frame::{self, Frame};
use crate::wire::message::{Answer, Greeting, PassRequest, Request};
use crate::wire::pass::{self, Packed};
use crate::wire::{PROTOCOL_VERSION, bulk, codes};
use crate::{Refusal, SwarmError};

/// Tokens of a part of a batch, unless a single leaf has more.
const PART_TOKENS: usize = 1024;

/// Parts that are on their way at a time.
const PARTS_AT_A_TIME: usize = 8;

/// How often it is looked whether somebody else has come for the blocks of a slow server.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What went into one server.
struct Leg {
    blocks: Range<usize>,
    input: Matrix,
}

/// A part of a batch.
struct Part {
    /// Its sequences among those of the batch.
    sequences: Range<usize>,
    /// Its rows.
    rows: Range<usize>,
    lengths: Vec<usize>,
    legs: Vec<Leg>,
}

/// What a forward keeps for its backward.
pub struct Legs(Vec<Part>);

impl Legs {
    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> u64 {
        let legs = self.0.iter().flat_map(|part| &part.legs);
        legs.map(|leg| 4 * leg.input.data().len() as u64).sum()
    }

    /// The lengths of the batch.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.0.iter().flat_map(|part| part.lengths.iter().copied()).collect()
    }

    /// Whether anything was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.0.iter().all(|part| !part.legs.is_empty())
    }
}

/// Runs whole sequences through `blocks`. What went into each server is kept where `keep` says so.
///
/// # Errors
/// Those of a span.
pub async fn forward(
    client: &Client,
    blocks: Range<usize>,
    hidden: HiddenStates,
    pass: &Pass,
    keep: bool,
) -> Result<(HiddenStates, Legs), SpanError> {
    let (lengths, width) = (hidden.lengths().to_vec(), hidden.hidden_size());
    let parts = parts(&lengths, pass);
    let work = parts.into_iter().map(|mut part| {
        let values = hidden.values().slice(part.rows.clone()).to_matrix();
        let (pass, blocks) = (part.pass(pass), blocks.clone());
        async move {
            let moved = forward_part(client, blocks, values, &part.lengths, &pass, BTreeSet::new()).await;
            let (output, legs) = moved.map_err(|error| part.place(error))?;
            if keep {
                part.legs = legs;
            }
            Ok::<_, SpanError>((output, part))
        }
    });
    let done: Vec<_> = futures::stream::iter(work).buffered(PARTS_AT_A_TIME).collect().await;
    let mut output = Matrix::zeros(0, width);
    let mut parts = Vec::with_capacity(done.len());
    for one in done {
        let (values, part) = one?;
        output.push_rows(values.view());
        parts.push(part);
    }
    Ok((HiddenStates::new(output, lengths)?, Legs(parts)))
}

/// The gradients for what went into a forward, from the one for its output.
///
/// # Errors
/// Those of a span.
pub async fn backward(
    client: &Client,
    legs: Legs,
    grad: HiddenStates,
    pass: &Pass,
) -> Result<(HiddenStates, PassGrad), SpanError> {
    let (lengths, width) = (grad.lengths().to_vec(), grad.hidden_size());
    let work = legs.0.into_iter().map(|mut part| {
        let gradient = grad.values().slice(part.rows.clone()).to_matrix();
        let pass = part.pass(pass);
        async move {
            let legs = std::mem::take(&mut part.legs);
            backward_part(client, legs, gradient, &part.lengths, &pass).await.map_err(|error| part.place(error))
        }
    });
    let done: Vec<_> = futures::stream::iter(work).buffered(PARTS_AT_A_TIME).collect().await;
    let (mut gradient, mut gradients) = (Matrix::zeros(0, width), PassGrad::default());
    for one in done {
        let (values, more) = one?;
        gradient.push_rows(values.view());
        gradients.leaves.extend(more.leaves);
    }
    Ok((HiddenStates::new(gradient, lengths)?, gradients))
}

/// Cuts a batch between leaves.
fn parts(lengths: &[usize], pass: &Pass) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut row = 0;
    for leaf in pass.leaves(lengths.len()) {
        let lengths = &lengths[leaf.clone()];
        let rows = row..row + lengths.iter().sum::<usize>();
        row = rows.end;
        match parts.last_mut() {
            Some(last) if rows.end - last.rows.start <= PART_TOKENS => {
                (last.sequences.end, last.rows.end) = (leaf.end, rows.end);
                last.lengths.extend(lengths);
            }
            _ => parts.push(Part { sequences: leaf, rows, lengths: lengths.to_vec(), legs: Vec::new() }),
        }
    }
    parts
}

impl Part {
    /// What the part of a batch carries.
    fn pass(&self, pass: &Pass) -> Pass {
        let mut pass = pass.clone();
        if let Some(dropout) = &mut pass.dropout {
            dropout.first_sequence += self.sequences.start as u64;
        }
        pass
    }

    /// An error with the number of a token among the rows of the whole batch.
    fn place(&self, error: SpanError) -> SpanError {
        let first = self.rows.start;
        match error {
            SpanError::NotFinite { block, token } => SpanError::NotFinite { block, token: token + first },
            SpanError::InputNotFinite { block, token } => SpanError::InputNotFinite { block, token: token + first },
            SpanError::GradientNotFinite { block, gradient } => {
                let gradient = match gradient {
                    Gradient::Output { token } => Gradient::Output { token: token + first },
                    Gradient::Input { token } => Gradient::Input { token: token + first },
                    other => other,
                };
                SpanError::GradientNotFinite { block, gradient }
            }
            other => other,
        }
    }
}

async fn forward_part(
    client: &Client,
    blocks: Range<usize>,
    mut values: Matrix,
    lengths: &[usize],
    pass: &Pass,
    avoided: BTreeSet<PeerId>,
) -> Result<(Matrix, Vec<Leg>), SpanError> {
    let mut legs = Vec::new();
    let mut search = Search { avoided, ..Search::new(client, values.rows()) };
    let mut at = blocks.start;
    while at < blocks.end {
        let stop = search.next(at..blocks.end).await?;
        let asking = request(client, &stop, lengths, pass, &values, None);
        match search.answer(&stop, FORWARD, asking).await {
            Ok(bytes) => {
                let (wire, width) = (client.wire, values.cols());
                let Some(output) = codes::decode(wire, &bytes, values.rows(), width) else {
                    search.failed(&stop, garbage(stop.peer))?;
                    continue;
                };
                at = stop.blocks.end;
                legs.push(Leg { blocks: stop.blocks.clone(), input: std::mem::replace(&mut values, output) });
                search.worked(&stop);
            }
            Err(error) => search.failed(&stop, error)?,
        }
    }
    Ok((values, legs))
}

async fn backward_part(
    client: &Client,
    mut legs: Vec<Leg>,
    mut gradient: Matrix,
    lengths: &[usize],
    pass: &Pass,
) -> Result<(Matrix, PassGrad), SpanError> {
    let mut gradients = PassGrad { leaves: vec![Default::default(); pass.leaves(lengths.len()).count()] };
    let mut search = Search::new(client, gradient.rows());
    while let Some(leg) = legs.last() {
        let stop = search.next(leg.blocks.clone()).await?;
        if stop.blocks != leg.blocks {
            // Nobody has all of these blocks any more: what goes into the later ones is computed again.
            let (blocks, values) = (leg.blocks.clone(), leg.input.clone());
            // By the servers that are left for the way back, or the legs would be the same again, for ever.
            let avoided = search.avoided.clone();
            let (_, shorter) = Box::pin(forward_part(client, blocks, values, lengths, pass, avoided)).await?;
            legs.pop();
            legs.extend(shorter);
            continue;
        }
        let asking = request(client, &stop, lengths, pass, &leg.input, Some(&gradient));
        let answer = search.answer(&stop, BACKWARD, asking).await;
        let unpack = |bytes: Vec<u8>| {
            let (rows, rest) = bytes.split_at_checked(4 * gradient.data().len())?;
            let more = pass::unpack_gradients(rest, pass, leg.blocks.clone(), lengths.len())?;
            Some((pass::floats(rows, gradient.rows(), gradient.cols()), more))
        };
        match answer.map(unpack) {
            Ok(Some((input_gradient, more))) => {
                gradient = input_gradient;
                gradients.extend(more)?;
                search.worked(&stop);
                legs.pop();
            }
            Ok(None) => search.failed(&stop, garbage(stop.peer))?,
            Err(error) => search.failed(&stop, error)?,
        }
    }
    Ok((gradient, gradients))
}

fn garbage(peer: PeerId) -> SwarmError {
    SwarmError::Garbage { peer, problem: "an answer of another size".to_owned() }
}

/// What a server has to do for a token, as often as it goes through the blocks: forward, or forward again and backward.
const FORWARD: u64 = 1;
const BACKWARD: u64 = 3;

/// A request that a server is at. Those beside it are sent elsewhere, if others are as quick.
struct UnderWay<'a> {
    client: &'a Client,
    peer: PeerId,
    work: u64,
    /// With all others there.
    all: u64,
    since: Instant,
    answered: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(client: &'a Client, stop: &Stop, tokens: u64) -> UnderWay<'a> {
        let (peer, work) = (stop.peer, tokens * stop.blocks.len() as u64);
        let all = client.guide.asked(peer, work);
        UnderWay { client, peer, work, all, since: Instant::now(), answered: false }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let took = self.answered.then(|| (self.since.elapsed(), self.all));
        self.client.guide.answered(self.peer, self.work, took);
    }
}

/// Who is asked next, by who failed so far.
struct Search<'a> {
    client: &'a Client,
    tokens: usize,
    avoided: BTreeSet<PeerId>,
    /// What was said last by somebody who is well and does not take it.
    full: Option<SwarmError>,
    until: Instant,
    pause: Duration,
}

impl<'a> Search<'a> {
    fn new(client: &'a Client, tokens: usize) -> Search<'a> {
        let until = Instant::now() + client.patience.missing;
        Search { client, tokens, avoided: BTreeSet::new(), full: None, until, pause: Duration::from_millis(20) }
    }

    /// The first server for these blocks.
    async fn next(&mut self, blocks: Range<usize>) -> Result<Stop, SpanError> {
        loop {
            let missing = match self.client.guide.route(blocks.clone(), &[], &self.avoided, self.need()) {
                Ok(stops) => match stops.into_iter().next() {
                    Some(first) => return Ok(first),
                    None => SwarmError::Missing([blocks.clone()].into()),
                },
                Err(missing) => missing,
            };
            if Instant::now() + self.pause > self.until {
                return Err(self.full.take().unwrap_or(missing).into());
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(Duration::from_secs(1));
            // Who failed once may be back.
            self.avoided.clear();
        }
    }

    fn need(&self) -> Need {
        Need { purpose: Purpose::Pass, cache_tokens: 0, past_tokens: 0, tokens: self.tokens }
    }

    /// Waits for what a server answers; for one that says that it is at it as long as there is nobody else, but not for ever.
    async fn answer<T>(
        &mut self,
        stop: &Stop,
        times: u64,
        asking: impl Future<Output = Result<T, SwarmError>>,
    ) -> Result<T, SwarmError> {
        // What went before it, of the other parts.
        let tokens = self.tokens * PARTS_AT_A_TIME;
        let patience = self.client.patience.with(tokens);
        let longest = self.client.patience.alone(tokens * stop.blocks.len() * times as usize);
        let mut without = self.avoided.clone();
        without.insert(stop.peer);
        let mut under_way = UnderWay::begin(self.client, stop, times * self.tokens as u64);
        let (since, mut look) = (Instant::now(), patience);
        tokio::pin!(asking);
        loop {
            if let Ok(answer) = timeout(look, &mut asking).await {
                under_way.answered = answer.is_ok();
                // While it was at it nobody was missing.
                self.until += since.elapsed().saturating_sub(self.client.patience.open);
                return answer;
            }
            let (peer, waited) = (stop.peer, since.elapsed());
            if self.client.guide.has_route(stop.blocks.clone(), &without, self.need()) {
                return Err(SwarmError::Unreachable { peer, problem: "it takes too long".to_owned() });
            }
            if waited >= longest {
                return Err(SwarmError::Stalled { peer, blocks: stop.blocks.clone(), waited });
            }
            self.client.guide.waits(peer, &stop.blocks, waited);
            look = LOOK_AGAIN.min(patience);
        }
    }

    fn worked(&mut self, stop: &Stop) {
        self.client.guide.worked(stop.peer);
        self.until = Instant::now() + self.client.patience.missing;
    }

    /// Somebody else is asked, unless all would say the same.
    fn failed(&mut self, stop: &Stop, error: SwarmError) -> Result<(), SpanError> {
        self.avoided.insert(stop.peer);
        match error {
            SwarmError::Refused { refusal: Refusal::Span(fault), .. } if fault.is_everywhere() => Err(fault.into()),
            SwarmError::Refused { refusal: Refusal::Wrong(problem), .. } => Err(SpanError::Failed(problem)),
            // It would be asked again, and again say that it is at it.
            SwarmError::Stalled { peer, .. } => {
                self.client.guide.failed(peer);
                Err(error.into())
            }
            // It is well, and has no room.
            SwarmError::Refused { refusal: Refusal::CacheFull { .. } | Refusal::Span(_), .. } => {
                self.full = Some(error);
                // Nothing is there to be waited for if nobody has room.
                self.until = self.until.min(Instant::now() + Duration::from_secs(2));
                Ok(())
            }
            SwarmError::Refused { refusal: Refusal::Busy, .. } => Ok(()),
            _ => {
                self.client.guide.failed(stop.peer);
                Ok(())
            }
        }
    }
}

/// Asks one server.
async fn request(
    client: &Client,
    stop: &Stop,
    lengths: &[usize],
    pass: &Pass,
    values: &Matrix,
    gradient: Option<&Matrix>,
) -> Result<Vec<u8>, SwarmError> {
    let too_large = |what: &str| SwarmError::Network(format!("{what} cannot be sent"));
    let packed = pass::pack(pass, stop.blocks.clone()).ok_or_else(|| too_large("prompts of this size"))?;
    let Packed { header, body: mut bytes, adapter } = packed;
    let rows = codes::encode(client.wire, values.data(), values.cols());
    bytes.extend(rows.ok_or_else(|| too_large("rows that are not rounded as the wire is"))?);
    if let Some(gradient) = gradient {
        bytes.extend(gradient.data().iter().flat_map(|value| value.to_le_bytes()));
    }
    let request = PassRequest {
        blocks: stop.blocks.start as u32..stop.blocks.end as u32,
        lengths: lengths.iter().map(|&length| length as u32).collect(),
        backward: gradient.is_some(),
        pass: header,
        bytes: bytes.len() as u64,
    };
    let answer = ask(client, stop, Request::Pass(request.clone()), &bytes).await;
    match (answer, adapter) {
        (Err(SwarmError::Refused { refusal: Refusal::NoAdapter, .. }), Some(adapter)) => {
            give_adapter(client, stop, &adapter).await?;
            ask(client, stop, Request::Pass(request), &bytes).await
        }
        (answer, _) => answer,
    }
}

/// Gives a server an adapter that it does not have.
///
/// # Errors
/// [`SwarmError::Refused`], [`SwarmError::Unreachable`].
pub(super) async fn give_adapter(client: &Client, stop: &Stop, adapter: &Arc<[u8]>) -> Result<(), SwarmError> {
    let request = Request::Adapter { digest: pass::hash(adapter), bytes: adapter.len() as u64 };
    ask(client, stop, request, adapter).await.map(|_| ())
}

/// One question and its answer, over a stream of their own.
pub(crate) async fn ask(client: &Client, stop: &Stop, request: Request, bytes: &[u8]) -> Result<Vec<u8>, SwarmError> {
    let peer = stop.peer;
    let broken = |problem: String| SwarmError::Unreachable { peer, problem };
    let silent = || SwarmError::Unreachable { peer, problem: "it fell silent".to_owned() };
    let opened = timeout(client.patience.open, client.transport.open(peer, stop.addresses.clone())).await;
    let Stream { mut reader, mut writer, .. } = opened.map_err(|_| silent())??;
    let greeting = Greeting { version: PROTOCOL_VERSION, fingerprint: client.fingerprint, request };
    let asking = async |writer: &mut Writer| {
        Frame::new(&greeting, &[]).write(writer).await?;
        bulk::write(writer, bytes).await
    };
    // The first may have to wait until what else this machine sends is gone.
    let mut patience = client.patience.open;
    let mut answering = async |reader: &mut Reader| loop {
        let answer = timeout(patience, frame::read::<Answer>(reader, 0)).await;
        patience = client.patience.silence;
        match answer.map_err(|_| silent())?.map_err(|error| broken(error.to_string()))?.0 {
            Answer::Beat => {}
            Answer::Done { bytes } => {
                let most = u64::from(u32::MAX);
                if bytes > most {
                    return Err(garbage(peer));
                }
                let read = bulk::read(reader, bytes as usize, client.patience.open).await;
                return read.map_err(|error| broken(error.to_string()));
            }
            Answer::Refused(refusal) => return Err(SwarmError::Refused { peer, refusal }),
        }
    };
    // A refusal may come before all was said.
    let (asked, answered) = (asking(&mut writer), answering(&mut reader));
    tokio::pin!(asked, answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // Who refuses does not read on; the refusal is there all the same.
        _ = &mut asked => answered.await,
    }
}
