//! One blob, whole and checked. What comes is written to `ETAG.incomplete`, from where the last attempt ended, and takes
//! its name when its length and checksum are right.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use ureq::http::{Method, StatusCode};

use crate::attempts::Failure;
use crate::cache::Repository;
use crate::checksum::Hasher;
use crate::fetch::Meter;
use crate::http::{Answer, Client, reading_problem};
use crate::remote::{Facts, check, resolve_path, wrong};
use crate::{Event, HubError, Name, Result, lock};

/// Bytes that are read, summed and written at once.
const PIECE_BYTES: usize = 256 << 10;

/// Progress after which earlier failures are forgotten. A hub that gives a byte at a time runs out of attempts.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What must come within [`SLOW`] for the hub to count as answering at all.
const SLOW_BYTES: u64 = 16 << 10;
const SLOW: Duration = Duration::from_secs(60);

/// Where blobs come from and go to.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a Repository,
    pub(crate) name: &'a Name,
    pub(crate) commit: &'a str,
    /// How long to wait for another process that does nothing.
    pub(crate) lock: Duration,
}

/// What has come of a blob.
struct Part<'a> {
    facts: &'a Facts,
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Hasher,
    /// Whether some of it is from an earlier run, and may be anything.
    inherited: bool,
}

impl Download<'_> {
    /// Sees to it that a file's contents are in the cache, and under the file's name in the commit.
    pub(crate) fn file(&self, facts: &Facts, meter: &mut Meter) -> Result<()> {
        let path = self.repository.lock(&facts.etag);
        let arrived = || self.repository.arrived(&facts.etag);
        let waits = || (meter.observe)(Event::Waits { file: &facts.file });
        let _lock = lock::take(&path, self.lock, arrived, waits)?;
        // Another process may have brought it meanwhile, or another file may have the same contents.
        if !self.repository.has_blob(facts) {
            self.blob(facts, meter)?;
        }
        meter.show(&facts.file, facts.size);
        self.repository.link(self.commit, facts)
    }

    fn blob(&self, facts: &Facts, meter: &mut Meter) -> Result<()> {
        let mut part = Part::open(self.repository.part(&facts.etag), facts)?;
        let mut attempts = self.client.attempts();
        loop {
            let before = part.bytes;
            match self.attempt(&mut part, meter) {
                Ok(()) => return part.finish(self.repository.blob(&facts.etag)),
                Err(failure) => {
                    if part.bytes >= before.saturating_add(PROGRESS_BYTES) {
                        attempts.renew();
                    }
                    attempts.again(failure, meter.observe)?;
                }
            }
        }
    }

    /// Fetches what is missing, and checks the whole.
    fn attempt(&self, part: &mut Part, meter: &mut Meter) -> std::result::Result<(), Failure> {
        let host = if part.bytes < part.facts.size { self.fetch(part, meter)? } else { self.client.host() };
        if part.is_right() {
            return Ok(());
        }
        let error = wrong(&host, &part.facts.file, "its contents do not have its checksum");
        if part.inherited {
            part.restart()?;
            return Err(Failure::once(error));
        }
        part.discard();
        Err(error.into())
    }

    /// Fetches what is missing; says who sent it.
    fn fetch(&self, part: &mut Part, meter: &mut Meter) -> std::result::Result<String, Failure> {
        let facts = part.facts;
        let path = resolve_path(self.name, self.commit, &facts.file);
        let answer = self.client.ask(Method::GET, &path, part.bytes, |_| false)?;
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE && part.bytes > 0 {
            part.restart()?;
            return Err(Failure::passing(&answer.host, "it cannot go on where the last attempt ended"));
        }
        check(&answer, self.name, self.client)?;
        self.begin(part, &answer)?;
        let (host, mut body) = (answer.host, answer.response.into_body().into_reader());
        let mut piece = vec![0; PIECE_BYTES];
        let mut window = (Instant::now(), part.bytes);
        loop {
            let read = body.read(&mut piece).map_err(|error| Failure::passing(&host, reading_problem(&error)))?;
            if read == 0 {
                break;
            }
            if read as u64 > facts.size - part.bytes {
                part.discard();
                return Err(wrong(&host, &facts.file, format!("more than its {} bytes came", facts.size)).into());
            }
            part.write(&piece[..read])?;
            meter.show(&facts.file, part.bytes);
            if window.0.elapsed() > SLOW {
                if part.bytes - window.1 < SLOW_BYTES {
                    return Err(Failure::passing(&host, "almost nothing comes"));
                }
                window = (Instant::now(), part.bytes);
            }
        }
        match part.bytes == facts.size {
            true => Ok(host),
            false => Err(Failure::passing(&host, format!("it ended after {} of {} bytes", part.bytes, facts.size))),
        }
    }

    /// Checks that what an answer announces is what is missing; from the beginning where a hub cannot go on.
    fn begin(&self, part: &mut Part, answer: &Answer) -> std::result::Result<(), Failure> {
        let facts = part.facts;
        let wrong = |problem: String| wrong(&answer.host, &facts.file, problem);
        let length = answer.header(CONTENT_LENGTH.as_str()).and_then(|length| length.trim().parse::<u64>().ok());
        let partial = answer.response.status() == StatusCode::PARTIAL_CONTENT;
        if partial {
            let range = answer.header(CONTENT_RANGE.as_str()).unwrap_or_default();
            if first_byte(range) != Some(part.bytes) {
                let asked = part.bytes;
                return Err(wrong(format!("asked for what begins at byte {asked}, it sent {range:?}")).into());
            }
        }
        let expected = if partial { facts.size - part.bytes } else { facts.size };
        if let Some(length) = length.filter(|&length| length != expected) {
            return Err(wrong(format!("it should have {expected} bytes, and {length} were announced")).into());
        }
        if !partial && part.bytes > 0 {
            if length.is_none() {
                // A page of a network that wants a login, say: no reason to throw away what there is.
                return Err(wrong("something else was sent".to_owned()).into());
            }
            part.restart()?;
        }
        Ok(())
    }
}

impl<'a> Part<'a> {
    /// Opens what an earlier run left, or begins anew.
    fn open(path: PathBuf, facts: &'a Facts) -> Result<Part<'a>> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(|source| HubError::Write { path: path.clone(), source })?;
        let hasher = facts.etag.hasher(facts.size);
        let mut part = Part { facts, path, file, bytes: 0, hasher, inherited: false };
        part.inherit().map_err(|source| HubError::Write { path: part.path.clone(), source })?;
        Ok(part)
    }

    /// Takes over what is in the file, unless it is more than the blob will have, or nothing would show what it is.
    fn inherit(&mut self) -> std::io::Result<()> {
        if self.file.metadata()?.len() > self.facts.size || !self.facts.etag.is_checksum() {
            return self.file.set_len(0);
        }
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok(()),
                read => self.hasher.update(&piece[..read]),
            }
            self.bytes = self.file.stream_position()?;
            self.inherited = true;
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).map_err(|source| self.cannot(source))?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// Whether all of it has the checksum that it should have.
    fn is_right(&mut self) -> bool {
        let hasher = std::mem::replace(&mut self.hasher, self.facts.etag.hasher(self.facts.size));
        self.bytes == self.facts.size && self.facts.etag.fits(hasher)
    }

    /// Forgets what has come.
    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.cannot(source))?;
        (self.bytes, self.inherited) = (0, false);
        self.hasher = self.facts.etag.hasher(self.facts.size);
        Ok(())
    }

    /// Removes what has come.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// On the disk, and under its name.
    fn finish(self, blob: PathBuf) -> Result<()> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.path, &blob));
        named.map_err(|source| HubError::Write { path: blob, source })
    }

    fn cannot(&self, source: std::io::Error) -> HubError {
        HubError::Write { path: self.path.clone(), source }
    }
}

/// The first byte of `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_begin_somewhere() {
        for (range, first) in
            [("bytes 100-199/200", Some(100)), ("bytes */200", None), ("", None), ("items 1-2/3", None)]
        {
            assert_eq!(first_byte(range), first, "{range}");
        }
    }
}
