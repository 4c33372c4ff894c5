//! `bouquet embed`, `bouquet search` and `bouquet eval`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::*;
use crate::tiny_gguf::TinyGguf;

/// How far embeddings may be from those of transformers, in f32: their own rounding, many times over.
const TOLERANCE: f32 = 1e-4;

fn sentences() -> Vec<String> {
    serde_json::from_slice(&std::fs::read(goldens("sentences.json")).unwrap()).unwrap()
}

fn goldens(name: &str) -> PathBuf {
    root().join("tests/fixtures/goldens/embed").join(name)
}

/// The sentences of the goldens, a line each.
fn sentences_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("sentences.txt");
    std::fs::write(&path, sentences().join("\n")).unwrap();
    path
}

/// The numbers of an array of NumPy, behind its header of 128 bytes.
fn npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let numbers = bytes[128..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (text(&bytes[10..128]).trim().to_owned(), numbers.collect())
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn embeddings_are_those_of_transformers_and_peft() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file, out) = (small(), sentences_file(&folder), folder.path().join("out.npy"));
    let adapter = goldens("bloom-small-sts-adapter");
    for (name, adapter) in [("base", None), ("after", Some(&adapter))] {
        let mut args =
            vec!["embed", arg(&model), arg(&file), "-o", arg(&out), "--encoding", "f32", "--pooling", "mean"];
        args.extend(adapter.iter().flat_map(|adapter| ["--adapter", arg(adapter)]));
        stdout(&args);
        let (header, found) = npy(&out);
        assert_eq!(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (16, 384), }");
        let golden = std::fs::read(goldens(&format!("{name}.safetensors"))).unwrap();
        let (shape, expected) = floats(&golden, "embedding");
        assert_eq!(shape, [16, 384]);
        let difference = difference(&found, &expected);
        assert!(difference < TOLERANCE, "{name}: {difference}");
    }
}

#[test]
fn no_vector_depends_on_its_batch_the_threads_or_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (tiny("llama-tiny"), sentences_file(&folder));
    let embed = |file: &Path, name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        stdout(&[&["embed", arg(&model), arg(file), "-o", arg(&out)], more].concat());
        out
    };
    let (_, all) = npy(&embed(&file, "all.npy", &["--threads", "2"]));
    assert_eq!(npy(&embed(&file, "scalar.npy", &["--threads", "1", "--isa", "scalar"])).1, all);
    let one = folder.path().join("one.txt");
    std::fs::write(&one, format!("{}\r\n", sentences()[5])).unwrap();
    assert_eq!(npy(&embed(&one, "one.npy", &[])).1, all[5 * 64..6 * 64]);
    let lines = std::fs::read_to_string(embed(&file, "all.jsonl", &[])).unwrap();
    for (row, line) in lines.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let numbers = line["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32);
        assert_eq!(numbers.collect::<Vec<_>>(), all[64 * row..64 * (row + 1)]);
        assert_eq!(line["text"], sentences()[row]);
    }
}

#[test]
fn json_lines_keep_their_ids_and_come_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (tiny("bloom-tiny"), folder.path().join("out.jsonl"));
    let stdin =
        b"{\"id\": 7, \"body\": \"One.\"}\n{\"id\": \"b\", \"body\": \"\"}\n{\"body\": \"Three and more words.\"}\n";
    let args =
        ["embed", arg(&model), "-", "--field", "body", "-o", arg(&out), "--normalize", "--max-tokens", "3", "--json"];
    let output = output_with_stdin(&args, stdin);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["texts"], &told["empty"], &told["cut"]), (&json!(3), &json!(1), &json!(2)), "{told}");
    assert!(text(&output.stderr).contains("more than 3 tokens"), "{}", text(&output.stderr));
    let lines = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&lines[0]["id"], &lines[1]["id"], &lines[2]["id"]], [&json!(7), &json!("b"), &Value::Null]);
    let length = |line: &Value| -> f64 {
        line["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap().powi(2)).sum()
    };
    assert!((length(&lines[0]) - 1.0).abs() < 1e-5 && length(&lines[1]) == 0.0);
}

#[test]
fn a_gguf_file_is_embedded_with() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (TinyGguf::new().write(folder.path()), folder.path().join("out.npy"));
    stdout(&["embed", arg(&model), arg(&sentences_file(&folder)), "-o", arg(&out)]);
    // Each weight of this model is 0, and so is what it makes of texts.
    assert_eq!(npy(&out).1, vec![0.0; sentences().len() * 32]);
}

#[test]
fn folders_of_sentence_transformers_say_how_to_pool() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), copy("bloom-tiny"));
    let (plain, file, out) = (tiny("bloom-tiny"), sentences_file(&folder), folder.path().join("out.npy"));
    let modules = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
    std::fs::write(copy.path().join("modules.json"), modules).unwrap();
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    let pooling = r#"{"pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), pooling).unwrap();
    let embed = |model: &Path, more: &[&str]| {
        stdout(&[&["embed", arg(model), arg(&file), "-o", arg(&out)], more].concat());
        npy(&out).1
    };
    assert_eq!(embed(copy.path(), &[]), embed(&plain, &["--pooling", "lasttoken"]));
    assert_eq!(embed(copy.path(), &["--pooling", "mean"]), embed(&plain, &[]));
    std::fs::write(copy.path().join("1_Pooling/config.json"), "{\"pooling_mode_cls_token\": true}").unwrap();
    refused(&["embed", arg(copy.path()), arg(&file), "-o", arg(&out)], 1, "\"cls_token\" is no way to pool");
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file, out) = (tiny("bloom-tiny"), sentences_file(&folder), folder.path().join("out.npy"));
    let told = json(&["embed", arg(&model), arg(&file), "-o", arg(&out), "--dry-run", "--json"]);
    assert_eq!((&told["texts"], &told["dimensions"], &told["pooling"]), (&json!(16), &json!(64), &json!("mean")));
    assert!(!out.exists());
    stdout(&["embed", arg(&model), arg(&file), "-o", arg(&out)]);
    assert_eq!(told["output_bytes"], std::fs::metadata(&out).unwrap().len());
}

#[test]
fn texts_are_found_by_their_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file, sentences) = (small(), sentences_file(&folder), sentences());
    for name in ["v.jsonl", "v.npy", "v.parquet"] {
        let vectors = folder.path().join(name);
        stdout(&["embed", arg(&model), arg(&file), "-o", arg(&vectors)]);
        let mut args = vec!["search", arg(&vectors), &sentences[3], &sentences[9], "--model", arg(&model), "-k", "3"];
        if name == "v.npy" {
            args.extend(["--texts", arg(&file)]);
        }
        let found = json(&[args.as_slice(), &["--json"]].concat());
        assert_eq!(found["vectors"], 16);
        for (query, index) in [(0, 3), (1, 9)] {
            let hits = found["queries"][query]["hits"].as_array().unwrap();
            assert_eq!((hits.len(), &hits[0]["index"], &hits[0]["text"]), (3, &json!(index), &json!(sentences[index])));
            assert!((hits[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
        }
        let shown = stdout(&args);
        assert!(shown.contains("1.0000  3  Two cats are looking at a window."), "{shown}");
    }
}

#[test]
fn an_index_is_built_beside_the_vectors_and_used_until_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (small(), sentences_file(&folder));
    let (vectors, index) = (folder.path().join("v.npy"), folder.path().join("v.npy.hnsw"));
    stdout(&["embed", arg(&model), arg(&file), "-o", arg(&vectors)]);
    let search = |flag: &str| {
        let args =
            ["search", arg(&vectors), "a cat", "ein Haus", "--model", arg(&model), "--texts", arg(&file), "--json"];
        let found = output(&[&args[..], &[flag]].concat());
        let answer: Value = serde_json::from_slice(&found.stdout).unwrap();
        (answer["approximate"] == true, answer["queries"].clone(), text(&found.stderr))
    };
    let (approximate, exact, _) = search("--exact");
    assert!(!approximate && !index.exists());
    let (approximate, found, told) = search("--index");
    assert!(approximate && told.contains("an index of 16 vectors, built in"), "{told}");
    assert_eq!(found, exact);
    let built = std::fs::read(&index).unwrap();
    let (_, found, told) = search("--index");
    assert!(found == exact && told.is_empty(), "{told}");

    // A damaged index, and one of other vectors, are built anew, and both say so.
    std::fs::write(&index, &built[..built.len() - 7]).unwrap();
    let (_, found, told) = search("--index");
    assert!(
        found == exact && told.contains("v.npy.hnsw is damaged: its checksum is another; it is built anew"),
        "{told}"
    );
    assert_eq!(std::fs::read(&index).unwrap(), built);
    stdout(&["embed", arg(&model), arg(&file), "-o", arg(&vectors), "--normalize"]);
    let (_, exact, _) = search("--exact");
    let (_, found, told) = search("--index");
    assert!(found == exact && told.contains("is of other vectors and is built anew"), "{told}");

    let lines = folder.path().join("v.jsonl");
    stdout(&["embed", arg(&model), arg(&file), "-o", arg(&lines)]);
    refused(&["search", arg(&lines), "a", "--model", arg(&model), "--index"], 2, "cannot have an index, only .npy can");
}

#[test]
fn similarity_is_compared_with_scores() {
    let (model, folder) = (small(), tempfile::tempdir().unwrap());
    let file = root().join("tests/fixtures/data/stsb/en.test.csv");
    let told =
        json(&["eval", "sts", arg(file.parent().unwrap()), "--model", arg(&model), "--pooling", "mean", "--json"]);
    let files = told["files"].as_array().unwrap();
    let keys: Vec<&String> = files[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["file", "pairs", "spearman", "pearson"]);
    let known: Vec<(String, f64)> =
        files.iter().map(|one| (one["file"].as_str().unwrap().to_owned(), one["spearman"].as_f64().unwrap())).collect();
    // What transformers and scipy have for these rows: tests/fixtures/README.md.
    for (language, spearman) in [("de", 32.13), ("en", 26.03)] {
        let (_, found) = known.iter().find(|(name, _)| name.ends_with(&format!("{language}.test.csv"))).unwrap();
        assert!((found - spearman).abs() < 0.1, "{language}: {found}");
    }
    assert_eq!(told["mean"]["spearman"], (known[0].1 + known[1].1) / 2.0);
    let broken = folder.path().join("broken.csv");
    std::fs::write(&broken, "a,b,1\nc,d\n").unwrap();
    refused(&["eval", "sts", arg(&broken), "--model", arg(&model)], 1, "line 2: it has 2 columns");
    refused(&["eval", "sts", arg(folder.path()), "--model", "no/such/folder"], 1, "line 2");
}

#[test]
fn translations_are_looked_for_in_both_directions() {
    let (model, folder) = (small(), tempfile::tempdir().unwrap());
    let (file, sentences) = (folder.path().join("pairs.tsv"), sentences());
    let pairs: Vec<String> = sentences.iter().map(|sentence| format!("{sentence}\t{sentence}")).collect();
    std::fs::write(&file, pairs.join("\n")).unwrap();
    let told = json(&["eval", "retrieval", arg(&file), "--model", arg(&model), "--json"]);
    let all = json!({ "accuracy_at_1": 100.0, "mrr": 100.0 });
    assert_eq!(told["mean"], json!({ "forward": all, "backward": all }));
    let shown = stdout(&["eval", "retrieval", arg(&file), "--model", arg(&model), "--encoding", "int8"]);
    assert!(shown.contains("pairs.tsv") && shown.contains("100.0") && shown.contains('█'), "{shown}");
}

#[test]
fn what_cannot_be_embedded_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (tiny("bloom-tiny"), sentences_file(&folder));
    let out = folder.path().join("out.npy");
    let (model, file, out, text) = (arg(&model), arg(&file), arg(&out), folder.path().join("out.txt"));
    refused(&["embed", model, file, "-o", arg(&text)], 2, "does not say how it holds vectors");
    refused(&["embed", model, "no/such/file", "-o", out], 1, "cannot read no/such/file");
    refused(&["embed", model, file, "--field", "text", "-o", out], 1, "line 1: it is not a JSON object");
    refused(&["embed", model, file, "-o", out, "--adapter", "no/such/folder"], 1, "no/such/folder");
    refused(&["embed", model, file, "-o", "no/such/out.npy"], 1, "cannot write");
    let bytes = folder.path().join("bytes.txt");
    std::fs::write(&bytes, [b"One.\n".as_slice(), &[0xff, 0xfe]].concat()).unwrap();
    refused(&["embed", model, arg(&bytes), "-o", out], 1, "line 2: it is not UTF-8 text");
    std::fs::write(&bytes, "").unwrap();
    refused(&["embed", model, arg(&bytes), "-o", out], 1, "has no texts");
    refused(&["search", out, "query", "--model", model], 1, "cannot read");
    stdout(&["embed", model, file, "-o", out]);
    refused(&["search", out, "query", "--model", arg(&small())], 2, "have 64 numbers, those of the model 384");
    refused(&["search", out, "query", "--model", model, "--texts", arg(&bytes)], 1, "has 0 texts, and there are 16");
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}
