//! Why there is no data to learn from. The command line adds what to do.

use std::fmt;
use std::io;

use bouquet_model::ModelError;

use super::RecordKind;

/// The result of this module.
pub type Result<T> = std::result::Result<T, DataError>;

/// Why there is no data to learn from. Files are named as they were given; `-` is named "standard input".
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A folder without a file whose name ends as that of a data file.
    #[error(
        "{folder} has no data files: their names end in .jsonl, .csv, .tsv, .parquet or .txt, and .gz or .zst after that"
    )]
    NoFiles {
        /// Which.
        folder: String,
    },
    /// Neither the name of a file nor the caller says what is in it.
    #[error("{file} does not say what is in it: its name ends neither in .jsonl, .csv, .tsv, .parquet nor in .txt")]
    UnknownFormat {
        /// Which.
        file: String,
    },
    /// A text in another encoding, or no text.
    #[error("{file} is {encoding}, not a text in UTF-8")]
    NotText {
        /// Which.
        file: String,
        /// What it looks like.
        encoding: &'static str,
    },
    /// A compression that is not read, or that this build was made without.
    #[error("{file} is compressed with {compression}, which this build cannot read")]
    Compression {
        /// Which.
        file: String,
        /// What it is compressed with.
        compression: &'static str,
    },
    /// A file that ends too early, or contradicts itself, so that what else is in it cannot be known.
    #[error("{file} is damaged: {problem}")]
    Damaged {
        /// Which.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// More data than the limit.
    #[error("the data are larger than the limit of {} MiB, which {file} goes beyond", limit >> 20)]
    TooLarge {
        /// Where the limit was met.
        file: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file was written to while it was read.
    #[error("{file} changed while it was read")]
    Changed {
        /// Which.
        file: String,
    },
    /// What was said about columns has no meaning.
    #[error("{given:?} does not say which column is which: {problem}")]
    ColumnMap {
        /// What was said.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A column that was asked for is not there.
    #[error("{file} has no column {column:?}; it has {}", named(found))]
    NoSuchColumn {
        /// Which file.
        file: String,
        /// What was asked for.
        column: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// The columns of a file are not what an objective learns from.
    #[error("{file} has no {kind}: {problem}; its columns are {}", named(found))]
    Columns {
        /// Which file.
        file: String,
        /// What was looked for.
        kind: RecordKind,
        /// What is missing, or too much.
        problem: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// Files of one data set that have different kinds of records.
    #[error("{file} has records of another kind than the files before it: {found} instead of {expected}")]
    Mixed {
        /// The first file that differs.
        file: String,
        /// What it has.
        found: &'static str,
        /// What those before it have.
        expected: &'static str,
    },
    /// A text that the tokenizer cannot cut into tokens.
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
    /// Not enough records for a batch.
    #[error("{records} records make no batch: one needs {needed} that have no text in common")]
    NoBatch {
        /// How many there are.
        records: usize,
        /// How many a batch needs.
        needed: usize,
    },
    /// A row that cannot be used, where every row must be.
    #[error("{0}")]
    BadRow(BadRow),
    /// No row can be used.
    #[error("there is no row to learn from{}", first_of(*bad, first.as_ref()))]
    Empty {
        /// How many rows were read and cannot be used.
        bad: u64,
        /// The first of them.
        first: Option<BadRow>,
    },
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its file.
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
}

/// Where a row stands in its file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The line of a text where it begins.
    Line(u64),
    /// Which row it is, where there are no lines.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Row(row) => write!(f, "row {row}"),
        }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.file, self.place, self.reason)
    }
}

/// Names beside each other, not more than a sentence can bear.
pub(super) fn named(columns: &[String]) -> String {
    const SHOWN: usize = 20;
    if columns.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<String> = columns.iter().take(SHOWN).map(|column| quoted(column)).collect();
    let more = columns.len().saturating_sub(SHOWN);
    if more == 0 { quoted.join(", ") } else { format!("{} and {more} more", quoted.join(", ")) }
}

/// Something of a file in quotes, without what a terminal would act on, and cut where it gets long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut:?}{more}")
}

fn first_of(bad: u64, first: Option<&BadRow>) -> String {
    match first {
        None => String::new(),
        Some(row) if bad == 1 => format!(": the only one is {row}"),
        Some(row) => format!(": none of {bad} can be used, the first is {row}"),
    }
}
