//! Bringing a ring into order: every block has a server, and each server knows who is next.

use std::collections::BTreeSet;

use bouquet_span::Limits;
use libp2p_identity::PeerId;
use tokio::time::{Duration, Instant, timeout_at};

use super::Ring;
use crate::client::guide::{Need, Purpose, Stop};
use crate::client::hop::{Event, Hop, HopState};
use crate::client::passes;
use crate::ledger::{Link, Standing};
use crate::wire::message::{Next, OpenSession, Request, ToServer};
use crate::wire::pass::{self, Packed};
use crate::{Refusal, Result, SwarmError};

impl Ring {
    /// Brings the ring into order: every block has a server, and each knows who is next. Does nothing when it is.
    pub(super) async fn mend(&mut self, limits: &Limits) -> Result<()> {
        let patience = self.client.patience;
        let until = Instant::now() + patience.missing;
        let mut pause = Duration::from_millis(20);
        while !self.is_whole() {
            let mended = self.try_mend().await;
            if let Some(refused) = self.refused.take() {
                return Err(refused);
            }
            if self.is_whole() {
                return Ok(());
            }
            let over = limits.check().is_err() || Instant::now() + pause > until;
            if let Err(problem) = mended {
                if self.full.is_some() && !matches!(problem, SwarmError::Missing(_)) && !over {
                    // Who is well and has no room is not asked again before all others were.
                    continue;
                }
                let full = self.full.take();
                // A session that has not begun loses nothing by being refused; one that has waits for room.
                if over || full.is_some() && self.awaited.is_none() {
                    return Err(full.unwrap_or(problem));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            // Who failed once may be back.
            self.avoided.clear();
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        let well = self.hops.iter().all(|hop| hop.state == HopState::Well);
        let steered = (0..self.hops.len()).all(|place| self.hops[place].steered == Some(self.after(place)));
        let covered = self.hops.first().is_some_and(|first| self.linked == Some(first.number));
        well && steered && covered
    }

    /// The number of the hop that comes after one; 0 is the client.
    fn after(&self, place: usize) -> u64 {
        self.hops.get(place + 1).map_or(0, |next| next.number)
    }

    async fn try_mend(&mut self) -> Result<()> {
        self.resume().await;
        self.hops.retain(|hop| matches!(hop.state, HopState::Well | HopState::Leaving));
        self.drop_the_outdated().await;
        self.fill().await?;
        self.relieve().await;
        self.steer();
        Ok(())
    }

    /// Streams that broke are opened again, where the server still has the session.
    async fn resume(&mut self) {
        for place in 0..self.hops.len() {
            if self.hops[place].state != HopState::Closed {
                continue;
            }
            self.numbers += 1;
            let Hop { peer, addresses, blocks, .. } = &self.hops[place];
            let stop = Stop { peer: *peer, addresses: addresses.clone(), blocks: blocks.clone() };
            let request = (Request::Resume(self.id), &[][..]);
            match Hop::open(&self.client, stop, self.numbers, request, self.sender.clone()).await {
                Ok(hop) => self.hops[place] = hop,
                Err(_) => self.give_up(place),
            }
        }
    }

    /// Asks those that are left where they stand. One that is too far behind to be brought on begins anew.
    async fn drop_the_outdated(&mut self) {
        let revision = self.ledger.standing().revision;
        for hop in &self.hops {
            hop.say(&ToServer::Report);
        }
        let mut open: BTreeSet<u64> = self.hops.iter().map(|hop| hop.number).collect();
        let (asked, silence) = (Instant::now(), self.client.patience.silence);
        while !open.is_empty() {
            // Nobody is given more time because it was silent before.
            let heard = self.hops.iter().filter(|hop| open.contains(&hop.number)).map(|hop| hop.heard().0);
            let until = asked.min(heard.max().unwrap_or(asked)) + silence;
            let Ok(Some((number, event))) = timeout_at(until, self.events.recv()).await else { break };
            if matches!(event, Event::Standing | Event::Closed) {
                open.remove(&number);
            }
            self.happen(number, event);
        }
        for place in 0..self.hops.len() {
            if open.contains(&self.hops[place].number) {
                self.give_up(place);
            } else if self.hops[place].heard().1.revision + 1 < revision {
                self.hops[place].state = HopState::Gone;
            }
        }
        self.hops.retain(|hop| matches!(hop.state, HopState::Well | HopState::Leaving));
    }

    /// What this session asks of servers.
    fn need(&self) -> Need {
        let positions = &self.ledger.standing().positions;
        let (cache_tokens, past) = (positions.len() as u64 * u64::from(self.max_tokens), positions.iter().sum::<u32>());
        Need { purpose: Purpose::Session, cache_tokens, past_tokens: past as usize, tokens: positions.len() }
    }

    /// Those who cannot take the place of a hop: who is in the ring, and who failed before.
    fn others(&self) -> BTreeSet<PeerId> {
        self.avoided.iter().copied().chain(self.hops.iter().map(|hop| hop.peer)).collect()
    }

    /// Whether others could run the blocks of a hop.
    pub(super) fn has_another(&self, place: usize) -> bool {
        self.client.guide.has_route(self.hops[place].blocks.clone(), &self.others(), self.need())
    }

    /// Others take the blocks of those that leave, where there are any; else these stay as long as they do.
    async fn relieve(&mut self) {
        while let Some(place) = self.hops.iter().position(|hop| hop.state == HopState::Leaving) {
            let mut opened = Vec::new();
            let mut stops = Vec::new();
            if self.has_another(place) {
                let blocks = self.hops[place].blocks.clone();
                stops = self.client.guide.route(blocks, &[], &self.others(), self.need()).unwrap_or_default();
            }
            for stop in &stops {
                match self.begin_at(stop.clone(), place).await {
                    Ok(hop) => opened.push(hop),
                    Err(_) => break,
                }
            }
            if stops.is_empty() || opened.len() < stops.len() {
                self.hops[place].state = HopState::Well;
            } else {
                self.mended += opened.len() as u64;
                self.hops.splice(place..=place, opened);
            }
        }
    }

    /// Finds servers for the blocks that have none.
    async fn fill(&mut self) -> Result<()> {
        let kept: Vec<crate::Hop> =
            self.hops.iter().map(|hop| crate::Hop { peer: hop.peer, blocks: hop.blocks.clone() }).collect();
        let stops = self.client.guide.route(self.blocks.clone(), &kept, &self.avoided, self.need())?;
        self.hops.retain(|hop| stops.iter().any(|stop| (stop.peer, &stop.blocks) == (hop.peer, &hop.blocks)));
        for (place, stop) in stops.into_iter().enumerate() {
            if self.hops.get(place).is_none_or(|hop| hop.peer != stop.peer) {
                let hop = self.begin_at(stop, place).await?;
                self.hops.insert(place, hop);
                self.mended += 1;
            }
        }
        Ok(())
    }

    /// Opens the session at a server, at the revision of whoever will be before it.
    async fn begin_at(&mut self, stop: Stop, place: usize) -> Result<Hop> {
        let current = self.ledger.standing().clone();
        let revision = match place.checked_sub(1) {
            Some(before) => self.hops[before].heard().1.revision,
            None => current.revision,
        };
        let too_large = || SwarmError::Network("the prompts of a session do not fit into a message".to_owned());
        let Packed { header, body, adapter } = pass::pack(&self.pass, stop.blocks.clone()).ok_or_else(too_large)?;
        self.numbers += 1;
        let open = OpenSession {
            id: self.id,
            blocks: stop.blocks.start as u32..stop.blocks.end as u32,
            sequences: current.positions.len() as u32,
            max_tokens: self.max_tokens,
            revision,
            // Those of an older one are known to all.
            edits: if revision == current.revision { self.ledger.edits().to_vec() } else { Vec::new() },
            pass: header,
        };
        let peer = stop.peer;
        let (number, events) = (self.numbers, &self.sender);
        let begin = || {
            let request = (Request::Session(open.clone()), &body[..]);
            Hop::open(&self.client, stop.clone(), number, request, events.clone())
        };
        let mut opened = begin().await;
        if let (Err(SwarmError::Refused { refusal: Refusal::NoAdapter, .. }), Some(adapter)) = (&opened, &adapter) {
            opened = match passes::give_adapter(&self.client, &stop, adapter).await {
                Ok(()) => begin().await,
                Err(error) => Err(error),
            };
        }
        opened.inspect_err(|error| {
            self.avoided.insert(peer);
            let SwarmError::Refused { refusal, .. } = error else { return self.client.guide.failed(peer) };
            let said = SwarmError::Refused { peer, refusal: refusal.clone() };
            match refusal {
                Refusal::Span(fault) if fault.is_everywhere() => self.refused = Some(said),
                Refusal::Wrong(_) => self.refused = Some(said),
                Refusal::CacheFull { .. } | Refusal::Busy | Refusal::Span(_) => self.full = Some(said),
                _ => self.client.guide.failed(peer),
            }
        })
    }

    /// Tells each who is next, where that has changed.
    fn steer(&mut self) {
        for place in (0..self.hops.len()).rev() {
            let after = self.after(place);
            if self.hops[place].steered == Some(after) {
                continue;
            }
            let next = match self.hops.get(place + 1) {
                Some(next) => {
                    Next::Server { peer: next.peer, addresses: next.addresses.clone(), standing: next.heard().1 }
                }
                None => {
                    let standing = self.ledger.standing();
                    let revision = standing.revision;
                    let positions = match &self.awaited {
                        Some(awaited) => awaited.have.clone(),
                        None => standing.positions.clone(),
                    };
                    Next::Client(Standing { revision, positions })
                }
            };
            if self.hops[place].say(&ToServer::Steer(next)) {
                self.hops[place].steered = Some(after);
            }
        }
        if let Some(first) = self.hops.first().filter(|first| self.linked != Some(first.number)) {
            self.link = Link::to_server(first.heard().1);
            self.linked = Some(first.number);
        }
    }
}
