//! Files of vectors, read and written a block of rows at a time: NumPy arrays, JSON lines and Parquet. All numbers are f32,
//! and finite.
//!
//! | module | what is in a file |
//! |---|---|
//! | [`npy`] | the array `[rows, cols]` alone |
//! | [`json`] | an object a line: `id` where the text had one, `text`, `embedding` |
//! | [`mod@parquet`] | the columns `id`, `text` and `embedding`, a list of floats |

use std::io;
use std::path::{Path, PathBuf};

use bouquet_kernels::{Matrix, MatrixView};
use bouquet_model::ModelError;
use bouquet_model::checkpoint::new_file;
use tempfile::NamedTempFile;

use crate::texts::{Text, TextName};
use crate::{EmbedError, Result};

pub mod json;
pub mod npy;
pub mod parquet;

/// Numbers that a vector may have.
const MAX_COLS: usize = 1 << 17;

/// Numbers of a block at most.
const BLOCK_NUMBERS: usize = 1 << 20;

/// How a file holds vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorFormat {
    /// A NumPy array.
    Npy,
    /// JSON lines.
    Json,
    /// Parquet.
    Parquet,
}

/// Some rows of a file of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The vectors.
    pub vectors: Matrix,
    /// What the file says of each.
    pub labels: Vec<Label>,
}

/// What a file says of a vector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Label {
    /// What the text is called.
    pub id: Option<TextName>,
    /// The text.
    pub text: Option<String>,
}

/// A file of vectors that is being read.
pub enum VectorReader {
    /// A NumPy array.
    Npy(npy::Reader),
    /// JSON lines.
    Json(json::Reader),
    /// Parquet.
    Parquet(Box<parquet::Reader>),
}

/// A file of vectors that is being written. It gets its name when it is whole.
pub struct VectorWriter {
    target: PathBuf,
    file: NamedTempFile,
    cols: usize,
    rows: usize,
    format: Format,
}

enum Format {
    Npy,
    Json,
    Parquet(parquet::Writer),
}

impl VectorFormat {
    /// By the ending of a file's name.
    pub fn of_name(path: &Path) -> Option<VectorFormat> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "npy" => Some(VectorFormat::Npy),
            "jsonl" | "ndjson" => Some(VectorFormat::Json),
            "parquet" => Some(VectorFormat::Parquet),
            _ => None,
        }
    }
}

impl VectorReader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of this format.
    pub fn open(path: &Path, format: VectorFormat) -> Result<Self> {
        Ok(match format {
            VectorFormat::Npy => VectorReader::Npy(npy::Reader::open(path)?),
            VectorFormat::Json => VectorReader::Json(json::Reader::open(path)?),
            VectorFormat::Parquet => VectorReader::Parquet(Box::new(parquet::Reader::open(path)?)),
        })
    }

    /// The next rows, at least one; `None` behind the last.
    ///
    /// # Errors
    /// A file that is damaged, vectors of different lengths, and numbers that are not finite.
    pub fn next_rows(&mut self) -> Result<Option<Rows>> {
        match self {
            VectorReader::Npy(reader) => reader.next_rows(),
            VectorReader::Json(reader) => reader.next_rows(),
            VectorReader::Parquet(reader) => reader.next_rows(),
        }
    }
}

impl VectorWriter {
    /// Begins a file of vectors with `cols` numbers each.
    ///
    /// # Errors
    /// A path that cannot be written to.
    pub fn create(target: &Path, format: VectorFormat, cols: usize) -> Result<Self> {
        let mut file = new_file::begin(target)?;
        let format = match format {
            VectorFormat::Npy => npy::leave_room(&mut file).map(|()| Format::Npy),
            VectorFormat::Json => Ok(Format::Json),
            VectorFormat::Parquet => file.as_file().try_clone().and_then(parquet::Writer::new).map(Format::Parquet),
        };
        let format = format.map_err(|source| cannot_write(target, source))?;
        Ok(VectorWriter { target: target.to_owned(), file, cols, rows: 0, format })
    }

    /// The temporary file, for a program that is ended from outside to remove.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the vectors of texts. Panics when there are not as many, or they have another length.
    ///
    /// # Errors
    /// A disk that is full, say.
    pub fn write(&mut self, texts: &[Text], vectors: MatrixView<'_>) -> Result<()> {
        assert_eq!((vectors.rows(), vectors.cols()), (texts.len(), self.cols), "the shape of the vectors");
        let written = match &mut self.format {
            Format::Npy => npy::write(&mut self.file, vectors),
            Format::Json => json::write(&mut self.file, texts, vectors),
            Format::Parquet(writer) => writer.write(texts, vectors),
        };
        self.rows += texts.len();
        written.map_err(|source| cannot_write(&self.target, source))
    }

    /// Gives the file its name. Returns the number of vectors.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<usize> {
        let finished = match self.format {
            Format::Npy => npy::write_header(&mut self.file, self.rows, self.cols),
            Format::Json => Ok(()),
            Format::Parquet(writer) => writer.finish(),
        };
        finished.map_err(|source| cannot_write(&self.target, source))?;
        new_file::put_in_place(self.file, &self.target)?;
        Ok(self.rows)
    }
}

fn cannot_write(path: &Path, source: io::Error) -> EmbedError {
    ModelError::Write { path: path.to_owned(), source }.into()
}

/// Rows of a block of vectors of that length.
fn block_rows(cols: usize) -> usize {
    (BLOCK_NUMBERS / cols.max(1)).clamp(1, 4096)
}

/// Checks that a vector can be searched in; `row` is counted from 0.
fn check(origin: &str, row: usize, vector: &[f32]) -> Result<()> {
    match vector.iter().all(|number| number.is_finite()) {
        true => Ok(()),
        false => Err(EmbedError::file(origin, format!("has a vector that is not finite (row {row}, counted from 0)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<Text> {
        let name = |name: &str| Some(TextName::Text(name.to_owned()));
        [(name("a"), "One."), (None, "Zwei \"2\"."), (Some(TextName::Number(7.into())), "")]
            .map(|(id, text)| Text { id, text: text.to_owned() })
            .to_vec()
    }

    fn vectors(rows: usize) -> Matrix {
        let numbers = (0..rows * 3).map(|place| 1.0 / (place as f32 - 1.7) + 1e-20).collect();
        Matrix::from_vec(rows, 3, numbers)
    }

    fn written(path: &Path, all: &Matrix) {
        let mut writer = VectorWriter::create(path, VectorFormat::of_name(path).unwrap(), 3).unwrap();
        for first in (0..all.rows()).step_by(3) {
            writer.write(&texts(), all.slice(first..first + 3)).unwrap();
        }
        assert!(!path.exists());
        assert_eq!(writer.finish().unwrap(), all.rows());
    }

    fn read(path: &Path) -> Result<(Matrix, Vec<Label>)> {
        let mut reader = VectorReader::open(path, VectorFormat::of_name(path).unwrap())?;
        let (mut all, mut labels) = (Vec::new(), Vec::new());
        while let Some(rows) = reader.next_rows()? {
            assert_eq!(rows.labels.len(), rows.vectors.rows());
            all.extend_from_slice(rows.vectors.data());
            labels.extend(rows.labels);
        }
        let cols = all.len() / labels.len().max(1);
        Ok((Matrix::from_vec(labels.len(), cols, all), labels))
    }

    #[test]
    fn vectors_are_read_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.jsonl", "a.parquet"] {
            let (path, all) = (folder.path().join(name), vectors(4500));
            written(&path, &all);
            let (found, labels) = read(&path).unwrap();
            assert_eq!(found, all, "{name}");
            let expected = texts().into_iter().map(|Text { id, text }| match name {
                "a.npy" => Label::default(),
                "a.jsonl" => Label { id, text: Some(text) },
                // A column has names of one kind.
                _ => Label { id: id.map(|id| TextName::Text(id.to_string())), text: Some(text) },
            });
            assert_eq!(labels[4497..], expected.collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
    }

    #[test]
    fn files_without_vectors_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.jsonl", "a.parquet"] {
            let path = folder.path().join(name);
            written(&path, &Matrix::zeros(0, 3));
            assert_eq!(read(&path).unwrap().0.rows(), 0, "{name}");
        }
    }

    /// Every byte of a small file is changed in several ways, and the file is cut at every place: whatever becomes of it is
    /// an error or vectors, and never a panic.
    #[test]
    fn damaged_files_are_refused_or_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.jsonl", "a.parquet"] {
            let path = folder.path().join(name);
            written(&path, &vectors(3));
            let whole = std::fs::read(&path).unwrap();
            let mut refused = 0;
            let mut try_out = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                refused += usize::from(read(&path).is_err());
            };
            for place in 0..whole.len() {
                try_out(&whole[..place]);
                for change in [0x01, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[place] ^= change;
                    try_out(&changed);
                }
            }
            assert!(refused > whole.len() / 2, "{name}: {refused} of {}", 4 * whole.len());
        }
    }

    #[test]
    fn vectors_that_cannot_be_searched_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        for (lines, problem) in [
            ("{\"embedding\": [1, 2]}\n{\"embedding\": [1]}\n", "line 2: its embedding has 1 numbers, where 2 belong"),
            ("{\"embedding\": []}\n", "line 1: its embedding has 0 numbers, where 0 belong"),
            ("{\"embedding\": [1, 1e40]}\n", "line 1: it is not an object with an embedding"),
            ("{\"text\": \"a\"}\n", "line 1: it is not an object with an embedding"),
        ] {
            std::fs::write(&path, lines).unwrap();
            let found = read(&path).unwrap_err().to_string();
            assert!(found.contains(problem), "{found}");
        }
        let path = folder.path().join("a.npy");
        written(&path, &Matrix::from_vec(3, 3, [[1.0; 6].as_slice(), &[f32::NAN; 3]].concat()));
        assert!(
            read(&path).unwrap_err().to_string().ends_with("has a vector that is not finite (row 2, counted from 0)")
        );
    }
}
