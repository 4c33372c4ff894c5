//! NumPy's array files (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a magic, a version, a
//! header that is a Python dictionary, and the numbers. Read are arrays of two axes in f32 or f64, little-endian and in the
//! order of C.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bouquet_kernels::{Matrix, MatrixView};
use sha2::{Digest, Sha256};

use super::{Label, MAX_COLS, Rows, block_rows, check};
use crate::{EmbedError, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Bytes before the numbers in files that are written here: a multiple of 64, as NumPy aligns them.
const HEADER_BYTES: usize = 128;

/// Bytes that a header may have.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// An array whose rows are read in any order.
pub struct Table {
    file: File,
    origin: String,
    header: Header,
    /// Where the numbers begin.
    begin: u64,
}

/// An array that is being read from its beginning.
pub struct Reader {
    file: BufReader<File>,
    origin: String,
    header: Header,
    /// Rows that have been read.
    done: usize,
}

/// Pieces of a file that tell it from others, and their length.
const KEY_PIECES: u64 = 256;
const KEY_PIECE_BYTES: u64 = 4096;

impl Table {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, or whose header or length is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let Reader { file, origin, header, .. } = Reader::open(path)?;
        let mut file = file.into_inner();
        let begin = file.seek(SeekFrom::Start(0)).and_then(|_| read_header(&mut file));
        let (_, begin) = begin.map_err(|source| EmbedError::read(&origin, source))?;
        Ok(Table { file, origin, header, begin })
    }

    /// Vectors.
    pub fn rows(&self) -> usize {
        self.header.rows
    }

    /// Numbers of a vector.
    pub fn cols(&self) -> usize {
        self.header.cols
    }

    /// The vectors of these numbers. Panics where there are none.
    ///
    /// # Errors
    /// A file that cannot be read any more, and numbers that are not finite.
    pub fn gather(&self, rows: &[u32]) -> Result<Matrix> {
        let Header { cols, number_bytes, .. } = self.header;
        let mut numbers = Vec::with_capacity(rows.len() * cols);
        let mut bytes = vec![0; cols * number_bytes];
        for &row in rows {
            let row = row as usize;
            assert!(row < self.rows(), "row {row} of {}", self.rows());
            self.read_at(self.begin + (row * bytes.len()) as u64, &mut bytes)?;
            numbers.extend(self.header.numbers(&bytes));
            check(&self.origin, row, &numbers[numbers.len() - cols..])?;
        }
        Ok(Matrix::from_vec(rows.len(), cols, numbers))
    }

    /// What tells the file from others: a hash (SHA-256) of its length and of pieces all over it, so that it takes no longer
    /// for a large file. A change between the pieces goes unnoticed.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn key(&self) -> Result<[u8; 32]> {
        let length = self.file.metadata().map_err(|source| EmbedError::read(&self.origin, source))?.len();
        let mut hash = Sha256::new();
        hash.update(length.to_le_bytes());
        let last = length.saturating_sub(KEY_PIECE_BYTES);
        let mut bytes = vec![0; KEY_PIECE_BYTES.min(length) as usize];
        for piece in 0..KEY_PIECES {
            self.read_at((u128::from(last) * u128::from(piece) / u128::from(KEY_PIECES - 1)) as u64, &mut bytes)?;
            hash.update(&bytes);
        }
        Ok(hash.finalize().into())
    }

    fn read_at(&self, place: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(bytes));
        read.map_err(|source| EmbedError::read(&self.origin, source))
    }
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, or whose header or length is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let fail = |problem: &str| EmbedError::file(&origin, problem);
        let file = File::open(path).map_err(|source| EmbedError::read(&origin, source))?;
        let length = file.metadata().map_err(|source| EmbedError::read(&origin, source))?.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        let (text, begin) = read_header(&mut file).map_err(|_| fail("is damaged: it has no header of NumPy"))?;
        let header = Header::parse(&text)
            .ok_or_else(|| fail("is no array of two axes in little-endian f32 or f64, in the order of C"))?;
        let Header { rows, cols, number_bytes } = header;
        let bytes = rows.checked_mul(cols).and_then(|numbers| numbers.checked_mul(number_bytes));
        if bytes.map(|bytes| bytes as u64) != length.checked_sub(begin) || cols == 0 || cols > MAX_COLS {
            return Err(fail(&format!("is damaged: [{rows}, {cols}] numbers do not fit its {length} bytes")));
        }
        Ok(Reader { file, origin, header, done: 0 })
    }

    pub(super) fn next_rows(&mut self) -> Result<Option<Rows>> {
        let Header { rows, cols, number_bytes } = self.header;
        let rows = block_rows(cols).min(rows - self.done);
        if rows == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; rows * cols * number_bytes];
        self.file.read_exact(&mut bytes).map_err(|source| EmbedError::read(&self.origin, source))?;
        let vectors = Matrix::from_vec(rows, cols, self.header.numbers(&bytes));
        for row in 0..rows {
            check(&self.origin, self.done + row, vectors.row(row))?;
        }
        self.done += rows;
        Ok(Some(Rows { vectors, labels: vec![Label::default(); rows] }))
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    rows: usize,
    cols: usize,
    number_bytes: usize,
}

impl Header {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order; `None` for what is not read.
    fn parse(text: &str) -> Option<Header> {
        let value = |key: &str| {
            let after = text.split_once(key)?.1.trim_start();
            after.strip_prefix(':').map(str::trim_start)
        };
        let number_bytes = match value("'descr'")?.get(..5)? {
            "'<f4'" => 4,
            "'<f8'" => 8,
            _ => return None,
        };
        if !value("'fortran_order'")?.starts_with("False") {
            return None;
        }
        let (shape, _) = value("'shape'")?.strip_prefix('(')?.split_once(')')?;
        let mut axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
        match (axes.next()?.parse().ok()?, axes.next()?.parse().ok()?, axes.next()) {
            (rows, cols, None) => Some(Header { rows, cols, number_bytes }),
            _ => None,
        }
    }

    fn numbers(self, bytes: &[u8]) -> Vec<f32> {
        match self.number_bytes {
            4 => bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect(),
            _ => bytes.as_chunks().0.iter().map(|&number| f64::from_le_bytes(number) as f32).collect(),
        }
    }
}

/// The header's text, and where the numbers begin.
fn read_header(file: &mut impl Read) -> io::Result<(String, u64)> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    if start[..6] != *MAGIC {
        return Err(wrong());
    }
    let mut length = [0; 4];
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        _ => return Err(wrong()),
    };
    file.read_exact(&mut length[..length_bytes])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(wrong());
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header)?;
    let begin = start.len() + length_bytes + length;
    Ok((String::from_utf8(header).map_err(|_| wrong())?, begin as u64))
}

/// Leaves room for the header, which says how many rows there are and so is written last.
pub(super) fn leave_room(file: &mut impl Write) -> io::Result<()> {
    file.write_all(&[0; HEADER_BYTES])
}

/// Appends rows.
pub(super) fn write(file: &mut impl Write, vectors: MatrixView<'_>) -> io::Result<()> {
    let bytes: Vec<u8> = vectors.data().iter().flat_map(|number| number.to_le_bytes()).collect();
    file.write_all(&bytes)
}

/// Writes the header into its room.
pub(super) fn write_header(file: &mut (impl Write + Seek), rows: usize, cols: usize) -> io::Result<()> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let length = HEADER_BYTES - MAGIC.len() - 4;
    text.extend(std::iter::repeat_n(' ', length - 1 - text.len()));
    text.push('\n');
    let header = [MAGIC.as_slice(), &[1, 0], &(length as u16).to_le_bytes(), text.as_bytes()].concat();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_understood() {
        let header = |rows, cols, number_bytes| Some(Header { rows, cols, number_bytes });
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n";
        assert_eq!(Header::parse(plain), header(2, 3, 4));
        assert_eq!(Header::parse("{'shape': (10,384), 'fortran_order':False, 'descr':'<f8'}"), header(10, 384, 8));
        for (what, instead) in [
            ("<f4", ">f4"),
            ("<f4", "<i4"),
            ("False", "True"),
            ("(2, 3)", "(2,)"),
            ("(2, 3)", "(2, 3, 4)"),
            ("(2, 3)", "(-2, 3)"),
            ("'<f4'", "[('a', '<f4')]"),
            ("'shape'", "'form'"),
        ] {
            assert_eq!(Header::parse(&plain.replace(what, instead)), None, "{instead}");
        }
    }

    #[test]
    fn a_header_is_as_numpy_writes_it() {
        let mut file = std::io::Cursor::new(Vec::new());
        leave_room(&mut file).unwrap();
        write(&mut file, MatrixView::new(1, 2, &[1.5, -2.0])).unwrap();
        write_header(&mut file, 1, 2).unwrap();
        let bytes = file.into_inner();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  "));
        assert_eq!((bytes[127], bytes.len()), (b'\n', 136));
        assert_eq!(bytes[128..], [1.5f32, -2.0].map(f32::to_le_bytes).concat());
    }
}
