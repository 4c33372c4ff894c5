//! Why a model could not be fetched. The command line adds what to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::Name;
use crate::gguf::Unclear;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, HubError>;

/// Why there is no folder with the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a cache nor a home was named.
    #[error("there is no home folder, so there is no place for the cache of models")]
    NoHome,
    /// An address that no hub can have.
    #[error("{endpoint:?} is not the address of a hub: it should look like https://huggingface.co")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A token that no request can carry. It is not shown.
    #[error("the token of the hub has characters that no token has")]
    Token,
    /// Nobody may be asked, and the cache does not have it.
    #[error("{name} is not in the cache {}, and the hub may not be asked (HF_HUB_OFFLINE)", cache.display())]
    NotCached {
        /// The model.
        name: String,
        /// Where it is not.
        cache: PathBuf,
    },
    /// Nobody may be asked, and the cache has some of its files.
    #[error("the cache has only a part of {name} ({file} is missing), and the hub may not be asked (HF_HUB_OFFLINE)")]
    PartlyCached {
        /// The model.
        name: String,
        /// The first file that is missing.
        file: String,
    },
    /// Nobody answers, or not in time.
    #[error("{host} does not answer: {problem}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// What happened.
        problem: String,
    },
    /// Somebody answers, and cannot show to be who was asked.
    #[error("{host} shows no certificate that is trusted: {problem}")]
    Certificate {
        /// Who was asked.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another answer than one that carries what was asked for.
    #[error("{host} answers with HTTP status {status}{}", said(message))]
    Status {
        /// Who was asked.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the hub says about it; may be empty.
        message: String,
    },
    /// No such model, or none that this user may see: a hub does not tell.
    #[error("{host} has no model {name}, or not for you")]
    NoSuchModel {
        /// Who was asked.
        host: String,
        /// The model.
        name: String,
        /// Whether a token was shown.
        with_token: bool,
    },
    /// The model is there, but no such branch, tag or commit of it.
    #[error("{repository} has no revision {revision}")]
    NoSuchRevision {
        /// The model.
        repository: String,
        /// What it does not have.
        revision: String,
    },
    /// A model whose makers give it to those who ask.
    #[error("{repository} is gated: its makers decide who gets it{}", said(message))]
    Gated {
        /// The model.
        repository: String,
        /// What the hub says about it; may be empty.
        message: String,
    },
    /// A repository without what a model needs.
    #[error("{name} cannot be run: {problem}")]
    NotAModel {
        /// The model.
        name: String,
        /// What is missing.
        problem: String,
    },
    /// A repository without the GGUF file that is meant.
    #[error("{repository} has no GGUF file {choice}{}", listed(known))]
    NoSuchFile {
        /// The model, and the revision if one was given.
        repository: String,
        /// What it does not have.
        choice: String,
        /// What it has, as it may be chosen.
        known: Vec<String>,
    },
    /// A repository with several GGUF files that may be meant.
    #[error("{repository} has several GGUF files that may be meant: {}", known.join(", "))]
    SeveralFiles {
        /// The model, and the revision if one was given.
        repository: String,
        /// These, as they may be chosen.
        known: Vec<String>,
    },
    /// A repository with pickled weights only.
    #[error("{name} has only pickled weights ({file}), which may run any code when they are opened")]
    PickleOnly {
        /// The model.
        name: String,
        /// One of its files.
        file: String,
    },
    /// The hub contradicts itself, or sends what no hub should. Nothing of it is taken for the file.
    #[error("{host} sent something wrong for {what}: {problem}")]
    Wrong {
        /// Who sent it.
        host: String,
        /// The file, or the list of files.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// Not enough room.
    #[error("{name} needs {} MiB more, and {} has only {} MiB left", needed.div_ceil(1 << 20), folder.display(), available >> 20)]
    NoSpace {
        /// The model.
        name: String,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        available: u64,
        /// On which disk.
        folder: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the cache is not what it should be.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file of the cache could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds a file and does nothing with it.
    #[error("another process holds {} and has made no progress for {} s", path.display(), waited.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long nothing came.
        waited: Duration,
    },
}

impl HubError {
    /// Why no GGUF file was chosen.
    pub(crate) fn unclear(name: &Name, unclear: Unclear) -> HubError {
        let repository = name.without_choice().to_string();
        match unclear {
            Unclear::Several(known) => HubError::SeveralFiles { repository, known },
            Unclear::Nothing(known) => {
                HubError::NoSuchFile { repository, choice: name.choice().unwrap_or_default().to_owned(), known }
            }
        }
    }
}

/// What a hub says, behind a colon.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The GGUF files that there are, behind a colon.
fn listed(known: &[String]) -> String {
    if known.is_empty() { ", nor any other".to_owned() } else { format!(": it has {}", known.join(", ")) }
}
