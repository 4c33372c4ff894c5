//! `bouquet perplexity` and `bouquet inspect`.

use crate::bad_files::fill;
use crate::harness::*;

#[test]
fn perplexity_is_that_of_the_loss_in_transformers() {
    // One window of the text whose mean loss transformers gives.
    let folder = tempfile::tempdir().unwrap();
    for name in ["bloom-tiny", "bloom-tiny-h6-postres"] {
        let (model, file) = (tiny(name), folder.path().join("text.txt"));
        std::fs::write(&file, prompt(name)).unwrap();
        let object = json(&["perplexity", arg(&model), arg(&file), "--json"]);
        let loss = manifest(name)["loss"]["mean_nll"].as_f64().unwrap();
        assert!((object["mean_nll"].as_f64().unwrap() - loss).abs() < 1e-5, "{object} {loss}");
        assert_eq!((&object["windows"], &object["tokens"]), (&1.into(), &manifest(name)["loss"]["tokens"]));
    }
}

#[test]
fn perplexity_of_a_text_is_told_in_words_and_as_json() {
    let (model, file) = (small(), root().join("tests/fixtures/data/wikitext-2.test.head.txt"));
    let args = ["perplexity", arg(&model), arg(&file), "--window", "64", "--max-windows", "4"];
    let object = json(&[args.as_slice(), &["--json"]].concat());
    assert_eq!((&object["windows"], &object["tokens"], &object["window"]), (&4.into(), &252.into(), &64.into()));
    let perplexity = object["perplexity"].as_f64().unwrap();
    assert!((10.0..500.0).contains(&perplexity), "{object}");
    let shown = stdout(&args);
    assert!(shown.starts_with(&format!("perplexity {perplexity:.4} ")), "{shown}");
    let alone = json(&[args.as_slice(), &["--json", "--threads", "1"]].concat());
    assert_eq!(alone["perplexity"], object["perplexity"]);
}

/// What decides bits besides the weights, under the names that a fingerprint has for it.
#[test]
fn results_say_how_they_were_computed() {
    let (folder, text) = (tempfile::tempdir().unwrap(), root().join("README.md"));
    let codes = folder.path().join("codes");
    stdout(&["quantize", arg(&tiny("bloom-tiny")), "--encoding", "nf4", "-o", arg(&codes)]);
    for (model, encoding) in [(tiny("bloom-tiny"), "int4"), (codes, "nf4")] {
        let flags = ["--encoding", encoding, "--json"];
        let model = arg(&model);
        let fingerprint = json(&[&["inspect", model, "--fingerprint", "--kv-cache", "f16"], &flags[..]].concat());
        let run = json(&[&["run", model, "x", "--max-tokens", "1", "--kv-cache", "f16"], &flags[..]].concat());
        let perplexity = json(&[&["perplexity", model, arg(&text), "--max-windows", "1"], &flags[..]].concat());
        for (name, said) in run["computed"].as_object().unwrap() {
            assert_eq!(said, &fingerprint[name], "{name}");
            assert_eq!(said == &perplexity["computed"][name], name != "kv_cache", "{name}");
        }
        assert_eq!(run["computed"].as_object().unwrap().len(), 6);
        assert_eq!(perplexity["computed"]["kv_cache"], "f32");
        let rounded =
            json(&[&["perplexity", model, arg(&text), "--max-windows", "1", "--wire", "bf16"], &flags[..]].concat());
        assert_eq!(rounded["computed"]["wire"], "bf16");
        assert_ne!(rounded["perplexity"], perplexity["perplexity"]);
    }
}

#[test]
fn a_perplexity_beyond_all_numbers_is_still_json() {
    let (folder, texts) = (copy("bloom-tiny"), tempfile::tempdir().unwrap());
    fill(folder.path(), "transformer.ln_f.bias", 1e6);
    let file = texts.path().join("text.txt");
    std::fs::write(&file, prompt("bloom-tiny")).unwrap();
    let object = json(&["perplexity", arg(folder.path()), arg(&file), "--json"]);
    assert_eq!(object["perplexity"], "inf");
    assert!(object["mean_nll"].as_f64().unwrap() > 710.0, "{object}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    let (model, folder) = (small(), tempfile::tempdir().unwrap());
    let [plain, marked] = ["", "\u{FEFF}"].map(|mark| {
        let file = folder.path().join("text.txt");
        std::fs::write(&file, format!("{mark}The committee approved the plan.")).unwrap();
        json(&["perplexity", arg(&model), arg(&file), "--json"])["mean_nll"].clone()
    });
    assert_eq!(plain, marked);
}

#[test]
fn windows_are_as_long_as_the_model_allows_unless_told_otherwise() {
    let folder = copy("llama-tiny");
    edit_json(&folder.path().join("config.json"), |config| config["max_position_embeddings"] = 100.into());
    let file = root().join("README.md");
    let object = json(&["perplexity", arg(folder.path()), arg(&file), "--max-windows", "1", "--json"]);
    assert_eq!(object["window"], 100);
}

#[test]
fn a_model_has_a_fingerprint() {
    let model = small();
    let object = json(&["inspect", arg(&model), "--fingerprint", "--json"]);
    let shown = stdout(&["inspect", arg(&model), "--fingerprint"]);
    assert_eq!(shown.trim(), object["fingerprint"].as_str().unwrap());
    assert_eq!((&object["stored"], &object["encoding"]), (&"f32".into(), &"int8".into()));
    let floats = json(&["inspect", arg(&model), "--fingerprint", "--json", "--encoding", "f32"]);
    let int8_wire = json(&["inspect", arg(&model), "--fingerprint", "--json", "--wire", "int8"]);
    assert_eq!((&int8_wire["wire"], &int8_wire["blocks"]), (&"int8".into(), &object["blocks"]));
    let blocks = object["blocks"].as_array().unwrap();
    assert!(floats["blocks"].as_array().unwrap().iter().zip(blocks).all(|(a, b)| a != b));
    let mut all = [&object, &floats, &int8_wire].map(|found| found["fingerprint"].as_str().unwrap());
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
}

#[test]
fn a_model_is_described() {
    let object = json(&["inspect", arg(&small()), "--json"]);
    assert_eq!(object["family"], "bloom");
    assert_eq!(object["num_blocks"], 6);
    assert_eq!(object["tensors"].as_array().unwrap().len(), 77);
    assert!(object["parameters"]["total"].as_u64().unwrap() > 13_000_000);
    assert!(!object["memory"].as_array().unwrap().is_empty());
    let shown = stdout(&["inspect", arg(&small())]);
    for words in ["bloom", "13.8 million", "[8192, 384]", "shares the embedding", "keys and values", "fits here"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(stdout(&["inspect", arg(&tiny("mixtral-tiny"))]).contains("mixtral"));
    assert!(stdout(&["inspect", arg(&tiny("llama-tiny"))]).contains("own tensor"));
    assert!(stdout(&["inspect", arg(&tiny("bloom-tiny-sharded"))]).contains("bloom"));
}
