//! Files as they should be, and one test per lie that a file tells. What Parquet files do is in `parquet/tests.rs`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::data::{Message, Place};

/// A folder with one file, and its path.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a file for the test");
    (folder, path)
}

fn read_one(name: &str, content: impl AsRef<[u8]>, kind: RecordKind) -> Result<DataSet> {
    read_with(name, content, &ReadOptions::new(kind))
}

fn read_with(name: &str, content: impl AsRef<[u8]>, options: &ReadOptions) -> Result<DataSet> {
    let (_folder, path) = file(name, content);
    read(&[path], options)
}

fn with_columns(kind: RecordKind, columns: &str) -> ReadOptions {
    ReadOptions { columns: ColumnMap::parse(columns).expect("columns"), ..ReadOptions::new(kind) }
}

fn pair(anchor: &str, positive: &str, negatives: &[&str]) -> Record {
    let negatives = negatives.iter().map(|&text| text.to_owned()).collect();
    Record::Pair { anchor: anchor.to_owned(), positive: positive.to_owned(), negatives }
}

fn scored(first: &str, second: &str, score: f32) -> Record {
    Record::Scored { first: first.to_owned(), second: second.to_owned(), score }
}

fn text(text: &str) -> Record {
    Record::Text(text.to_owned())
}

fn completion(prompt: &str, completion: &str) -> Record {
    Record::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
}

/// What was read as what.
fn readings(data: &DataSet) -> Vec<(&str, &str)> {
    data.readings[0].1.iter().map(|reading| (reading.column.as_str(), reading.role)).collect()
}

/// The reasons of bad rows, with their lines.
fn bad(data: &DataSet) -> Vec<(u64, &str)> {
    assert_eq!(data.bad_rows, data.bad.len() as u64);
    let line = |place| match place {
        Place::Line(line) | Place::Row(line) => line,
    };
    data.bad.iter().map(|row| (line(row.place), row.reason.as_str())).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

use RecordKind::{Continuations, Pairs, ScoredPairs, Texts};

#[test]
fn json_lines_become_pairs_and_say_what_was_read_as_what() {
    let lines = "\u{feff}{\"a\": \"x\", \"b\": \"y\", \"src\": 3}\r\n\n{\"b\": \"\\u00e9\", \"a\": \" z \"}";
    let data = read_one("a.jsonl", lines, Pairs).expect("good rows");
    assert_eq!(data.records, [pair("x", "y", &[]), pair(" z ", "é", &[])]);
    assert_eq!(readings(&data), [("a", "anchor"), ("b", "positive")]);
    assert_eq!(data.bad_rows, 0);
}

#[test]
fn negatives_stand_in_columns_of_their_own_or_in_a_list() {
    let lines = r#"{"query": "q", "positive": "p", "negative_2": "n2", "negative_10": "n10", "negative_1": "n1"}"#;
    assert_eq!(read_one("a.jsonl", lines, Pairs).expect("good").records, [pair("q", "p", &["n1", "n2", "n10"])]);
    let lines = r#"{"anchor": "q", "positive": "p", "negatives": ["n1", "n2"]}"#;
    assert_eq!(read_one("a.jsonl", lines, Pairs).expect("good").records, [pair("q", "p", &["n1", "n2"])]);
}

#[test]
fn a_row_with_more_or_fewer_negatives_than_others_is_left_out() {
    let lines = concat!(
        r#"{"anchor": "a", "positive": "p", "negatives": ["n"]}"#,
        "\n",
        r#"{"anchor": "b", "positive": "p", "negatives": []}"#,
        "\n",
        r#"{"anchor": "c", "positive": "p", "negatives": null}"#,
        "\n",
        r#"{"anchor": "d", "positive": "p", "negatives": ["n", ""]}"#,
    );
    let data = read_one("a.jsonl", lines, Pairs).expect("one good row");
    assert_eq!(data.records.len(), 1);
    let uneven = "it has 0 negatives where others have 1";
    assert_eq!(bad(&data), [(2, uneven), (3, uneven), (4, "\"negatives\" is empty")]);
}

#[test]
fn rows_that_are_no_pairs_are_reported_with_line_and_reason() {
    let lines: [&[u8]; 9] = [
        br#"{"a": "x", "b": "y"}"#,
        b"nonsense",
        br#"["x", "y"]"#,
        br#"{"a": "x"}"#,
        br#"{"a": "x", "b": "  "}"#,
        br#"{"a": 5, "b": "y"}"#,
        br#"{"a": "x", "b": "y", "a": "z"}"#,
        b"{\"a\": \"\xff\", \"b\": \"y\"}",
        br#"{"a": "x", "b": null} "#,
    ];
    let data = read_one("a.jsonl", lines.join(&b"\n"[..]), Pairs).expect("one good row");
    assert_eq!(data.records, [pair("x", "y", &[])]);
    let reasons = bad(&data);
    let (numbers, reasons): (Vec<u64>, Vec<&str>) = reasons.into_iter().unzip();
    assert_eq!(numbers, [2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(reasons[0].starts_with("it is not a JSON object: expected ident at column"), "{}", reasons[0]);
    assert!(reasons[1].starts_with("it is not a JSON object: invalid type"), "{}", reasons[1]);
    assert_eq!(reasons[2], "\"b\" is missing");
    assert_eq!(reasons[3], "\"b\" is empty");
    assert_eq!(reasons[4], "\"a\" is a number instead of a text");
    assert!(reasons[5].contains("\"a\" is there twice"), "{}", reasons[5]);
    assert_eq!(reasons[6], "it is not UTF-8");
    assert_eq!(reasons[7], "\"b\" is missing");
}

#[test]
fn strict_makes_the_first_bad_row_an_error() {
    let options = ReadOptions { strict: true, ..ReadOptions::new(Texts) };
    let error = read_with("a.jsonl", "{\"text\": \"x\"}\n{}\n", &options).expect_err("a bad row");
    assert!(matches!(&error, DataError::BadRow(row) if row.place == Place::Line(2)), "{error}");
    assert!(error.to_string().ends_with("a.jsonl, line 2: \"text\" is missing"), "{error}");
}

#[test]
fn all_bad_rows_are_counted_and_few_are_kept() {
    let mut lines = "{}\n".repeat(1000);
    lines.push_str("{\"text\": \"x\"}\n");
    let lines = format!("{{\"text\": \"y\"}}\n{lines}");
    let data = read_one("a.jsonl", lines, Texts).expect("two good rows");
    assert_eq!((data.records.len(), data.bad_rows, data.bad.len()), (2, 1000, 20));
}

#[test]
fn nothing_usable_is_an_error_that_shows_the_first_row() {
    let error = read_one("a.jsonl", "{\"text\": 1}\n{\"text\": \"\"}\n", Texts).expect_err("nothing usable");
    assert!(matches!(error, DataError::Empty { bad: 2, .. }), "{error}");
    assert!(error.to_string().contains("line 1: \"text\" is a number"), "{error}");
    assert!(matches!(read_one("a.jsonl", "", Texts), Err(DataError::Empty { bad: 0, first: None })));
    assert!(matches!(read_one("a.csv", "text\n", Texts), Err(DataError::Empty { bad: 0, first: None })));
    assert!(matches!(read(&[], &ReadOptions::new(Texts)), Err(DataError::Empty { .. })));
}

#[test]
fn scores_are_numbers_and_finite() {
    let lines = concat!(
        "{\"sentence1\": \"x\", \"sentence2\": \"y\", \"score\": 4.4}\n",
        "{\"sentence1\": \"x\", \"sentence2\": \"y\", \"score\": \"4\"}\n",
        "{\"sentence1\": \"x\", \"sentence2\": \"y\", \"score\": 1e300}\n",
        "{\"sentence1\": \"x\", \"sentence2\": \"y\"}\n",
    );
    let data = read_one("a.jsonl", lines, ScoredPairs).expect("one good row");
    assert_eq!(data.records, [scored("x", "y", 4.4)]);
    let expected = [
        (2, "\"score\" is a text instead of a number"),
        (3, "\"score\" is not a finite number"),
        (4, "\"score\" is missing"),
    ];
    assert_eq!(bad(&data), expected);
    let data = read_one("a.csv", "x,y, 3\nx,y,nan\nx,y,inf\nx,y,four\n", ScoredPairs).expect("one good row");
    assert_eq!(data.records, [scored("x", "y", 3.0)]);
    assert_eq!(data.bad_rows, 3);
    assert_eq!(data.bad[0].reason, "column \"2\" (score) is not a finite number");
}

#[test]
fn csv_without_names_is_read_by_position_and_with_names_by_name() {
    let rows = "\"Two trains, green\",A \"\"train,4.4\r\n\"a \"\"b\"\"\nc\",d,0\r\n";
    let data = read_one("a.csv", rows, ScoredPairs).expect("good rows");
    assert_eq!(data.records, [scored("Two trains, green", "A \"\"train", 4.4), scored("a \"b\"\nc", "d", 0.0)]);
    assert_eq!(readings(&data), [("0", "sentence1"), ("1", "sentence2"), ("2", "score")]);
    let rows = "\u{feff}id,Sentence1,sentence2,SCORE\n7,x,y,1.5\n";
    let data = read_one("a.csv", rows, ScoredPairs).expect("good rows");
    assert_eq!(data.records, [scored("x", "y", 1.5)]);
    assert_eq!(readings(&data), [("Sentence1", "sentence1"), ("sentence2", "sentence2"), ("SCORE", "score")]);
}

#[test]
fn a_row_with_another_number_of_cells_is_left_out() {
    let data = read_one("a.csv", "x,y\nx\n\nx,y,z\nx,\"y\"\n", Pairs).expect("good rows");
    assert_eq!(data.records.len(), 2);
    assert_eq!(bad(&data), [(2, "it has 1 cells where others have 2"), (4, "it has 3 cells where others have 2")]);
}

#[test]
fn rows_of_csv_are_reported_with_the_line_where_they_begin() {
    for end in ["\n", "\r\n"] {
        let rows = ["x,y", "\"v", "w\",", "", "x,y,z", "x,"].join(end);
        let data = read_one("a.csv", rows, Pairs).expect("a good row");
        assert_eq!(data.records, [pair("x", "y", &[])]);
        assert_eq!(bad(&data).into_iter().map(|(line, _)| line).collect::<Vec<_>>(), [2, 5, 6]);
    }
}

#[test]
fn csv_rows_that_are_not_utf8_are_left_out_even_the_first_one() {
    let data = read_one("a.csv", b"\xff,y\nx,y\nx,\xfe\nx,z\n", Pairs).expect("good rows");
    assert_eq!(data.records, [pair("x", "y", &[]), pair("x", "z", &[])]);
    assert_eq!(bad(&data), [(1, "it is not UTF-8"), (3, "it is not UTF-8")]);
}

#[test]
fn a_quote_that_is_not_closed_is_told_and_not_taken_for_a_long_text() {
    let data = read_one("a.csv", "x,y\nx,\"y\nx,y\nx,y\n", Pairs).expect("one good row");
    assert_eq!(data.records, [pair("x", "y", &[])]);
    assert_eq!(bad(&data), [(2, "a quote is not closed, so that the rest of the file is in it")]);
    let options = ReadOptions { max_row_bytes: 100, ..ReadOptions::new(Pairs) };
    let endless = format!("x,y\nx,\"{}", "y\n".repeat(100_000));
    let error = read_with("a.csv", endless, &options).expect_err("a row without end");
    assert!(error.to_string().ends_with("does not end: is a quote not closed?"), "{error}");
}

#[test]
fn tsv_has_no_quotes() {
    let data = read_one("a.tsv", "\"x\" he said\t\"y\r\na\tb\n", Pairs).expect("good rows");
    assert_eq!(data.records, [pair("\"x\" he said", "\"y", &[]), pair("a", "b", &[])]);
}

#[test]
fn a_line_of_tabs_is_a_row_with_nothing_in_it() {
    let data = read_one("a.tsv", "x\ty\n\n\t\n", Pairs).expect("a good row");
    assert_eq!(bad(&data), [(3, "column \"0\" (anchor) is empty")]);
}

#[test]
fn columns_are_told_by_name_or_position() {
    let options = with_columns(Pairs, "anchor=premise,positive=hypothesis");
    let rows = "id\tpremise\thypothesis\tlabel\n1\tx\ty\t0\n";
    let data = read_with("a.tsv", rows, &options).expect("good rows");
    assert_eq!(data.records, [pair("x", "y", &[])]);
    assert_eq!(readings(&data), [("premise", "anchor"), ("hypothesis", "positive")]);
    let data = read_with("a.tsv", "1\tx\ty\t0\n2\tv\tw\t0\n", &with_columns(Pairs, "2,1")).expect("good rows");
    assert_eq!(data.records, [pair("y", "x", &[]), pair("w", "v", &[])]);
    let lines = r#"{"p": "x", "q": "y", "r": "z", "s": ["t", "u"]}"#;
    let data = read_with("a.jsonl", lines, &with_columns(Pairs, "anchor=p,positive=q,negative=r,negative=s"));
    assert_eq!(data.expect("good rows").records, [pair("x", "y", &["z", "t", "u"])]);
    let data = read_with("a.jsonl", lines, &with_columns(Texts, "p,r")).expect("good rows");
    assert_eq!(data.records, [text("x"), text("z")]);
    let data = read_with("a.jsonl", lines, &with_columns(Continuations, "completion=q,prompt=p")).expect("good rows");
    assert_eq!(data.records, [completion("x", "y")]);
    let data = read_with("a.jsonl", lines, &with_columns(Continuations, "text=q")).expect("good rows");
    assert_eq!(data.records, [text("y")]);
}

#[test]
fn a_column_may_be_both_texts_of_a_pair() {
    let options = with_columns(Pairs, "anchor=text,positive=text");
    assert_eq!(read_with("a.jsonl", r#"{"text": "x"}"#, &options).expect("a row").records, [pair("x", "x", &[])]);
    assert_eq!(read_with("a.csv", "text\nx\n", &options).expect("a row").records, [pair("x", "x", &[])]);
}

#[test]
fn columns_that_are_not_there_or_make_nothing_are_refused() {
    let lines = r#"{"p": "x", "q": "y"}"#;
    let error = read_with("a.jsonl", lines, &with_columns(Pairs, "anchor=p,positive=z")).expect_err("no z");
    assert!(error.to_string().ends_with("has no column \"z\"; it has \"p\", \"q\""), "{error}");
    for columns in ["anchor=p", "p", "anchor=p,positive=q,score=q", "text=p"] {
        let error = read_with("a.jsonl", lines, &with_columns(Pairs, columns)).expect_err(columns);
        assert!(matches!(error, DataError::Columns { .. }), "{columns}: {error}");
    }
    for columns in ["", "anchor=", "from=p", "anchor=p,anchor=q", "anchor=p,q"] {
        assert!(matches!(ColumnMap::parse(columns), Err(DataError::ColumnMap { .. })), "{columns}");
    }
}

#[test]
fn pairs_are_not_made_of_scored_data_or_of_texts_alone() {
    let expected = |name: &str, content: &str, found: &str| {
        let error = read_one(name, content, Pairs).expect_err(content);
        assert!(matches!(error, DataError::Columns { .. }), "{error}");
        assert!(error.to_string().ends_with(&format!("its columns are {found}")), "{error}");
    };
    expected("a.csv", "sentence1,sentence2,score\nx,y,1\n", "\"sentence1\", \"sentence2\", \"score\"");
    expected("a.csv", "x,y,4.4\n", "\"x\", \"y\", \"4.4\"");
    expected("a.jsonl", "{\"text\": \"x\"}\n", "\"text\"");
    expected("a.csv", "x\n", "\"x\"");
    // Who names columns knows.
    let options = with_columns(Pairs, "sentence1,sentence2");
    assert_eq!(read_with("a.csv", "sentence1,sentence2,score\nx,y,1\n", &options).expect("told").records.len(), 1);
}

#[test]
fn texts_are_also_the_texts_of_pairs() {
    let data = read_one("a.jsonl", r#"{"a": "x", "b": "y"}"#, Texts).expect("good rows");
    assert_eq!(data.records, [text("x"), text("y")]);
    assert_eq!(read_one("a.csv", "x,y,3.5\n", Texts).expect("good rows").records, [text("x"), text("y")]);
    assert_eq!(read_one("a.jsonl", r#"{"a": "x", "text": "y"}"#, Texts).expect("good rows").records, [text("y")]);
}

#[test]
fn continuations_are_conversations_completions_or_texts() {
    let lines = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}"#;
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let data = read_one("a.jsonl", lines, Continuations).expect("good rows");
    assert_eq!(data.records, [Record::Chat(vec![message("user", "Hi"), message("assistant", "Hello")])]);
    let data = read_one("a.jsonl", r#"{"prompt": "x", "completion": "y"}"#, Continuations).expect("good rows");
    assert_eq!(data.records, [completion("x", "y")]);
    assert_eq!(read_one("a.jsonl", r#"{"text": "x"}"#, Continuations).expect("good rows").records, [text("x")]);
}

#[test]
fn conversations_that_are_none_are_bad_rows() {
    let good = r#"{"messages": [{"role": "assistant", "content": "x"}]}"#;
    let lies = [
        (r#"{"messages": "x"}"#, "\"messages\" is a text instead of a list"),
        (r#"{"messages": []}"#, "\"messages\" has no turn of the assistant"),
        (r#"{"messages": [{"role": "user", "content": "x"}]}"#, "\"messages\" has no turn of the assistant"),
        (r#"{"messages": ["x"]}"#, "turn 1 of \"messages\" is a text instead of an object"),
        (r#"{"messages": [{"role": "user"}]}"#, "turn 1 of \"messages\" has no role and content that are texts"),
        (r#"{"messages": [{"role": "user", "content": ""}]}"#, "turn 1 of \"messages\" is empty"),
        (
            r#"{"messages": [{"role": "human", "content": "x"}]}"#,
            "turn 1 of \"messages\" is said by \"human\", not by system, user or assistant",
        ),
    ];
    for (lie, reason) in lies {
        let data = read_one("a.jsonl", format!("{good}\n{lie}\n"), Continuations).expect("a good row");
        assert_eq!(bad(&data), [(2, reason)]);
    }
}

#[test]
fn files_of_one_data_set_have_one_kind_of_record() {
    let (_one, first) = file("a.jsonl", r#"{"text": "x"}"#);
    let (_two, second) = file("b.jsonl", r#"{"prompt": "x", "completion": "y"}"#);
    let error = read(&[first, second], &ReadOptions::new(Continuations)).expect_err("mixed");
    assert!(matches!(error, DataError::Mixed { found: "prompts with completions", expected: "texts", .. }), "{error}");
}

#[test]
fn a_folder_is_its_data_files_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).expect("a file");
    let paths = [folder.path().to_owned()];
    write("README.md", b"not data");
    write("part-9.txt.gz", &gzip(b"of data\n"));
    assert_eq!(read(&paths, &ReadOptions::new(Texts)).expect("plain text").records, [text("of data")]);
    write("part-2.csv", b"text\nc\n");
    assert_eq!(read(&paths, &ReadOptions::new(Texts)).expect("others").records, [text("c")], "beside other data");
    fs::remove_file(folder.path().join("part-9.txt.gz")).expect("a file");
    fs::remove_file(folder.path().join("part-2.csv")).expect("a file");
    let error = read(&paths, &ReadOptions::new(Texts)).expect_err("no data");
    assert!(matches!(error, DataError::NoFiles { .. }), "{error}");
    write("part-2.csv", b"text\nc\n");
    write("part-1.jsonl.gz", &gzip(b"{\"text\": \"b\"}\n"));
    write("part-0.TSV", b"text\tid\na\t1\n");
    write(".part-3.csv", b"text\nd\n");
    let data = read(&paths, &ReadOptions::new(Texts)).expect("three rows");
    assert_eq!(data.records, [text("a"), text("b"), text("c")]);
    assert_eq!(data.readings.len(), 1, "the same column in all of them is said once");
}

#[test]
fn a_name_without_a_known_ending_needs_a_format() {
    let error = read_one("data.text", "x\n", Texts).expect_err("unknown");
    assert!(matches!(error, DataError::UnknownFormat { .. }), "{error}");
    let options = ReadOptions { format: Some(Format::Tsv), ..ReadOptions::new(Texts) };
    assert_eq!(read_with("data.txt", "x, \"y\n", &options).expect("a row").records, [text("x, \"y")]);
    let missing = [PathBuf::from("no/such/file.csv")];
    assert!(matches!(read(&missing, &ReadOptions::new(Texts)), Err(DataError::Read { .. })));
}

#[test]
fn gzip_is_read_in_all_its_members() {
    let bytes = [gzip(b"{\"text\": \"x\"}\n"), gzip(b"{\"text\": \"y\"}\n")].concat();
    let data = read_one("a.jsonl.gz", bytes, Texts).expect("two rows");
    assert_eq!(data.records, [text("x"), text("y")]);
}

#[test]
fn compression_that_breaks_off_is_damage() {
    let lines: String = (0..5000).map(|number| format!("{{\"text\": \"{number}\"}}\n")).collect();
    let bytes = gzip(lines.as_bytes());
    for end in [3, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = read_one("a.jsonl.gz", &bytes[..end], Texts).expect_err("it breaks off");
        assert!(matches!(error, DataError::Damaged { .. }), "{end}: {error}");
    }
    assert!(matches!(read_one("a.jsonl.gz", lines, Texts), Err(DataError::Damaged { .. })), "it is not gzip");
}

#[test]
#[cfg(feature = "zstd")]
fn zstd_is_read_and_its_damage_told() {
    let lines: String = (0..5000).map(|number| format!("{{\"text\": \"{number}\"}}\n")).collect();
    let bytes = zstd::encode_all(lines.as_bytes(), 3).expect("memory can be written");
    assert_eq!(read_one("a.jsonl.zst", &bytes, Texts).expect("rows").records.len(), 5000);
    for end in [3, bytes.len() / 2, bytes.len() - 1] {
        let error = read_one("a.jsonl.zst", &bytes[..end], Texts).expect_err("it breaks off");
        assert!(matches!(error, DataError::Damaged { .. }), "{end}: {error}");
    }
    let bomb = zstd::encode_all(&vec![b'{'; 64 << 20][..], 3).expect("memory can be written");
    let options = ReadOptions { max_bytes: 1 << 20, ..ReadOptions::new(Texts) };
    assert!(matches!(read_with("a.jsonl.zst", bomb, &options), Err(DataError::TooLarge { .. })));
}

#[test]
#[cfg(not(feature = "zstd"))]
fn zstd_is_refused_in_a_build_without_it() {
    assert!(matches!(read_one("a.jsonl.zst", b"", Texts), Err(DataError::Compression { .. })));
}

#[test]
fn a_compressed_bomb_ends_at_the_limit() {
    let options = ReadOptions { max_bytes: 1 << 20, ..ReadOptions::new(Texts) };
    for bomb in [vec![b'\n'; 8 << 20], vec![b'a'; 8 << 20], "{\"text\": \"x\"}\n".repeat(1 << 19).into_bytes()] {
        let error = read_with("a.jsonl.gz", gzip(&bomb), &options).expect_err("a bomb");
        assert!(matches!(error, DataError::TooLarge { .. }), "{error}");
    }
    assert!(matches!(read_with("a.csv.gz", gzip(&vec![b'"'; 8 << 20]), &options), Err(DataError::TooLarge { .. })));
}

#[test]
fn records_in_memory_count_as_well() {
    // 300 KB on disk, and records of more than a megabyte.
    let rows = "text\n".to_owned() + &"a\n".repeat(150_000);
    let options = ReadOptions { max_bytes: 1 << 20, ..ReadOptions::new(Texts) };
    assert!(matches!(read_with("a.csv", rows, &options), Err(DataError::TooLarge { .. })));
}

#[test]
fn a_row_that_is_too_long_is_left_out() {
    let options = ReadOptions { max_row_bytes: 100, ..ReadOptions::new(Texts) };
    let long = "x".repeat(200);
    let data =
        read_with("a.jsonl", format!("{{\"text\": \"a\"}}\n{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}\n"), &options);
    let data = data.expect("two rows");
    assert_eq!(data.records, [text("a"), text("b")]);
    assert_eq!(bad(&data), [(2, "it is longer than 100 bytes")]);
    for name in ["a.csv", "a.tsv"] {
        let data = read_with(name, format!("text\na\n{long}\nb\n"), &options).expect("two rows");
        assert_eq!(data.records, [text("a"), text("b")]);
        assert_eq!(bad(&data), [(3, "it is longer than 100 bytes")]);
    }
}

#[test]
fn deep_json_is_a_bad_row_and_not_the_end_of_the_stack() {
    let deep = format!("{{\"text\": {}", "[".repeat(1 << 20));
    let data = read_one("a.jsonl", format!("{{\"text\": \"x\"}}\n{deep}\n"), Texts).expect("a row");
    assert_eq!(data.bad_rows, 1);
}

#[test]
fn the_fingerprint_is_that_of_the_records_and_their_order() {
    let fingerprint = |name: &str, content: &str, kind| read_one(name, content, kind).expect("rows").fingerprint_text();
    let one = fingerprint("a.jsonl", "{\"a\": \"x\", \"b\": \"y\"}\n{\"a\": \"v\", \"b\": \"w\"}\n", Pairs);
    assert_eq!(one.len(), 64);
    assert_eq!(one, fingerprint("a.csv", "x,y\nv,w\n", Pairs));
    assert_ne!(one, fingerprint("a.csv", "v,w\nx,y\n", Pairs));
    assert_ne!(one, fingerprint("a.csv", "x,y\nv,w\nv,w\n", Pairs));
    assert_ne!(one, fingerprint("a.csv", "x,y\nv,w\n", Texts));
    assert_ne!(fingerprint("a.csv", "ab,c\n", Pairs), fingerprint("a.csv", "a,bc\n", Pairs));
    assert_ne!(fingerprint("a.csv", "x,y,1\n", ScoredPairs), fingerprint("a.csv", "x,y,2\n", ScoredPairs));
}

#[test]
fn a_file_that_changes_meanwhile_is_known() {
    let changed = |change: fn(&Path)| {
        let (_folder, path) = file("a.jsonl", "{\"text\": \"x\"}\n");
        let source = &sources(std::slice::from_ref(&path)).expect("a file")[0];
        let left = Cell::new(1 << 20);
        let (_, unchanged) = source.open(&ReadOptions::new(Texts), &left, &Rc::default()).expect("a file");
        change(&path);
        !unchanged.expect("a file can be watched").holds()
    };
    assert!(!changed(|_| ()));
    assert!(changed(|path| fs::write(path, "{\"text\": \"x\"}\n{\"text\": \"y\"}\n").expect("written")));
    assert!(changed(|path| fs::remove_file(path).expect("removed")));
    assert!(changed(|path| {
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time of its own");
    }));
}

/// Bytes of which texts and their formats are made, and some of which neither is.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"{"[..],
        b"}",
        b"[",
        b"]",
        b"\"",
        b":",
        b",",
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"a",
        b"b",
        b"text",
        b"score",
        b"1.5",
        b"{\"text\": \"x\"}\n",
        b"{\"a\": \"x\", \"b\": \"y\"}\n",
        b"x,y\n",
        b"x\ty\n",
        b"\xff",
        b"\0",
        b"\xef\xbb\xbf",
        b" ",
    ]);
    prop::collection::vec(known, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_no_row_is_lost(
        content in pieces(),
        format in prop::sample::select(vec![Format::Jsonl, Format::Csv, Format::Tsv, Format::Parquet]),
        kind in prop::sample::select(vec![Pairs, ScoredPairs, Texts, Continuations]),
    ) {
        let options = ReadOptions { format: Some(format), max_row_bytes: 64, ..ReadOptions::new(kind) };
        if let Ok(data) = read_with("data", &content, &options) {
            prop_assert!(!data.records.is_empty());
            if format != Format::Csv && kind != Texts {
                // Each line is a record, a bad row, names, or blank.
                let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
                let rows = data.records.len() + data.bad_rows as usize;
                prop_assert!(rows + 1 >= lines, "{rows} rows in {lines} lines");
            }
        }
    }
}

#[test]
fn what_is_evaluated_on_has_scores_or_not() {
    let kind = RecordKind::Compared;
    let data = read_one("a.csv", "sentence1,sentence2,score\na,b,3\n", kind).expect("scores");
    assert_eq!(data.records, [scored("a", "b", 3.0)]);
    let data = read_one("a.csv", "a,b,3\n", kind).expect("scores without names");
    assert_eq!(data.records, [scored("a", "b", 3.0)]);
    let data = read_one("a.jsonl", "{\"a\": \"x\", \"b\": \"y\"}\n", kind).expect("pairs");
    assert_eq!(data.records, [pair("x", "y", &[])]);
    let data = read_one("a.tsv", "x\ty\n", kind).expect("pairs without names");
    assert_eq!(data.records, [pair("x", "y", &[])]);
    // Columns that were named count where they are there.
    let options = with_columns(kind, "anchor=q,positive=p");
    assert_eq!(read_with("a.csv", "p,q\nx,y\n", &options).expect("named").records, [pair("y", "x", &[])]);
    assert_eq!(read_with("a.csv", "a,b,score\nx,y,1\n", &options).expect("others").records, [scored("x", "y", 1.0)]);
    let error = read_one("a.csv", "text\nx\n", kind).expect_err("no pairs").to_string();
    assert!(error.contains("has no pairs, with or without scores: no two columns are known"), "{error}");
}

#[test]
fn of_plain_text_each_line_is_a_sentence_and_the_whole_file_is_continued() {
    let content = "\u{feff}One, two.\r\n\n \nthree \"four\nfive";
    let data = read_one("a.txt", content, Texts).expect("lines");
    assert_eq!(data.records, [text("One, two."), text("three \"four"), text("five")]);
    assert_eq!(readings(&data), [("each line", "text")]);
    let data = read_one("a.txt.gz", gzip(content.as_bytes()), Continuations).expect("a text");
    assert_eq!(data.records, [text("One, two.\n\n \nthree \"four\nfive")]);
    assert_eq!(readings(&data), [("the whole file", "text")]);
    let error = read_one("a.txt", content, Pairs).expect_err("no pairs").to_string();
    assert!(error.contains("a.txt has no pairs: a column alone, without a name, does not say what it is"), "{error}");
    assert!(matches!(read_one("a.txt", "\n \n", Continuations), Err(DataError::Empty { bad: 0, .. })));
}

#[test]
fn a_line_of_plain_text_that_is_none_is_left_out_and_a_long_file_is_cut_at_a_line() {
    for kind in [Texts, Continuations] {
        let data = read_one("a.txt", b"one\n\xe9t\xe9\nthree\n", kind).expect("two lines");
        assert_eq!(bad(&data), [(2, "it is not UTF-8")]);
        let lines = if kind == Texts { vec![text("one"), text("three")] } else { vec![text("one\nthree")] };
        assert_eq!(data.records, lines);
    }
    let line = "x".repeat((1 << 20) - 10);
    let data = read_one("a.txt", format!("{line}\nend\n{line}\n{line}\n"), Continuations).expect("parts");
    let parts = [text(&format!("{line}\nend\n{line}")), text(&line)];
    assert!(data.records == parts, "{:?}", data.records.iter().map(|_| ()).collect::<Vec<_>>());
}

#[test]
fn what_is_no_utf_8_at_all_is_refused_by_its_first_bytes() {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for name in ["a.txt", "a.csv", "a.tsv", "a.jsonl"] {
        let error = read_one(name, [&[0xff, 0xfe][..], &utf16("text\nx\n")].concat(), Texts).expect_err("UTF-16");
        assert!(error.to_string().ends_with(&format!("{name} is UTF-16, not a text in UTF-8")), "{error}");
        let error = read_one(name, utf16("text\nx\n"), Texts).expect_err("UTF-16 without a mark");
        assert!(matches!(error, DataError::NotText { .. }), "{error}");
    }
}

#[test]
fn reading_says_how_far_it_is() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let rows = |rows: usize| (0..rows).map(|row| format!("{{\"text\": \"{row}\"}}\n")).collect::<String>();
    let files = [("a.jsonl", rows(9000).into_bytes()), ("b.jsonl.gz", gzip(rows(9000).as_bytes()))];
    let total: usize = files.iter().map(|(_, content)| content.len()).sum();
    let paths = files.map(|(name, content)| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("a file for the test");
        path
    });
    let mut told = Vec::new();
    let tell = &mut |progress: &Progress<'_>| told.push((progress.records, progress.bytes, progress.total));
    read_and_tell(&paths, &ReadOptions::new(Texts), tell).expect("rows");
    let records: Vec<u64> = told.iter().map(|told| told.0).collect();
    assert_eq!(records, [4096, 8192, 12288, 16384]);
    assert!(told.iter().all(|told| told.2 == Some(total as u64)));
    assert!(told.windows(2).all(|pair| pair[0].1 <= pair[1].1) && told[3].1 <= total as u64, "{told:?}");
    assert!(0 < told[0].1 && told[1].1 < told[2].1, "{told:?}");
}
