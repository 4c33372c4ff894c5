//! The whole way, from a name to a folder or a GGUF file:
//!
//! ```text
//! find       a revision that is whole in the cache: that, and nobody is asked
//! plan       ask the hub for the revision's files, which of them hold the weights, and what each missing one is
//! carry_out  is there room? fetch them, settings first and weights last; note the commit of the revision
//! ```
//!
//! Nothing is written before it is carried out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::Repository;
use crate::download::Download;
use crate::files::{INDEX, MAX_INDEX_BYTES, Needed, TOKENIZER, WEIGHTS, needed, shards};
use crate::http::Client;
use crate::remote::{self, Facts, Listing, wrong};
use crate::{HubError, Name, Result, Settings};

/// A hub, and the cache of what came from it.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// What is to be done to have a model.
pub struct Plan {
    name: Name,
    repository: Repository,
    /// What the hub says that there is not: a tokenizer, or all but GGUF files.
    lacks: Vec<&'static str>,
    /// The commit that the revision is at.
    pub commit: String,
    /// The folder of that commit in the cache.
    pub folder: PathBuf,
    /// What will be the model: that folder, or a GGUF file in it, of a split one the first part.
    pub model: PathBuf,
    /// What the folder lacks, in the order in which it is fetched.
    pub missing: Vec<Missing>,
}

/// A file that is to be fetched.
#[derive(Clone, Debug)]
pub struct Missing {
    pub(crate) facts: Facts,
    /// Bytes of it that are in the cache: left by an earlier attempt, or all of them, for another commit.
    pub arrived: u64,
}

/// What happens on the way, for whoever waits.
#[derive(Debug)]
pub enum Event<'a> {
    /// The hub is asked what a file is.
    Asks {
        /// Which of the files that is, from 1.
        number: usize,
        /// How many there are.
        files: usize,
    },
    /// Something came.
    Progress {
        /// The file that is being fetched.
        file: &'a str,
        /// Which of the missing files that is, from 1.
        number: usize,
        /// Bytes that are here, of all missing files.
        done: u64,
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
    /// Bytes of the files before this one.
    before: u64,
}

impl Hub {
    /// A hub and a cache. Nobody is asked yet.
    ///
    /// # Errors
    /// [`HubError::Endpoint`], [`HubError::Token`].
    pub fn open(settings: Settings) -> Result<Hub> {
        Ok(Hub { client: Client::new(&settings)?, settings })
    }

    /// Who is asked: the host of the hub, with its port where that is not the usual one.
    pub fn host(&self) -> String {
        self.client.host()
    }

    /// A model that the cache has, as it was when the revision was last fetched: a folder with configuration, tokenizer and
    /// weights, or a GGUF file. Asks nobody.
    pub fn find(&self, name: &Name) -> Option<PathBuf> {
        let repository = Repository::new(&self.settings.cache, name);
        repository.find(name, &repository.commit_of(name)?, self.settings.offline).ok()
    }

    /// What is to be done to have a model as the hub has it now. Writes nothing.
    ///
    /// # Errors
    /// Any [`HubError`] but those of writing.
    pub fn plan(&self, name: &Name, observe: &mut dyn FnMut(Event)) -> Result<Plan> {
        let repository = Repository::new(&self.settings.cache, name);
        if self.settings.offline {
            return self.offline_plan(repository, name);
        }
        let listing = remote::listing(&self.client, name, observe)?;
        let commit = listing.commit.as_str();
        let folder = repository.snapshot(commit);
        let (files, unneeded, model) = match needed(name, &listing.files)? {
            Needed::Gguf(parts) => {
                let model = folder.join(&parts[0]);
                (parts, &[WEIGHTS, INDEX][..], model)
            }
            Needed::Folder { small, one_file } => {
                let weights = match one_file {
                    true => BTreeSet::from([WEIGHTS.to_owned()]),
                    false => self.shards(&repository, name, &listing, observe)?,
                };
                let index = (!one_file).then_some(INDEX);
                let settings = small.into_iter().chain(index).map(str::to_owned);
                (settings.chain(weights).collect(), &[TOKENIZER][..], folder.clone())
            }
        };
        let files: Vec<&str> = files.iter().map(String::as_str).filter(|file| !repository.has(commit, file)).collect();
        let mut missing = Vec::with_capacity(files.len());
        for (file, number) in files.iter().zip(1..) {
            observe(Event::Asks { number, files: files.len() });
            let facts = remote::facts(&self.client, name, commit, file, observe)?;
            missing.push(Missing { arrived: repository.usable(&facts), facts });
        }
        Ok(Plan {
            lacks: unneeded.iter().copied().filter(|file| !listing.files.contains(*file)).collect(),
            folder,
            model,
            commit: listing.commit,
            name: name.clone(),
            repository,
            missing,
        })
    }

    /// Fetches what is missing; returns the model, [`Plan::model`], which is then whole.
    ///
    /// # Errors
    /// Any [`HubError`]. What has come until then is kept for the next attempt, under names that nobody takes for whole.
    pub fn carry_out(&self, plan: &Plan, observe: &mut dyn FnMut(Event)) -> Result<PathBuf> {
        let Plan { name, repository, commit, .. } = plan;
        if plan.missing.is_empty() {
            // A cache that cannot be written still has the model.
            let _ = self.note(plan);
            return Ok(plan.model.clone());
        }
        repository.prepare(commit)?;
        let needed = plan.bytes_to_come();
        if let Some(available) = repository.available_bytes().filter(|&available| available < needed) {
            let folder = repository.folder().to_owned();
            return Err(HubError::NoSpace { name: name.to_string(), needed, available, folder });
        }
        let lock = self.settings.patience.lock;
        let download = Download { client: &self.client, repository, name, commit, lock };
        let mut meter = Meter { observe, number: 1, before: 0 };
        for Missing { facts, .. } in &plan.missing {
            download.file(facts, &mut meter)?;
            meter.number += 1;
            meter.before = meter.before.saturating_add(facts.size);
        }
        if let Some(file) = repository.missing(commit).filter(|_| plan.model == plan.folder) {
            let problem = format!("it has changed since it was first asked for, and now wants {file}");
            return Err(wrong(&self.client.host(), INDEX, problem));
        }
        self.note(plan)?;
        Ok(plan.model.clone())
    }

    /// Plans and carries it out.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn fetch(&self, name: &Name, observe: &mut dyn FnMut(Event)) -> Result<PathBuf> {
        self.carry_out(&self.plan(name, observe)?, observe)
    }

    /// Nothing to be done, or nothing that can be done.
    fn offline_plan(&self, repository: Repository, name: &Name) -> Result<Plan> {
        let known = repository.commit_of(name).filter(|commit| repository.snapshot(commit).is_dir());
        let Some(commit) = known else { return Err(repository.not_cached(name)) };
        let model = repository.find(name, &commit, true)?;
        let folder = repository.snapshot(&commit);
        Ok(Plan { name: name.clone(), repository, lacks: Vec::new(), commit, folder, model, missing: Vec::new() })
    }

    /// The files that hold the weights, by their index.
    fn shards(
        &self,
        repository: &Repository,
        name: &Name,
        listing: &Listing,
        observe: &mut dyn FnMut(Event),
    ) -> Result<BTreeSet<String>> {
        let commit = listing.commit.as_str();
        if repository.has(commit, INDEX) {
            return repository.shards(commit);
        }
        let index = remote::contents(&self.client, name, commit, INDEX, MAX_INDEX_BYTES, observe)?;
        let wrong = |problem| wrong(&self.client.host(), INDEX, problem);
        let shards = shards(&index).map_err(wrong)?;
        match shards.iter().find(|shard| !listing.files.contains(*shard)) {
            Some(shard) => Err(wrong(format!("it promises {shard}, which the repository does not have"))),
            None => Ok(shards),
        }
    }

    /// Notes in the cache what is known of the revision.
    fn note(&self, plan: &Plan) -> Result<()> {
        for file in &plan.lacks {
            plan.repository.set_lacks(&plan.commit, file)?;
        }
        plan.repository.set_commit_of(&plan.name, &plan.commit)
    }
}

impl Plan {
    /// Bytes of all missing files.
    pub fn bytes(&self) -> u64 {
        self.missing.iter().map(Missing::bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of these that are in the cache.
    pub fn bytes_arrived(&self) -> u64 {
        self.missing.iter().map(|missing| missing.arrived).fold(0, u64::saturating_add)
    }

    /// Bytes that have to be fetched.
    pub fn bytes_to_come(&self) -> u64 {
        self.missing.iter().map(|missing| missing.bytes() - missing.arrived).fold(0, u64::saturating_add)
    }
}

impl Missing {
    /// Its name in the repository.
    pub fn file(&self) -> &str {
        &self.facts.file
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.facts.size
    }
}

impl Meter<'_> {
    /// So many bytes of this file are here.
    pub(crate) fn show(&mut self, file: &str, bytes: u64) {
        let done = self.before.saturating_add(bytes);
        (self.observe)(Event::Progress { file, number: self.number, done });
    }
}
