//! What can go wrong in a run.

use std::io;
use std::path::PathBuf;

use bouquet_model::ModelError;

use crate::metrics::MetricsError;

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A file of the run that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the run that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder has a run, and nobody said to go on with it.
    #[error("{} has a run already", folder.display())]
    HasRun {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder has files that no run made.
    #[error("{} is not empty, and has no run", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process works in the folder.
    #[error("another process is running in {}", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint that cannot be gone on from.
    #[error("the checkpoint in {} {problem}", folder.display())]
    Checkpoint {
        /// The folder of the run.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The run was begun with other settings.
    #[error("the run was begun with {name} = {begun}, not {asked}")]
    OtherSettings {
        /// Which setting.
        name: String,
        /// As the run was begun.
        begun: String,
        /// As it was asked for now.
        asked: String,
    },
    /// A setting that makes no sense.
    #[error("{name} {problem}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The loss, a gradient or an activation is not finite.
    #[error("at step {step} {problem} (rows {})", listed(rows))]
    Diverged {
        /// The step, counted from 0.
        step: u64,
        /// What is not finite.
        problem: String,
        /// Numbers of the records of the batch, counted from 1.
        rows: Vec<usize>,
    },
    /// The metrics of the run.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// What the model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What comes of work that can go wrong.
pub type Result<T, E = TuneError> = std::result::Result<T, E>;

/// The first numbers of a list.
fn listed(rows: &[usize]) -> String {
    const SHOWN: usize = 8;
    let mut text = rows.iter().take(SHOWN).map(usize::to_string).collect::<Vec<_>>().join(", ");
    if rows.len() > SHOWN {
        text += &format!(" and {} more", rows.len() - SHOWN);
    }
    text
}

/// The error of writing a file of the run.
pub(crate) fn cannot_write(path: &std::path::Path, source: io::Error) -> TuneError {
    TuneError::Write { path: path.to_owned(), source }
}
