//! Vectors in Parquet: the columns `id` (text, may be missing), `text` and `embedding` (a list of floats). Files of others
//! are read when they have an `embedding` that is a list of floats; `text` and `id` are taken where they are texts.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bouquet_kernels::Matrix;
use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArrayType, DataType, DoubleType, FloatType};
use parquet::errors::{ParquetError, Result as Parquet};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{Label, MAX_COLS, Rows, block_rows, check};
use crate::texts::TextName;
use crate::{EmbedError, Result, parquet_claims as claims};

mod write;

pub(super) use write::Writer;

/// Bytes of a page at most, decompressed; writers begin another one after a megabyte.
const MAX_PAGE_BYTES: u64 = 1 << 28;

/// Numbers of a group of rows at most, for each byte that they take and besides. A file can say with a few bytes that a
/// number is repeated a thousand million times.
const NUMBERS_PER_BYTE: u64 = 64;
const MORE_NUMBERS: u64 = 1 << 24;

/// Bytes of the texts of a block at most. A text can be stored as "the same again".
const MAX_TEXT_BYTES: usize = 1 << 28;

/// A file that is being read.
pub struct Reader {
    /// The same file as `file` has, to look at what it claims.
    raw: File,
    file: SerializedFileReader<File>,
    origin: String,
    columns: Columns,
    cols: Option<usize>,
    /// What is left of the group of rows that is being read, and the number of the next one.
    group: Option<Group>,
    next_group: usize,
    /// Vectors that have been read.
    done: usize,
}

/// The numbers of the columns.
#[derive(Clone, Copy)]
struct Columns {
    embedding: usize,
    text: Option<usize>,
    id: Option<usize>,
}

/// Readers of the columns of a group.
struct Group {
    rows_left: usize,
    embedding: Numbers,
    text: Option<Texts>,
    id: Option<Texts>,
}

enum Numbers {
    F32(ColumnReaderImpl<FloatType>),
    F64(ColumnReaderImpl<DoubleType>),
}

struct Texts {
    reader: ColumnReaderImpl<ByteArrayType>,
    max_definition: i16,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, that is damaged, or that has no list of floats with the name `embedding`.
    pub fn open(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let file = File::open(path).map_err(|source| EmbedError::read(&origin, source))?;
        let raw = file.try_clone().map_err(|source| EmbedError::read(&origin, source))?;
        let file = guarded(&origin, || {
            claims::check_schema(&raw).map_err(claim)?;
            SerializedFileReader::new(file)
        })?;
        let columns = columns(&file)
            .ok_or_else(|| EmbedError::file(&origin, "has no column `embedding` that is a list of floats"))?;
        Ok(Reader { raw, file, origin, columns, cols: None, group: None, next_group: 0, done: 0 })
    }

    pub(super) fn next_rows(&mut self) -> Result<Option<Rows>> {
        while self.group.as_ref().is_none_or(|group| group.rows_left == 0) {
            if self.next_group >= self.file.num_row_groups() {
                return Ok(None);
            }
            self.group =
                Some(guarded(&self.origin, || Group::open(&self.raw, &self.file, self.next_group, self.columns))?);
            self.next_group += 1;
        }
        let group = self.group.as_mut().expect("opened above");
        let rows = block_rows(self.cols.unwrap_or(MAX_COLS)).min(group.rows_left);
        let (numbers, labels) = guarded(&self.origin, || group.read(rows))?;
        let cols = numbers.len() / rows;
        if cols == 0 || cols > MAX_COLS || *self.cols.get_or_insert(cols) != cols {
            return Err(EmbedError::file(&self.origin, "has vectors that are not all of one length"));
        }
        group.rows_left -= rows;
        let vectors = Matrix::from_vec(rows, cols, numbers);
        for row in 0..rows {
            check(&self.origin, self.done + row, vectors.row(row))?;
        }
        self.done += rows;
        Ok(Some(Rows { vectors, labels }))
    }
}

impl Group {
    fn open(raw: &File, file: &SerializedFileReader<File>, number: usize, columns: Columns) -> Parquet<Group> {
        let group = file.get_row_group(number)?;
        for column in [Some(columns.embedding), columns.text, columns.id].into_iter().flatten() {
            let pages = claims::pages(raw, group.metadata().column(column)).map_err(claim)?;
            if pages.largest > MAX_PAGE_BYTES {
                return Err(damage("a page that claims to be larger than pages are"));
            }
            if pages.values > pages.bytes.saturating_mul(NUMBERS_PER_BYTE).saturating_add(MORE_NUMBERS) {
                return Err(damage("a column that claims more values than its bytes can hold"));
            }
        }
        let rows_left =
            usize::try_from(group.metadata().num_rows()).map_err(|_| damage("a negative number of rows"))?;
        let texts = |column: Option<usize>| -> Parquet<Option<Texts>> {
            let Some(column) = column else { return Ok(None) };
            let max_definition = group.metadata().schema_descr().column(column).max_def_level();
            match group.get_column_reader(column)? {
                ColumnReader::ByteArrayColumnReader(reader) => Ok(Some(Texts { reader, max_definition })),
                _ => Err(damage("a column of texts that are none")),
            }
        };
        let embedding = match group.get_column_reader(columns.embedding)? {
            ColumnReader::FloatColumnReader(reader) => Numbers::F32(reader),
            ColumnReader::DoubleColumnReader(reader) => Numbers::F64(reader),
            _ => return Err(damage("a column of numbers that are none")),
        };
        Ok(Group { rows_left, embedding, text: texts(columns.text)?, id: texts(columns.id)? })
    }

    /// The numbers of so many vectors, and their labels.
    fn read(&mut self, rows: usize) -> Parquet<(Vec<f32>, Vec<Label>)> {
        let numbers = match &mut self.embedding {
            Numbers::F32(reader) => lists(reader, rows)?,
            Numbers::F64(reader) => lists(reader, rows)?.into_iter().map(|number| number as f32).collect(),
        };
        let texts = |texts: &mut Option<Texts>| match texts {
            Some(texts) => texts.read(rows),
            None => Ok(vec![None; rows]),
        };
        let (ids, texts) = (texts(&mut self.id)?, texts(&mut self.text)?);
        let label = |(id, text): (Option<String>, _)| Label { id: id.map(TextName::Text), text };
        Ok((numbers, ids.into_iter().zip(texts).map(label).collect()))
    }
}

impl Texts {
    fn read(&mut self, rows: usize) -> Parquet<Vec<Option<String>>> {
        let mut bytes_left = MAX_TEXT_BYTES;
        // One at a time: what is decoded together would be in memory before it could be counted.
        let text = |_| {
            let Records { values, definitions, .. } = Records::read(&mut self.reader, 1)?;
            // Where none may be missing there are no levels.
            if self.max_definition > 0 && definitions.first() != Some(&self.max_definition) {
                return Ok(None);
            }
            let value = values.first().ok_or_else(|| damage("too few texts"))?;
            let left = bytes_left.checked_sub(value.len());
            bytes_left = left.ok_or_else(|| damage("texts that are too long"))?;
            Ok(Some(value.as_utf8()?.to_owned()))
        };
        (0..rows).map(text).collect()
    }
}

/// The numbers of so many lists of one length, one after another.
fn lists<T: DataType>(reader: &mut ColumnReaderImpl<T>, rows: usize) -> Parquet<Vec<T::T>> {
    let Records { values, repetitions, .. } = Records::read(reader, rows)?;
    // A list begins where nothing is repeated. A list or a number that is missing has a level and no value.
    let length = values.len() / rows;
    let begins = (0..repetitions.len()).filter(|&place| repetitions[place] == 0);
    match repetitions.len() == values.len() && begins.eq((0..rows).map(|row| row * length)) {
        true => Ok(values),
        false => Err(damage("vectors that are not all of one length")),
    }
}

/// The values of some rows of a column, with the levels that say where one is missing and where a list begins.
struct Records<T> {
    values: Vec<T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<T> Records<T> {
    fn read<D: DataType<T = T>>(reader: &mut ColumnReaderImpl<D>, rows: usize) -> Parquet<Self> {
        let mut all = Records { values: Vec::new(), definitions: Vec::new(), repetitions: Vec::new() };
        let mut done = 0;
        while done < rows {
            let Records { values, definitions, repetitions } = &mut all;
            match reader.read_records(rows - done, Some(definitions), Some(repetitions), values)?.0 {
                0 => return Err(damage("a column that ends too early")),
                more => done += more,
            }
        }
        Ok(all)
    }
}

/// Where the columns are; `None` without vectors.
fn columns(file: &SerializedFileReader<File>) -> Option<Columns> {
    let schema = file.metadata().file_metadata().schema_descr();
    let place = |root: &str, kinds: &[Physical], repeated: i16| {
        (0..schema.num_columns()).find(|&column| {
            let column = schema.column(column);
            let named = column.path().parts().first().is_some_and(|part| part == root);
            named && kinds.contains(&column.physical_type()) && column.max_rep_level() == repeated
        })
    };
    Some(Columns {
        embedding: place("embedding", &[Physical::FLOAT, Physical::DOUBLE], 1)?,
        text: place("text", &[Physical::BYTE_ARRAY], 0),
        id: place("id", &[Physical::BYTE_ARRAY], 0),
    })
}

/// What the crate answers, its panics made errors: it trusts files more than we do.
fn guarded<T>(origin: &str, call: impl FnOnce() -> Parquet<T>) -> Result<T> {
    let damaged = |problem: String| EmbedError::file(origin, format!("is damaged: {problem}"));
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("it is not what Parquet is".to_owned())),
    }
}

/// What is wrong with a claim.
fn claim(error: io::Error) -> ParquetError {
    damage(&error.to_string())
}

fn damage(problem: &str) -> ParquetError {
    ParquetError::General(problem.to_owned())
}

#[cfg(test)]
mod tests;
