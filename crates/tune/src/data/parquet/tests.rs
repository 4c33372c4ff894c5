//! Parquet files, written here by the crate that reads them, whole and broken.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::data::{DataError, DataSet, Message, Place, ReadOptions, Record, RecordKind, Result, read};

/// The values of a column, with their levels (definition, repetition) where it is not a plain one.
enum Cells<'a> {
    Texts(&'a [&'a [u8]]),
    Nested(&'a [&'a [u8]], &'a [i16], &'a [i16]),
    Scores(&'a [f64]),
}

/// A file with one row group.
fn file(schema: &str, columns: &[Cells<'_>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    for cells in columns {
        let mut column = group.next_column().expect("memory can be written").expect("as many columns as the schema");
        let bytes = |texts: &[&[u8]]| texts.iter().map(|text| ByteArray::from(text.to_vec())).collect::<Vec<_>>();
        match cells {
            Cells::Texts(texts) => column.typed::<ByteArrayType>().write_batch(&bytes(texts), None, None),
            Cells::Nested(texts, definition, repetition) => {
                column.typed::<ByteArrayType>().write_batch(&bytes(texts), Some(definition), Some(repetition))
            }
            Cells::Scores(scores) => column.typed::<DoubleType>().write_batch(scores, None, None),
        }
        .expect("memory can be written");
        column.close().expect("memory can be written");
    }
    group.close().expect("memory can be written");
    writer.into_inner().expect("memory can be written")
}

fn written(content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("a.parquet");
    fs::write(&path, content).expect("a file for the test");
    (folder, path)
}

fn read_bytes(content: &[u8], kind: RecordKind) -> Result<DataSet> {
    let (_folder, path) = written(content);
    read(&[path], &ReadOptions::new(kind))
}

const SCORED: &str = "message rows {
    required binary sentence1 (STRING);
    required binary sentence2 (STRING);
    required double score;
}";

fn scored_file(compression: Compression) -> Vec<u8> {
    let columns =
        [Cells::Texts(&[b"x", b"v\xff", b""]), Cells::Texts(&[b"y", b"w", b"w"]), Cells::Scores(&[4.5, 1.0, 2.0])];
    file(SCORED, &columns, compression)
}

#[test]
fn rows_are_read_and_those_that_are_not_utf8_left_out() {
    let mut compressions = vec![
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
    ];
    if cfg!(feature = "zstd") {
        compressions.push(Compression::ZSTD(parquet::basic::ZstdLevel::default()));
    }
    for compression in compressions {
        let data = read_bytes(&scored_file(compression), RecordKind::ScoredPairs).expect("a good row");
        assert_eq!(data.records, [Record::Scored { first: "x".to_owned(), second: "y".to_owned(), score: 4.5 }]);
        let bad: Vec<(Place, &str)> = data.bad.iter().map(|row| (row.place, row.reason.as_str())).collect();
        let expected = [(Place::Row(2), "\"sentence1\" is not UTF-8"), (Place::Row(3), "\"sentence1\" is empty")];
        assert_eq!(bad, expected);
    }
}

#[test]
fn a_compression_that_is_not_read_is_named() {
    // Which codec a column has is a number in the footer: 1 is snappy, 3 is LZO. It follows the column's path.
    let mut content = scored_file(Compression::SNAPPY);
    let after_path = [b"\x18\x09sentence1\x15".as_slice(), &varint(2, 1)].concat();
    let at = content.windows(after_path.len()).position(|bytes| bytes == after_path);
    let at = at.unwrap_or_else(|| panic!("no codec in {:?}", String::from_utf8_lossy(&content)));
    content[at + after_path.len() - 1] = 6;
    let error = read_bytes(&content, RecordKind::ScoredPairs).expect_err("LZO");
    assert!(error.to_string().ends_with("is compressed with LZO, which this build cannot read"), "{error}");
}

#[test]
fn columns_are_named_where_they_make_no_record() {
    let error = read_bytes(&scored_file(Compression::SNAPPY), RecordKind::Pairs).expect_err("scored");
    assert!(error.to_string().ends_with("\"sentence1\", \"sentence2\", \"score\""), "{error}");
}

#[test]
fn lists_of_negatives_are_read() {
    let schema = "message rows {
        required binary anchor (STRING);
        required binary positive (STRING);
        optional group negatives (LIST) { repeated group list { optional binary element (STRING); } }
    }";
    let negatives = Cells::Nested(&[b"n1", b"n2", b"n3", b"n4"], &[3, 3, 3, 3, 0], &[0, 1, 0, 1, 0]);
    let columns = [Cells::Texts(&[b"a", b"b", b"c"]), Cells::Texts(&[b"p", b"q", b"r"]), negatives];
    let data = read_bytes(&file(schema, &columns, Compression::SNAPPY), RecordKind::Pairs).expect("good rows");
    let pair = |anchor: &str, positive: &str, negatives: [&str; 2]| Record::Pair {
        anchor: anchor.to_owned(),
        positive: positive.to_owned(),
        negatives: negatives.map(str::to_owned).to_vec(),
    };
    assert_eq!(data.records, [pair("a", "p", ["n1", "n2"]), pair("b", "q", ["n3", "n4"])]);
    assert_eq!((data.bad_rows, data.bad[0].place), (1, Place::Row(3)));
}

#[test]
fn conversations_are_read() {
    let schema = "message rows {
        optional group messages (LIST) { repeated group list { optional group element {
            optional binary content (STRING);
            optional binary role (STRING);
        } } }
    }";
    let levels: [&[i16]; 2] = [&[4, 4, 4, 4], &[0, 1, 0, 1]];
    let columns = [
        Cells::Nested(&[b"Hi", b"Hello", b"Ho", b"Hm"], levels[0], levels[1]),
        Cells::Nested(&[b"user", b"assistant", b"user", b"assistant"], levels[0], levels[1]),
    ];
    let data = read_bytes(&file(schema, &columns, Compression::SNAPPY), RecordKind::Continuations).expect("good rows");
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let chat = |user: &str, assistant: &str| Record::Chat(vec![message("user", user), message("assistant", assistant)]);
    assert_eq!(data.records, [chat("Hi", "Hello"), chat("Ho", "Hm")]);
}

#[test]
fn a_compressed_parquet_file_is_read_as_well() {
    use flate2::{Compression as Level, write::GzEncoder};
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("a.parquet.gz");
    let mut encoder = GzEncoder::new(fs::File::create(&path).expect("a file"), Level::fast());
    encoder.write_all(&scored_file(Compression::SNAPPY)).and_then(|()| encoder.finish()).expect("written");
    assert_eq!(read(&[path], &ReadOptions::new(RecordKind::ScoredPairs)).expect("a row").records.len(), 1);
}

#[test]
fn what_a_file_would_take_is_known_before_it_is_read() {
    let text = [b'a'; 1 << 20];
    let schema = "message rows { required binary text (STRING); }";
    let content = file(schema, &[Cells::Texts(&[&text])], Compression::SNAPPY);
    let (_folder, path) = written(&content);
    assert!(content.len() < 1 << 18);
    let options = ReadOptions { max_bytes: 1 << 19, ..ReadOptions::new(RecordKind::Texts) };
    assert!(matches!(read(std::slice::from_ref(&path), &options), Err(DataError::TooLarge { .. })));
    let options = ReadOptions { max_row_bytes: 1 << 19, ..ReadOptions::new(RecordKind::Texts) };
    let error = read(&[path], &options).expect_err("no row");
    assert!(error.to_string().ends_with("row 1: it is longer than 524288 bytes"), "{error}");
}

#[test]
fn a_file_that_breaks_off_is_damage() {
    let content = scored_file(Compression::SNAPPY);
    for end in 0..content.len() {
        let error = read_bytes(&content[..end], RecordKind::ScoredPairs).expect_err("it breaks off");
        assert!(matches!(error, DataError::Damaged { .. }), "{end}: {error}");
    }
}

#[test]
fn values_that_are_the_rest_of_those_before_them_end_at_the_limit() {
    // A text of a megabyte, and two thousand that say "the same again".
    let schema = Arc::new(parse_message_type("message rows { required binary text (STRING); }").expect("a schema"));
    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut column = group.next_column().expect("memory can be written").expect("a column");
    let texts = vec![ByteArray::from(vec![b'a'; 1 << 20]); 2000];
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("memory can be written");
    column.close().and_then(|()| group.close().map(|_| ())).expect("memory can be written");
    let content = writer.into_inner().expect("memory can be written");
    assert!(content.len() < 4 << 20);
    let (_folder, path) = written(&content);
    let options = ReadOptions { max_bytes: 64 << 20, ..ReadOptions::new(RecordKind::Texts) };
    assert!(matches!(read(&[path], &options), Err(DataError::TooLarge { .. })));
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

fn problem(content: &[u8]) -> String {
    let error = read_bytes(content, RecordKind::Texts).expect_err("a lie");
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_schema_that_claims_more_columns_than_it_has_gets_no_memory_for_them() {
    let problem = problem(&schema_alone(&[i32::MAX as u32, 0]));
    assert!(problem.ends_with("a group of its schema has more columns than there are"), "{problem}");
}

#[test]
fn a_deep_schema_is_not_the_end_of_the_stack() {
    let mut children = vec![1; 100_000];
    children.push(0);
    let problem = problem(&schema_alone(&children));
    assert!(problem.ends_with("its schema is too deep"), "{problem}");
}

#[test]
fn a_footer_longer_than_its_file_is_a_lie() {
    let mut content = schema_alone(&[0]);
    let length = content.len() - 8;
    content[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(problem(&content).ends_with("its footer is longer than the file"));
}

#[test]
fn a_page_that_becomes_longer_than_its_header_says_is_not_decompressed() {
    let text = [b'a'; 1 << 20];
    let schema = "message rows { required binary text (STRING); }";
    for compression in [Compression::GZIP(GzipLevel::default()), Compression::BROTLI(BrotliLevel::default())] {
        let mut content = file(schema, &[Cells::Texts(&[&text])], compression);
        // A text stands behind its length. Numbers with a sign are written twice as large.
        let (true_size, lie) = (varint(2 * ((1 << 20) + 4), 1), varint(2 * 100, 4));
        assert_eq!(true_size.len(), lie.len());
        let at = content.windows(true_size.len()).position(|bytes| bytes == true_size).expect("the header of the page");
        content[at..at + lie.len()].copy_from_slice(&lie);
        let problem = problem(&content);
        assert!(problem.ends_with("a page is longer than its header says"), "{problem}");
    }
}

#[test]
fn a_page_that_claims_to_become_longer_than_all_data_may_be_gets_no_memory_for_it() {
    let text = [b'a'; 1 << 20];
    let schema = "message rows { required binary text (STRING); }";
    let mut content = file(schema, &[Cells::Texts(&[&text])], Compression::SNAPPY);
    let (true_size, lie) = (varint(2 * ((1 << 20) + 4), 1), varint(2 * (1 << 27) - 2, 4));
    assert_eq!(true_size.len(), lie.len());
    let at = content.windows(true_size.len()).position(|bytes| bytes == true_size).expect("the header of the page");
    content[at..at + lie.len()].copy_from_slice(&lie);
    let (_folder, path) = written(&content);
    let options = ReadOptions { max_bytes: 1 << 26, ..ReadOptions::new(RecordKind::Texts) };
    assert!(matches!(read(&[path], &options), Err(DataError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn a_file_with_other_bytes_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        compressed in any::<bool>(),
    ) {
        let mut content = scored_file(if compressed { Compression::SNAPPY } else { Compression::UNCOMPRESSED });
        for (index, byte) in changes {
            let index = index.index(content.len());
            content[index] = byte;
        }
        // That it comes back at all is the claim.
        let options = ReadOptions { max_bytes: 1 << 20, ..ReadOptions::new(RecordKind::ScoredPairs) };
        let (_folder, path) = written(&content);
        if let Ok(data) = read(&[path], &options) {
            prop_assert!(!data.records.is_empty());
        }
    }
}
