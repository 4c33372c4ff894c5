//! Rows of files as records, records as token ids, and which of them make a batch.
//!
//! ```text
//! files -> rows -> records -> sentences | continuations (token ids) -> batches
//! ```
//!
//! [`read()`] takes JSON lines, CSV, TSV, Parquet and plain text, and guesses what their columns are. Nothing that a file has is left out
//! silently: rows that cannot be used are told with their line, and what is cut off is counted. Files are not trusted:
//! whatever they claim has a bound.

use std::fmt;

mod read;

mod batches;
mod continuations;
mod sentences;

mod collect;
mod columns;
mod error;
mod jsonl;
mod lines;
mod parquet;
mod plain;
mod record;
mod separated;
mod source;

pub use batches::{BatchOptions, Batches, Order, RowInfo};
pub use bouquet_model::Message;
pub use columns::{ColumnMap, Reading};
pub use continuations::{Continuation, ContinuationOptions, Continuations, continuations};
pub use error::{BadRow, DataError, Place, Result};
pub use read::{DataSet, Format, Progress, ReadOptions, read, read_and_tell};
pub use sentences::{SentenceRow, Sentences, sentences};

/// One example to learn from.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Two texts that belong together, and texts that do not belong to the first.
    Pair {
        /// The text to find with.
        anchor: String,
        /// The text to find.
        positive: String,
        /// Texts that should not be found (hard negatives); the same number in all records of a data set.
        negatives: Vec<String>,
    },
    /// Two texts, and how alike they are.
    Scored {
        /// A text.
        first: String,
        /// Another text.
        second: String,
        /// Larger is more alike; as it stands in the file.
        score: f32,
    },
    /// A text alone.
    Text(String),
    /// A text that is given, and one that should follow.
    Completion {
        /// What is given; nothing is learned from it.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// A conversation, of which the assistant's turns are learned.
    Chat(Vec<Message>),
}

/// Which records an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// [`Record::Pair`].
    Pairs,
    /// [`Record::Scored`].
    ScoredPairs,
    /// [`Record::Scored`] where there are scores, else [`Record::Pair`]: what sentences are evaluated on.
    Compared,
    /// [`Record::Text`], also from the texts of pairs.
    Texts,
    /// [`Record::Completion`], [`Record::Chat`] or [`Record::Text`], all of one kind.
    Continuations,
}

impl RecordKind {
    /// Whether a plain text is of use.
    pub fn has_plain_texts(self) -> bool {
        matches!(self, RecordKind::Texts | RecordKind::Continuations)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordKind::Pairs => "pairs",
            RecordKind::ScoredPairs => "pairs with scores",
            RecordKind::Compared => "pairs, with or without scores",
            RecordKind::Texts => "texts",
            RecordKind::Continuations => "texts to continue",
        })
    }
}
