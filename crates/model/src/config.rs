//! Settings in JSON, read with bounds: `config.json`, and `generation_config.json` by the same rules. A number that no
//! model can have is refused here, by name, before anything is reserved for it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::files::{self, MAX_SETTINGS_BYTES, missing, shown};
use crate::{ModelError, Result};

/// A JSON object of settings. A field that is null counts as absent, as in transformers.
#[derive(Clone, Debug)]
pub struct Config {
    values: Map<String, Value>,
    /// What stands before a field's name in messages: the objects around this one.
    path: String,
    /// The error of the file that this is.
    error: fn(String) -> ModelError,
}

/// A whole number that a setting may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Bounds {
    /// From 1 to `max`.
    pub const fn up_to(max: u64) -> Self {
        Bounds { min: 1, max }
    }
}

/// Ids that a tokenizer can have, in any model.
pub const TOKEN_ID: Bounds = Bounds { min: 0, max: (1 << 24) - 1 };

/// Ids that can end a text; more are a mistake.
const MAX_EOS_TOKENS: usize = 1024;

impl Config {
    /// Reads `config.json` of a folder.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Io`], or [`ModelError::Config`] for what is not a JSON object.
    pub fn load(folder: &Path) -> Result<Config> {
        files::check_folder(folder)?;
        let path = folder.join("config.json");
        match files::read(&path, MAX_SETTINGS_BYTES)? {
            Some(bytes) => Config::parse(&bytes),
            None => Err(missing(path, "it says what kind of model the folder holds")),
        }
    }

    /// `config.json` from its bytes.
    ///
    /// # Errors
    /// [`ModelError::Config`] for what is not a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        Config::parse_as(bytes, ModelError::Config)
    }

    /// Settings of another file, whose error is `error`.
    pub(crate) fn parse_as(bytes: &[u8], error: fn(String) -> ModelError) -> Result<Config> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Config { values, path: String::new(), error }),
            Ok(other) => Err(error(format!("it should be a JSON object, but is {}", summary(&other)))),
            Err(problem) => Err(error(format!("it is not JSON: {problem}"))),
        }
    }

    /// The error of this file about a field.
    pub fn error(&self, field: &str, problem: impl std::fmt::Display) -> ModelError {
        (self.error)(format!("{}{field} {problem}", self.path))
    }

    /// Whether a field is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Whether a field is there, null or not.
    pub fn mentions(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    /// Whether a field says anything: neither absent nor null, false or empty.
    pub(crate) fn is_set(&self, field: &str) -> bool {
        self.value(field).is_some_and(|value| match value {
            Value::Bool(flag) => *flag,
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        })
    }

    /// The names of all fields, in the order of the file.
    pub(crate) fn fields(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// A whole number by the first of its names that is there.
    ///
    /// # Errors
    /// The error of the file when none is, or for a value of another kind or outside of its bounds; so below.
    pub fn number(&self, names: &[&str], bounds: Bounds) -> Result<usize> {
        for name in names {
            if let Some(number) = self.optional_number(name, bounds)? {
                return Ok(number);
            }
        }
        Err(self.error(names[0], "is missing"))
    }

    /// A whole number that may be absent.
    pub fn optional_number(&self, field: &str, bounds: Bounds) -> Result<Option<usize>> {
        self.value(field).map(|value| self.whole(field, value, bounds)).transpose()
    }

    /// A fraction that may be absent, from `min` to `max`.
    pub fn optional_float(&self, field: &str, min: f64, max: f64) -> Result<Option<f64>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_f64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(field, format!("is {}, but should be from {min} to {max}", summary(value)))),
        }
    }

    /// True or false, or absent.
    pub fn optional_flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value {
            Value::Bool(flag) => Ok(Some(*flag)),
            other => Err(self.error(field, format!("is {}, but should be true or false", summary(other)))),
        }
    }

    /// A text that may be absent.
    pub fn optional_text(&self, field: &str) -> Result<Option<&str>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value {
            Value::String(text) => Ok(Some(text)),
            other => Err(self.error(field, format!("is {}, but should be a text", summary(other)))),
        }
    }

    /// A list of texts; none when it is absent.
    pub fn optional_texts(&self, field: &str) -> Result<Vec<String>> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.error(field, format!("has {} in it, but should list texts", summary(other)))),
        };
        match self.value(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(texts)) => texts.iter().map(text).collect(),
            Some(other) => Err(self.error(field, format!("is {}, but should be a list of texts", summary(other)))),
        }
    }

    /// An object of settings that may be absent.
    pub fn optional_object(&self, field: &str) -> Result<Option<Config>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value {
            Value::Object(values) => {
                let path = format!("{}{field}.", self.path);
                Ok(Some(Config { values: values.clone(), path, error: self.error }))
            }
            other => Err(self.error(field, format!("is {}, but should be an object", summary(other)))),
        }
    }

    /// `eos_token_id`: a number, a list of them, or absent.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        const FIELD: &str = "eos_token_id";
        let id = |value| Ok(self.whole(FIELD, value, TOKEN_ID)? as u32);
        match self.value(FIELD) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) if ids.len() > MAX_EOS_TOKENS => {
                Err(self.error(FIELD, format!("lists {} ids, more than {MAX_EOS_TOKENS}", ids.len())))
            }
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.values.get(field).filter(|value| !value.is_null())
    }

    fn whole(&self, field: &str, value: &Value, Bounds { min, max }: Bounds) -> Result<usize> {
        match value.as_u64().filter(|number| (min..=max).contains(number)) {
            // Bounds are far below what a 64-bit size can count.
            Some(number) => Ok(number as usize),
            None => {
                let found = summary(value);
                Err(self.error(field, format!("is {found}, but should be a whole number from {min} to {max}")))
            }
        }
    }
}

/// A value in a few words.
fn summary(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => shown(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
