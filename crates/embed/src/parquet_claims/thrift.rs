//! As much of Thrift's compact protocol as it takes to see what a Parquet file claims before anything is allocated for it
//! (`doc/specs/thrift-compact-protocol.md` of Apache Thrift).

use std::io::{self, Read};

/// Structs in structs; Parquet has fewer.
const MAX_DEPTH: usize = 16;

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool(bool),
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

/// Reads values; errors where bytes end or make no sense.
pub(super) struct Reader<R> {
    pub(super) bytes: R,
}

impl<R: Read> Reader<R> {
    /// Goes through the fields of a struct. `field` returns whether it took the value; otherwise it is skipped.
    pub(super) fn fields(&mut self, field: impl FnMut(&mut Self, i16, Kind) -> io::Result<bool>) -> io::Result<()> {
        self.fields_at(0, field)
    }

    fn fields_at(
        &mut self,
        depth: usize,
        mut field: impl FnMut(&mut Self, i16, Kind) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut id = 0_i16;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Ok(());
            }
            id = match header >> 4 {
                0 => i16::try_from(self.integer()?).map_err(|_| wrong())?,
                more => id.checked_add(i16::from(more)).ok_or_else(wrong)?,
            };
            let kind = kind_of(header & 0x0f)?;
            if !field(self, id, kind)? {
                self.skip(kind, depth)?;
            }
        }
    }

    /// The kind and number of the items of a list.
    pub(super) fn list(&mut self) -> io::Result<(Kind, u64)> {
        let header = self.byte()?;
        // Some write this for an empty list.
        if header == 0 {
            return Ok((Kind::Byte, 0));
        }
        let count = if header >> 4 == 15 { self.unsigned()? } else { u64::from(header >> 4) };
        Ok((kind_of(header & 0x0f)?, count))
    }

    /// A signed integer of any width.
    pub(super) fn integer(&mut self) -> io::Result<i64> {
        let unsigned = self.unsigned()?;
        Ok((unsigned >> 1) as i64 ^ -((unsigned & 1) as i64))
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(wrong())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.bytes.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn skip_bytes(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.bytes).take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn skip(&mut self, kind: Kind, depth: usize) -> io::Result<()> {
        if depth == MAX_DEPTH {
            return Err(wrong());
        }
        match kind {
            Kind::Bool(_) => Ok(()),
            Kind::Byte => self.skip_bytes(1),
            Kind::Integer => self.unsigned().map(|_| ()),
            Kind::Double => self.skip_bytes(8),
            Kind::Binary => {
                let count = self.unsigned()?;
                self.skip_bytes(count)
            }
            Kind::List => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_item(kind, depth + 1))
            }
            Kind::Map => {
                let count = self.unsigned()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    self.skip_item(kind_of(kinds >> 4)?, depth + 1)?;
                    self.skip_item(kind_of(kinds & 0x0f)?, depth + 1)?;
                }
                Ok(())
            }
            Kind::Struct => self.fields_at(depth + 1, |_, _, _| Ok(false)),
        }
    }

    /// In lists and maps a truth value takes a byte; in a field, the header has it.
    fn skip_item(&mut self, kind: Kind, depth: usize) -> io::Result<()> {
        match kind {
            Kind::Bool(_) => self.skip_bytes(1),
            kind => self.skip(kind, depth),
        }
    }
}

fn kind_of(code: u8) -> io::Result<Kind> {
    Ok(match code {
        1 => Kind::Bool(true),
        2 => Kind::Bool(false),
        3 => Kind::Byte,
        4..=6 => Kind::Integer,
        7 => Kind::Double,
        8 => Kind::Binary,
        9 | 10 => Kind::List,
        11 => Kind::Map,
        12 => Kind::Struct,
        _ => return Err(wrong()),
    })
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its metadata make no sense")
}
