//! What can be wrong with a file, or with what is asked of it.

use std::io;

/// The crate's result.
pub type Result<T> = std::result::Result<T, GgufError>;

/// Each says in a sentence what is wrong with a file, without naming the file: who opened it knows.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It does not begin as a GGUF file does.
    #[error("it is not a GGUF file: it does not begin with the letters GGUF")]
    NotGguf,
    /// Big-endian, which version 3 allows.
    #[error("it is a big-endian GGUF file; only little-endian files are read")]
    BigEndian,
    /// A version that is not read.
    #[error("it is of version {0} of GGUF; versions 2 and 3 are read")]
    Version(u32),
    /// It ends too early, or a length in it is too long: nothing follows that is as long.
    #[error("it is truncated, or a length in it is wrong: {what} needs {needed} bytes, of which {left} are left")]
    Truncated {
        /// What should have stood there.
        what: String,
        /// Bytes that it has at least.
        needed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// No end of the header within [`MAX_HEADER_BYTES`](crate::MAX_HEADER_BYTES).
    #[error(
        "what stands before its data has more than {} bytes, or a length in it is wrong: {what} needs {needed}",
        crate::MAX_HEADER_BYTES
    )]
    HeaderTooLong {
        /// What goes beyond.
        what: String,
        /// Bytes that it has at least.
        needed: u64,
    },
    /// Bytes that should be text and are not.
    #[error("{0} is not UTF-8")]
    NotText(String),
    /// More of something than any model has.
    #[error("{what} has {count}, more than {at_most}")]
    TooMany {
        /// Of what, and what of it: "it has 70000 tensors".
        what: String,
        /// How many, and what.
        count: String,
        /// The limit.
        at_most: u64,
    },
    /// An entry of the metadata that cannot be.
    #[error("its metadata {key} {problem}")]
    Entry {
        /// The key, shortened when it is long.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A key that was asked for is not there.
    #[error("its metadata has no {key}, which should be {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// What was expected of it.
        expected: &'static str,
    },
    /// The value of a key is of another type, or beyond what was expected.
    #[error("its metadata {key} should be {expected}, but is {found}")]
    Unexpected {
        /// The key.
        key: String,
        /// What was expected of it.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A tensor that cannot be.
    #[error("its tensor {name} {problem}")]
    Tensor {
        /// Its name, shortened when it is long.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor of a kind that is not read.
    #[error("its tensor {name} {kind}")]
    Kind {
        /// Its name, shortened when it is long.
        name: String,
        /// The kind, and those that are read.
        kind: String,
    },
    /// What was to be written could not be.
    #[error("it cannot be written: {0}")]
    Write(#[from] io::Error),
}

impl GgufError {
    /// Whether the file may be as its maker wrote it, but in a way that is not read.
    pub fn is_unread(&self) -> bool {
        matches!(self, GgufError::BigEndian | GgufError::Version(_) | GgufError::Kind { .. })
    }
}

/// Text of a file for a message: in quotes, without control characters, not long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

pub(crate) fn entry(key: &str, problem: impl Into<String>) -> GgufError {
    GgufError::Entry { key: shown(key), problem: problem.into() }
}

pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> GgufError {
    GgufError::Tensor { name: shown(name), problem: problem.into() }
}
