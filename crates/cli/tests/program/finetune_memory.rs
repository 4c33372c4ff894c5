//! `bouquet finetune`: what it plans to take in memory, what it takes, and what it may.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::*;

/// Pairs of sentences of many lengths.
fn pairs(room: &TempDir) -> PathBuf {
    let path = room.path().join("pairs.jsonl");
    let line = |row: usize| {
        let more = " and another one behind it".repeat(row % 5);
        let record = json!({
            "anchor": format!("Sentence number {row} is here{more}."),
            "positive": format!("Here is the sentence with number {row}{more}, again."),
        });
        format!("{record}\n")
    };
    fs::write(&path, (0..96).map(line).collect::<String>()).unwrap();
    path
}

/// Arguments of a short run, on two threads.
fn arguments<'a>(data: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<String> {
    let model = small();
    let usual = ["--objective", "contrastive", "--data", arg(data), "--batch-size", "48", "--steps", "2"];
    let begin = ["finetune", arg(&model), "-o", arg(out), "--threads", "2", "--encoding", "f32", "--json"];
    begin.iter().chain(&usual).chain(more).map(|&argument| argument.to_owned()).collect()
}

fn told(arguments: &[String]) -> Value {
    json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("{name} in {object}"))
}

/// The peak is known on Linux alone.
#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_what_was_planned_and_no_more_than_it_may() {
    let room = tempfile::tempdir().unwrap();
    let data = pairs(&room);
    let folder = |name: &str| room.path().join(name);
    let free = told(&arguments(&data, &folder("free"), &[]));
    let share = number(&free, "peak_memory_bytes") / number(&free, "planned_memory_bytes");
    // The program itself is a good part of so small a run, and is guessed.
    assert!((0.8..1.1).contains(&share), "{free}");

    let adapter = |name: &str| fs::read(folder(name).join("adapter_model.safetensors")).unwrap();
    let planned = told(&arguments(&data, &folder("free-again"), &["--dry-run"]));
    let (total, kept) = (number(&planned, "total_bytes"), number(&planned, "kept_bytes"));
    for (name, share_of_kept) in [("some", 0.5), ("few", 0.0)] {
        let memory = total - (1.0 - share_of_kept) * kept;
        let may = format!("{}", memory as u64);
        let told = told(&arguments(&data, &folder(name), &["--memory", &may]));
        assert!(number(&told, "peak_memory_bytes") <= memory, "{name}: {told}");
        assert!(number(&told, "planned_memory_bytes") <= memory, "{name}: {told}");
        assert_eq!(adapter(name), adapter("free"), "{name}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_it_needs() {
    let room = tempfile::tempdir().unwrap();
    let (data, out) = (pairs(&room), room.path().join("run"));
    let arguments = arguments(&data, &out, &["--memory", "1MB"]);
    let output = output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the run needs at least") && said.contains("may take"), "{said}");
    assert!(!out.exists(), "nothing is written");
}
