//! Files as records.

use std::cell::Cell;
use std::fmt::Write;
use std::path::PathBuf;
use std::rc::Rc;

use super::collect::Collector;
use super::source::{Content, Source, sources};
use super::{BadRow, ColumnMap, DataError, Reading, Record, RecordKind, Result, jsonl, parquet, plain, separated};

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per line: `.jsonl`, `.ndjson`. (What `.json` has may be anything; who knows says so.)
    Jsonl,
    /// Comma-separated values, RFC 4180: `.csv`.
    Csv,
    /// Tab-separated values, without quotes: `.tsv`.
    Tsv,
    /// Columns: `.parquet`.
    Parquet,
    /// Plain text: `.txt`. Each line is a text; where texts are continued, the whole file is one.
    Text,
}

/// How files are read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// What the objective learns from.
    pub kind: RecordKind,
    /// Which column is which; guessed where empty.
    pub columns: ColumnMap,
    /// What is in all files; nothing: as their names end, and standard input as it begins.
    pub format: Option<Format>,
    /// Whether the first row that cannot be used is an error.
    pub strict: bool,
    /// Bytes that all files may have, decompressed, and about that many may the records take in memory.
    pub max_bytes: u64,
    /// Bytes that a row may have; a longer one cannot be used.
    pub max_row_bytes: usize,
}

impl ReadOptions {
    /// Guessed columns, 8 GiB, 16 MiB a row; rows that cannot be used are left out.
    pub fn new(kind: RecordKind) -> Self {
        ReadOptions {
            kind,
            columns: ColumnMap::default(),
            format: None,
            strict: false,
            max_bytes: 8 << 30,
            max_row_bytes: 16 << 20,
        }
    }
}

/// What files have to learn from.
#[derive(Clone, Debug, Default)]
pub struct DataSet {
    /// At least one, all of one variant, in the order of the files and their rows.
    pub records: Vec<Record>,
    /// What was read as what, with the first file of which that is true: different files may have different columns.
    pub readings: Vec<(String, Vec<Reading>)>,
    /// The first few rows that cannot be used.
    pub bad: Vec<BadRow>,
    /// How many rows cannot be used.
    pub bad_rows: u64,
    /// SHA-256 over the records in their order. Files of other formats with the same records have the same.
    pub fingerprint: [u8; 32],
}

impl DataSet {
    /// The fingerprint in hexadecimal digits.
    pub fn fingerprint_text(&self) -> String {
        self.fingerprint.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// How far reading is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that is being read.
    pub file: &'a str,
    /// Records so far, of all files.
    pub records: u64,
    /// Bytes of all files so far, as they are stored; of a Parquet file only when it is done.
    pub bytes: u64,
    /// How many there are; nothing with standard input, whose bytes are not counted either.
    pub total: Option<u64>,
}

/// Reads files, the data files of folders, and standard input (`-`), one after another.
///
/// ```
/// use bouquet_tune::data::{ReadOptions, Record, RecordKind, read};
///
/// let folder = tempfile::tempdir().unwrap();
/// let file = folder.path().join("pairs.csv");
/// std::fs::write(&file, "query,answer\nWho?,Nobody.\n").unwrap();
/// let data = read(&[file], &ReadOptions::new(RecordKind::Pairs)).unwrap();
/// let Record::Pair { anchor, positive, .. } = &data.records[0] else { panic!() };
/// assert_eq!((anchor.as_str(), positive.as_str()), ("Who?", "Nobody."));
/// assert_eq!(data.readings[0].1[0].column, "query");
/// ```
///
/// # Errors
/// Files that cannot be read, are damaged or change meanwhile; columns that are not what `options.kind` needs; more than
/// `options.max_bytes`; no row that can be used; with `options.strict`, one that cannot.
pub fn read(paths: &[PathBuf], options: &ReadOptions) -> Result<DataSet> {
    read_and_tell(paths, options, &mut |_| {})
}

/// The same, with how far it is every few thousand rows.
///
/// # Errors
/// As [`read`].
pub fn read_and_tell(paths: &[PathBuf], options: &ReadOptions, tell: &mut dyn FnMut(&Progress<'_>)) -> Result<DataSet> {
    let (left, done) = (Cell::new(options.max_bytes), Rc::new(Cell::new(0)));
    let sources = sources(paths)?;
    let total: Option<u64> = sources.iter().map(Source::bytes).sum();
    let mut tell = |file: &str, records: u64| tell(&Progress { file, records, bytes: done.get(), total });
    let mut rows = Collector::new(options, &mut tell);
    let mut before = 0;
    for source in sources {
        rows.begin(&source.name);
        let bytes = source.bytes();
        let (content, unchanged) = source.open(options, &left, &done)?;
        let result = read_content(&source, content, &mut rows);
        // A file that changed may look damaged, or as if it had bad rows: this is why.
        if unchanged.is_some_and(|unchanged| !unchanged.holds()) {
            return Err(DataError::Changed { file: source.name });
        }
        result?;
        // Of a Parquet file, where one goes back and forth, nothing was counted.
        before += bytes.unwrap_or(0);
        done.set(before);
    }
    rows.finish()
}

fn read_content(source: &Source, content: Content<'_>, rows: &mut Collector<'_>) -> Result<()> {
    match content {
        Content::Text(Format::Jsonl, stream) => jsonl::read(source, stream, rows),
        Content::Text(Format::Tsv, stream) => separated::read_tsv(source, stream, rows),
        Content::Text(Format::Text, stream) => plain::read(source, stream, rows),
        Content::Text(_, stream) => separated::read_csv(source, stream, rows),
        Content::Parquet(file) => parquet::read(source, file, rows),
    }
}

#[cfg(test)]
mod tests;
