//! The whole way, from a name to a folder:
//!
//! ```text
//! a commit that is whole in the cache?     that folder, and nobody is asked
//! ask the hub for the revision's files     (unless offline; if it cannot say, what the cache has is taken)
//! the index, where the weights have one    says which files hold the weights
//! ask what each missing file is            length and checksum; is there room?
//! fetch them, one after another            settings first, weights last
//! note the commit of the revision
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::Repository;
use crate::download::Download;
use crate::files::{INDEX, WEIGHTS, needed, shards};
use crate::http::{Attempts, Client};
use crate::remote::{self, Facts, Listing, wrong};
use crate::{HubError, Name, Result, Settings};

/// A hub, and the cache of what came from it.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// What happens on the way, for whoever waits.
#[derive(Debug)]
pub enum Event<'a> {
    /// The hub cannot say whether there is something newer; what the cache has is taken.
    Cached {
        /// Why.
        problem: &'a HubError,
    },
    /// Files are going to be fetched.
    Begins {
        /// From whom.
        host: &'a str,
        /// How many.
        files: usize,
        /// Bytes of all of them.
        bytes: u64,
        /// Bytes of these that an earlier attempt left.
        already: u64,
    },
    /// Something came.
    Progress {
        /// The file that is being fetched.
        file: &'a str,
        /// Which of the files that is, from 1.
        number: usize,
        /// How many there are.
        files: usize,
        /// Bytes that are here, of all files.
        done: u64,
        /// Bytes that there will be.
        bytes: u64,
    },
    /// Something failed that may pass.
    Retries {
        /// What.
        problem: &'a HubError,
        /// Time to the next attempt.
        wait: Duration,
    },
    /// Another process fetches the same file.
    Waits {
        /// Which.
        file: &'a str,
    },
}

/// How far a download of several files is.
pub(crate) struct Meter<'a> {
    pub(crate) observe: &'a mut dyn FnMut(Event),
    number: usize,
    files: usize,
    /// Bytes of the files before this one.
    before: u64,
    bytes: u64,
}

impl Hub {
    /// A hub and a cache. Nobody is asked yet.
    ///
    /// # Errors
    /// [`HubError::Endpoint`], [`HubError::Token`].
    pub fn open(settings: Settings) -> Result<Hub> {
        Ok(Hub { client: Client::new(&settings)?, settings })
    }

    /// The hub's address.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    /// The folder that has a model: configuration, tokenizer and safetensors, as far as the repository has them. What is
    /// missing is fetched.
    ///
    /// # Errors
    /// Any [`HubError`]. What has come until then is kept for the next attempt, under names that nobody takes for whole.
    pub fn fetch(&self, name: &Name, observe: &mut dyn FnMut(Event)) -> Result<PathBuf> {
        let repository = Repository::new(&self.settings.cache, name);
        let known = name.commit().map(str::to_owned).or_else(|| repository.commit_of(name.revision()));
        let missing = known.as_deref().map(|commit| repository.missing(commit));
        let cached = known.as_deref().filter(|_| missing == Some(None)).map(|commit| repository.snapshot(commit));
        if let Some(folder) = cached.as_ref().filter(|_| self.settings.offline || name.commit().is_some()) {
            return Ok(folder.clone());
        }
        if self.settings.offline {
            let here = known.is_some_and(|commit| repository.snapshot(&commit).is_dir());
            return Err(match missing.flatten().filter(|_| here) {
                Some(file) => HubError::PartlyCached { name: name.to_string(), file },
                None => HubError::NotCached { name: name.to_string(), cache: self.settings.cache.clone() },
            });
        }
        // Who has the model need not wait for a hub that does not answer.
        let attempts = if cached.is_some() { Attempts::one() } else { self.client.attempts() };
        match (remote::listing(&self.client, name, attempts, observe), cached) {
            (Ok(listing), _) => self.complete(&repository, name, &listing, observe),
            (Err(problem), Some(folder)) => {
                observe(Event::Cached { problem: &problem });
                Ok(folder)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Fetches what the cache lacks of a listed commit.
    fn complete(
        &self,
        repository: &Repository,
        name: &Name,
        listing: &Listing,
        observe: &mut dyn FnMut(Event),
    ) -> Result<PathBuf> {
        let commit = listing.commit.as_str();
        let lock = self.settings.patience.lock;
        let download = Download { client: &self.client, repository, name, commit, lock };
        let needed = needed(name, &listing.files)?;
        let weights = match needed.one_file {
            true => BTreeSet::from([WEIGHTS.to_owned()]),
            false => self.shards(&download, listing, observe)?,
        };
        let files = needed.small.iter().copied().chain(weights.iter().map(String::as_str));
        let missing: Vec<&str> = files.filter(|file| !repository.has(commit, file)).collect();
        if missing.is_empty() {
            // A cache that cannot be written still has the model.
            let _ = repository.set_commit_of(name.revision(), commit);
            return Ok(repository.snapshot(commit));
        }
        repository.prepare(commit)?;
        let facts = missing.iter().map(|file| remote::facts(&self.client, name, commit, file, observe));
        self.fetch_all(&download, &facts.collect::<Result<Vec<Facts>>>()?, observe)?;
        repository.set_commit_of(name.revision(), commit)?;
        Ok(repository.snapshot(commit))
    }

    /// The files that hold the weights, by their index, which is fetched first.
    fn shards(
        &self,
        download: &Download,
        listing: &Listing,
        observe: &mut dyn FnMut(Event),
    ) -> Result<BTreeSet<String>> {
        let Download { repository, commit, name, .. } = *download;
        if !repository.has(commit, INDEX) {
            repository.prepare(commit)?;
            let facts = remote::facts(&self.client, name, commit, INDEX, observe)?;
            download.file(&facts, &mut Meter { observe, number: 1, files: 1, before: 0, bytes: facts.size })?;
        }
        let wrong = |problem| wrong(&self.client.host(), INDEX, problem);
        let shards = shards(&repository.index(commit)?).map_err(wrong)?;
        match shards.iter().find(|shard| !listing.files.contains(*shard)) {
            Some(shard) => Err(wrong(format!("it promises {shard}, which the repository does not have"))),
            None => Ok(shards),
        }
    }

    fn fetch_all(&self, download: &Download, facts: &[Facts], observe: &mut dyn FnMut(Event)) -> Result<()> {
        let repository = download.repository;
        let absent = || facts.iter().filter(|facts| !repository.has_blob(facts));
        let part = |facts: &Facts| std::fs::metadata(repository.part(&facts.etag)).map_or(0, |part| part.len());
        let already = absent().map(|facts| part(facts).min(facts.size)).fold(0, u64::saturating_add);
        let bytes = absent().map(|facts| facts.size).fold(0, u64::saturating_add);
        let (needed, available) = (bytes - already, repository.available_bytes());
        if let Some(available) = available.filter(|&available| available < needed) {
            let (name, folder) = (download.name.to_string(), repository.folder().to_owned());
            return Err(HubError::NoSpace { name, needed, available, folder });
        }
        let files = absent().count();
        if files > 0 {
            observe(Event::Begins { host: &self.client.host(), files, bytes, already });
        }
        let mut meter = Meter { observe, number: 1, files, before: 0, bytes };
        for facts in facts {
            let fetched = !repository.has_blob(facts);
            download.file(facts, &mut meter)?;
            if fetched {
                meter.number += 1;
                meter.before = meter.before.saturating_add(facts.size);
            }
        }
        Ok(())
    }
}

impl Meter<'_> {
    /// So many bytes of this file are here.
    pub(crate) fn show(&mut self, file: &str, bytes: u64) {
        let Meter { number, files, before, bytes: all, .. } = *self;
        (self.observe)(Event::Progress {
            file,
            number,
            files,
            done: before.saturating_add(bytes).min(all),
            bytes: all,
        });
    }
}
