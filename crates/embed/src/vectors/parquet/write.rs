//! Writes vectors, a group of rows at a time.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bouquet_kernels::MatrixView;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::Result as Parquet;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::texts::Text;

const SCHEMA: &str = "message vectors {
    optional binary id (STRING);
    required binary text (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// A file that is being written.
pub(in crate::vectors) struct Writer {
    file: SerializedFileWriter<File>,
}

impl Writer {
    pub(in crate::vectors) fn new(file: File) -> io::Result<Self> {
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
    pub(in crate::vectors) fn write(&mut self, texts: &[Text], vectors: MatrixView<'_>) -> io::Result<()> {
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

    pub(in crate::vectors) fn finish(self) -> io::Result<()> {
        self.file.close().map_err(io::Error::other)?;
        Ok(())
    }
}
