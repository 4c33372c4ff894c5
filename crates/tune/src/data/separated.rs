//! Comma- and tab-separated values.
//!
//! CSV is as RFC 4180 has it: a cell in quotes may hold commas, line ends, and quotes written twice. TSV is as its media
//! type has it (`text/tab-separated-values`): there are no quotes, so a quote is a character like others and a row is a
//! line. Both may or may not begin with a row of names.

use std::cell::Cell;
use std::io::{self, BufRead, Cursor, Read};

use serde_json::Value;

use super::collect::Collector;
use super::columns::is_header;
use super::lines::Lines;
use super::source::Source;
use super::{DataError, Place, Result};

/// A tab between the cells of a line.
pub(super) fn read_tsv(source: &Source, stream: Box<dyn BufRead + '_>, rows: &mut Collector<'_>) -> Result<()> {
    let options = rows.options();
    let mut lines = Lines::new(stream, options.max_row_bytes);
    let mut width = None;
    while let Some(line) = lines.next().map_err(|error| source.failed(error, options))? {
        let place = Place::Line(line.number);
        match line.bytes {
            Some([]) => {}
            Some(bytes) => row(place, bytes.split(|&byte| byte == b'\t'), &mut width, rows)?,
            None => rows.bad(place, rows.too_long())?,
        }
    }
    Ok(())
}

/// A row that only a quote which is never closed can keep from being the last one.
const END: &str = "\n\u{1}end of the file\u{1}\n";

/// A comma between cells.
pub(super) fn read_csv(source: &Source, stream: Box<dyn BufRead + '_>, rows: &mut Collector<'_>) -> Result<()> {
    let options = rows.options();
    let since_row = Cell::new(0);
    // Twice as long as a row may be: such rows are counted as bad ones. Beyond it nobody knows where the next row begins.
    let limit = 2 * options.max_row_bytes as u64 + (1 << 16);
    let stream = UpTo { stream: stream.chain(Cursor::new(END)), since_row: &since_row, limit };
    let mut builder = csv::ReaderBuilder::new();
    // Of CRLF, only LF ends a row for the crate: so that it knows on which line the next one begins.
    builder.has_headers(false).flexible(true).terminator(csv::Terminator::Any(b'\n'));
    let mut reader = builder.from_reader(stream);
    let mut record = csv::ByteRecord::new();
    let mut width = None;
    loop {
        since_row.set(0);
        let next_line = reader.position().line();
        let more = reader.read_byte_record(&mut record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<NoEnd>()) => {
                let problem = format!("the row that begins at line {next_line} does not end: is a quote not closed?");
                DataError::Damaged { file: source.name.clone(), problem }
            }
            csv::ErrorKind::Io(error) => source.failed(error, options),
            other => DataError::Damaged { file: source.name.clone(), problem: format!("{other:?}") },
        })?;
        let last = record.iter().next_back().unwrap_or_default();
        if !more || (record.len() == 1 && last == END.trim_matches('\n').as_bytes()) {
            return Ok(());
        }
        if last.ends_with(END.as_bytes()) {
            let reason = "a quote is not closed, so that the rest of the file is in it";
            return rows.bad(Place::Line(next_line), reason.to_owned());
        }
        // Blank lines before the row were skipped, so that its beginning is counted from its end.
        let line_ends = 1 + record.as_slice().iter().filter(|&&byte| byte == b'\n').count() as u64;
        let place = Place::Line(reader.position().line().saturating_sub(line_ends));
        let last = last.strip_suffix(b"\r").unwrap_or(last);
        let cells = record.iter().take(record.len() - 1).chain([last]);
        if record.as_slice() == b"\r" {
            // A blank line.
        } else if record.as_slice().len() > options.max_row_bytes {
            rows.bad(place, rows.too_long())?;
        } else {
            row(place, cells, &mut width, rows)?;
        }
    }
}

/// Takes a row; the first one may be names. `width` is the number of cells that rows have.
fn row<'a>(
    place: Place,
    cells: impl Iterator<Item = &'a [u8]>,
    width: &mut Option<usize>,
    rows: &mut Collector<'_>,
) -> Result<()> {
    let decoded: std::result::Result<Vec<String>, _> = cells.map(|cell| String::from_utf8(cell.to_vec())).collect();
    let Ok(mut cells) = decoded else {
        return rows.bad(place, "it is not UTF-8".to_owned());
    };
    let Some(expected) = *width else {
        *width = Some(cells.len());
        if is_header(&cells, &rows.options().columns) {
            return rows.columns(&cells, None);
        }
        let positions: Vec<String> = (0..cells.len()).map(|index| index.to_string()).collect();
        rows.columns(&positions, Some(&cells))?;
        return rows.row(place, |_, index| Value::String(std::mem::take(&mut cells[index])), true);
    };
    if cells.len() != expected {
        return rows.bad(place, format!("it has {} cells where others have {expected}", cells.len()));
    }
    rows.row(place, |_, index| Value::String(std::mem::take(&mut cells[index])), true)
}

/// A stream of which a row takes only so much.
struct UpTo<'a, R> {
    stream: R,
    since_row: &'a Cell<u64>,
    limit: u64,
}

impl<R: Read> Read for UpTo<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row.get() > self.limit {
            return Err(io::Error::other(NoEnd));
        }
        let count = self.stream.read(buffer)?;
        self.since_row.set(self.since_row.get() + count as u64);
        Ok(count)
    }
}

#[derive(Debug)]
struct NoEnd;

impl std::fmt::Display for NoEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row does not end")
    }
}

impl std::error::Error for NoEnd {}
