//! A session over several servers. Rows go from the client to the first, from each to the next and from the last back, so
//! that a token costs one trip round the ring. When a server is lost, others take its blocks, and whoever is before them
//! sends them all that they lack; where that one is lost too, the client does, which keeps everything that went in.
//!
//! | module | job |
//! |---|---|
//! | `awaited` | output that is on its way |
//! | `mend` | every block has a server, and each server knows who is next |

mod awaited;
mod mend;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{HiddenStates, Limits, Pass, Returned, SessionShape, SpanError};
use libp2p_identity::PeerId;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout_at};

use self::awaited::Awaited;
use super::Client;
use super::hop::{Event, Failure, Hop, HopState};
use crate::ledger::{Edit, Ledger, Link, Rows, Standing};
use crate::wire::codes;
use crate::wire::frame::Frame;
use crate::wire::message::{MAX_SEQUENCES, SessionId, ToServer};
use crate::{Refusal, Result, SwarmError};

/// Tokens that are sent at a time, so that servers work on parts of a prompt side by side.
const CHUNK_TOKENS: u32 = 128;

/// Events that wait to be looked at.
const QUEUED_EVENTS: usize = 256;

/// How often it is looked after silent servers.
const WATCH: Duration = Duration::from_millis(100);

/// A session over several servers.
pub struct Ring {
    client: Arc<Client>,
    id: SessionId,
    blocks: Range<usize>,
    pass: Pass,
    max_tokens: u32,
    width: usize,
    /// What went in.
    ledger: Ledger,
    link: Link,
    hops: Vec<Hop>,
    /// The number of the hop that the link leads to.
    linked: Option<u64>,
    numbers: u64,
    events: mpsc::Receiver<(u64, Event)>,
    sender: mpsc::Sender<(u64, Event)>,
    /// What the next step begins with.
    edits: Vec<Edit>,
    /// What is on its way back.
    awaited: Option<Awaited>,
    /// Servers that failed in this session.
    avoided: BTreeSet<PeerId>,
    /// What all servers would refuse.
    refused: Option<SwarmError>,
    /// What somebody said who is well and has no room.
    full: Option<SwarmError>,
    mended: u64,
}

impl Ring {
    /// A session whose servers are found, and asked, at once.
    ///
    /// # Errors
    /// [`SwarmError::Missing`], [`SwarmError::Refused`].
    pub async fn open(
        client: Arc<Client>,
        id: SessionId,
        blocks: Range<usize>,
        width: usize,
        shape: SessionShape,
        pass: &Pass,
    ) -> Result<Ring> {
        let too_large =
            |peer| SwarmError::Refused { peer, refusal: Refusal::CacheFull { needed: u64::MAX, available: 0 } };
        let max_tokens = u32::try_from(shape.max_tokens).map_err(|_| too_large(client.transport.peer_id()))?;
        if shape.sequences > MAX_SEQUENCES {
            return Err(too_large(client.transport.peer_id()));
        }
        let ledger = Ledger::new(width, shape.sequences, max_tokens, 0, Vec::new());
        let (sender, events) = mpsc::channel(QUEUED_EVENTS);
        let mut ring = Ring {
            link: Link::to_server(ledger.standing().clone()),
            client,
            id,
            blocks,
            pass: pass.clone(),
            max_tokens,
            width,
            ledger,
            hops: Vec::new(),
            linked: None,
            numbers: 0,
            events,
            sender,
            edits: Vec::new(),
            awaited: None,
            avoided: BTreeSet::new(),
            refused: None,
            full: None,
            mended: 0,
        };
        ring.mend(&pass.limits).await?;
        Ok(ring)
    }

    /// The position of the next token of each sequence.
    fn positions(&self) -> Vec<u32> {
        let mut standing = self.ledger.standing().clone();
        self.edits.iter().for_each(|edit| standing.edit(edit));
        standing.positions
    }

    /// The tokens of a sequence from a position on are forgotten, with the next step.
    pub fn rewind(&mut self, sequence: usize, position: usize) {
        self.edits.push(Edit::Rewind { sequence: sequence as u32, position: position as u32 });
    }

    /// Sequence `i` becomes a copy of what sequence `from[i]` was, with the next step.
    pub fn reorder(&mut self, from: &[usize]) {
        self.edits.push(Edit::Reorder(from.iter().map(|&from| from as u32).collect()));
    }

    /// The servers that it runs on, in order.
    pub fn servers(&self) -> Vec<(PeerId, Range<usize>)> {
        self.hops.iter().map(|hop| (hop.peer, hop.blocks.clone())).collect()
    }

    /// How often servers were replaced.
    pub fn mended(&self) -> u64 {
        self.mended
    }

    /// Appends tokens and returns what is asked for of the output of the last block. A step that fails leaves the session
    /// where it was.
    ///
    /// # Errors
    /// Those of a span; [`SpanError::Unavailable`] when nobody serves some blocks for as long as the client is patient.
    pub async fn step(
        &mut self,
        hidden: &HiddenStates,
        returned: Returned,
        limits: &Limits,
    ) -> std::result::Result<HiddenStates, SpanError> {
        limits.check()?;
        if hidden.tokens() == 0 {
            return Ok(hidden.no_positions());
        }
        let starts = self.positions();
        let lengths: Vec<u32> = hidden.lengths().iter().map(|&length| length as u32).collect();
        let ends: Vec<u32> = starts.iter().zip(&lengths).map(|(start, length)| start + length).collect();
        let wanted: Vec<u32> = match returned {
            Returned::All => starts.clone(),
            Returned::Last => ends.iter().zip(&lengths).map(|(end, length)| end - length.min(&1)).collect(),
            Returned::None => ends.clone(),
        };
        let edits = std::mem::take(&mut self.edits);
        let revision = self.ledger.standing().revision + u64::from(!edits.is_empty());
        let rows = Rows { revision, edits, starts: starts.clone(), lengths: lengths.clone(), wanted };
        self.ledger.begin(&rows);
        self.ledger.append(&lengths, hidden.values().data());
        self.ledger.want(&rows.wanted);
        self.awaited = Some(Awaited {
            revision,
            starts: starts.clone(),
            have: rows.wanted.clone(),
            rows: vec![Vec::new(); ends.len()],
            wanted: rows.wanted,
            ends,
            confirmed: false,
            fault: None,
            progress: Instant::now(),
            retried: Instant::now(),
            stood: Vec::new(),
        });
        let arrived = self.arrive(limits).await;
        let awaited = self.awaited.take().expect("set above");
        if let Err(error) = arrived {
            // With the next step all go back to where they were; who did not get that far stays.
            for (sequence, &position) in starts.iter().enumerate() {
                self.edits.push(Edit::Rewind { sequence: sequence as u32, position });
            }
            return Err(error);
        }
        let lengths = awaited.ends.iter().zip(&awaited.wanted).map(|(end, wanted)| (end - wanted) as usize);
        let lengths: Vec<usize> = lengths.collect();
        let tokens = lengths.iter().sum();
        HiddenStates::new(Matrix::from_vec(tokens, self.width, awaited.rows.concat()), lengths)
    }

    /// Waits until the output is there, whatever happens meanwhile.
    async fn arrive(&mut self, limits: &Limits) -> std::result::Result<(), SpanError> {
        loop {
            limits.check()?;
            if let Err(problem) = self.mend(limits).await {
                limits.check()?;
                return Err(problem.into());
            }
            self.pump();
            let awaited = self.awaited.as_mut().expect("this waits for it");
            if let Some(fault) = awaited.fault.take() {
                return Err(fault);
            }
            if awaited.is_complete() {
                self.hops.iter().for_each(|hop| self.client.guide.worked(hop.peer));
                return Ok(());
            }
            let mut until = Instant::now() + WATCH;
            if let Some(deadline) = limits.deadline {
                until = until.min(Instant::from_std(deadline));
            }
            let looked = Instant::now();
            if let Ok(Some((number, event))) = timeout_at(until, self.events.recv()).await {
                self.happen(number, event);
                while let Ok((number, event)) = self.events.try_recv() {
                    self.happen(number, event);
                }
            }
            if looked.elapsed() > self.client.patience.silence / 2 {
                // It was this machine that slept: what the others said meanwhile is still to be read.
                self.hops.iter().for_each(Hop::excuse);
            }
            self.watch();
        }
    }

    /// Sends the first server what it lacks, as far as there is room.
    fn pump(&mut self) {
        let Some(first) = self.hops.first().filter(|first| self.linked == Some(first.number)) else { return };
        while first.has_room() {
            let (rows, values) = match self.ledger.next_for(&mut self.link, CHUNK_TOKENS) {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(_) => {
                    self.hops[0].state = HopState::Gone;
                    return;
                }
            };
            let Some(body) = codes::encode(self.client.wire, &values, self.width) else {
                if let Some(awaited) = &mut self.awaited {
                    let problem = "what goes into the blocks is not rounded as this swarm's wire is";
                    awaited.fault = Some(SpanError::Failed(problem.to_owned()));
                }
                return;
            };
            if !first.send(Frame::new(&ToServer::Rows(rows), &body)) {
                return;
            }
        }
    }

    fn hop(&mut self, number: u64) -> Option<usize> {
        self.hops.iter().position(|hop| hop.number == number)
    }

    /// Takes in what happened at a hop. What comes from one that is no more is passed over.
    fn happen(&mut self, number: u64, event: Event) {
        let Some(place) = self.hop(number) else { return };
        match event {
            Event::Room | Event::Standing => {}
            Event::Rows(rows, body) => {
                let last = place + 1 == self.hops.len();
                let (wire, width) = (self.client.wire, self.width);
                let Some(awaited) = self.awaited.as_mut().filter(|_| last) else { return };
                match awaited.take(&rows, &body, wire, width) {
                    Some(true) => {}
                    // It has to begin again from what is there.
                    Some(false) => self.hops[place].steered = None,
                    None => self.give_up(place),
                }
            }
            Event::Gap => match place.checked_sub(1) {
                Some(before) => self.hops[before].steered = None,
                None => self.linked = None,
            },
            Event::Failed(Failure { revision, starts, lengths, fault }) => {
                let Some(awaited) = self.awaited.as_mut().filter(|awaited| awaited.revision == revision) else {
                    return;
                };
                match fault.is_everywhere() || matches!(fault, crate::wire::fault::Fault::PassTooLarge(..)) {
                    true => awaited.fault = Some(awaited.place(fault.into(), &starts, &lengths)),
                    false => self.give_up(place),
                }
            }
            Event::Refused => self.give_up(place),
            Event::Lost(peer) => {
                self.hops[place].steered = None;
                if let Some(next) = self.hops.get_mut(place + 1).filter(|next| next.peer == peer) {
                    next.losses += 1;
                    if next.losses > 1 {
                        self.give_up(place + 1);
                    }
                }
            }
            Event::Leaving => {
                self.client.guide.failed(self.hops[place].peer);
                self.hops[place].state = HopState::Leaving;
            }
            Event::Closed => {
                if matches!(self.hops[place].state, HopState::Well | HopState::Leaving) {
                    self.hops[place].state = HopState::Closed;
                }
            }
        }
    }

    /// A server is not asked any more.
    fn give_up(&mut self, place: usize) {
        let hop = &mut self.hops[place];
        if hop.state != HopState::Gone {
            hop.state = HopState::Gone;
            self.avoided.insert(hop.peer);
            self.client.guide.failed(hop.peer);
        }
    }

    /// Gives up on servers that are silent, and on whoever holds up rows for too long if there is another.
    fn watch(&mut self) {
        let silence = self.client.patience.silence;
        for place in 0..self.hops.len() {
            if self.hops[place].state == HopState::Well && self.hops[place].heard().0.elapsed() > silence {
                self.give_up(place);
            }
        }
        let stand: Vec<Standing> = self.hops.iter().map(|hop| hop.heard().1).collect();
        let Some(awaited) = &mut self.awaited else { return };
        if awaited.stood != stand {
            // Somebody got on, be it a part of a long prompt in the first server.
            (awaited.stood, awaited.progress) = (stand, Instant::now());
        }
        let tokens: u32 = awaited.ends.iter().zip(&awaited.starts).map(|(end, start)| end - start).sum();
        let tokens = tokens.min(CHUNK_TOKENS) as usize;
        let patience = self.client.patience.with(tokens);
        let waited = awaited.progress.elapsed();
        if waited < patience {
            return;
        }
        let again = awaited.retried.max(awaited.progress).elapsed() >= patience;
        if again {
            awaited.retried = Instant::now();
        }
        let ends = awaited.ends.clone();
        let behind = |standing: &Standing| standing.positions.iter().zip(&ends).any(|(position, end)| position < end);
        // The first that lacks what the one before has; or the last, which has all and does not say so.
        let lacking = self.hops.iter().position(|hop| behind(&hop.heard().1));
        let slow = lacking.unwrap_or(self.hops.len() - 1);
        if self.has_another(slow) {
            return self.give_up(slow);
        }
        let Hop { peer, blocks, .. } = &self.hops[slow];
        if waited >= self.client.patience.alone(tokens * blocks.len()) {
            let stalled = SwarmError::Stalled { peer: *peer, blocks: blocks.clone(), waited };
            self.awaited.as_mut().expect("it is waited for").fault = Some(stalled.into());
            return;
        }
        self.client.guide.waits(*peer, blocks, waited);
        if !again {
            return;
        }
        // It would begin anew, and never end: it goes on. What is waited for may have gone astray, and is sent again.
        match lacking.unwrap_or(self.hops.len()).checked_sub(1) {
            Some(before) => self.hops[before].steered = None,
            None => self.linked = None,
        }
    }
}
