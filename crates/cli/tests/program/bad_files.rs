//! Models whose files are missing, damaged, or lie: one clear sentence, a hint, code 1, and nothing half-written.

use std::path::Path;

use serde_json::json;

use crate::harness::*;

/// Holds that every command refuses a folder for the same reason.
fn refused_by_all(folder: &Path, what: &str) {
    let elsewhere = tempfile::tempdir().unwrap();
    let (file, out) = (elsewhere.path().join("text.txt"), elsewhere.path().join("out.safetensors"));
    std::fs::write(&file, "Some text to score.").unwrap();
    let model = arg(folder);
    refused(&["run", model, "Hello", "--max-tokens", "3"], 1, what);
    refused(&["run", model, "Hello", "--max-tokens", "3", "--json"], 1, what);
    refused(&["perplexity", model, arg(&file)], 1, what);
    refused(&["forward", model, "--text", "Hello", "-o", arg(&out)], 1, what);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "{what}: nothing half-written");
}

/// Breaks a copy of a tiny model.
fn broken(name: &str, what: &str, break_it: impl FnOnce(&Path)) {
    let folder = copy(name);
    break_it(folder.path());
    refused_by_all(folder.path(), what);
}

/// The header of a safetensors file and where its data begin.
fn header(file: &[u8]) -> (serde_json::Value, usize) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), 8 + length)
}

/// Rewrites the header of `model.safetensors`.
fn edit_header(folder: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let (mut value, data) = header(&file);
    edit(&mut value);
    let mut text = value.to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    std::fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &file[data..]].concat()).unwrap();
}

const UP: &str = "transformer.h.1.mlp.dense_h_to_4h.weight";

#[test]
fn folders_that_are_no_models_are_told_apart() {
    let empty = tempfile::tempdir().unwrap();
    refused_by_all(empty.path(), "config.json is missing");
    refused_by_all(&empty.path().join("nothing"), "no such folder");
    refused(&["run", "bigscience/bloom-560m", "x"], 1, "is not in the cache");
    refused(&["inspect", "bigscience/bloom-560m"], 1, "is not in the cache");
    refused_by_all(&tiny("bloom-tiny").join("config.json"), "not a model's folder");
}

#[test]
fn missing_files_are_named() {
    broken("bloom-tiny", "tokenizer.json", |folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap());
    broken("bloom-tiny", "safetensors", |folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap());
    broken("bloom-tiny-sharded", "model-00002-of-00003.safetensors", |folder| {
        std::fs::remove_file(folder.join("model-00002-of-00003.safetensors")).unwrap();
    });
    broken("bloom-tiny", "pickled", |folder| {
        std::fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
}

#[test]
fn truncated_files_are_found() {
    for part in [0, 4, 100, 5000] {
        broken("bloom-tiny", "model.safetensors", |folder| {
            let path = folder.join("model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..part]).unwrap();
        });
    }
}

#[test]
fn headers_that_lie_are_found() {
    for length in [u64::MAX, 1 << 40, 99_999_999, 0] {
        broken("bloom-tiny", "model.safetensors", |folder| {
            let path = folder.join("model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
        });
    }
    broken("bloom-tiny", "model.safetensors", |folder| {
        edit_header(folder, |header| header[UP]["data_offsets"] = json!([0, 4]));
    });
    broken("bloom-tiny", "model.safetensors", |folder| {
        edit_header(folder, |header| header[UP]["shape"] = json!([u64::MAX, u64::MAX]));
    });
}

#[test]
fn tensors_that_are_not_what_the_configuration_says_are_named() {
    let short = "h.1.mlp.dense_h_to_4h.weight";
    broken("bloom-tiny", short, |folder| {
        edit_header(folder, |header| {
            let shape = header[UP]["shape"].as_array_mut().unwrap();
            shape.reverse();
        });
    });
    broken("bloom-tiny", short, |folder| edit_header(folder, |header| header[UP]["dtype"] = json!("I32")));
    broken("bloom-tiny", short, |folder| {
        edit_header(folder, |header| {
            let entry = header.as_object_mut().unwrap().remove(UP).unwrap();
            header["another"] = entry;
        });
    });
}

/// Overwrites a whole f32 tensor of `model.safetensors` with one number.
pub(crate) fn fill(folder: &Path, tensor: &str, number: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, data) = header(&bytes);
    let [start, end] = [0, 1].map(|side| data + header[tensor]["data_offsets"][side].as_u64().unwrap() as usize);
    bytes[start..end].copy_from_slice(&number.to_le_bytes().repeat((end - start) / 4));
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn nan_weights_are_found_with_their_place() {
    // In f32 when they are met, in int8 when they are encoded.
    const EMBEDDING: &str = "word_embeddings.weight";
    for (model, tensor, number, computed, encoded) in [
        ("bloom-tiny", UP, f32::NAN, "block 1", "h.1.mlp.dense_h_to_4h.weight"),
        ("bloom-tiny", "transformer.ln_f.weight", f32::INFINITY, "ln_f.weight", "ln_f.weight"),
        ("bloom-tiny", "transformer.word_embeddings.weight", f32::NAN, "embedding of token id", EMBEDDING),
        ("llama-tiny", "lm_head.weight", f32::NAN, "the logits are not finite", "lm_head.weight"),
    ] {
        let folder = copy(model);
        fill(folder.path(), tensor, number);
        for (encoding, what) in [("f32", computed), ("int8", encoded), ("int4", encoded)] {
            let run = ["run", arg(folder.path()), "Hello", "--max-tokens", "3", "--encoding", encoding];
            refused(&run, 1, what);
            refused(&[run.as_slice(), &["--json"]].concat(), 1, what);
            let text = folder.path().join("text.txt");
            std::fs::write(&text, "Some text to score.").unwrap();
            refused(&["perplexity", arg(folder.path()), arg(&text), "--encoding", encoding], 1, what);
            let out = folder.path().join("out.safetensors");
            let forward = ["forward", arg(folder.path()), "--text", "Hello", "-o", arg(&out), "--encoding", encoding];
            refused(&forward, 1, what);
            assert!(!out.exists());
        }
    }
}

#[test]
fn inspect_refuses_weights_of_another_model() {
    let folder = copy("bloom-tiny");
    edit_json(&folder.path().join("config.json"), |config| config["n_layer"] = json!(9999));
    refused(&["inspect", arg(folder.path())], 1, "h.2.");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let edit = |field: &'static str, value: serde_json::Value| {
        move |folder: &Path| edit_json(&folder.join("config.json"), |config| config[field] = value)
    };
    broken("bloom-tiny", "gpt_neo_bouquet", edit("model_type", json!("gpt_neo_bouquet")));
    broken("bloom-tiny", "config.json", edit("hidden_size", json!(-64)));
    broken("bloom-tiny", "config.json", edit("hidden_size", json!(u64::MAX)));
    broken("bloom-tiny", "config.json", edit("n_layer", json!(1e30)));
    broken("bloom-tiny", "config.json", edit("n_head", json!(0)));
    broken("bloom-tiny", "config.json", edit("n_head", json!(7)));
    broken("bloom-tiny", "config.json", edit("vocab_size", json!("many")));
    broken("bloom-tiny", "h.2.", edit("n_layer", json!(3)));
    broken("bloom-tiny", "config.json", |folder| std::fs::write(folder.join("config.json"), "{").unwrap());
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    broken("bloom-tiny", "tokenizer.json", |folder| {
        std::fs::copy(small().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    });
    broken("bloom-tiny", "tokenizer.json", |folder| std::fs::write(folder.join("tokenizer.json"), "[]").unwrap());
    let folder = copy("bloom-tiny");
    edit_json(&folder.path().join("generation_config.json"), |config| config["temperature"] = json!("hot"));
    refused(&["run", arg(folder.path()), "Hello"], 1, "generation_config.json");
}
