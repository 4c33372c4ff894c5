//! Vectors in Parquet: the columns `id` (text, may be missing), `text` and `embedding` (a list of floats). Files of others
//! are read when they have an `embedding` that is a list of floats; `text` and `id` are taken where they are texts.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bouquet_kernels::{Matrix, MatrixView};
use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType};
use parquet::errors::{ParquetError, Result as Parquet};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::{Label, MAX_COLS, Rows, block_rows, check};
use crate::texts::{Text, TextName};
use crate::{EmbedError, Result};

const SCHEMA: &str = "message vectors {
    optional binary id (STRING);
    required binary text (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// A file that is being read.
pub struct Reader {
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
        let file = guarded(&origin, || SerializedFileReader::new(file))?;
        let columns = columns(&file)
            .ok_or_else(|| EmbedError::file(&origin, "has no column `embedding` that is a list of floats"))?;
        Ok(Reader { file, origin, columns, cols: None, group: None, next_group: 0, done: 0 })
    }

    pub(super) fn next_rows(&mut self) -> Result<Option<Rows>> {
        while self.group.as_ref().is_none_or(|group| group.rows_left == 0) {
            if self.next_group >= self.file.num_row_groups() {
                return Ok(None);
            }
            self.group = Some(guarded(&self.origin, || Group::open(&self.file, self.next_group, self.columns))?);
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
    fn open(file: &SerializedFileReader<File>, number: usize, columns: Columns) -> Parquet<Group> {
        let group = file.get_row_group(number)?;
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
        let Records { values, definitions, .. } = Records::read(&mut self.reader, rows)?;
        let mut values = values.into_iter();
        // Where none may be missing there are no levels.
        let present = |row: usize| self.max_definition == 0 || definitions.get(row) == Some(&self.max_definition);
        let mut text = |row: usize| match present(row) {
            false => Ok(None),
            true => Ok(Some(values.next().ok_or_else(|| damage("too few texts"))?.as_utf8()?.to_owned())),
        };
        (0..rows).map(&mut text).collect()
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

fn damage(problem: &str) -> ParquetError {
    ParquetError::General(problem.to_owned())
}

/// A file that is being written.
pub(super) struct Writer {
    file: SerializedFileWriter<File>,
}

impl Writer {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(io::Error::other)?);
        // Vectors have no value twice, and nobody asks for the largest.
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let file = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(io::Error::other)?;
        Ok(Writer { file })
    }

    /// Appends a group of rows.
    pub(super) fn write(&mut self, texts: &[Text], vectors: MatrixView<'_>) -> io::Result<()> {
        if texts.is_empty() {
            return Ok(());
        }
        self.write_group(texts, vectors).map_err(io::Error::other)
    }

    fn write_group(&mut self, texts: &[Text], vectors: MatrixView<'_>) -> Parquet<()> {
        let mut group = self.file.next_row_group()?;
        let mut number = 0;
        while let Some(mut column) = group.next_column()? {
            match (number, column.untyped()) {
                (0, ColumnWriter::ByteArrayColumnWriter(writer)) => {
                    let ids = texts.iter().filter_map(|text| text.id.as_ref());
                    let ids: Vec<ByteArray> = ids.map(|id| id.to_string().into_bytes().into()).collect();
                    let present: Vec<i16> = texts.iter().map(|text| i16::from(text.id.is_some())).collect();
                    writer.write_batch(&ids, Some(&present), None)?;
                }
                (1, ColumnWriter::ByteArrayColumnWriter(writer)) => {
                    let texts: Vec<ByteArray> = texts.iter().map(|text| text.text.as_str().into()).collect();
                    writer.write_batch(&texts, None, None)?;
                }
                (2, ColumnWriter::FloatColumnWriter(writer)) => {
                    let (numbers, cols) = (vectors.data(), vectors.cols());
                    let present = vec![1; numbers.len()];
                    let repeated: Vec<i16> = (0..numbers.len()).map(|place| i16::from(place % cols > 0)).collect();
                    writer.write_batch(numbers, Some(&present), Some(&repeated))?;
                }
                _ => unreachable!("the columns are those of SCHEMA"),
            }
            column.close()?;
            number += 1;
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.file.close().map_err(io::Error::other)?;
        Ok(())
    }
}
