//! The files of a model's folder that are not weights. Of a folder they are copied; of a GGUF file, which has what they say
//! in its metadata, they are made.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use crate::files::{self, MAX_SETTINGS_BYTES, damaged, missing};
use crate::form::Form;
use crate::gguf::GgufFile;
use crate::tokenizer::gguf as tokenizer;
use crate::{ModelError, Result};

/// A file to be.
pub(crate) enum Beside {
    /// One that is copied, to this place in the folder.
    Copied(PathBuf, PathBuf),
    /// One that is made: its name and what is in it.
    Made(&'static str, Vec<u8>),
}

/// What `config.json` says of a model, or would say.
///
/// # Errors
/// A file that is missing or damaged; [`ModelError::Gguf`] for what no `config.json` can say.
pub(crate) fn config(model: &Path) -> Result<Value> {
    let path = match Form::open(model)? {
        Form::Gguf(file) => return Ok(Value::Object(file.config()?)),
        Form::Folder(folder) => folder.join("config.json"),
    };
    match files::read(&path, MAX_SETTINGS_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string())),
        None => Err(missing(path, "it says what kind of model the folder holds")),
    }
}

/// All but `config.json` and the weights.
///
/// # Errors
/// A folder that cannot be read; a tokenizer that is not known.
pub(crate) fn others(model: &Path) -> Result<Vec<Beside>> {
    if let Form::Gguf(file) = Form::open(model)? {
        return made(&file);
    }
    let failed = |source| ModelError::Io { path: model.to_owned(), source };
    let mut copied = Vec::new();
    for entry in fs::read_dir(model).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let Some(name) = path.file_name().map(PathBuf::from).filter(|_| goes_along(&path) && path.is_file()) {
            copied.push(Beside::Copied(path, name));
        }
    }
    for place in modules(model)? {
        copied.push(Beside::Copied(model.join(&place), place));
    }
    Ok(copied)
}

/// The files with which sentence-transformers says how to embed: `modules.json`, what is beside it, and what the steps have
/// in folders of their own. None where there is no such file, or where it makes no sense, which whoever embeds will say.
fn modules(model: &Path) -> Result<Vec<PathBuf>> {
    const LIST: &str = "modules.json";
    let Some(list) = files::read(&model.join(LIST), MAX_SETTINGS_BYTES)? else { return Ok(Vec::new()) };
    let list: Vec<Value> = serde_json::from_slice(&list).unwrap_or_default();
    let steps = list.iter().filter_map(|step| step["path"].as_str()).map(Path::new);
    let inside = |step: &&Path| matches!(step.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let mut places =
        [LIST, "config_sentence_transformers.json", "sentence_bert_config.json"].map(PathBuf::from).to_vec();
    for step in steps.filter(inside) {
        places.extend(["config.json", "model.safetensors", "sentence_bert_config.json"].map(|file| step.join(file)));
    }
    places.retain(|place| model.join(place).is_file());
    Ok(places)
}

/// Name, length and time of the files with weights, which tell whether they have changed.
///
/// # Errors
/// [`ModelError::Io`].
pub(crate) fn weights(model: &Path) -> Result<Vec<Value>> {
    let failed = |source| ModelError::Io { path: model.to_owned(), source };
    let paths: Vec<PathBuf> = match Form::open(model)? {
        Form::Gguf(file) => file.paths().map(Path::to_owned).collect(),
        Form::Folder(folder) => {
            let entries = fs::read_dir(folder).map_err(failed)?.map(|entry| Ok(entry?.path()));
            let paths = entries.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
            paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect()
        }
    };
    let mut weights = Vec::new();
    for path in paths {
        let metadata = fs::metadata(&path).map_err(failed)?;
        let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let nanoseconds = time.map(|time| time.as_nanos().to_string());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        weights.push(json!([name, metadata.len(), nanoseconds]));
    }
    weights.sort_by_key(ToString::to_string);
    Ok(weights)
}

/// As transformers writes it.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What a GGUF file says besides its weights, as files of a folder.
fn made(file: &GgufFile) -> Result<Vec<Beside>> {
    let (config, vocab_size) = (file.config()?, file.spec()?.vocab_size);
    let mut generation = Map::from_iter([("_from_model_config".to_owned(), json!(false))]);
    let mut tokenizer_config = Map::from_iter([
        ("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast")),
        ("clean_up_tokenization_spaces".to_owned(), json!(false)),
    ]);
    for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(field) {
            generation.insert(field.to_owned(), id.clone());
        }
    }
    if let Some(length) = config.get("max_position_embeddings") {
        tokenizer_config.insert("model_max_length".to_owned(), length.clone());
    }
    let (template, special) = file.template_and_tokens()?;
    tokenizer_config.extend(special.into_iter().map(|(name, token)| (name, json!(token))));
    if let Some(template) = template {
        tokenizer_config.insert("chat_template".to_owned(), json!(template));
    }
    let pretty = |value| pretty(&value).into_bytes();
    Ok(vec![
        Beside::Made("tokenizer.json", tokenizer::json(file.metadata(), vocab_size)?.to_string().into_bytes()),
        Beside::Made("tokenizer_config.json", pretty(Value::Object(tokenizer_config))),
        Beside::Made("generation_config.json", pretty(Value::Object(generation))),
    ])
}

/// Files of a model's folder that are neither weights nor `config.json`, and belong to the weights whatever they are
/// stored in.
fn goes_along(file: &Path) -> bool {
    const NAMES: [&str; 13] = [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "chat_template.jinja",
        "chat_template.json",
    ];
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return false };
    NAMES.contains(&name) || name.starts_with("LICENSE") || name.starts_with("NOTICE")
}
