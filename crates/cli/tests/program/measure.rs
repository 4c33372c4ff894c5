//! `bouquet perplexity` and `bouquet inspect`.

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
    assert!(stdout(&["inspect", arg(&tiny("bloom-tiny-sharded"))]).contains("bloom"));
}
    assert!(stdout(&["inspect", arg(&tiny("llama-tiny"))]).contains("own tensor"));
