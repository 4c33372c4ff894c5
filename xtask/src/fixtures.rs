//! `cargo xtask fixtures PATH`: the small part of the fixtures that the tests of this repository read, and the model
//! that ships with it.
//!
//! Models are copied whole. Goldens lose the tensors that no test reads: what only padding shows (nothing here computes
//! padding), and the gradients of frozen weights. Their manifests lose the entries of those tensors and the bare `NaN`
//! of Python's writer, which is not JSON.

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Models copied whole; those with a golden of their name bring it along.
///
/// `falcon-tiny-alibi` is not among them: its golden is of an implementation in transformers that adds the linear biases
/// twice (`tests/fixtures/families/make.py`).
const MODELS: [&str; 15] = [
    "bloom-tiny",
    "bloom-tiny-unprefixed",
    "bloom-tiny-sharded",
    "bloom-tiny-fp16",
    "bloom-tiny-bf16",
    "bloom-tiny-h6-postres",
    "llama-tiny",
    "llama-tiny-tied",
    "llama3-rope-tiny",
    "mixtral-tiny",
    "qwen3-tiny",
    "falcon-tiny",
    "falcon-tiny-newarch",
    "opt-tiny",
    "opt-tiny-postln",
];

/// The trained model that ships with the program.
const DEMO_MODEL: &str = "bloom-small-trained";

/// Families with LoRA goldens and adapter folders.
const LORA: [&str; 2] = ["bloom-tiny", "llama-tiny"];

/// The adapter of [`DEMO_MODEL`] that was trained for sentence similarity.
const EMBED_ADAPTER: &str = "bloom-small-sts-adapter";

/// Pairs of sentences of the first step of that training.
const BATCH: usize = 32;

/// Pairs of sentences with scores, in these languages.
const STS: [&str; 2] = ["de", "en"];

const TOKENIZERS: [&str; 3] = ["bloom", "bloom-8192", "llama2"];

/// Running text for tests of perplexity: this much of the held-out text, cut at the end of a line.
const TEXT_BYTES: usize = 60_000;

/// Writes `tests/fixtures` and `models/bloom-small-trained` of the repository `root` anew from the folder `source`.
pub(crate) fn cut(source: &Path, root: &Path) -> Result<()> {
    for folder in ["data", "goldens", "models"] {
        ensure!(
            source.join(folder).is_dir(),
            "{} has no folder `{folder}`; give the folder that holds data, goldens and models",
            source.display()
        );
    }
    let fixtures = root.join("tests/fixtures");
    for folder in ["data", "goldens", "models"] {
        let old = fixtures.join(folder);
        if old.exists() {
            fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
        }
    }

    let goldens = (source.join("goldens"), fixtures.join("goldens"));
    for model in MODELS {
        copy_folder(&source.join("models").join(model), &fixtures.join("models").join(model))?;
        if goldens.0.join(format!("{model}.json")).exists() {
            cut_golden(&goldens.0, &goldens.1, model, |name| !matches!(name, "left.logits" | "left.last_hidden"))?;
        }
    }
    cut_golden(&goldens.0, &goldens.1, DEMO_MODEL, |name| {
        name.starts_with("single.")
            || name.starts_with("greedy.")
            || matches!(name, "right.input_ids" | "right.attention_mask")
    })?;
    copy_folder(&source.join("models").join(DEMO_MODEL), &root.join("models").join(DEMO_MODEL))?;

    let lora = (goldens.0.join("lora"), goldens.1.join("lora"));
    for model in LORA {
        cut_golden(&lora.0, &lora.1, model, |name| {
            !name.starts_with("base.clm.grad.") && !name.starts_with("merged.")
        })?;
        for adapter in [format!("{model}-adapter"), format!("{model}-adapter-init")] {
            copy_folder(&lora.0.join(&adapter), &lora.1.join(&adapter))?;
        }
    }
    cut_golden(&goldens.0.join("compress"), &goldens.1.join("compress"), "quant_bnb", adamw_in_8_bits)?;
    for file in ["base.safetensors", "after.safetensors", "first_step.safetensors", "sentences.json"] {
        write(&goldens.1.join("embed").join(file), &read(&goldens.0.join("embed").join(file))?)?;
    }
    for adapter in [EMBED_ADAPTER.to_owned(), format!("{EMBED_ADAPTER}-init")] {
        copy_folder(&source.join("models").join(&adapter), &goldens.1.join("embed").join(&adapter))?;
    }
    let pairs = String::from_utf8(read(&source.join("data/contrastive_pairs.jsonl"))?)?;
    let batch: String = pairs.split_inclusive('\n').take(BATCH).collect();
    write(&fixtures.join("data/contrastive_pairs.head.jsonl"), batch.as_bytes())?;
    for language in STS {
        let file = format!("data/stsb/{language}.test.csv");
        write(&fixtures.join(&file), &read(&source.join(&file))?)?;
    }
    for tokenizer in TOKENIZERS {
        let file = format!("tokenizers/{tokenizer}.json");
        write(&goldens.1.join(&file), &read(&goldens.0.join(&file))?)?;
    }

    let text = String::from_utf8(read(&source.join("data/wikitext-2/test.detok.txt"))?)?;
    write(&fixtures.join("data/wikitext-2.test.head.txt"), head(&text, TEXT_BYTES).as_bytes())?;

    println!("tests/fixtures: {:.1} MB", folder_bytes(&fixtures)? as f64 / 1e6);
    println!("models/{DEMO_MODEL}: {:.1} MB", folder_bytes(&root.join("models").join(DEMO_MODEL))? as f64 / 1e6);
    Ok(())
}

/// Of quantization, what the optimizer with a state in 8 bits is compared with: gradients, the parameters that a state in
/// f32 makes, and all that nearest codes make, the parameters at the end only.
fn adamw_in_8_bits(name: &str) -> bool {
    match name.strip_prefix("exact.") {
        Some(exact) => {
            exact == "adamw8bit.w5" || exact.starts_with("adamw8bit.m_") || exact.starts_with("adamw8bit.v_")
        }
        None => name == "adamw8bit.w0" || name.starts_with("adamw8bit.grad") || name.starts_with("adamw8bit.w32_"),
    }
}

/// Copies `name.safetensors` with only the tensors to `keep`, and `name.json` to match.
fn cut_golden(from: &Path, to: &Path, name: &str, keep: impl Fn(&str) -> bool) -> Result<()> {
    let file = from.join(format!("{name}.safetensors"));
    let tensors = cut_tensors(&read(&file)?, &keep).with_context(|| format!("cutting {}", file.display()))?;
    write(&to.join(format!("{name}.safetensors")), &tensors)?;

    let file = from.join(format!("{name}.json"));
    let manifest = String::from_utf8(read(&file)?).with_context(|| format!("reading {}", file.display()))?;
    let manifest = cut_manifest(&manifest, &keep).with_context(|| format!("cutting {}", file.display()))?;
    write(&to.join(format!("{name}.json")), manifest.as_bytes())
}

/// A safetensors file with only the tensors to `keep`.
fn cut_tensors(bytes: &[u8], keep: impl Fn(&str) -> bool) -> Result<Vec<u8>> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let mut kept = SafeTensors::deserialize(bytes)?.tensors();
    kept.retain(|(name, _)| keep(name));
    Ok(safetensors::serialize(kept, header.metadata().clone())?)
}

/// A manifest that lists only the tensors to `keep`, as JSON that every reader takes.
fn cut_manifest(json: &str, keep: impl Fn(&str) -> bool) -> Result<String> {
    let mut manifest: Value = serde_json::from_str(&json.replace(": NaN", ": null"))?;
    if let Some(tensors) = manifest.get_mut("tensors").and_then(Value::as_object_mut) {
        tensors.retain(|name, _| keep(name));
    }
    Ok(serde_json::to_string_pretty(&manifest)? + "\n")
}

/// The whole lines at the start of `text` that fit in `limit` bytes.
fn head(text: &str, limit: usize) -> &str {
    let limit = limit.min(text.len());
    let end = text.as_bytes()[..limit].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    &text[..end]
}

/// Copies the files of one folder, which has no folders inside. Permissions are not copied: sources may be read-only.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("listing {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().expect("an entry of a folder has a name");
        write(&to.join(name), &read(&path)?)?;
    }
    Ok(())
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a file is in a folder");
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, tensor::TensorView};

    #[test]
    fn tensors_are_dropped_and_the_rest_is_unchanged() {
        let data = [1u8, 0, 0, 0, 2, 0, 0, 0];
        let view = || TensorView::new(Dtype::F32, vec![2], &data).unwrap();
        let bytes = safetensors::serialize([("left.logits", view()), ("single.logits", view())], None).unwrap();
        let cut = cut_tensors(&bytes, |name| name != "left.logits").unwrap();
        let cut = SafeTensors::deserialize(&cut).unwrap();
        assert_eq!(cut.names(), ["single.logits"]);
        assert_eq!(cut.tensor("single.logits").unwrap().data(), data);
    }

    #[test]
    fn manifests_become_json_and_list_what_is_left() {
        let json = r#"{"left": {"diff": NaN}, "tensors": {"a": {"shape": [1]}, "b": {"shape": [2]}}}"#;
        let cut: Value = serde_json::from_str(&cut_manifest(json, |name| name == "b").unwrap()).unwrap();
        assert_eq!(cut["left"]["diff"], Value::Null);
        assert_eq!(cut["tensors"], serde_json::json!({"b": {"shape": [2]}}));
    }

    #[test]
    fn text_is_cut_between_lines() {
        assert_eq!(head("one\ntwo\nthree\n", 9), "one\ntwo\n");
        assert_eq!(head("one\ntwo\n", 100), "one\ntwo\n");
        assert_eq!(head("öööö", 3), "");
    }
}
