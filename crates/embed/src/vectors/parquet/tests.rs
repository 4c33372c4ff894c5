//! Files that claim more than they have: each is told, and nothing is allocated for it.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Reader;

/// What is wrong with a file.
fn problem(content: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, content).expect("written");
    let read = Reader::open(&path).and_then(|mut reader| {
        while reader.next_rows()?.is_some() {}
        Ok(())
    });
    read.expect_err("a lie").to_string()
}

/// A number as Thrift's compact protocol has it, in at least so many bytes.
fn varint(mut number: u64, at_least: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 || bytes.len() + 1 < at_least {
        bytes.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A file of which there is only a footer, with these numbers of columns in groups.
fn schema_alone(children: &[u32]) -> Vec<u8> {
    // FileMetaData: version, and the list of structs that is the schema.
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    footer.extend(varint(children.len() as u64, 1));
    for &children in children {
        // SchemaElement: repetition_type, name, num_children.
        footer.extend([0x35, 0x00, 0x18, 0x01, b'a', 0x15]);
        footer.extend(varint(2 * u64::from(children), 1));
        footer.push(0);
    }
    footer.push(0);
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", footer.as_slice(), &length, b"PAR1"].concat()
}

/// Vectors of one number with these texts.
fn with_texts(texts: &[ByteArray], properties: WriterProperties) -> Vec<u8> {
    let schema = "message vectors { required binary text (STRING);
        required group embedding (LIST) { repeated group list { required float element; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut column = group.next_column().expect("memory can be written").expect("texts");
    column.typed::<ByteArrayType>().write_batch(texts, None, None).expect("memory can be written");
    column.close().expect("memory can be written");
    let mut column = group.next_column().expect("memory can be written").expect("numbers");
    let (numbers, present, first) = (vec![1.0; texts.len()], vec![1; texts.len()], vec![0; texts.len()]);
    column.typed::<FloatType>().write_batch(&numbers, Some(&present), Some(&first)).expect("memory can be written");
    column.close().and_then(|()| group.close().map(|_| ())).expect("memory can be written");
    writer.into_inner().expect("memory can be written")
}

#[test]
fn schemas_that_claim_more_than_they_have_get_no_memory_for_it() {
    let found = problem(&schema_alone(&[i32::MAX as u32, 0]));
    assert!(found.ends_with("a group of its schema has more columns than there are"), "{found}");
    let mut deep = vec![1; 100_000];
    deep.push(0);
    let found = problem(&schema_alone(&deep));
    assert!(found.ends_with("its schema is too deep"), "{found}");
    let mut content = schema_alone(&[0]);
    let length = content.len() - 8;
    content[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(problem(&content).ends_with("its footer is longer than the file"));
}

#[test]
fn a_page_that_becomes_longer_than_its_header_says_is_not_decompressed() {
    let properties = WriterProperties::builder().set_compression(Compression::GZIP(GzipLevel::default()));
    let properties = properties.set_dictionary_enabled(false).build();
    let mut content = with_texts(&[vec![b'a'; 1 << 20].into()], properties);
    // A text stands behind its length. Numbers with a sign are written twice as large.
    let (true_size, lie) = (varint(2 * ((1 << 20) + 4), 1), varint(2 * 100, 4));
    let at = content.windows(true_size.len()).position(|bytes| bytes == true_size).expect("the header of the page");
    content[at..at + lie.len()].copy_from_slice(&lie);
    let found = problem(&content);
    assert!(found.ends_with("a page is longer than its header says"), "{found}");
}

/// A page that repeats one number takes a few bytes, however often it does.
#[test]
fn numbers_that_are_repeated_for_ever_get_no_memory() {
    let schema = "message vectors {
        required group embedding (LIST) { repeated group list { required float element; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut column = group.next_column().expect("memory can be written").expect("numbers");
    let (numbers, present, mut next) = (vec![1.0; 1 << 20], vec![1; 1 << 20], vec![0]);
    next.resize(1 << 20, 1);
    for _ in 0..17 {
        column.typed::<FloatType>().write_batch(&numbers, Some(&present), Some(&next)).expect("memory can be written");
    }
    column.close().and_then(|()| group.close().map(|_| ())).expect("memory can be written");
    let content = writer.into_inner().expect("memory can be written");
    assert!(content.len() < 1 << 16, "{}", content.len());
    let found = problem(&content);
    assert!(found.ends_with("a column that claims more values than its bytes can hold"), "{found}");
}

#[test]
fn texts_that_are_the_one_before_again_end_at_the_limit() {
    let properties = WriterProperties::builder().set_dictionary_enabled(false);
    let properties = properties.set_column_encoding("text".into(), Encoding::DELTA_BYTE_ARRAY).build();
    let content = with_texts(&vec![vec![b'a'; 1 << 22].into(); 600], properties);
    assert!(content.len() < 8 << 20, "{}", content.len());
    let found = problem(&content);
    assert!(found.ends_with("texts that are too long"), "{found}");
}
