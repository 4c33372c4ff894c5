//! Bytes to [`Gguf`]: a cursor that refuses what is not there before it takes anything, and the checks between the parts.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::error::{entry, shown, tensor};
use crate::metadata::Metadata;
use crate::tensor::{TensorInfo, TensorKind};
use crate::value::{Array, Value, ValueType};
use crate::write::MAGIC;
use crate::{
    ALIGNMENTS, DEFAULT_ALIGNMENT, GgufError, MAX_DIMENSIONS, MAX_ENTRIES, MAX_HEADER_BYTES, MAX_NAME_BYTES,
    MAX_TENSORS, Result,
};

/// What a file says before its data.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The version of the format: 2 or 3.
    pub version: u32,
    /// What is said of the model.
    pub metadata: Metadata,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where the data of all tensors is, from the beginning of the file, or would be if there were any.
    pub data: Range<usize>,
    /// The data of each tensor begins at a multiple of as many bytes.
    pub alignment: usize,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Reads what stands before the data. `bytes` is the whole file, of which no more is looked at (mapped, it need not be
    /// in memory).
    ///
    /// # Errors
    /// [`GgufError`], for anything that contradicts the format, itself or the file's length.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(GgufError::NotGguf);
        }
        let (header, behind) = bytes.split_at(bytes.len().min(MAX_HEADER_BYTES));
        let mut cursor = Cursor { left: &header[MAGIC.len()..], limited: !behind.is_empty() };
        let version = cursor.u32(|| "its version".into())?;
        match version {
            2 | 3 => {}
            // Versions are small: the low bytes of one that is the other way round are zero.
            _ if version != 0 && version & 0xffff == 0 => return Err(GgufError::BigEndian),
            _ => return Err(GgufError::Version(version)),
        }
        let tensors = cursor.u64(|| "its number of tensors".into())?;
        let entries = cursor.u64(|| "its number of metadata entries".into())?;
        if tensors > MAX_TENSORS as u64 {
            return Err(too_many("it", tensors, "tensors", MAX_TENSORS));
        }
        if entries > MAX_ENTRIES as u64 {
            return Err(too_many("its metadata", entries, "entries", MAX_ENTRIES));
        }
        let metadata = read_metadata(&mut cursor, entries)?;
        let alignment = alignment(&metadata)?;
        let infos = read_tensors(&mut cursor, tensors)?;

        let end = header.len() - cursor.left.len();
        let start = end.next_multiple_of(alignment);
        let (tensors, data) = place(infos, start, bytes.len(), alignment)?;
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Gguf { version, metadata, tensors, data, alignment, by_name })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }
}

/// A tensor as it stands in the file.
struct Raw {
    name: String,
    shape: Vec<usize>,
    kind: TensorKind,
    /// Of its data.
    bytes: usize,
    /// From the beginning of the data.
    offset: u64,
}

/// Bytes that an entry takes at least: the length of its key, its type, a value.
const LEAST_ENTRY: u64 = 8 + 4 + 1;

/// Bytes that a tensor takes at least: the length of its name, its number of dimensions, kind and offset.
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<Metadata> {
    cursor.holds(count * LEAST_ENTRY, || "its metadata".into())?;
    let (mut entries, mut keys) = (Vec::with_capacity(count as usize), HashSet::new());
    for number in 0..count {
        let key = cursor.name(|| format!("metadata key {number}"))?;
        if !keys.insert(key) {
            return Err(entry(key, "stands there twice"));
        }
        entries.push((key.to_owned(), read_value(cursor, key)?));
    }
    Ok(Metadata(entries))
}

fn read_value(cursor: &mut Cursor, key: &str) -> Result<Value> {
    let what = || format!("its metadata {}", shown(key));
    let kind = value_type(cursor, key)?;
    Ok(match kind {
        ValueType::Array => Value::Array(read_array(cursor, key)?),
        ValueType::Text => Value::Text(cursor.text(what)?.to_owned()),
        ValueType::Bool => Value::Bool(flag(cursor.take(1, what)?[0], key)?),
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
    })
}

fn read_array(cursor: &mut Cursor, key: &str) -> Result<Array> {
    let what = || format!("its metadata {}", shown(key));
    let kind = value_type(cursor, key)?;
    let count = cursor.u64(what)?;
    if kind == ValueType::Array {
        return Err(entry(key, "is an array of arrays, which no model has"));
    }
    let least = count.saturating_mul(kind.least_bytes());
    cursor.holds(least, || format!("{}, an array of {count},", what()))?;
    if kind == ValueType::Text {
        // What the texts take is in proportion to the file: each has its length there, in eight bytes.
        let texts = (0..count).map(|number| {
            let what = || format!("text {number} of {}", what());
            cursor.text(what).map(str::to_owned)
        });
        return Ok(Array::Text(texts.collect::<Result<_>>()?));
    }
    let bytes = cursor.take(least, what)?;
    macro_rules! numbers {
        ($($kind:ident: $of:ty),*) => {
            match kind {
                $(ValueType::$kind => Array::$kind(
                    bytes.as_chunks().0.iter().map(|chunk| <$of>::from_le_bytes(*chunk)).collect(),
                ),)*
                ValueType::Bool => Array::Bool(bytes.iter().map(|&byte| flag(byte, key)).collect::<Result<_>>()?),
                ValueType::Text | ValueType::Array => unreachable!("both are handled above"),
            }
        };
    }
    Ok(numbers!(U8: u8, I8: i8, U16: u16, I16: i16, U32: u32, I32: i32, F32: f32, U64: u64, I64: i64, F64: f64))
}

fn value_type(cursor: &mut Cursor, key: &str) -> Result<ValueType> {
    let id = cursor.u32(|| format!("the type of its metadata {}", shown(key)))?;
    ValueType::from_id(id).ok_or_else(|| entry(key, format!("is of type {id}; types 0 to 12 are known")))
}

fn flag(byte: u8, key: &str) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(entry(key, format!("should be true (1) or false (0), but is {byte}"))),
    }
}

pub(crate) fn alignment(metadata: &Metadata) -> Result<usize> {
    let Some(asked) = metadata.optional_u64(ALIGNMENT)? else { return Ok(DEFAULT_ALIGNMENT) };
    let alignment = usize::try_from(asked).ok().filter(|n| n.is_power_of_two() && ALIGNMENTS.contains(n));
    let limits = (ALIGNMENTS.start(), ALIGNMENTS.end());
    alignment.ok_or_else(|| {
        entry(ALIGNMENT, format!("should be a power of two from {} to {}, but is {asked}", limits.0, limits.1))
    })
}

/// The key that says where the data of a tensor may begin.
pub(crate) const ALIGNMENT: &str = "general.alignment";

fn read_tensors(cursor: &mut Cursor, count: u64) -> Result<Vec<Raw>> {
    cursor.holds(count * LEAST_TENSOR, || "its list of tensors".into())?;
    let (mut tensors, mut names) = (Vec::with_capacity(count as usize), HashSet::new());
    for number in 0..count {
        let name = cursor.name(|| format!("the name of tensor {number}"))?;
        if !names.insert(name) {
            return Err(tensor(name, "stands there twice"));
        }
        let what = || format!("its entry of tensor {}", shown(name));
        let dimensions = cursor.u32(what)? as usize;
        if dimensions > MAX_DIMENSIONS {
            return Err(tensor(name, format!("has {dimensions} dimensions, more than {MAX_DIMENSIONS}")));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let length = cursor.u64(what)?;
            shape.push(usize::try_from(length).map_err(|_| tensor(name, format!("is {length} long, too long")))?);
        }
        // The file begins with the one that is contiguous.
        shape.reverse();
        let kind =
            TensorKind::from_id(cursor.u32(what)?).map_err(|kind| GgufError::Kind { name: shown(name), kind })?;
        let offset = cursor.u64(what)?;
        let bytes = kind.bytes(&shape).ok_or_else(|| tensor(name, cannot_be(kind, &shape)))?;
        tensors.push(Raw { name: name.to_owned(), shape, kind, bytes, offset });
    }
    Ok(tensors)
}

/// Why no tensor is of that shape.
pub(crate) fn cannot_be(kind: TensorKind, shape: &[usize]) -> String {
    match shape.last() {
        Some(row) if !row.is_multiple_of(kind.block_size()) => {
            format!("has rows of {row} values, but {kind} stores blocks of {}", kind.block_size())
        }
        _ => format!("has the shape {shape:?}, which no file can hold in {kind}"),
    }
}

/// The tensors at their places in a file of `file_bytes`, of which the data begins at `start`, and where all are.
fn place(
    infos: Vec<Raw>,
    start: usize,
    file_bytes: usize,
    alignment: usize,
) -> Result<(Vec<TensorInfo>, Range<usize>)> {
    let mut tensors = Vec::with_capacity(infos.len());
    for Raw { name, shape, kind, bytes, offset } in infos {
        if !offset.is_multiple_of(alignment as u64) {
            return Err(tensor(&name, format!("begins at byte {offset} of the data, no multiple of {alignment}")));
        }
        let begin = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(bytes)?));
        match range.filter(|range| range.end <= file_bytes) {
            Some(data) => tensors.push(TensorInfo { name, shape, kind, data }),
            None => {
                let problem = format!(
                    "is not in the file, which is truncated or lies: {bytes} bytes from byte {offset} of the data, of \
                     which there are {}",
                    file_bytes.saturating_sub(start)
                );
                return Err(tensor(&name, problem));
            }
        }
    }
    let mut in_order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.data.is_empty()).collect();
    in_order.sort_by_key(|tensor| tensor.data.start);
    for pair in in_order.windows(2) {
        if pair[1].data.start < pair[0].data.end {
            return Err(tensor(&pair[1].name, format!("begins inside of the tensor {}", shown(&pair[0].name))));
        }
    }
    let end = in_order.last().map_or(start, |last| last.data.end);
    Ok((tensors, start..end))
}

fn too_many(what: &str, count: u64, of: &str, at_most: usize) -> GgufError {
    GgufError::TooMany { what: what.into(), count: format!("{count} {of}"), at_most: at_most as u64 }
}

/// What is left of the header. Whatever is taken from it is there: nothing is reserved for what is not.
struct Cursor<'a> {
    left: &'a [u8],
    /// Whether the file goes on behind what is left.
    limited: bool,
}

impl<'a> Cursor<'a> {
    /// Refuses what `needed` bytes are too few for.
    fn holds(&self, needed: u64, what: impl FnOnce() -> String) -> Result<()> {
        let left = self.left.len() as u64;
        match needed > left {
            true if self.limited => Err(GgufError::HeaderTooLong { what: what(), needed }),
            true => Err(GgufError::Truncated { what: what(), needed, left }),
            false => Ok(()),
        }
    }

    fn take(&mut self, bytes: u64, what: impl FnOnce() -> String) -> Result<&'a [u8]> {
        self.holds(bytes, what)?;
        // Not longer than a slice.
        let (taken, left) = self.left.split_at(bytes as usize);
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N]> {
        Ok(self.take(N as u64, what)?.try_into().expect("as many were taken"))
    }

    fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A text with its length before it.
    fn text(&mut self, what: impl Fn() -> String) -> Result<&'a str> {
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotText(what()))
    }

    /// A key, or a tensor's name.
    fn name(&mut self, what: impl Fn() -> String) -> Result<&'a str> {
        let length = self.u64(&what)?;
        if length > MAX_NAME_BYTES as u64 {
            return Err(too_many(&what(), length, "bytes", MAX_NAME_BYTES));
        }
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotText(what()))
    }
}
