//! Texts out of files, one after another: lines of a text, or a field of JSON lines, also of files that gzip has
//! compressed. Nothing is held but the text at hand, which has a limit.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::{EmbedError, Result};

/// Bytes that a line may have.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Bytes that a text may have: while it is cut into tokens, it takes many times as many.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// How a file holds texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line a text. An empty line is an empty text, so that texts and vectors have the same numbers.
    Lines,
    /// A JSON object a line, with the text in a field of this name, and an `id` if it has one. Empty lines are skipped.
    Json {
        /// The field.
        field: String,
    },
}

/// A text, and what its file calls it.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// `id` of a JSON object.
    pub id: Option<TextName>,
    /// The text itself.
    pub text: String,
}

/// What a text is called: a text itself, or a number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum TextName {
    /// A text.
    Text(String),
    /// A number.
    Number(Number),
}

/// The texts of a file.
pub struct Texts {
    lines: Lines,
    format: Format,
}

/// The lines of a file, without their ends, numbered from 1; the first that cannot be read is the last.
pub struct Lines {
    reader: Box<dyn BufRead>,
    origin: String,
    number: u64,
    failed: bool,
}

impl Format {
    /// The usual format of a file by the ending of its name: JSON lines for `.jsonl` and `.ndjson`, also before `.gz`.
    pub fn of_name(path: &Path) -> Format {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            true => Format::Json { field: "text".to_owned() },
            false => Format::Lines,
        }
    }
}

impl Texts {
    /// The texts of a file; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path, format: Format) -> Result<Self> {
        Ok(Texts { lines: Lines::open(path)?, format })
    }

    /// The texts of what is called `origin`.
    ///
    /// # Errors
    /// A source that cannot be read at all.
    pub fn new(source: impl Read + 'static, origin: &str, format: Format) -> Result<Self> {
        Ok(Texts { lines: Lines::new(source, origin)?, format })
    }

    fn read(&mut self) -> Result<Option<Text>> {
        while let Some(line) = self.lines.next().transpose()? {
            let text = match &self.format {
                Format::Lines => Text { id: None, text: line },
                Format::Json { .. } if line.trim().is_empty() => continue,
                Format::Json { field } => self.of_json(&line, field)?,
            };
            if text.text.len() > MAX_TEXT_BYTES {
                let problem = format!("its text has more than {} MiB", MAX_TEXT_BYTES >> 20);
                return Err(EmbedError::line(&self.lines.origin, self.lines.number, problem));
            }
            return Ok(Some(text));
        }
        Ok(None)
    }

    fn of_json(&self, line: &str, field: &str) -> Result<Text> {
        let fail = |problem: String| EmbedError::line(&self.lines.origin, self.lines.number, problem);
        let object: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| fail(format!("it is not a JSON object: {error}")))?;
        let Some(Value::String(text)) = object.get(field) else {
            let found = object.keys().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(fail(format!("there is no text in its field {field:?} (fields: {found})")));
        };
        let id = match object.get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(TextName::Text(id.clone())),
            Some(Value::Number(id)) => Some(TextName::Number(id.clone())),
            Some(_) => return Err(fail("its id is neither a text nor a number".to_owned())),
        };
        Ok(Text { id, text: text.clone() })
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for TextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextName::Text(name) => f.write_str(name),
            TextName::Number(number) => number.fmt(f),
        }
    }
}

impl Iterator for Texts {
    type Item = Result<Text>;

    fn next(&mut self) -> Option<Result<Text>> {
        self.read().transpose()
    }
}

impl Lines {
    /// The lines of a file; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Lines::new(io::stdin(), "standard input");
        }
        let origin = path.display().to_string();
        Lines::new(File::open(path).map_err(|source| EmbedError::read(&origin, source))?, &origin)
    }

    /// The lines of what is called `origin`, which may be compressed: gzip is known by its first bytes.
    ///
    /// # Errors
    /// A source that cannot be read at all.
    pub fn new(mut source: impl Read + 'static, origin: &str) -> Result<Self> {
        let mut first = Vec::new();
        source.by_ref().take(2).read_to_end(&mut first).map_err(|error| EmbedError::read(origin, error))?;
        let compressed = first == [0x1f, 0x8b];
        let source = Cursor::new(first).chain(source);
        let reader: Box<dyn BufRead> = match compressed {
            true => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(source))),
            false => Box::new(BufReader::with_capacity(1 << 16, source)),
        };
        Ok(Lines { reader, origin: origin.to_owned(), number: 0, failed: false })
    }

    /// What the file is called.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of the line that came last.
    pub fn number(&self) -> u64 {
        self.number
    }

    fn read(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', &mut bytes);
        if read.map_err(|source| EmbedError::read(&self.origin, source))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        let fail = |problem: String| EmbedError::line(&self.origin, self.number, problem);
        if bytes.len() > MAX_LINE_BYTES {
            return Err(fail(format!("it has more than {} MiB", MAX_LINE_BYTES >> 20)));
        }
        let line = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text".to_owned()))?;
        match line.strip_prefix('\u{FEFF}') {
            Some(unmarked) if self.number == 1 => Ok(Some(unmarked.to_owned())),
            _ => Ok(Some(line)),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        if self.failed {
            return None;
        }
        let line = self.read();
        self.failed = line.is_err();
        line.transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(bytes: &[u8], format: Format) -> Vec<std::result::Result<(Option<String>, String), String>> {
        let texts = Texts::new(Cursor::new(bytes.to_vec()), "the file", format).unwrap();
        let plain = |Text { id, text }: Text| (id.map(|id| id.to_string()), text);
        texts.map(|text| text.map(plain).map_err(|error| error.to_string())).collect()
    }

    fn plain(text: &str) -> std::result::Result<(Option<String>, String), String> {
        Ok((None, text.to_owned()))
    }

    #[test]
    fn a_line_is_a_text_however_it_ends() {
        let found = texts("\u{FEFF}one\r\n\ntwo \u{FEFF}\nthree".as_bytes(), Format::Lines);
        assert_eq!(found, [plain("one"), plain(""), plain("two \u{FEFF}"), plain("three")]);
        assert_eq!(texts(b"", Format::Lines), []);
        assert_eq!(texts(b"\n", Format::Lines), [plain("")]);
    }

    #[test]
    fn compressed_texts_are_read_as_they_were() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one\ntwo\n").unwrap();
        let bytes = gzip.finish().unwrap();
        assert_eq!(texts(&bytes, Format::Lines), [plain("one"), plain("two")]);
        let cut = texts(&bytes[..bytes.len() - 6], Format::Lines);
        assert!(cut.last().unwrap().as_ref().unwrap_err().starts_with("cannot read the file"), "{cut:?}");
    }

    #[test]
    fn json_has_texts_and_names() {
        let format = Format::Json { field: "text".to_owned() };
        let lines = b"{\"id\": 7, \"text\": \"one\"}\n\n{\"text\": \"two\", \"id\": \"b\"}\n{\"text\": \"three\"}\n";
        let named = |id: &str, text: &str| Ok((Some(id.to_owned()), text.to_owned()));
        assert_eq!(texts(lines, format), [named("7", "one"), named("b", "two"), plain("three")]);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line() {
        let json = || Format::Json { field: "text".to_owned() };
        let wrong = |bytes: &[u8], format: Format| texts(bytes, format).pop().unwrap().unwrap_err();
        assert_eq!(wrong(b"one\n\xff\xfe\n", Format::Lines), "the file, line 2: it is not UTF-8 text");
        assert!(wrong(b"{\"text\": \"a\"}\n[1]\n", json()).starts_with("the file, line 2: it is not a JSON object"));
        let missing = wrong(b"{\"sentence\": \"a\", \"n\": 1}", json());
        assert_eq!(missing, "the file, line 1: there is no text in its field \"text\" (fields: sentence, n)");
        assert!(wrong(b"{\"text\": \"a\", \"id\": [1]}", json()).ends_with("its id is neither a text nor a number"));
        let long = vec![b'x'; MAX_LINE_BYTES + 5];
        assert_eq!(texts(&long, Format::Lines)[0], Err("the file, line 1: it has more than 16 MiB".to_owned()));
        let long = texts(&long[..MAX_TEXT_BYTES + 1], Format::Lines);
        assert_eq!(long, [Err("the file, line 1: its text has more than 4 MiB".to_owned())]);
    }

    #[test]
    fn the_ending_says_what_a_file_holds() {
        let json = Format::Json { field: "text".to_owned() };
        for (name, format) in
            [("a.txt", Format::Lines), ("-", Format::Lines), ("a.JSONL.gz", json.clone()), ("b.ndjson", json)]
        {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
    }
}
