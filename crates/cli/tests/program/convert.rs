//! `bouquet convert`, and what other commands do with a GGUF file.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::*;

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// The text that a model goes on with, computed exactly.
fn answer(model: &Path) -> serde_json::Value {
    let flags = ["--max-tokens", "12", "--encoding", "f32", "--raw", "--json"];
    json(&[&["run", arg(model), "The committee"], &flags[..]].concat())["token_ids"].take()
}

#[test]
fn a_model_goes_into_a_file_and_comes_back() {
    let room = tempfile::tempdir().unwrap();
    let (folder, file, back) = (tiny("llama-tiny"), room.path().join("model.gguf"), room.path().join("back"));
    let convert = ["convert", arg(&folder), "-o", arg(&file), "--to", "f32", "--json"];
    let dry = json(&[&convert[..], &["--dry-run"]].concat());
    assert_eq!((&dry["written"], &dry["form"], entries(room.path())), (&json!(false), &json!("gguf"), 0));
    let written = json(&convert);
    assert_eq!(written["weight_bytes"], dry["weight_bytes"]);
    assert_eq!(written["weight_bytes"].as_u64().unwrap(), fs::metadata(&file).unwrap().len());
    assert_eq!((&written["dtypes"], &written["notes"]), (&json!(["f32"]), &json!([])));
    assert_eq!(answer(&file), answer(&folder));

    let said = stdout(&["convert", arg(&file), "-o", arg(&back), "--to", "f32"]);
    assert!(said.contains("1 file (f32)"), "{said}");
    assert_eq!(answer(&back), answer(&folder));
    // What is there is not replaced, nor the source of itself.
    refused(&convert[..convert.len() - 1], 2, "is there already");
    refused(&["convert", arg(&file), "-o", arg(&file)], 2, "is there already");
    refused(&["convert", arg(&file), "-o", arg(&back)], 2, "is there already, and not empty");
    assert_eq!(entries(room.path()), 2);
}

#[test]
fn a_file_is_quantized_merged_and_known_by_its_fingerprint() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let (file, int8, same) = (at("model.gguf"), at("int8"), at("same"));
    stdout(&["convert", arg(&tiny("llama-tiny")), "-o", arg(&file), "--to", "q8_0"]);
    stdout(&["quantize", arg(&file), "--encoding", "int8", "-o", arg(&int8)]);
    stdout(&["convert", arg(&file), "--to", "int8", "-o", arg(&same)]);
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(fs::read(int8.join(name)).unwrap() == fs::read(same.join(name)).unwrap(), "{name}");
    }
    assert_eq!(json(&["inspect", arg(&int8), "--json"])["family"], "llama");
    let fingerprint = json(&["inspect", arg(&file), "--fingerprint", "--encoding", "f32", "--json"]);
    assert_eq!((&fingerprint["stored"], &fingerprint["stored_embedding"]), (&json!("f32+q8_0"), &json!("q8_0")));
    let run = json(&["run", arg(&file), "a", "--max-tokens", "1", "--encoding", "f32", "--json"]);
    assert_eq!(run["computed"]["stored"], "f32+q8_0");
}

/// In F32 a file holds the numbers of its folder, so that what is made of either is the same.
#[test]
fn what_is_made_of_a_file_has_the_bytes_of_what_is_made_of_its_folder() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let (folder, file) = (tiny("llama-tiny"), at("model.gguf"));
    let adapter = root().join("tests/fixtures/goldens/lora/llama-tiny-adapter");
    stdout(&["convert", arg(&folder), "-o", arg(&file), "--to", "f32"]);
    let made: [(&str, &[&str]); 3] = [
        ("quantize", &["--encoding", "int8"]),
        ("quantize", &["--encoding", "nf4"]),
        ("merge", &["--adapter", arg(&adapter), "--dtype", "f32"]),
    ];
    for (number, (command, flags)) in made.into_iter().enumerate() {
        let weights = [(&folder, "of-folder"), (&file, "of-file")].map(|(model, name)| {
            let out = at(&format!("{name}-{number}"));
            stdout(&[&[command, arg(model), "-o", arg(&out)], flags].concat());
            fs::read(out.join("model.safetensors")).unwrap()
        });
        assert!(weights[0] == weights[1], "{command} {flags:?}");
    }
}

#[test]
fn what_was_asked_wrongly_is_said_in_a_sentence() {
    let room = tempfile::tempdir().unwrap();
    let (llama, opt, file, folder) =
        (tiny("llama-tiny"), tiny("opt-tiny"), room.path().join("x.gguf"), room.path().join("x"));
    let convert = |model: &Path, target: &Path, to: &str, code, what: &str| {
        refused(&["convert", arg(model), "-o", arg(target), "--to", to], code, what);
    };
    convert(&llama, &file, "int8", 2, "int8 is for folders");
    convert(&llama, &folder, "q4_0", 2, "q4_0 is for GGUF files");
    convert(&llama, &file, "q4_k", 2, "invalid value 'q4_k'");
    convert(&opt, &file, "f16", 1, "llama.cpp has no models of the family opt");
    convert(&llama, &room.path().join("a/x.gguf"), "f16", 1, "cannot write");
    convert(&llama, &room.path().join("x-00001-of-00002.gguf"), "f16", 2, "is the name of a part");
    let broken = room.path().join("broken.gguf");
    fs::write(&broken, b"GGUF").unwrap();
    convert(&broken, &folder, "f16", 1, "broken.gguf is damaged");
    assert_eq!(entries(room.path()), 1);
}

/// A limit on the length of files stands for a full disk: the error comes from a write half way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("out.gguf");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_bouquet")]);
    command.args(["convert", arg(&tiny("llama-tiny")), "-o", arg(&out), "--to", "f32"]).current_dir(root());
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with(&format!("error: cannot write {}: ", arg(&out))), "{stderr}");
    assert_eq!(entries(room.path()), 0);
}
