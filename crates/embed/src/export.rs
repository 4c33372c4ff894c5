//! The files that make a folder one of sentence-transformers, written beside an adapter (which that package finds by its
//! `adapter_config.json`): which modules, how it pools, how long a sentence may be, and the tokenizer.

use std::fs;
use std::path::Path;

use bouquet_model::checkpoint::new_file::write_whole;
use bouquet_model::{ModelError, Pooling, Result};
use serde_json::{Map, Value, json};

/// What the folder says.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The folder of the base model, which has the tokenizer.
    pub base: &'a Path,
    /// Channels of an embedding.
    pub hidden_size: usize,
    /// How it pools.
    pub pooling: Pooling,
    /// Tokens after which a sentence is cut.
    pub max_tokens: usize,
}

/// Files of a tokenizer; a folder need not have all of them.
const TOKENIZER: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"];

impl Export<'_> {
    /// The names of the files, and what is in each.
    ///
    /// # Errors
    /// A file of the tokenizer that cannot be read.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let text = |value: &Value| {
            let mut text = serde_json::to_vec_pretty(value).expect("texts and numbers");
            text.push(b'\n');
            text
        };
        let module = |number: usize, path: &str, kind: &str| {
            let kind = format!("sentence_transformers.models.{kind}");
            json!({ "idx": number, "name": number.to_string(), "path": path, "type": kind })
        };
        let modules = json!([module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")]);
        let config = json!({
            "__version__": { "sentence_transformers": "3.0.0" },
            "prompts": {},
            "default_prompt_name": null,
            "similarity_fn_name": "cosine",
        });
        let mut files = vec![
            ("1_Pooling/config.json".to_owned(), text(&self.pooling())),
            (
                "sentence_bert_config.json".to_owned(),
                text(&json!({ "max_seq_length": self.max_tokens, "do_lower_case": false })),
            ),
            ("config_sentence_transformers.json".to_owned(), text(&config)),
        ];
        for name in TOKENIZER {
            let path = self.base.join(name);
            if path.is_file() {
                let bytes = fs::read(&path).map_err(|source| ModelError::Io { path, source })?;
                files
                    .push((name.to_owned(), if name == "tokenizer_config.json" { padded_right(bytes) } else { bytes }));
            }
        }
        // What says that this is such a folder comes last.
        files.push(("modules.json".to_owned(), text(&modules)));
        Ok(files)
    }

    /// Writes the files into a folder, each whole or not at all.
    ///
    /// # Errors
    /// A file of the tokenizer that cannot be read, one that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in self.files()? {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(|source| ModelError::Write { path: parent.to_owned(), source })?;
            write_whole(&path, &bytes)?;
        }
        Ok(())
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

/// Sentences are filled up on the right: on the left, as BLOOM's tokenizer does, a mean weighted by position would count
/// what fills up.
fn padded_right(bytes: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut config)) = serde_json::from_slice(&bytes) else { return bytes };
    config.insert("padding_side".to_owned(), json!("right"));
    serde_json::to_vec_pretty(&Value::Object(config)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_say_how_to_embed() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("tokenizer.json"), "{}").unwrap();
        fs::write(base.path().join("tokenizer_config.json"), r#"{"padding_side":"left","x":1}"#).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let export = Export { base: base.path(), hidden_size: 64, pooling: Pooling::WeightedMean, max_tokens: 75 };
        export.write(folder.path()).unwrap();
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
        assert_eq!(read("modules.json")[1]["path"], "1_Pooling");
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
