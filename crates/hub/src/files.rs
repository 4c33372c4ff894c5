//! Which files of a repository a model is made of. Settings and the tokenizer come first and the weights last, so that a
//! folder with all of its weights is whole.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{HubError, Name, Result, gguf};

/// What says which model it is. Without it there is none.
pub(crate) const CONFIG: &str = "config.json";

/// Weights in one file.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Which part of the weights each tensor is in.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Text to token ids.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// What is taken where a repository has it.
const SMALL: [&str; 7] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Endings of files that Python unpickles.
const PICKLED: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// Bytes that a file of settings may have, as where it is read.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// Bytes that a tokenizer may have, as where it is read.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Bytes that an index may have, as where it is read.
pub(crate) const MAX_INDEX_BYTES: u64 = 100_000_000;

/// What to fetch of a repository before anything of it has been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// A folder.
    Folder {
        /// Settings, the tokenizer.
        small: Vec<&'static str>,
        /// Whether the weights are one file; else there is an index.
        one_file: bool,
    },
    /// A GGUF file, which has everything; or all parts of one that is split.
    Gguf(Vec<String>),
}

/// What a repository with these files needs.
///
/// # Errors
/// No configuration, or no weights that can be opened; a GGUF file that is not there, or several that could be meant.
pub(crate) fn needed(name: &Name, files: &BTreeSet<String>) -> Result<Needed> {
    let not_a_model = |problem: &str| HubError::NotAModel { name: name.to_string(), problem: problem.to_owned() };
    let one_file = files.contains(WEIGHTS);
    let safetensors = one_file || files.contains(INDEX);
    if name.choice().is_some() || !safetensors && files.iter().any(|file| gguf::is_model(file)) {
        let parts = gguf::choose(files.iter().map(String::as_str), name.choice());
        let parts = parts.map_err(|unclear| HubError::unclear(name, unclear))?;
        return match parts.iter().find(|part| !files.contains(*part)) {
            Some(part) => Err(not_a_model(&format!("it has no {part}, a part of its GGUF file"))),
            None => Ok(Needed::Gguf(parts)),
        };
    }
    if !files.contains(CONFIG) {
        return Err(not_a_model("it has no config.json, and no GGUF file"));
    }
    if !safetensors {
        let at_top = |file: &&String| !file.contains('/');
        let pickled = |file: &&String| PICKLED.iter().any(|ending| file.ends_with(ending));
        if files.iter().any(|file| file.ends_with(".safetensors") && at_top(&file)) {
            return Err(not_a_model("it has no model.safetensors, and no index of the safetensors files that it has"));
        }
        return Err(match files.iter().filter(at_top).find(pickled) {
            Some(file) => HubError::PickleOnly { name: name.to_string(), file: file.clone() },
            None => not_a_model("it has no weights in safetensors or GGUF"),
        });
    }
    let small = SMALL.into_iter().filter(|file| files.contains(*file)).collect();
    Ok(Needed::Folder { small, one_file })
}

/// The files that an index names.
///
/// # Errors
/// In words: an index that is none, or one that names what lies elsewhere.
pub(crate) fn shards(index: &[u8]) -> std::result::Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index).map_err(|error| format!("it is no index: {error}"))?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    if shards.is_empty() {
        return Err("it names no files".to_owned());
    }
    match shards.iter().find(|shard| !is_plain_name(shard)) {
        Some(shard) => Err(format!("it names {}, which is no safetensors file beside it", shown(shard))),
        None => Ok(shards),
    }
}

/// Bytes that a file may have; `None` for weights, whose size is theirs.
pub(crate) fn limit(file: &str) -> Option<u64> {
    match file {
        INDEX => Some(MAX_INDEX_BYTES),
        TOKENIZER => Some(MAX_TOKENIZER_BYTES),
        _ if file.ends_with(".safetensors") || gguf::is_model(file) => None,
        _ => Some(MAX_SETTINGS_BYTES),
    }
}

/// Whether a name stays in its folder on every system.
fn is_plain_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    name.ends_with(".safetensors") && !name.starts_with('.') && name.len() <= 200 && name.chars().all(known)
}

/// A text out of a file, safe to print.
pub(crate) fn shown(text: &str) -> String {
    let start: String = text.chars().take(120).collect();
    if start.len() < text.len() { format!("{start:?}...") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str]) -> Result<Needed> {
        needed(&Name::parse("a/b").unwrap(), &files.iter().map(|&file| file.to_owned()).collect())
    }

    #[test]
    fn only_what_is_needed_is_taken() {
        let all = [CONFIG, "tokenizer.json", "pytorch_model.bin", "README.md", WEIGHTS, INDEX, "flax_model.msgpack"];
        assert_eq!(of(&all).unwrap(), Needed::Folder { small: vec![CONFIG, "tokenizer.json"], one_file: true });
        assert_eq!(of(&[CONFIG, INDEX]).unwrap(), Needed::Folder { small: vec![CONFIG], one_file: false });
    }

    #[test]
    fn what_cannot_be_run_is_said_before_anything_is_fetched() {
        assert!(matches!(of(&[WEIGHTS]), Err(HubError::NotAModel { .. })));
        assert!(matches!(of(&[CONFIG, "pytorch_model.bin"]), Err(HubError::PickleOnly { .. })));
        assert!(matches!(of(&[CONFIG, "adapter.safetensors", "a.bin"]), Err(HubError::NotAModel { .. })));
        assert!(matches!(of(&[CONFIG, "onnx/model.bin", "mmproj-F16.gguf"]), Err(HubError::NotAModel { .. })));
        assert!(matches!(of(&["a-BF16.gguf", "a-F16.gguf"]), Err(HubError::SeveralFiles { .. })));
        assert!(matches!(of(&["a-00001-of-00002.gguf"]), Err(HubError::NotAModel { .. })));
    }

    #[test]
    fn a_gguf_file_is_taken_where_it_is_chosen_or_where_nothing_else_is() {
        let gguf = |file: &str| Needed::Gguf(vec![file.to_owned()]);
        let files = ["a-Q4_K_M.gguf", "a-Q8_0.gguf", CONFIG, "pytorch_model.bin"];
        assert_eq!(of(&files).unwrap(), gguf("a-Q4_K_M.gguf"));
        let with_safetensors = [&files[..], &[WEIGHTS]].concat();
        assert!(matches!(of(&with_safetensors).unwrap(), Needed::Folder { .. }));
        let named = |choice: &str| {
            let files = with_safetensors.iter().map(|&file| file.to_owned()).collect();
            needed(&Name::parse(&format!("a/b:{choice}")).unwrap(), &files)
        };
        assert_eq!(named("q8_0").unwrap(), gguf("a-Q8_0.gguf"));
        let Err(error) = named("Q5_0") else { panic!("there is none") };
        assert_eq!(error.to_string(), "a/b has no GGUF file Q5_0: it has Q4_K_M, Q8_0");
    }

    #[test]
    fn an_index_names_files_beside_it() {
        let index = |shard: &str| shards(serde_json::json!({"weight_map": {"a": shard}}).to_string().as_bytes());
        assert_eq!(index("model-1.safetensors").unwrap().into_iter().collect::<Vec<_>>(), ["model-1.safetensors"]);
        for shard in [
            "../a.safetensors",
            "/a.safetensors",
            "a/b.safetensors",
            "C:a.safetensors",
            "a.bin",
            "",
            "a\\b.safetensors",
        ] {
            assert!(index(shard).is_err(), "{shard}");
        }
        assert!(shards(b"{\"weight_map\": {}}").is_err());
        assert!(shards(b"[").is_err());
        assert!(shards("[".repeat(100_000).as_bytes()).is_err());
    }
}
