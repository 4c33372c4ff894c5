//! The lines of a text, none of which fills the memory.

use std::io::{self, BufRead, Read};

/// What stands at the beginning of some files and is not part of their text.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines that end in LF or CRLF.
pub(super) struct Lines<R> {
    reader: R,
    max_bytes: usize,
    line: Vec<u8>,
    number: u64,
}

/// A line, counted from 1.
pub(super) struct Line<'a> {
    pub(super) number: u64,
    /// Without what ends it; nothing where it is longer than it may be.
    pub(super) bytes: Option<&'a [u8]>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, max_bytes: usize) -> Self {
        Lines { reader, max_bytes, line: Vec::new(), number: 0 }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        // Room for what ends the longest line.
        let limit = self.max_bytes as u64 + 2;
        if (&mut self.reader).take(limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() != Some(&b'\n') && self.line.len() as u64 == limit {
            self.skip_line()?;
        }
        let mut bytes = self.line.as_slice();
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if self.number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        let bytes = Some(bytes).filter(|bytes| bytes.len() <= self.max_bytes);
        Ok(Some(Line { number: self.number, bytes }))
    }

    /// Leaves out what is left of a line.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let skipped = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(skipped);
            if end.is_some() || skipped == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], max_bytes: usize) -> Vec<Option<Vec<u8>>> {
        // A small buffer, so that lines are put together from pieces.
        let mut lines = Lines::new(io::BufReader::with_capacity(3, text), max_bytes);
        let mut found = Vec::new();
        while let Some(line) = lines.next().expect("memory can be read") {
            assert_eq!(line.number, found.len() as u64 + 1);
            found.push(line.bytes.map(<[u8]>::to_vec));
        }
        found
    }

    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_end_in_lf_or_crlf_and_the_last_one_as_it_likes() {
        assert_eq!(lines(b"\xef\xbb\xbfab\r\n\nc\rd\n", 9), [some("ab"), some(""), some("c\rd")]);
        assert_eq!(lines(b"ab", 9), [some("ab")]);
        assert!(lines(b"", 9).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_and_the_next_one_is_not() {
        assert_eq!(lines(b"1234\r\n12345\n123456789012\n12", 4), [some("1234"), None, None, some("12")]);
        assert_eq!(lines(b"123456789", 4), [None]);
    }
}
