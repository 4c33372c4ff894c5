//! `--adapter`: against PEFT, and what is said of adapters that do not fit.

use std::path::PathBuf;

use crate::harness::*;

/// f32 sums in another order than torch's.
const TOLERANCE: f32 = 1e-4;

pub(crate) fn adapter(name: &str) -> PathBuf {
    root().join("tests/fixtures/goldens/lora").join(name)
}

#[test]
fn logits_with_an_adapter_are_those_of_peft() {
    let folder = tempfile::tempdir().unwrap();
    let (ids, out) = (folder.path().join("ids.json"), folder.path().join("out.safetensors"));
    for name in ["bloom-tiny", "llama-tiny"] {
        let golden = golden(&format!("lora/{name}"));
        let (shape, expected) = floats(&golden, "adapter.logits");
        let input_ids = integers(&golden, "adapter.input_ids");
        let sequences: Vec<&[i64]> = input_ids.chunks(shape[1]).collect();
        std::fs::write(&ids, serde_json::to_string(&sequences).unwrap()).unwrap();
        let forward = |flags: &[&str]| {
            let model = tiny(name);
            stdout(&[["forward", arg(&model), "--token-ids", arg(&ids), "-o", arg(&out)].as_slice(), flags].concat());
            floats(&std::fs::read(&out).unwrap(), "logits").1
        };
        let largest = |found: Vec<f32>| {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let adapter = adapter(&format!("{name}-adapter"));
        let difference = largest(forward(&["--adapter", arg(&adapter)]));
        assert!(difference < TOLERANCE, "{name} differs by {difference}");
        assert!(largest(forward(&[])) > 100.0 * TOLERANCE, "{name}: the adapter changes nothing");
    }
}

#[test]
fn texts_and_perplexities_take_an_adapter() {
    let (model, adapter) = (tiny("llama-tiny"), adapter("llama-tiny-adapter"));
    let file = root().join("tests/fixtures/data/wikitext-2.test.head.txt");
    let perplexity = |flags: &[&str]| {
        let args = ["perplexity", arg(&model), arg(&file), "--window", "64", "--max-windows", "4", "--json"];
        json(&[args.as_slice(), flags].concat())["perplexity"].as_f64().unwrap()
    };
    assert_ne!(perplexity(&[]), perplexity(&["--adapter", arg(&adapter)]));
    for encoding in ["f32", "int8"] {
        let run = |flags: &[&str]| {
            let args = ["run", arg(&model), "Il est", "--max-tokens", "24", "--json", "--encoding", encoding];
            json(&[args.as_slice(), flags].concat())["token_ids"].clone()
        };
        assert_ne!(run(&[]), run(&["--adapter", arg(&adapter)]), "{encoding}");
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let (model, of_llama) = (tiny("bloom-tiny"), adapter("llama-tiny-adapter"));
    let refused = |adapter: &str, what: &str| {
        refused(&["run", arg(&model), "Il est", "--adapter", adapter], 1, what);
    };
    refused(arg(&of_llama), "which is no low-rank pair of a linear that this model has");
    refused("no-such-folder", "the adapter in no-such-folder cannot be opened: there is no such folder");
    refused(arg(&model), "has no adapter_config.json");

    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(adapter("bloom-tiny-adapter").join(file), folder.path().join(file)).unwrap();
    }
    edit_json(&folder.path().join("adapter_config.json"), |config| config["use_dora"] = true.into());
    refused(arg(folder.path()), "adapter_config.json: use_dora is set");
    std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    edit_json(&folder.path().join("adapter_config.json"), |config| config["use_dora"] = false.into());
    std::fs::write(folder.path().join("adapter_model.bin"), "pickle").unwrap();
    refused(arg(folder.path()), "holds only pickled weights (adapter_model.bin)");
}

#[test]
fn an_adapter_is_folded_into_a_folder_that_runs_alone() {
    let room = tempfile::tempdir().unwrap();
    let (model, adapter) = (tiny("llama-tiny"), adapter("llama-tiny-adapter"));
    let merged = room.path().join("merged");
    let args = ["merge", arg(&model), "--adapter", arg(&adapter), "-o", arg(&merged)];
    let dry = stdout(&[args.as_slice(), &["--dtype", "bf16", "--dry-run"]].concat());
    assert!(dry.contains("would have ") && dry.contains("of weights in bf16, 1 file, 4 linears"), "{dry}");
    let planned = json(&[args.as_slice(), &["--dtype", "f32", "--dry-run", "--json"]].concat());
    assert_eq!((&planned["dtypes"], &planned["written"]), (&serde_json::json!(["f32"]), &false.into()));
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0, "a dry run writes nothing");
    let report = json(&[args.as_slice(), &["--dtype", "f32", "--json"]].concat());
    assert_eq!((&report["weight_bytes"], &report["files"]), (&planned["weight_bytes"], &planned["files"]));
    assert_eq!((&report["pairs"], &report["resumed_bytes"]), (&4.into(), &0.into()));
    let run = |folder: &std::path::Path, flags: &[&str]| {
        let args = ["run", arg(folder), "Il est", "--max-tokens", "24", "--json", "--encoding", "f32"];
        json(&[args.as_slice(), flags].concat())["token_ids"].clone()
    };
    assert_eq!(run(&merged, &[]), run(&model, &["--adapter", arg(&adapter)]));
    refused(&args, 2, "is there already, and not empty");

    let codes = room.path().join("codes");
    stdout(&["quantize", arg(&model), "--encoding", "int8", "-o", arg(&codes)]);
    let out = room.path().join("out");
    let args = ["merge", arg(&codes), "--adapter", arg(&adapter), "-o", arg(&out)];
    refused(&args, 1, "the weights are stored in int8, and an adapter can be folded into floats alone");
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 2, "something is left");
}
