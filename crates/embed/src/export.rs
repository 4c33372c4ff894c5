//! The files that make a folder one of sentence-transformers, written beside an adapter (which that package finds by its
//! `adapter_config.json`): which modules, how it pools, what follows, how long a sentence may be, and the tokenizer.

use std::fs;
use std::path::Path;

use bouquet_model::checkpoint::new_file::write_whole;
use bouquet_model::{ModelError, Pooling, Result};
use serde_json::{Map, Value, json};

use crate::Dense;

/// What the folder says.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The folder of the base model, which has the tokenizer.
    pub base: &'a Path,
    /// Channels of an embedding.
    pub hidden_size: usize,
    /// How it pools.
    pub pooling: Pooling,
    /// The linear map behind that, if there is one.
    pub dense: Option<&'a Dense>,
    /// Tokens after which a sentence is cut.
    pub max_tokens: usize,
}

/// Files of a tokenizer; a folder need not have all of them.
const TOKENIZER: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"];

/// What says that a folder is one of sentence-transformers.
const MODULES: &str = "modules.json";
/// Folders of steps.
const POOLING: &str = "1_Pooling";
const DENSE: &str = "2_Dense";

impl Export<'_> {
    /// Writes the files into a folder, each whole or not at all.
    ///
    /// # Errors
    /// A file of the tokenizer that cannot be read, one that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let pooling = folder.join(POOLING);
        fs::create_dir_all(&pooling).map_err(|source| ModelError::Write { path: pooling.clone(), source })?;
        write_whole(&pooling.join("config.json"), &text(&self.pooling()))?;
        if let Some(dense) = self.dense {
            dense.write(&folder.join(DENSE))?;
        }
        let lengths = json!({ "max_seq_length": self.max_tokens, "do_lower_case": false });
        write_whole(&folder.join("sentence_bert_config.json"), &text(&lengths))?;
        let config = json!({
            "__version__": { "sentence_transformers": "3.0.0" },
            "prompts": {},
            "default_prompt_name": null,
            "similarity_fn_name": "cosine",
        });
        write_whole(&folder.join("config_sentence_transformers.json"), &text(&config))?;
        for name in TOKENIZER {
            let path = self.base.join(name);
            if path.is_file() {
                let bytes = fs::read(&path).map_err(|source| ModelError::Io { path, source })?;
                let bytes = if name == "tokenizer_config.json" { padded_right(bytes) } else { bytes };
                write_whole(&folder.join(name), &bytes)?;
            }
        }
        // What says that this is such a folder comes last.
        write_whole(&folder.join(MODULES), &text(&self.modules()))
    }

    fn modules(&self) -> Value {
        let dense = self.dense.map(|_| (DENSE, "Dense"));
        let steps = [("", "Transformer"), (POOLING, "Pooling")].into_iter().chain(dense).enumerate();
        let module = |(number, (path, kind)): (usize, (&str, &str))| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({ "idx": number, "name": number.to_string(), "path": path, "type": kind })
        };
        steps.map(module).collect()
    }

    fn pooling(&self) -> Value {
        let mut config = Map::from_iter([("word_embedding_dimension".to_owned(), json!(self.hidden_size))]);
        for (name, pooling) in [
            ("cls_token", None),
            ("mean_tokens", Some(Pooling::Mean)),
            ("max_tokens", None),
            ("mean_sqrt_len_tokens", None),
            ("weightedmean_tokens", Some(Pooling::WeightedMean)),
            ("lasttoken", Some(Pooling::LastToken)),
        ] {
            config.insert(format!("pooling_mode_{name}"), json!(pooling == Some(self.pooling)));
        }
        config.insert("include_prompt".to_owned(), json!(true));
        Value::Object(config)
    }
}

/// JSON for people.
fn text(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("texts and numbers");
    text.push(b'\n');
    text
}

/// Sentences are filled up on the right: on the left, as BLOOM's tokenizer does, a mean weighted by position would count
/// what fills up.
fn padded_right(bytes: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut config)) = serde_json::from_slice(&bytes) else { return bytes };
    config.insert("padding_side".to_owned(), json!("right"));
    serde_json::to_vec_pretty(&Value::Object(config)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use bouquet_kernels::Matrix;

    use super::*;
    use crate::sentence_transformers::Settings;

    #[test]
    fn the_files_say_how_to_embed() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("tokenizer.json"), "{}").unwrap();
        fs::write(base.path().join("tokenizer_config.json"), r#"{"padding_side":"left","x":1}"#).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let dense = Dense { weight: Matrix::zeros(64, 64), bias: vec![1.0; 64] };
        let export = Export {
            base: base.path(),
            hidden_size: 64,
            pooling: Pooling::WeightedMean,
            dense: Some(&dense),
            max_tokens: 75,
        };
        export.write(folder.path()).unwrap();
        let found = Settings::read(folder.path()).unwrap().unwrap();
        assert_eq!((found.pooling, found.max_tokens, found.normalize), (Pooling::WeightedMean, Some(75), false));
        assert_eq!(found.dense.as_ref(), Some(&dense));
        let read =
            |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.path().join(name)).unwrap()).unwrap() };
        let pooling = read("1_Pooling/config.json");
        assert_eq!(pooling["word_embedding_dimension"], 64);
        let chosen: Vec<_> = pooling
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, on)| name.starts_with("pooling") && **on == true)
            .collect();
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].0, "pooling_mode_weightedmean_tokens");
        let kinds = |index: usize| read("modules.json")[index]["type"].as_str().map(str::to_owned);
        assert_eq!(kinds(2).as_deref(), Some("sentence_transformers.models.Dense"));
        assert_eq!((kinds(3), &read("modules.json")[1]["path"]), (None, &json!("1_Pooling")));
        assert_eq!(read("sentence_bert_config.json")["max_seq_length"], 75);
        assert_eq!(read("tokenizer_config.json"), json!({ "padding_side": "right", "x": 1 }));
        assert!(
            fs::read_dir(folder.path()).unwrap().all(|entry| !entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .starts_with('.'))
        );
    }
}
