//! What a Parquet file claims, checked before the crate that reads it allocates memory for it, or goes down as deep.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use self::thrift::{Kind, Reader};

mod thrift;

/// Groups in groups of a schema. A conversation has four.
const MAX_DEPTH: usize = 32;

/// Bytes of a page compressed with brotli that are read at once.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// What ends a file: the length of the footer, and `PAR1`.
const TAIL: u64 = 8;

/// Checks the tree of columns in the footer: that it is not deep, and has as many columns as it says.
///
/// # Errors
/// What cannot be read, and `InvalidData` for a claim that is not true.
pub fn check_schema(file: &File) -> io::Result<()> {
    let mut file = file;
    let bytes = file.seek(SeekFrom::End(0))?;
    let before_tail = bytes.checked_sub(TAIL).ok_or_else(|| wrong("it is too short"))?;
    file.seek(SeekFrom::Start(before_tail))?;
    let mut tail = [0; TAIL as usize];
    file.read_exact(&mut tail)?;
    let [length @ .., b'P', b'A', b'R', b'1'] = tail else {
        return Err(wrong("it does not end as a Parquet file does"));
    };
    let length = u64::from(u32::from_le_bytes(length));
    let start = before_tail.checked_sub(length).ok_or_else(|| wrong("its footer is longer than the file"))?;
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Reader { bytes: BufReader::new(file).take(length) };
    footer.fields(|footer, id, kind| {
        // FileMetaData.schema, in depth-first order.
        if (id, kind) == (2, Kind::List) { check_tree(footer).map(|()| true) } else { Ok(false) }
    })
}

fn check_tree<R: Read>(footer: &mut Reader<R>) -> io::Result<()> {
    let (kind, count) = footer.list()?;
    if kind != Kind::Struct {
        return Err(wrong("its schema is none"));
    }
    // Columns that are still to come in each group that is not complete.
    let mut open: Vec<u64> = Vec::new();
    for index in 0..count {
        let mut children = 0;
        footer.fields(|footer, id, kind| {
            // SchemaElement.num_children.
            let is_number = (id, kind) == (5, Kind::Integer);
            if is_number {
                children = u64::try_from(footer.integer()?).map_err(|_| wrong("a group has less than no columns"))?;
            }
            Ok(is_number)
        })?;
        if children > count - index - 1 {
            return Err(wrong("a group of its schema has more columns than there are"));
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(children);
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > MAX_DEPTH {
            return Err(wrong("its schema is too deep"));
        }
    }
    Ok(())
}

/// What the pages of a column take when they are decompressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of the largest.
    pub largest: u64,
    /// Values of all, those that are missing among them.
    pub values: u64,
}

/// What the pages of a column take, as their headers say; where compression could make more of a page than its header says,
/// the page is tried.
///
/// # Errors
/// What cannot be read, and `InvalidData` for a claim that is not true.
pub fn pages(file: &File, column: &ColumnChunkMetaData) -> io::Result<Pages> {
    let mut file = file;
    let (start, length) = column.byte_range();
    let end = start.checked_add(length).ok_or_else(|| wrong("a column is longer than the file"))?;
    if end > file.metadata()?.len() {
        return Err(wrong("a column is longer than the file"));
    }
    let mut all = Pages::default();
    let mut at = start;
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut reader = Reader { bytes: BufReader::new(file).take(end - at) };
        let page = Page::read(&mut reader)?;
        let header = end - at - reader.bytes.limit();
        if page.compressed > end - at - header {
            return Err(wrong("a page is longer than its column"));
        }
        // The other codecs are told how long a page becomes, and stop there.
        if let Compression::GZIP(_) | Compression::BROTLI(_) = column.compression() {
            let mut body = reader.bytes.take(page.compressed);
            io::copy(&mut (&mut body).take(page.levels), &mut io::sink())?;
            let expected = page.decompressed.saturating_sub(page.levels);
            // What is not compressed so is for the crate to say.
            let body: Box<dyn Read> = match column.compression() {
                Compression::GZIP(_) => Box::new(MultiGzDecoder::new(body)),
                _ => Box::new(brotli::Decompressor::new(body, BROTLI_BUFFER_BYTES)),
            };
            let found = io::copy(&mut body.take(expected + 1), &mut io::sink());
            if page.is_compressed && found.is_ok_and(|found| found > expected) {
                return Err(wrong("a page is longer than its header says"));
            }
        }
        all.bytes = all.bytes.saturating_add(page.decompressed);
        all.largest = all.largest.max(page.decompressed);
        all.values = all.values.saturating_add(page.values);
        at += header + page.compressed;
    }
    Ok(all)
}

/// The header of a page.
struct Page {
    compressed: u64,
    decompressed: u64,
    /// Of a page of data.
    values: u64,
    /// Bytes at its beginning that are never compressed.
    levels: u64,
    is_compressed: bool,
}

impl Page {
    fn read<R: Read>(reader: &mut Reader<R>) -> io::Result<Self> {
        let size = |reader: &mut Reader<R>| {
            u64::try_from(reader.integer()?).map_err(|_| wrong("a page has less than nothing"))
        };
        let mut page = Page { compressed: 0, decompressed: 0, values: 0, levels: 0, is_compressed: true };
        reader.fields(|reader, id, kind| {
            match (id, kind) {
                (2, Kind::Integer) => page.decompressed = size(reader)?,
                (3, Kind::Integer) => page.compressed = size(reader)?,
                // DataPageHeader.
                (5, Kind::Struct) => reader.fields(|reader, id, kind| {
                    let is_count = (id, kind) == (1, Kind::Integer);
                    if is_count {
                        page.values = size(reader)?;
                    }
                    Ok(is_count)
                })?,
                // DataPageHeaderV2.
                (8, Kind::Struct) => reader.fields(|reader, id, kind| {
                    match (id, kind) {
                        (1, Kind::Integer) => page.values = size(reader)?,
                        (5 | 6, Kind::Integer) => page.levels = page.levels.saturating_add(size(reader)?),
                        (7, Kind::Bool(is_compressed)) => page.is_compressed = is_compressed,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(page)
    }
}

fn wrong(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
