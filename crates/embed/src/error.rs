//! What can be wrong with texts, scores and stored vectors. Each message names the file, and the line where there is one.

use std::io;

use bouquet_model::ModelError;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, EmbedError>;

/// Why texts could not be embedded, compared or found.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A file could not be read.
    #[error("cannot read {origin}: {source}")]
    Read {
        /// Which file.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line or row of a file that is not what it should be.
    #[error("{origin}, line {line}: {problem}")]
    Line {
        /// Which file.
        origin: String,
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that is not what it should be.
    #[error("{origin} {problem}")]
    File {
        /// Which file.
        origin: String,
        /// What is wrong with it, as the end of a sentence that begins with its name.
        problem: String,
    },
    /// Embeddings that cannot be whitened, and why.
    #[error("cannot whiten: {0}")]
    Whitening(String),
    /// What the model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl EmbedError {
    /// [`EmbedError::Line`].
    pub(crate) fn line(origin: &str, line: u64, problem: impl Into<String>) -> Self {
        EmbedError::Line { origin: origin.to_owned(), line, problem: problem.into() }
    }

    /// [`EmbedError::File`].
    pub(crate) fn file(origin: &str, problem: impl Into<String>) -> Self {
        EmbedError::File { origin: origin.to_owned(), problem: problem.into() }
    }

    /// [`EmbedError::Read`].
    pub(crate) fn read(origin: &str, source: io::Error) -> Self {
        EmbedError::Read { origin: origin.to_owned(), source }
    }
}
