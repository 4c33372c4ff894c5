//! Parquet files: columns, of which the ones that make a record are read.
//!
//! The crate that reads them trusts files more than we do: what they claim is checked before it allocates memory for it,
//! and a panic inside of it becomes an error.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bouquet_embed::parquet_claims as claims;
use parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::{Field, Row, reader::RowIter};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::collect::Collector;
use super::source::Source;
use super::{DataError, Place, Result};

/// Takes the rows of a Parquet file.
pub(super) fn read(source: &Source, file: File, rows: &mut Collector<'_>) -> Result<()> {
    // After a panic nothing of what it may have left half-done is used.
    catch_unwind(AssertUnwindSafe(|| read_rows(source, file, rows)))
        .unwrap_or_else(|_| Err(damaged(source, "it contradicts itself")))
}

fn read_rows(source: &Source, file: File, rows: &mut Collector<'_>) -> Result<()> {
    let damaged = |error: ParquetError| damaged(source, &error.to_string());
    let options = rows.options();
    let failed = |error| source.failed(error, options);
    claims::check_schema(&file).map_err(failed)?;
    let reader = SerializedFileReader::new(file.try_clone().map_err(failed)?).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    rows.columns(&names, None)?;
    let wanted: Vec<String> = rows.mapping().columns.iter().map(|column| column.name.clone()).collect();
    let mut bytes: u64 = 0;
    for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        if column.column_path().parts().first().is_some_and(|part| wanted.contains(part)) {
            check_compression(source, column.compression())?;
            bytes = bytes.saturating_add(claims::pages(&file, column).map_err(failed)?.bytes);
            rows.check_size(bytes)?;
        }
    }

    let schema = plain(schema).map_err(damaged)?;
    let as_bytes = ReadOptionsBuilder::new().with_parquet_schema(Arc::new(SchemaDescriptor::new(Arc::new(schema))));
    let reader = SerializedFileReader::new_with_options(file, as_bytes.build()).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let fields = schema.get_fields().iter().filter(|field| wanted.iter().any(|name| name == field.name()));
    let projection = Type::group_type_builder(schema.name()).with_fields(fields.cloned().collect());
    let projection = projection.build().map_err(damaged)?;
    // Values are decoded one at a time: those of a page can be a few bytes and the rest of the value before (the encoding
    // DELTA_BYTE_ARRAY), so that many together could fill the memory. It costs no time that could be measured.
    let values = RowIter::from_file(Some(projection), &reader).map_err(damaged)?.with_batch_size(1);
    for (index, row) in values.enumerate() {
        let place = Place::Row(index as u64 + 1);
        rows.count_row()?;
        let mut bytes_left = options.max_row_bytes;
        match object(row.map_err(damaged)?, &mut bytes_left) {
            Ok(mut cells) => rows.row(place, |name, _| cells.get_mut(name).map_or(Value::Null, Value::take), false)?,
            Err(Unusable::TooLong) => rows.bad(place, rows.too_long())?,
            Err(Unusable::Because(reason)) => rows.bad(place, reason)?,
        }
    }
    Ok(())
}

fn damaged(source: &Source, problem: &str) -> DataError {
    // What the crate says may hold whole values of the file.
    let problem: String = problem.chars().take(200).map(|char| if char.is_control() { ' ' } else { char }).collect();
    DataError::Damaged { file: source.name.clone(), problem }
}

fn check_compression(source: &Source, compression: Compression) -> Result<()> {
    let compression = match compression {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => return Ok(()),
        Compression::LZ4 | Compression::LZ4_RAW | Compression::BROTLI(_) => return Ok(()),
        Compression::ZSTD(_) if cfg!(feature = "zstd") => return Ok(()),
        Compression::ZSTD(_) => "zstd",
        Compression::LZO => "LZO",
    };
    Err(DataError::Compression { file: source.name.clone(), compression })
}

/// A schema whose texts are bytes. The crate ends at the first text that is not UTF-8; with bytes that is up to us, and
/// one row that cannot be used.
fn plain(schema: &Type) -> std::result::Result<Type, ParquetError> {
    let info = schema.get_basic_info();
    if schema.is_primitive() {
        if schema.get_physical_type() != PhysicalType::BYTE_ARRAY {
            return Ok(schema.clone());
        }
        let bytes = Type::primitive_type_builder(info.name(), PhysicalType::BYTE_ARRAY);
        return bytes.with_repetition(info.repetition()).with_id(info.has_id().then(|| info.id())).build();
    }
    let fields = schema.get_fields().iter().map(|field| plain(field).map(Arc::new));
    let mut group = Type::group_type_builder(info.name())
        .with_fields(fields.collect::<std::result::Result<_, _>>()?)
        .with_id(info.has_id().then(|| info.id()))
        .with_converted_type(info.converted_type());
    if matches!(info.logical_type_ref(), Some(LogicalType::List)) {
        group = group.with_converted_type(ConvertedType::LIST);
    }
    if info.has_repetition() {
        group = group.with_repetition(info.repetition());
    }
    group.build()
}

enum Unusable {
    TooLong,
    Because(String),
}

fn object(row: Row, bytes_left: &mut usize) -> std::result::Result<Map<String, Value>, Unusable> {
    let cells = row.into_columns().into_iter();
    cells.map(|(name, field)| value(&name, field, bytes_left).map(|value| (name, value))).collect()
}

fn value(name: &str, field: Field, bytes_left: &mut usize) -> std::result::Result<Value, Unusable> {
    let because = |problem: &str| Unusable::Because(format!("{} {problem}", super::error::quoted(name)));
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(bool) => Value::Bool(bool),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => finite(f64::from(f32::from(number))).ok_or_else(|| because(NOT_FINITE))?,
        Field::Float(number) => finite(f64::from(number)).ok_or_else(|| because(NOT_FINITE))?,
        Field::Double(number) => finite(number).ok_or_else(|| because(NOT_FINITE))?,
        Field::Bytes(bytes) => {
            *bytes_left = bytes_left.checked_sub(bytes.data().len()).ok_or(Unusable::TooLong)?;
            let text = std::str::from_utf8(bytes.data()).map_err(|_| because("is not UTF-8"))?;
            Value::String(text.to_owned())
        }
        Field::Group(row) => Value::Object(object(row, bytes_left)?),
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| value(name, item.clone(), bytes_left));
            Value::Array(items.collect::<std::result::Result<_, _>>()?)
        }
        _ => return Err(because("has a type that no text and no score has")),
    })
}

const NOT_FINITE: &str = "is not a finite number";

fn finite(number: f64) -> Option<Value> {
    Number::from_f64(number).map(Value::Number)
}

#[cfg(test)]
mod tests;
