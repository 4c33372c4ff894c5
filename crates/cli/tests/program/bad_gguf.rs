//! GGUF files that lie or that nobody can run yet: one sentence, no panic, no answer.

use bouquet_gguf::Value;

use crate::harness::*;
use crate::tiny_gguf::TinyGguf;

fn refused_when(change: impl FnOnce(&mut TinyGguf), what: &str) {
    let room = tempfile::tempdir().unwrap();
    let mut model = TinyGguf::new();
    change(&mut model);
    refused(&["run", arg(&model.write(room.path())), "Hello", "--encoding", "f32"], 1, what);
}

#[test]
fn the_tiny_file_runs_as_it_is() {
    let room = tempfile::tempdir().unwrap();
    stdout(&["run", arg(&TinyGguf::new().write(room.path())), "Hello", "--max-tokens", "2"]);
}

/// As other programs keep them: by a checksum, without an ending; or in a folder of their own.
#[test]
fn a_file_is_known_by_how_it_begins_and_found_in_its_folder() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let file = TinyGguf::new().write(room.path());
    std::fs::write(at("README.md"), "A model.").unwrap();
    std::fs::write(at("mmproj-model.gguf"), "no model").unwrap();
    let run = |model: &std::path::Path| stdout(&["run", arg(model), "Hello", "--max-tokens", "2"]);
    assert_eq!(run(room.path()), run(&file));
    std::fs::rename(&file, at("sha256-29b8ef5d")).unwrap();
    run(&at("sha256-29b8ef5d"));
    std::fs::write(at("b.gguf"), "GGUF").unwrap();
    std::fs::write(at("a-00001-of-00002.gguf"), "GGUF").unwrap();
    std::fs::write(at("a-00002-of-00002.gguf"), "GGUF").unwrap();
    for command in [&["inspect"][..], &["run", "Hello"]] {
        let args = [&command[..1], &[arg(room.path())], &command[1..]].concat();
        refused(&args, 1, "holds several models: a-00001-of-00002.gguf, b.gguf");
    }
    std::fs::write(at("other"), "GG").unwrap();
    refused(&["inspect", arg(&at("other"))], 1, "it is a file; a model is");
}

#[test]
fn what_is_not_known_is_named() {
    refused_when(
        |model| model.metadata.set("tokenizer.ggml.model", "bert"),
        "it is of the kind \"bert\"; known are gpt2 and llama",
    );
    refused_when(
        |model| model.metadata.set("tokenizer.ggml.model", "a kind\u{1b}[31m"),
        "it is of the kind \"a kind\\u{1b}[31m\"",
    );
    refused_when(|model| model.metadata.set("general.architecture", "gemma4"), "\"gemma4\" is not known");
}

#[test]
fn experts_that_do_not_exist_are_refused() {
    let experts = |model: &mut TinyGguf, count: u32, used: u32| {
        model.metadata.set("llama.expert_count", Value::U32(count));
        model.metadata.set("llama.expert_used_count", Value::U32(used));
    };
    refused_when(|model| experts(model, 2, 3), "num_experts_per_tok is 3");
    refused_when(|model| experts(model, 2, 0), "num_experts_per_tok is 0");
    refused_when(|model| experts(model, u32::MAX, 2), "num_local_experts is 4294967295");
    refused_when(|model| experts(model, 2, 1), "the tensor \"blk.0.ffn_gate_inp.weight\" is missing from");
    let with_router = |model: &mut TinyGguf| {
        experts(model, 2, 1);
        model.tensors.retain(|(name, _)| !name.starts_with("blk.0.ffn_gate") && !name.starts_with("blk.0.ffn_up"));
        model.tensors.push(("blk.0.ffn_gate_inp.weight".to_owned(), vec![2, 32]));
        model.tensors.push(("blk.0.ffn_gate_exps.weight".to_owned(), vec![1, 64, 32]));
        model.tensors.push(("blk.0.ffn_down_exps.weight".to_owned(), vec![2, 32, 64]));
        model.tensors.push(("blk.0.ffn_up_exps.weight".to_owned(), vec![2, 64, 32]));
    };
    refused_when(with_router, "of which expert 1 cannot be taken");
    let without_experts = |model: &mut TinyGguf| {
        with_router(model);
        model.tensors.retain(|(name, _)| name != "blk.0.ffn_up_exps.weight");
    };
    refused_when(without_experts, "the tensor \"blk.0.ffn_up_exps.weight\" is missing from");
}

#[test]
fn a_container_that_lies_is_refused() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("model.gguf");
    let entry = |key: &str, kind: u32, value: &[u8]| {
        [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
    };
    let (u32_kind, array_kind) = (4, 9);
    let of = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    for (entry, what) in [
        (entry("general.alignment", u32_kind, &0u32.to_le_bytes()), "a power of two from 8 to 1048576, but is 0"),
        (entry("general.alignment", u32_kind, &48u32.to_le_bytes()), "a power of two from 8 to 1048576, but is 48"),
        (entry("k", array_kind, &of(array_kind, 1)), "an array of arrays, which no model has"),
        (entry("k", array_kind, &of(u32_kind, u64::MAX / 8)), "it is truncated, or a length in it is wrong"),
    ] {
        let header = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes(), &entry].concat();
        std::fs::write(&path, header).unwrap();
        refused(&["inspect", arg(&path)], 1, what);
    }
}
