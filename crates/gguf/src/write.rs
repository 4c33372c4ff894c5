//! Writes a file in one stream: the header at once, then the data of each tensor in the order of the plan, whole or in
//! pieces, so that no more than a piece has to be in memory. The bytes come out in order, to whatever takes them; who
//! wants a file that is there whole or not at all gives it one under a temporary name.

use std::collections::HashSet;
use std::io::Write;

use crate::error::{entry, tensor};
use crate::metadata::Metadata;
use crate::read::{ALIGNMENT, alignment, cannot_be};
use crate::tensor::TensorKind;
use crate::value::{Array, Value};
use crate::{GgufError, MAX_DIMENSIONS, MAX_ENTRIES, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Result};

/// What every file begins with.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// The version that is written.
const VERSION: u32 = 3;

/// Bytes of a tensor's name that llama.cpp takes at most.
const MAX_TENSOR_NAME_BYTES: usize = 63;

/// A tensor to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name, of at most 63 bytes; no other has it.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: TensorKind,
}

impl Planned {
    /// A tensor to come.
    pub fn new(name: impl Into<String>, shape: &[usize], kind: TensorKind) -> Self {
        Planned { name: name.into(), shape: shape.to_vec(), kind }
    }
}

/// A file that is being written.
pub struct Writer<W> {
    out: W,
    alignment: usize,
    /// Bytes that the file will have.
    bytes: u64,
    /// Those to come, the next one first.
    tensors: std::vec::IntoIter<Place>,
    /// The one that is being written.
    current: Option<Place>,
}

struct Place {
    name: String,
    bytes: usize,
    written: usize,
}

impl<W: Write> Writer<W> {
    /// Writes the header. `general.alignment` of the metadata holds; without one, 32.
    ///
    /// # Errors
    /// [`GgufError::Entry`], [`GgufError::Tensor`] and [`GgufError::TooMany`] for what no reader takes, before anything is
    /// written; [`GgufError::Write`].
    pub fn begin(mut out: W, metadata: &Metadata, tensors: &[Planned]) -> Result<Self> {
        let alignment = alignment(metadata)?;
        let (header, places, bytes) = header(metadata, tensors, alignment)?;
        out.write_all(&header)?;
        let mut writer = Writer { out, alignment, bytes, tensors: places.into_iter(), current: None };
        writer.next_tensor();
        Ok(writer)
    }

    /// Bytes that the whole file will have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the next bytes of a tensor, little-endian, rows one after another. Panics when another tensor is due, or fewer
    /// bytes.
    ///
    /// # Errors
    /// [`GgufError::Write`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let due = self.current.as_mut().unwrap_or_else(|| panic!("bytes of {name}, but all tensors are written"));
        assert_eq!(name, due.name, "the tensor whose bytes are due");
        assert!(
            bytes.len() <= due.bytes - due.written,
            "{} bytes too many of {name}",
            due.written + bytes.len() - due.bytes
        );
        self.out.write_all(bytes)?;
        due.written += bytes.len();
        if due.written == due.bytes {
            let padding = due.bytes.next_multiple_of(self.alignment) - due.bytes;
            self.out.write_all(&vec![0; padding])?;
            self.next_tensor();
        }
        Ok(())
    }

    /// What was written to, once all is. Panics when bytes of a tensor are missing.
    ///
    /// # Errors
    /// [`GgufError::Write`].
    pub fn finish(mut self) -> Result<W> {
        if let Some(Place { name, bytes, written }) = &self.current {
            panic!("{written} of {bytes} bytes of {name} were written");
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Goes on to the next tensor that has bytes.
    fn next_tensor(&mut self) {
        self.current = self.tensors.find(|place| place.bytes > 0);
    }
}

/// The header with the zeros behind it, the tensors in order, and the bytes of the whole file.
fn header(metadata: &Metadata, tensors: &[Planned], alignment: usize) -> Result<(Vec<u8>, Vec<Place>, u64)> {
    for (what, count, of, at_most) in
        [("its metadata", metadata.iter().len(), "entries", MAX_ENTRIES), ("it", tensors.len(), "tensors", MAX_TENSORS)]
    {
        if count > at_most {
            let count = format!("{count} {of}");
            return Err(GgufError::TooMany { what: what.into(), count, at_most: at_most as u64 });
        }
    }
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.iter().len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        if key.len() > MAX_NAME_BYTES {
            return Err(entry(key, format!("has a key of {} bytes, more than {MAX_NAME_BYTES}", key.len())));
        }
        // llama.cpp reads an alignment of this type alone.
        if key == ALIGNMENT && !matches!(value, Value::U32(_)) {
            return Err(entry(key, "has to be u32"));
        }
        put_text(&mut header, key);
        header.extend((value.value_type() as u32).to_le_bytes());
        put_value(&mut header, value);
    }
    let (mut places, mut names, mut offset) = (Vec::with_capacity(tensors.len()), HashSet::new(), 0u64);
    for Planned { name, shape, kind } in tensors {
        if !names.insert(name) {
            return Err(tensor(name, "was to be written twice"));
        }
        if name.len() > MAX_TENSOR_NAME_BYTES {
            return Err(tensor(name, format!("has a name of {} bytes, more than {MAX_TENSOR_NAME_BYTES}", name.len())));
        }
        if shape.len() > MAX_DIMENSIONS {
            return Err(tensor(name, format!("has {} dimensions, more than {MAX_DIMENSIONS}", shape.len())));
        }
        let bytes = kind.bytes(shape).ok_or_else(|| tensor(name, cannot_be(*kind, shape)))?;
        put_text(&mut header, name);
        header.extend((shape.len() as u32).to_le_bytes());
        header.extend(shape.iter().rev().flat_map(|&length| (length as u64).to_le_bytes()));
        header.extend(kind.id().to_le_bytes());
        header.extend(offset.to_le_bytes());
        let end = (bytes as u64).checked_next_multiple_of(alignment as u64).and_then(|bytes| offset.checked_add(bytes));
        offset = end.ok_or_else(|| tensor(name, "and those before it are too large for a file"))?;
        places.push(Place { name: name.clone(), bytes, written: 0 });
    }
    if header.len() > MAX_HEADER_BYTES {
        return Err(GgufError::HeaderTooLong { what: "all of it".into(), needed: header.len() as u64 });
    }
    header.resize(header.len().next_multiple_of(alignment), 0);
    let bytes = (header.len() as u64).checked_add(offset);
    let bytes = bytes.ok_or_else(|| tensor(&tensors[0].name, "and those behind it are too large for a file"))?;
    Ok((header, places, bytes))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(n) => out.extend(n.to_le_bytes()),
        Value::I8(n) => out.extend(n.to_le_bytes()),
        Value::U16(n) => out.extend(n.to_le_bytes()),
        Value::I16(n) => out.extend(n.to_le_bytes()),
        Value::U32(n) => out.extend(n.to_le_bytes()),
        Value::I32(n) => out.extend(n.to_le_bytes()),
        Value::F32(n) => out.extend(n.to_le_bytes()),
        Value::U64(n) => out.extend(n.to_le_bytes()),
        Value::I64(n) => out.extend(n.to_le_bytes()),
        Value::F64(n) => out.extend(n.to_le_bytes()),
        Value::Bool(flag) => out.push(u8::from(*flag)),
        Value::Text(text) => put_text(out, text),
        Value::Array(array) => {
            out.extend((array.value_type() as u32).to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            match array {
                Array::U8(values) => out.extend(values),
                Array::I8(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::U16(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::I16(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::U32(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::I32(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::F32(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::U64(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::I64(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::F64(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
                Array::Bool(values) => out.extend(values.iter().map(|&flag| u8::from(flag))),
                Array::Text(values) => values.iter().for_each(|text| put_text(out, text)),
            }
        }
    }
}
