//! What a folder of sentence-transformers says about embeddings: how to pool, which linear map follows, how long texts may
//! be, whether vectors are made 1 long, and what is put before a text. `modules.json` lists the steps; each may have a folder of its own.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

use bouquet_model::Pooling;
use serde_json::{Map, Value};

use crate::dense::Dense;
use crate::{EmbedError, Result};

/// Bytes that a file of settings may have.
const MAX_BYTES: u64 = 1 << 20;

/// Prefix of the ways to pool in `config.json` of a pooling step, each true or false.
const MODE: &str = "pooling_mode_";

/// What a folder says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How to pool.
    pub pooling: Pooling,
    /// The linear map behind the pooling, where there is one.
    pub dense: Option<Dense>,
    /// Tokens of a text (`max_seq_length`).
    pub max_tokens: Option<usize>,
    /// Whether vectors are made 1 long.
    pub normalize: bool,
    /// What is put before each text (`default_prompt_name`).
    pub prefix: String,
}

impl Settings {
    /// What the folder says; `None` where it has no `modules.json` and so is none of sentence-transformers.
    ///
    /// # Errors
    /// Files that cannot be read, and what they ask for that is not done here, by name.
    pub fn read(folder: &Path) -> Result<Option<Settings>> {
        let path = folder.join("modules.json");
        let Some(modules) = read_json(&path)? else { return Ok(None) };
        let origin = path.display().to_string();
        let modules = modules.as_array().ok_or_else(|| EmbedError::file(&origin, "is not a list of modules"))?;
        let mut settings = Settings::default();
        let mut pooled = false;
        for module in modules {
            let kind = module["type"].as_str().unwrap_or_default();
            let place = module["path"].as_str().unwrap_or_default();
            if !Path::new(place).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(EmbedError::file(&origin, format!("names the folder {place:?}, which is not below it")));
            }
            let place = folder.join(place);
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => settings.max_tokens = max_tokens(&place.join("sentence_bert_config.json"))?,
                "Pooling" => {
                    settings.pooling = pooling(&place.join("config.json"))?;
                    pooled = true;
                }
                "Dense" => {
                    let problem = match &settings {
                        _ if !pooled => "has a Dense step before Pooling",
                        Settings { normalize: true, .. } => "has a Dense step behind Normalize",
                        Settings { dense: Some(_), .. } => "has several Dense steps",
                        _ => "",
                    };
                    if !problem.is_empty() {
                        return Err(EmbedError::file(&origin, format!("{problem}, which is not done here")));
                    }
                    settings.dense = Some(Dense::open(&place)?);
                }
                "Normalize" => settings.normalize = true,
                _ => {
                    let problem =
                        format!("has the step {kind:?}, and only Transformer, Pooling, Dense and Normalize are known");
                    return Err(EmbedError::file(&origin, problem));
                }
            }
        }
        if !pooled {
            return Err(EmbedError::file(&origin, "has no Pooling step"));
        }
        settings.prefix = default_prompt(&folder.join("config_sentence_transformers.json"))?;
        Ok(Some(settings))
    }
}

/// The one way to pool that is true.
fn pooling(path: &Path) -> Result<Pooling> {
    let config = read_object(path)?.unwrap_or_default();
    let fail = |problem: String| EmbedError::file(&path.display().to_string(), problem);
    let mut names: Vec<&str> = config
        .iter()
        .filter_map(|(key, value)| key.strip_prefix(MODE).filter(|_| value.as_bool() == Some(true)))
        .map(|name| name.strip_suffix("_tokens").unwrap_or(name))
        .collect();
    // Newer releases name it, or several of them.
    if let Some(name) = config.get("pooling_mode").and_then(Value::as_str) {
        names = vec![name];
    }
    if config.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(fail("leaves prompts out of the mean (include_prompt), which is not done here".to_owned()));
    }
    match names.as_slice() {
        [name] => name.parse().map_err(|error| fail(format!("asks for a pooling that is not known: {error}"))),
        [] => Err(fail("names no way to pool".to_owned())),
        several => Err(fail(format!("asks for several ways to pool at once: {}", several.join(", ")))),
    }
}

fn max_tokens(path: &Path) -> Result<Option<usize>> {
    let config = read_object(path)?.unwrap_or_default();
    if config.get("do_lower_case").and_then(Value::as_bool) == Some(true) {
        return Err(EmbedError::file(&path.display().to_string(), "asks for lower case, which is not done here"));
    }
    match config.get("max_seq_length") {
        None | Some(Value::Null) => Ok(None),
        Some(number) => match number.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(EmbedError::file(&path.display().to_string(), "has a max_seq_length that is no number of tokens")),
        },
    }
}

/// What is put before each text unless somebody asks otherwise.
fn default_prompt(path: &Path) -> Result<String> {
    let config = read_object(path)?.unwrap_or_default();
    let Some(name) = config.get("default_prompt_name").and_then(Value::as_str) else { return Ok(String::new()) };
    let prompt = config.get("prompts").and_then(|prompts| prompts[name].as_str());
    prompt.map(str::to_owned).ok_or_else(|| {
        EmbedError::file(&path.display().to_string(), format!("has no prompt of its default_prompt_name {name:?}"))
    })
}

/// A small JSON file that holds an object; `None` where there is none.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    match read_json(path)? {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(EmbedError::file(&path.display().to_string(), "is not a JSON object")),
    }
}

/// A small JSON file; `None` where there is none.
fn read_json(path: &Path) -> Result<Option<Value>> {
    let origin = path.display().to_string();
    let file = match File::open(path) {
        Ok(file) => file,
        // A model may also be one file, a GGUF, below which there is nothing.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(source) => return Err(EmbedError::read(&origin, source)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|source| EmbedError::read(&origin, source))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(EmbedError::file(&origin, "is larger than settings are"));
    }
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| EmbedError::file(&origin, format!("is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bouquet_kernels::Matrix;
    use serde_json::json;

    use super::*;

    const MODULES: &str = r#"[
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    ]"#;
    const WEIGHTED: &str = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": false, "pooling_mode_weightedmean_tokens": true, "pooling_mode_lasttoken": false,
        "include_prompt": true}"#;

    fn read(files: &[(&str, &str)]) -> std::result::Result<Option<Settings>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let shown = folder.path().display().to_string();
        Settings::read(folder.path()).map_err(|error| error.to_string().replace(&shown, "FOLDER"))
    }

    #[test]
    fn a_folder_says_how_texts_become_vectors() {
        let found = read(&[
            ("modules.json", MODULES),
            ("1_Pooling/config.json", WEIGHTED),
            ("sentence_bert_config.json", r#"{"max_seq_length": 75, "do_lower_case": false}"#),
            (
                "config_sentence_transformers.json",
                r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#,
            ),
        ]);
        let settings = Settings {
            pooling: Pooling::WeightedMean,
            dense: None,
            max_tokens: Some(75),
            normalize: true,
            prefix: "query: ".to_owned(),
        };
        assert_eq!(found, Ok(Some(settings)));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn a_model_in_one_file_says_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Settings::read(file.path()).unwrap(), None);
    }

    #[test]
    fn every_known_pooling_is_understood() {
        for (config, pooling) in [
            (r#"{"pooling_mode_mean_tokens": true}"#, Pooling::Mean),
            (r#"{"pooling_mode_lasttoken": true}"#, Pooling::LastToken),
            (r#"{"pooling_mode": "lasttoken"}"#, Pooling::LastToken),
        ] {
            let found = read(&[("modules.json", MODULES), ("1_Pooling/config.json", config)]);
            assert_eq!(found.unwrap().unwrap().pooling, pooling, "{config}");
        }
    }

    #[test]
    fn a_linear_map_follows_the_pooling_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dense = Dense { weight: Matrix::from_vec(1, 2, vec![3.0, 4.0]), bias: vec![5.0] };
        dense.write(&folder.path().join("a")).unwrap();
        fs::create_dir(folder.path().join("p")).unwrap();
        fs::write(folder.path().join("p/config.json"), WEIGHTED).unwrap();
        let read = |steps: &[(&str, &str)]| {
            let step = |&(kind, path): &(&str, &str)| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
            let modules: Vec<Value> = steps.iter().map(step).collect();
            fs::write(folder.path().join("modules.json"), Value::from(modules).to_string()).unwrap();
            Settings::read(folder.path()).map_err(|error| error.to_string())
        };
        let found = read(&[("Transformer", ""), ("Pooling", "p"), ("Dense", "a"), ("Normalize", "")]);
        let settings =
            Settings { pooling: Pooling::WeightedMean, dense: Some(dense), normalize: true, ..Settings::default() };
        assert_eq!(found.unwrap(), Some(settings));
        for (steps, problem) in [
            (&[("Dense", "a"), ("Pooling", "p")], "a Dense step before Pooling"),
            (&[("Pooling", "p"), ("Dense", "p")], "names no activation"),
            (&[("Pooling", "p"), ("Dense", "")], "config.json is missing"),
        ] {
            let found = read(steps).unwrap_err();
            assert!(found.contains(problem), "{problem}: {found}");
        }
        for (steps, problem) in [
            ([("Pooling", "p"), ("Normalize", ""), ("Dense", "a")], "a Dense step behind Normalize"),
            ([("Pooling", "p"), ("Dense", "a"), ("Dense", "a")], "several Dense steps"),
        ] {
            let found = read(&steps).unwrap_err();
            assert!(found.contains(problem), "{problem}: {found}");
        }
    }

    #[test]
    fn what_is_not_done_here_is_refused() {
        let unknown = MODULES.replace("models.Normalize", "models.LayerNorm");
        let outside = MODULES.replace("1_Pooling", "../1_Pooling");
        let without = MODULES.replace("models.Pooling", "models.Normalize");
        for (modules, pooling, problem) in [
            (MODULES, r#"{"pooling_mode_cls_token": true}"#, "\"cls_token\" is no way to pool"),
            (MODULES, r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#, "several ways to pool"),
            (MODULES, "{}", "names no way to pool"),
            (MODULES, "[", "is not JSON"),
            (MODULES, "[]", "is not a JSON object"),
            ("{}", WEIGHTED, "is not a list of modules"),
            (&unknown, WEIGHTED, "models.LayerNorm"),
            (&outside, WEIGHTED, "is not below it"),
            (&without, WEIGHTED, "has no Pooling step"),
        ] {
            let found = read(&[("modules.json", modules), ("1_Pooling/config.json", pooling)]).unwrap_err();
            assert!(found.contains(problem) && found.starts_with("FOLDER"), "{problem}: {found}");
        }
    }
}
