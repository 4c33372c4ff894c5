//! The table of records that every machine of a swarm holds whole, and how two tables become one: each says which numbers
//! it has ([`Summary`]), and gets what it lacks ([`News`]).
//!
//! Nothing here reads a clock. Times are counted by the caller, from a start of its own; between machines only ages
//! travel. An age says how long ago a record was made, less what it spent on the way, and so it is never more than the
//! truth: a table lets a number live for its lifetime from when it first heard of it, at most, whoever claims what.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::record::MAX_LIFETIME_MS;
use crate::{Digest, Record, Result, SignedRecord, SwarmError};

/// Servers that a table holds. A [`Summary`] of as many fits into the header of a frame.
pub const MAX_SERVERS: usize = 1024;

/// Bytes of records that one [`News`] carries; with what is around them they fit into the header of a frame.
pub const MAX_NEWS_BYTES: usize = 48 << 10;

/// How long the number of a record that has ended is remembered, so that nobody can bring that record back.
const REMEMBERED: Duration = Duration::from_millis(2 * MAX_LIFETIME_MS as u64);

/// The records of a swarm, one for each server.
#[derive(Clone, Debug)]
pub struct Registry {
    fingerprint: Digest,
    entries: BTreeMap<PeerId, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    signed: SignedRecord,
    record: Record,
    /// When its number was first heard of.
    first: Duration,
    /// When it ends; an entry stays for a while after that, for the sake of its number.
    ends: Duration,
}

/// What became of a record that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was not known, or a smaller number was.
    New,
    /// It was known, and is younger than was thought.
    Younger,
    /// It was known, or a larger number was.
    Known,
    /// Its lifetime is over.
    Ended,
    /// It has no place: the table is full of servers that live.
    Full,
}

/// What a table has: a number for each server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// In order of peers.
    pub numbers: Vec<(PeerId, u64)>,
}

/// Records that another table lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The youngest first.
    pub records: Vec<Aged>,
    /// Whether there were more than fit, so that asking again at once is of use.
    pub more: bool,
}

/// A record, and how long ago it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aged {
    /// As its owner signed it.
    pub signed: SignedRecord,
    /// In milliseconds.
    pub age_ms: u32,
}

impl Aged {
    /// How long ago it was made.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms.into())
    }
}

impl Registry {
    /// An empty table, of the swarm that serves this fingerprint.
    pub fn new(fingerprint: Digest) -> Registry {
        Registry { fingerprint, entries: BTreeMap::new() }
    }

    /// Takes in what a server said, `age` ago, which may have come by way of others.
    ///
    /// # Errors
    /// [`SwarmError::Record`] for one that its signature does not cover, [`SwarmError::OtherModel`]. Whoever passes those
    /// on has not looked.
    pub fn learn(&mut self, signed: SignedRecord, age: Duration, now: Duration) -> Result<Heard> {
        let (peer, record) = signed.open()?;
        if record.fingerprint != self.fingerprint {
            return Err(SwarmError::OtherModel {
                peer,
                fingerprints: Box::new([self.fingerprint, record.fingerprint]),
            });
        }
        self.entries.retain(|_, entry| now < entry.ends + REMEMBERED);
        let ends = now + lifetime(&record).saturating_sub(age);
        if ends <= now {
            return Ok(Heard::Ended);
        }
        if let Some(known) = self.entries.get_mut(&peer) {
            if known.record.number > record.number {
                return Ok(Heard::Known);
            } else if known.record.number == record.number {
                return Ok(known.heard_again(ends, now));
            }
        } else if self.entries.len() == MAX_SERVERS {
            match self.oldest_ended(now) {
                Some(oldest) => drop(self.entries.remove(&oldest)),
                None => return Ok(Heard::Full),
            }
        }
        self.entries.insert(peer, Entry { signed, record, first: now, ends });
        Ok(Heard::New)
    }

    /// All whose records hold, in order of peers, whatever they are doing.
    pub fn live(&self, now: Duration) -> impl Iterator<Item = (PeerId, &Record)> {
        self.entries.iter().filter(move |(_, entry)| now < entry.ends).map(|(peer, entry)| (*peer, &entry.record))
    }

    /// All whose records ended not long ago, and what those said.
    pub fn ended(&self, now: Duration) -> impl Iterator<Item = (PeerId, &Record)> {
        let ended = self.entries.iter().filter(move |(_, entry)| entry.ends <= now && now < entry.ends + REMEMBERED);
        ended.map(|(peer, entry)| (*peer, &entry.record))
    }

    /// What a server says of itself, if that holds.
    pub fn record(&self, peer: &PeerId, now: Duration) -> Option<&Record> {
        self.entries.get(peer).filter(|entry| now < entry.ends).map(|entry| &entry.record)
    }

    /// When a server said what is known of it, as far as ages tell.
    pub fn said_at(&self, peer: &PeerId) -> Option<Duration> {
        self.entries.get(peer).map(|entry| entry.ends.saturating_sub(lifetime(&entry.record)))
    }

    /// The largest number heard of a server. One that starts anew has to go on behind its own.
    pub fn number(&self, peer: &PeerId) -> Option<u64> {
        self.entries.get(peer).map(|entry| entry.record.number)
    }

    /// What another needs to know to say what is lacking here.
    pub fn summary(&self) -> Summary {
        Summary { numbers: self.entries.iter().map(|(peer, entry)| (*peer, entry.record.number)).collect() }
    }

    /// What a table lacks that has said this of itself: at most [`MAX_NEWS_BYTES`], the youngest first.
    pub fn news_for(&self, summary: &Summary, now: Duration) -> News {
        let theirs: BTreeMap<&PeerId, u64> = summary.numbers.iter().map(|(peer, number)| (peer, *number)).collect();
        let lacks = |peer: &PeerId, entry: &Entry| theirs.get(peer).is_none_or(|number| *number < entry.record.number);
        let lacking = self.entries.iter().filter(|(peer, entry)| now < entry.ends && lacks(peer, entry));
        let mut lacking: Vec<(Duration, &Entry)> = lacking.map(|(_, entry)| (entry.age(now), entry)).collect();
        lacking.sort_by_key(|(age, _)| *age);
        let mut news = News::default();
        let mut bytes = 0;
        for (age, entry) in lacking {
            bytes += entry.signed.bytes();
            if bytes > MAX_NEWS_BYTES {
                news.more = true;
                break;
            }
            news.records.push(Aged { signed: entry.signed.clone(), age_ms: age.as_millis() as u32 });
        }
        news
    }

    /// Ends a record before its time. Only a larger number brings its server back.
    pub fn forget(&mut self, peer: &PeerId, now: Duration) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.ends = entry.ends.min(now);
        }
    }

    fn oldest_ended(&self, now: Duration) -> Option<PeerId> {
        let ended = self.entries.iter().filter(|(_, entry)| entry.ends <= now);
        ended.min_by_key(|(_, entry)| entry.ends).map(|(peer, _)| *peer)
    }
}

impl Entry {
    /// The same number, which holds until `ends` by what is said of its age.
    fn heard_again(&mut self, ends: Duration, now: Duration) -> Heard {
        let ends = ends.min(self.first + lifetime(&self.record));
        if self.ends <= now {
            Heard::Ended
        } else if ends <= self.ends {
            Heard::Known
        } else {
            self.ends = ends;
            Heard::Younger
        }
    }

    /// Of one that has not ended.
    fn age(&self, now: Duration) -> Duration {
        lifetime(&self.record).saturating_sub(self.ends.saturating_sub(now))
    }
}

fn lifetime(record: &Record) -> Duration {
    Duration::from_millis(record.lifetime_ms.into())
}

#[cfg(test)]
mod tests;
