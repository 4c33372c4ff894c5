//! `tojson`, as `json.dumps` of Python writes it with the defaults of transformers.

use std::fmt::Write as _;
use std::io;

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::engine::{spend, spend_size};

/// Spaces that a level may be indented by.
const MAX_INDENT: usize = 16;

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(state: &mut State, value: Value, options: Kwargs) -> Result<String, Error> {
    spend_size(state, &value)?;
    let indent: Option<usize> = options.get("indent")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let refuse = |problem: &str| Error::new(ErrorKind::InvalidOperation, problem.to_owned());
    if indent.is_some_and(|width| width > MAX_INDENT) {
        return Err(refuse("tojson indents by at most 16"));
    }
    let (comma, colon) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([comma, colon]) if comma.len() <= MAX_INDENT && colon.len() <= MAX_INDENT => {
            (comma.as_str(), colon.as_str())
        }
        Some(_) => return Err(refuse("tojson has two short separators")),
    };
    let mut bytes = Vec::new();
    let spaces = " ".repeat(indent.unwrap_or(0));
    let python = Python { indent: indent.map(|_| spaces.as_str()), comma, colon, level: 0, empty: true };
    let mut serializer = Serializer::with_formatter(&mut bytes, python);
    let failed = |error| Error::new(ErrorKind::BadSerialization, format!("{error}"));
    if sorted {
        let mut json = serde_json::to_value(&value).map_err(failed)?;
        json.sort_all_objects();
        json.serialize(&mut serializer).map_err(failed)?;
    } else {
        value.serialize(&mut serializer).map_err(failed)?;
    }
    spend(state, bytes.len())?;
    let json = String::from_utf8(bytes).expect("JSON is UTF-8");
    Ok(if ascii { in_ascii(&json) } else { json })
}

/// What is not ASCII, which in JSON stands in texts alone, in escapes.
fn in_ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(escaped, "\\u{unit:04x}").expect("a text can be written to");
        }
    }
    escaped
}

/// `{"a": [1, 2]}`, or a line for each.
struct Python<'a> {
    indent: Option<&'a str>,
    comma: &'a str,
    colon: &'a str,
    /// Brackets that are open, and whether there is nothing in the last one.
    level: usize,
    empty: bool,
}

impl Python<'_> {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        (self.level, self.empty) = (self.level + 1, true);
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.comma.as_bytes())?;
        }
        self.line(writer)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if !self.empty {
            self.line(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }
}
