//! Where a model's folder, or its GGUF file, has its chat template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::wrong;
use crate::Result;
use crate::files::{self, MAX_SETTINGS_BYTES, damaged};
use crate::form::Form;

/// Bytes that a template may have. The longest in use have some twenty thousand.
pub(super) const MAX_BYTES: usize = 1 << 18;

/// The names by which templates know special tokens.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens by name (`bos_token`, `eos_token` and so on), as the vocabulary spells them.
pub type SpecialTokens = BTreeMap<String, String>;

/// The template of a model, with its special tokens; `None` where it has none.
pub(super) fn read(model: &Path) -> Result<Option<(String, SpecialTokens)>> {
    let (source, special_tokens) = match Form::open(model)? {
        Form::Gguf(file) => file.template_and_tokens()?,
        Form::Folder(folder) => template_of(&folder)?,
    };
    Ok(source.map(|source| (source, special_tokens)))
}

/// The template of a folder, where it has one, and its special tokens.
pub(crate) fn template_of(folder: &Path) -> Result<(Option<String>, SpecialTokens)> {
    let config = object(&folder.join("tokenizer_config.json"))?;
    let file = folder.join("chat_template.jinja");
    let source = match files::read(&file, MAX_BYTES as u64)? {
        Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| damaged(&file, "it is not UTF-8"))?),
        None => template(config.get("chat_template").unwrap_or(&Value::Null))?,
    };
    // What tokenizer_config.json says stands above the older file.
    let mut special_tokens = special_tokens(&object(&folder.join("special_tokens_map.json"))?);
    special_tokens.extend(self::special_tokens(&config));
    Ok((source, special_tokens))
}

/// The object of a file, empty where there is none.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let Some(bytes) = files::read(path, MAX_SETTINGS_BYTES)? else { return Ok(Map::new()) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(damaged(path, "it is not a JSON object")),
        Err(error) => Err(damaged(path, format!("it is not JSON: {error}"))),
    }
}

/// What stands under `chat_template`.
fn template(value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(named) => {
            let named = named.iter().filter_map(|one| Some((one["name"].as_str()?, one["template"].as_str()?)));
            match named.into_iter().find(|(name, _)| *name == "default") {
                Some((_, source)) => Ok(Some(source.to_owned())),
                None => Err(wrong("has several forms in tokenizer_config.json, and none of them is named \"default\"")),
            }
        }
        _ => Err(wrong("in tokenizer_config.json is neither a text nor a list")),
    }
}

/// A token is a text, or an object that has it under `content`.
fn special_tokens(object: &Map<String, Value>) -> SpecialTokens {
    let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let tokens = NAMES.iter().filter_map(|&name| Some((name.to_owned(), text(object.get(name)?)?)));
    tokens.collect()
}
