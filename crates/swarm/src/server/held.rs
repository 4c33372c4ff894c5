//! A session that is held here: its cache, where it stands, what waits to be computed, and who is next.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bouquet_kernels::Matrix;
use bouquet_span::{HiddenStates, Session, Span};
use libp2p_identity::PeerId;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::arriving::Room;
use super::budget::Promise;
use super::{Counters, GRACE, State};
use crate::Wire;
use crate::ledger::{Admitted, Ledger, Link, Misfit, Rows};
use crate::wire::codes;
use crate::wire::frame::Frame;
use crate::wire::message::{Pushed, SessionId, ToClient};

/// Rows in a message of what was passed on before; of wide ones fewer, but as many as are computed at once.
const MAX_ROWS: usize = 256;
const LEAST_ROWS: usize = 128;

/// Bytes of such a message that are not large.
const MESSAGE_BYTES: usize = 4 << 20;

/// Bytes of a session that wait to be computed before whoever sends more has to wait. All sessions together have another
/// bound, which is [`super::arriving`]'s.
const INBOX_BYTES: usize = 4 << 20;

/// A session that was computed so lately is at work.
const LIVELY: Duration = Duration::from_secs(1);

/// Frames that wait to be written.
pub(super) const QUEUED_FRAMES: usize = 16;

/// Those of them that may have rows: what comes behind them stays in the ledger, where it is anyway.
const QUEUED_ROWS: usize = 3;

pub(super) struct Held {
    /// Tells it from a session of the same name that was here before.
    pub(super) number: u64,
    pub(super) range: Range<usize>,
    pub(super) span: Arc<dyn Span>,
    /// Away while it is being computed.
    session: Option<Session>,
    ledger: Ledger,
    inbox: VecDeque<Arrived>,
    inbox_bytes: usize,
    /// There is room in the inbox again.
    pub(super) drained: Arc<Notify>,
    client: Option<mpsc::Sender<Frame>>,
    client_since: Instant,
    next: Option<NextHop>,
    /// Counts who was next, so that a link knows whether it is still the one.
    pub(super) hops: u64,
    /// Since when it waits, as a number that grows.
    pub(super) ticket: u64,
    /// When rows of it were computed last.
    computed: Option<Instant>,
    promise: Arc<Promise>,
}

/// Rows that came, and the room that they take.
pub(super) struct Arrived {
    pub(super) rows: Rows,
    pub(super) values: Matrix,
    pub(super) room: Room,
}

/// Who gets the output.
struct NextHop {
    link: Link,
    /// Where its frames go; the client's go to the client.
    server: Option<(PeerId, mpsc::Sender<Frame>)>,
}

/// What is computed of a session at once.
pub(super) struct Work {
    pub(super) id: SessionId,
    /// [`Held::number`].
    pub(super) number: u64,
    pub(super) span: Arc<dyn Span>,
    pub(super) session: Session,
    pub(super) rows: Rows,
    pub(super) admitted: Admitted,
    pub(super) hidden: HiddenStates,
    /// Of the session, whose cache is here.
    _promise: Arc<Promise>,
}

impl Held {
    pub(super) fn new(
        number: u64,
        range: Range<usize>,
        span: Arc<dyn Span>,
        session: Session,
        ledger: Ledger,
        promise: Promise,
    ) -> Held {
        Held {
            number,
            range,
            span,
            session: Some(session),
            ledger,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            drained: Arc::new(Notify::new()),
            client: None,
            client_since: Instant::now(),
            next: None,
            hops: 0,
            ticket: 0,
            computed: None,
            promise: Arc::new(promise),
        }
    }

    /// The client is there, and hears through this.
    pub(super) fn attach(&mut self, client: mpsc::Sender<Frame>) {
        let standing = self.ledger.standing().clone();
        self.client = Some(client);
        self.tell(&ToClient::Standing(standing));
    }

    /// The client is gone, if it still was the one that heard through this.
    pub(super) fn detach(&mut self, client: &mpsc::Sender<Frame>) {
        if self.client.as_ref().is_some_and(|current| current.same_channel(client)) {
            self.client = None;
            self.client_since = Instant::now();
        }
    }

    /// Tells the client, if it is there; one that does not read is as good as gone.
    pub(super) fn tell(&self, message: &ToClient) {
        if let Some(client) = &self.client {
            let _ = client.try_send(Frame::new(message, &[]));
        }
    }

    pub(super) fn report(&self) {
        self.tell(&ToClient::Standing(self.ledger.standing().clone()));
    }

    pub(super) fn beat(&self) -> Frame {
        Frame::new(&ToClient::Beat(self.ledger.standing().clone()), &[])
    }

    /// From now on the output goes there. Returns the number of this hop.
    pub(super) fn steer(&mut self, link: Link, server: Option<(PeerId, mpsc::Sender<Frame>)>) -> u64 {
        self.next = Some(NextHop { link, server });
        self.hops += 1;
        self.hops
    }

    /// Takes rows that came, to be computed in their turn, unless there is no room for them now.
    pub(super) fn take_in(&mut self, arrived: &mut Option<Arrived>, ticket: u64) {
        if self.inbox_bytes > INBOX_BYTES {
            return;
        }
        if let Some(arrived) = arrived.take() {
            if self.inbox.is_empty() {
                self.ticket = ticket;
            }
            self.inbox_bytes += 4 * arrived.values.data().len();
            self.inbox.push_back(arrived);
        }
    }

    /// Tokens of what would be computed next; `None` if there is nothing, or it is being computed.
    pub(super) fn waiting(&self) -> Option<usize> {
        self.session.as_ref()?;
        self.inbox.front().map(|arrived| arrived.rows.tokens())
    }

    /// Tokens of all that waits.
    pub(super) fn queued(&self) -> usize {
        self.inbox.iter().map(|arrived| arrived.rows.tokens()).sum()
    }

    /// Whether a client has not been heard of for too long.
    pub(super) fn is_abandoned(&self) -> bool {
        self.client.is_none() && self.client_since.elapsed() > GRACE
    }

    /// Whether it was computed lately, and is likely to come again soon.
    pub(super) fn is_lively(&self) -> bool {
        self.computed.is_some_and(|at| at.elapsed() < LIVELY)
    }

    /// What is to be computed now; `None` if what came first was there already or does not follow.
    pub(super) fn begin_work(&mut self, id: SessionId) -> Option<Work> {
        let Arrived { rows, values, room: _room } = self.inbox.pop_front()?;
        self.inbox_bytes -= 4 * values.data().len();
        self.drained.notify_waiters();
        let admitted = match self.ledger.admit(&rows) {
            Ok(admitted) => admitted?,
            Err(misfit) => {
                self.refuse(misfit);
                return None;
            }
        };
        let hidden = not_skipped(&rows, &values, &admitted.skip)?;
        let session = self.session.take()?;
        let (number, span, _promise) = (self.number, self.span.clone(), self.promise.clone());
        Some(Work { id, number, span, session, rows, admitted, hidden, _promise })
    }

    /// The client has to know: whoever sent this believes that more is here than there is.
    fn refuse(&mut self, misfit: Misfit) {
        self.inbox.clear();
        self.inbox_bytes = 0;
        match misfit {
            Misfit::Gap { .. } => self.tell(&ToClient::Gap(self.ledger.standing().clone())),
            Misfit::Wrong(problem) => {
                self.tell(&ToClient::Refused(crate::Refusal::Wrong(problem.to_owned())));
            }
        }
    }

    /// What was computed comes back: the edits were done, and these rows were made.
    pub(super) fn finish_work(&mut self, session: Session, rows: &Rows, lengths: &[u32], output: &[f32]) {
        self.session = Some(session);
        self.computed = Some(Instant::now());
        self.ledger.begin(rows);
        self.ledger.append(lengths, output);
        self.ledger.want(&rows.wanted);
        if let Some(NextHop { server: None, .. }) = self.next {
            // What the client wants next lies after what it has; nobody else is sent any of this.
            let wanted = self.ledger.wanted().to_vec();
            self.ledger.forget(&wanted);
        }
    }

    /// What could not be computed: the edits were done, and that is all.
    pub(super) fn fail_work(&mut self, session: Session, rows: &Rows) {
        self.session = Some(session);
        self.ledger.begin(rows);
        self.inbox.clear();
        self.inbox_bytes = 0;
    }

    /// Sends whoever is next what it lacks, as far as there is room on the way.
    pub(super) fn pump(&mut self, wire: Wire, counters: &Counters) {
        let Some(NextHop { link, server }) = &mut self.next else { return };
        let sender = match (&server, &self.client) {
            (Some((_, sender)), _) => sender,
            (None, Some(client)) => client,
            (None, None) => return,
        };
        let width = self.span.hidden_size();
        let max_rows = (MESSAGE_BYTES / (4 * width).max(1)).clamp(LEAST_ROWS, MAX_ROWS) as u32;
        // Places stay free for what is not rows.
        while sender.capacity() > QUEUED_FRAMES - QUEUED_ROWS {
            let (rows, values) = match self.ledger.next_for(link, max_rows) {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(_) => {
                    if let Some((peer, _)) = server {
                        let lost = ToClient::Lost(*peer);
                        self.tell(&lost);
                    }
                    self.next = None;
                    return;
                }
            };
            // What blocks give out is rounded; should it not be, it is refused rather than changed.
            let Some(bytes) = codes::encode(wire, &values, width) else {
                self.tell(&ToClient::Refused(crate::Refusal::Failed("its output is not rounded".to_owned())));
                return;
            };
            let frame = match server {
                Some(_) => Frame::new(&Pushed::Rows(rows), &bytes),
                None => Frame::new(&ToClient::Rows(rows), &bytes),
            };
            Counters::count(if server.is_some() { &counters.pushed } else { &counters.returned }, 1);
            if sender.try_send(frame).is_err() {
                return;
            }
        }
    }

    /// The next server of this number does not take what it is sent.
    pub(super) fn lose(&mut self, hop: u64) {
        if let (true, Some(NextHop { server: Some((peer, _)), .. })) = (hop == self.hops, &self.next) {
            let lost = ToClient::Lost(*peer);
            self.next = None;
            self.tell(&lost);
        }
    }
}

/// The rows that are not there yet, of all sequences.
fn not_skipped(rows: &Rows, values: &Matrix, skip: &[u32]) -> Option<HiddenStates> {
    let mut kept = Vec::new();
    let (mut start, mut lengths) = (0, Vec::with_capacity(skip.len()));
    for (&length, &skip) in rows.lengths.iter().zip(skip) {
        let end = start + length as usize;
        kept.extend_from_slice(values.slice(start + skip as usize..end).data());
        lengths.push((length - skip) as usize);
        start = end;
    }
    let tokens = lengths.iter().sum();
    HiddenStates::new(Matrix::from_vec(tokens, values.cols(), kept), lengths).ok()
}

impl State {
    /// The session of a name, if it is still the one of this number.
    pub(super) fn same(&mut self, id: SessionId, number: u64) -> Option<&mut Held> {
        self.sessions.get_mut(&id).filter(|held| held.number == number)
    }

    /// A session is over.
    pub(super) fn close(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }
}
