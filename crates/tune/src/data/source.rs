//! From the names that a user gives to streams of rows: folders, endings, compression, standard input, and whether a file
//! stayed the same while it was read.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use super::columns::is_header;
use super::lines::BYTE_ORDER_MARK;
use super::{DataError, Format, ReadOptions, Result};

/// Where rows come from.
pub(super) struct Source {
    /// How it is called in messages.
    pub(super) name: String,
    /// Nothing for standard input.
    path: Option<PathBuf>,
}

/// What is in a source, opened.
pub(super) enum Content<'a> {
    /// A text, decompressed.
    Text(Format, Box<dyn BufRead + 'a>),
    /// A Parquet file, in which one can go back and forth.
    Parquet(File),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The files behind `paths`, those of a folder in the order of their names. Files of a folder that have no data by their
/// names, or whose names begin with a dot, are left out; so is plain text where there are other data, which it may describe.
pub(super) fn sources(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        if path == Path::new("-") {
            sources.push(Source { name: "standard input".to_owned(), path: None });
        } else if path.is_dir() {
            let read = |source| DataError::Read { file: name.clone(), source };
            let mut files = Vec::new();
            for entry in fs::read_dir(path).map_err(read)? {
                let file = entry.map_err(read)?.path();
                let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && by_ending(&file).0.is_some() && file.is_file() {
                    files.push(file);
                }
            }
            let plain = |file: &PathBuf| by_ending(file).0 == Some(Format::Text);
            if !files.iter().all(plain) {
                files.retain(|file| !plain(file));
            }
            if files.is_empty() {
                return Err(DataError::NoFiles { folder: name });
            }
            files.sort();
            sources.extend(files.into_iter().map(|file| Source { name: file.display().to_string(), path: Some(file) }));
        } else {
            sources.push(Source { name, path: Some(path.clone()) });
        }
    }
    Ok(sources)
}

/// What the ending of a name says.
fn by_ending(path: &Path) -> (Option<Format>, Compression) {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (name, compression) = if let Some(name) = name.strip_suffix(".gz") {
        (name, Compression::Gzip)
    } else if let Some(name) = name.strip_suffix(".zst") {
        (name, Compression::Zstd)
    } else {
        (name.as_str(), Compression::None)
    };
    let format = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("csv") => Some(Format::Csv),
        Some("tsv" | "tab") => Some(Format::Tsv),
        Some("parquet") => Some(Format::Parquet),
        Some("txt") => Some(Format::Text),
        _ => None,
    };
    (format, compression)
}

impl Source {
    /// Bytes that it has as it is stored; nothing where that is not known before.
    pub(super) fn bytes(&self) -> Option<u64> {
        let metadata = fs::metadata(self.path.as_ref()?).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Opens the source. `left` counts down the bytes that may still be read, decompressed, from all sources; `done` counts
    /// those of a file as it is stored.
    pub(super) fn open<'a>(
        &self,
        options: &ReadOptions,
        left: &'a Cell<u64>,
        done: &Rc<Cell<u64>>,
    ) -> Result<(Content<'a>, Option<Unchanged>)> {
        let read = |source| DataError::Read { file: self.name.clone(), source };
        let Some(path) = &self.path else {
            return Ok((self.decode(Box::new(io::stdin()), options.format, None, options, left)?, None));
        };
        let (by_name, compression) = by_ending(path);
        let format = options.format.or(by_name).ok_or_else(|| DataError::UnknownFormat { file: self.name.clone() })?;
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let unchanged = metadata.is_file().then(|| Unchanged { path: path.clone(), before: State::of(&metadata) });
        let content = if format == Format::Parquet && compression == Compression::None && metadata.is_file() {
            Content::Parquet(file)
        } else {
            let file = Counted { stream: file, done: done.clone() };
            self.decode(Box::new(file), Some(format), Some(compression), options, left)?
        };
        Ok((content, unchanged))
    }

    /// A stream as what is in it; what is not known is found out from its first bytes.
    fn decode<'a>(
        &self,
        stream: Box<dyn Read>,
        format: Option<Format>,
        compression: Option<Compression>,
        options: &ReadOptions,
        left: &'a Cell<u64>,
    ) -> Result<Content<'a>> {
        let failed = |error| self.failed(error, options);
        let (compression, stream) = match compression {
            Some(compression) => (compression, stream),
            None => {
                let (first, stream) = peek(stream, 4).map_err(failed)?;
                (compression_of(&first), stream as Box<dyn Read>)
            }
        };
        let stream: Box<dyn Read> = match compression {
            Compression::None => stream,
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Compression::Zstd => self.zstd(stream)?,
        };
        let (first, stream) = peek(stream, 4096).map_err(failed)?;
        let format = format.unwrap_or_else(|| format_of(&first, options));
        if let Some(encoding) = not_utf8(&first).filter(|_| format != Format::Parquet) {
            return Err(DataError::NotText { file: self.name.clone(), encoding });
        }
        let mut stream = Bounded { stream, left };
        if format != Format::Parquet {
            return Ok(Content::Text(format, Box::new(BufReader::with_capacity(1 << 16, stream))));
        }
        // Parquet is read from its end.
        let mut file = tempfile::tempfile().map_err(failed)?;
        io::copy(&mut stream, &mut file).and_then(|_| file.flush()).and_then(|()| file.rewind()).map_err(failed)?;
        Ok(Content::Parquet(file))
    }

    #[cfg(feature = "zstd")]
    fn zstd(&self, stream: Box<dyn Read>) -> Result<Box<dyn Read>> {
        match zstd::stream::read::Decoder::new(stream) {
            Ok(decoder) => Ok(Box::new(decoder)),
            Err(source) => Err(DataError::Read { file: self.name.clone(), source }),
        }
    }

    #[cfg(not(feature = "zstd"))]
    fn zstd(&self, _stream: Box<dyn Read>) -> Result<Box<dyn Read>> {
        Err(DataError::Compression { file: self.name.clone(), compression: "zstd" })
    }

    /// What it means that a stream cannot be read further.
    pub(super) fn failed(&self, error: io::Error, options: &ReadOptions) -> DataError {
        let file = self.name.clone();
        if error.get_ref().is_some_and(|inner| inner.is::<LimitReached>()) {
            DataError::TooLarge { file, limit: options.max_bytes }
        } else if error.raw_os_error().is_none() {
            // Not the system says so but the decompression.
            DataError::Damaged { file, problem: error.to_string() }
        } else {
            DataError::Read { file, source: error }
        }
    }
}

/// The first bytes of a stream, fewer than `count` only where it has no more, and the whole stream.
fn peek(mut stream: Box<dyn Read>, count: u64) -> io::Result<(Vec<u8>, Box<dyn Read>)> {
    let mut first = Vec::new();
    (&mut stream).take(count).read_to_end(&mut first)?;
    Ok((first.clone(), Box::new(Cursor::new(first).chain(stream))))
}

fn compression_of(first: &[u8]) -> Compression {
    if first.starts_with(&[0x1f, 0x8b]) {
        Compression::Gzip
    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// What bytes are that no text in UTF-8 has.
fn not_utf8(first: &[u8]) -> Option<&'static str> {
    if first.starts_with(&[0xff, 0xfe]) || first.starts_with(&[0xfe, 0xff]) {
        return Some("UTF-16");
    }
    first.contains(&0).then_some("binary, or a text in UTF-16")
}

/// Text without columns is one text a line only where texts alone are looked for.
fn format_of(first: &[u8], options: &ReadOptions) -> Format {
    if first.starts_with(b"PAR1") {
        return Format::Parquet;
    }
    let first = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first).trim_ascii_start();
    let line = first.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match first.first() {
        Some(b'{') => Format::Jsonl,
        _ if line.contains(&b'\t') => Format::Tsv,
        Some(b'"') | None => Format::Csv,
        _ if options.kind.has_plain_texts() && !is_header(&names_in(line), &options.columns) => Format::Text,
        _ => Format::Csv,
    }
}

/// The names that a row of plain CSV would have.
fn names_in(line: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(line).trim_end().split(',').map(str::to_owned).collect()
}

/// A stream that counts what was read of it.
struct Counted<R> {
    stream: R,
    done: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.done.set(self.done.get() + count as u64);
        Ok(count)
    }
}

/// A stream that ends in an error once a common limit is reached.
struct Bounded<'a, R> {
    stream: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64).ok_or_else(|| io::Error::other(LimitReached))?;
        self.left.set(left);
        Ok(count)
    }
}

#[derive(Debug)]
struct LimitReached;

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too large")
    }
}

impl std::error::Error for LimitReached {}

/// What a file was like before it was read.
pub(super) struct Unchanged {
    path: PathBuf,
    before: State,
}

#[derive(PartialEq, Eq)]
struct State {
    bytes: u64,
    /// Not every system knows.
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        State { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Unchanged {
    /// Whether the file at the path is still the one that was opened, as far as size and time tell.
    pub(super) fn holds(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| State::of(&metadata) == self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RecordKind;

    /// What a stream without a name turns out to be, and its text.
    fn sniffed(bytes: &[u8]) -> (Format, String) {
        sniffed_for(RecordKind::Pairs, bytes)
    }

    fn sniffed_for(kind: RecordKind, bytes: &[u8]) -> (Format, String) {
        let options = ReadOptions::new(kind);
        let left = Cell::new(1 << 20);
        let source = Source { name: "standard input".to_owned(), path: None };
        // Bytes that come one at a time.
        let stream = BufReader::with_capacity(1, Cursor::new(bytes.to_vec()));
        let mut text = String::new();
        match source.decode(Box::new(stream), None, None, &options, &left).expect("a stream") {
            Content::Text(format, mut stream) => stream.read_to_string(&mut text).map(|_| (format, text)),
            Content::Parquet(mut file) => file.read_to_string(&mut text).map(|_| (Format::Parquet, text)),
        }
        .expect("a text")
    }

    #[test]
    fn a_stream_without_a_name_is_known_by_its_first_bytes() {
        let text = |format, text: &str| (format, text.to_owned());
        assert_eq!(sniffed(b""), text(Format::Csv, ""));
        assert_eq!(sniffed(b"a"), text(Format::Csv, "a"));
        assert_eq!(sniffed(b"a,b\nc\td,e"), text(Format::Csv, "a,b\nc\td,e"));
        assert_eq!(sniffed(b"a b\tc,d\n"), text(Format::Tsv, "a b\tc,d\n"));
        assert_eq!(sniffed(b"\xef\xbb\xbf\n {}"), text(Format::Jsonl, "\u{feff}\n {}"));
        assert_eq!(sniffed(b"PAR1..."), text(Format::Parquet, "PAR1..."));
        for kind in [RecordKind::Texts, RecordKind::Continuations] {
            let sniffed = |bytes: &[u8]| sniffed_for(kind, bytes).0;
            assert_eq!(sniffed(b"Once, there was\na cat"), Format::Text);
            assert_eq!(sniffed(b"id,text\r\n1,a"), Format::Csv);
            assert_eq!(sniffed(b"text\na"), Format::Csv);
            assert_eq!(sniffed(b"\"a, b\",c"), Format::Csv);
            assert_eq!(sniffed(b"a\tb"), Format::Tsv);
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{\"text\": \"x\"}").expect("memory can be written");
        assert_eq!(sniffed(&gzip.finish().expect("memory can be written")), text(Format::Jsonl, "{\"text\": \"x\"}"));
        #[cfg(feature = "zstd")]
        assert_eq!(sniffed(&zstd::encode_all(&b"a\tb"[..], 1).expect("memory")), text(Format::Tsv, "a\tb"));
    }
}
