//! One safetensors file:
//!
//! ```text
//! | 8 bytes: length of the header | header: JSON, name -> dtype, shape, [begin, end) | data: the tensors, without gaps |
//! ```
//!
//! Everything is checked before anything is mapped or reserved: the length of the header against the file, and for each
//! tensor its place, its size against its shape and type, and that tensors follow each other from the first byte of the
//! data to the last. The safetensors crate checks the same; here each lie is told by name, a name that stands twice is
//! refused, and what the reader holds of a header is in proportion to its length: a name, a shape and a place per tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use bouquet_span::counted;
use bytes::Bytes;
use serde::Deserialize;

use super::unique::{Shape, UniqueMap};
use super::{Dtype, Tensor, mmap};
use crate::files::{self, damaged, shown};
use crate::{ModelError, Result};

/// The longest header; the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes that say how long the header is.
const LENGTH_BYTES: u64 = 8;

/// An open file.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    mapped: mmap::Mapped,
    data: Bytes,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the whole file.
    range: Range<usize>,
}

/// A tensor as the header has it.
#[derive(Deserialize)]
struct HeaderEntry {
    dtype: safetensors::Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl SafetensorsFile {
    /// Checks the header of a file and maps it; `None` when there is no such file.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] for a file that is truncated, or whose header lies; [`ModelError::Io`].
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let Some((mut file, length)) = files::open(path)? else { return Ok(None) };
        let tensors = read_header(&mut file, length, path)?;
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let mapped = mmap::map(&file).map_err(io)?;
        let data = mapped.bytes();
        // The file may have changed since its length was asked.
        if data.len() as u64 != length {
            return Err(damaged(path, "its length changed while it was opened"));
        }
        Ok(Some(SafetensorsFile { mapped, data, tensors }))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let Entry { dtype, shape, range } = self.tensors.get(name)?;
        Some(Tensor { dtype: dtype.clone(), shape: shape.clone(), data: self.data.slice(range.clone()) })
    }

    /// See [`TensorSource::release`](super::TensorSource::release).
    pub fn release(&self, data: &[u8]) {
        self.mapped.release(data);
    }
}

fn read_header(file: &mut File, file_bytes: u64, path: &Path) -> Result<BTreeMap<String, Entry>> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    if file_bytes < LENGTH_BYTES {
        return Err(damaged(path, format!("it has {}, too few for a safetensors file", counted(file_bytes, "byte"))));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        let problem = format!("its header should have {length} bytes, but no header has more than {MAX_HEADER_BYTES}");
        return Err(damaged(path, problem));
    }
    if length > file_bytes - LENGTH_BYTES {
        let problem = format!("it is truncated: a header of {length} bytes does not fit into a file of {file_bytes}");
        return Err(damaged(path, problem));
    }
    // Bounded just above: `length` bytes are in the file, and not more than the limit.
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    parse_header(&header, file_bytes).map_err(|problem| damaged(path, problem))
}

/// The tensors of a header that stands in a file of `file_bytes`, or what is wrong with it.
fn parse_header(header: &[u8], file_bytes: u64) -> std::result::Result<BTreeMap<String, Entry>, String> {
    let text = std::str::from_utf8(header).map_err(|error| format!("its header is not UTF-8 ({error})"))?;
    let UniqueMap(entries) = serde_json::from_str::<UniqueMap<HeaderEntry>>(text)
        .map_err(|error| format!("its header is wrong: {error}"))?;
    let start = LENGTH_BYTES + header.len() as u64;
    check_layout(&entries, file_bytes - start)?;
    let place =
        |(name, HeaderEntry { dtype, shape: Shape(shape), data_offsets: (begin, end) }): (String, HeaderEntry)| {
            // Offsets are inside of the file by now, and a file that can be mapped is no longer than `usize`.
            let range = (start + begin) as usize..(start + end) as usize;
            (name, Entry { dtype: Dtype::of_name(&dtype.to_string()), shape, range })
        };
    Ok(entries.into_iter().map(place).collect())
}

/// Whether tensors follow each other from the first of `data_bytes` to the last, each as long as it should be.
fn check_layout(entries: &BTreeMap<String, HeaderEntry>, data_bytes: u64) -> std::result::Result<(), String> {
    if let Some((name, entry)) = entries.iter().max_by_key(|(_, entry)| entry.data_offsets.1)
        && entry.data_offsets.1 > data_bytes
    {
        let (name, end) = (shown(name), entry.data_offsets.1);
        return Err(format!("it is truncated: {name} ends at byte {end} of the data, of which there are {data_bytes}"));
    }
    let mut in_order: Vec<(&String, &HeaderEntry)> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut covered = 0;
    for (name, entry) in in_order {
        let (begin, end) = entry.data_offsets;
        let name = shown(name);
        if end < begin {
            return Err(format!("{name} ends at byte {end}, before its begin at byte {begin}"));
        }
        if begin < covered {
            return Err(format!("{name} begins at byte {begin}, inside of the tensor before it"));
        }
        if begin > covered {
            return Err(format!("bytes {covered} to {begin}, before {name}, belong to no tensor"));
        }
        let Shape(shape) = &entry.shape;
        let bytes = tensor_bytes(entry.dtype, shape)
            .ok_or_else(|| format!("{name} has shape {shape:?}, which no file can hold in {}", entry.dtype))?;
        if bytes != end - begin {
            let (dtype, found) = (entry.dtype, counted(end - begin, "byte"));
            return Err(format!("{name} has {found}, but {dtype} of shape {shape:?} needs {bytes}"));
        }
        covered = end;
    }
    if covered != data_bytes {
        return Err(format!("it ends with {} of no tensor", counted(data_bytes - covered, "byte")));
    }
    Ok(())
}

/// Bytes of a tensor; `None` when they are more than can be counted, or not whole.
fn tensor_bytes(dtype: safetensors::Dtype, shape: &[usize]) -> Option<u64> {
    let numbers = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension as u64))?;
    let bits = numbers.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
