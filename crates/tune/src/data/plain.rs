//! Plain text. Where sentences are learned each line is a text; where texts are continued the whole file is one, of which
//! the line ends are a part.

use std::io::BufRead;

use serde_json::Value;

use super::collect::Collector;
use super::lines::Lines;
use super::source::Source;
use super::{Place, RecordKind, Result};

/// Bytes after which a file that is one text is cut, at the next line: what is cut into tokens at once.
const PART_BYTES: usize = 1 << 20;

/// Blank lines are no texts; within a file that is one text they stay. A line that cannot be used is left out.
pub(super) fn read(source: &Source, stream: Box<dyn BufRead + '_>, rows: &mut Collector<'_>) -> Result<()> {
    let options = rows.options();
    let whole = options.kind == RecordKind::Continuations;
    let name = [if whole { "the whole file" } else { "each line" }.to_owned()];
    rows.columns(&name, Some(&name))?;
    let mut lines = Lines::new(stream, options.max_row_bytes);
    let mut part = Part { first_line: 1, text: String::new() };
    while let Some(line) = lines.next().map_err(|error| source.failed(error, options))? {
        let place = Place::Line(line.number);
        let text = match line.bytes.map(std::str::from_utf8) {
            Some(Ok(text)) => text,
            Some(Err(_)) => {
                rows.bad(place, "it is not UTF-8".to_owned())?;
                continue;
            }
            None => {
                rows.bad(place, rows.too_long())?;
                continue;
            }
        };
        if whole {
            if part.text.len() >= PART_BYTES {
                part.end(line.number, rows)?;
            }
            part.text.push_str(text);
            part.text.push('\n');
        } else if !text.trim().is_empty() {
            rows.row(place, |_, _| Value::from(text), true)?;
        }
    }
    part.end(0, rows)
}

/// A part of a file that is one text.
struct Part {
    first_line: u64,
    text: String,
}

impl Part {
    /// Takes the part as a text, and begins the next.
    fn end(&mut self, next_line: u64, rows: &mut Collector<'_>) -> Result<()> {
        let place = Place::Line(std::mem::replace(&mut self.first_line, next_line));
        let text = std::mem::take(&mut self.text);
        let text = text.trim_end_matches('\n');
        if text.trim().is_empty() {
            return Ok(());
        }
        rows.row(place, |_, _| Value::from(text), true)
    }
}
