//! The settings of a run: from flags, over those of a file, over those of the run that is gone on with, over defaults that
//! suit the objective.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bouquet_model::{Encoding, Pooling};
use bouquet_span::Rounding;
use bouquet_tune::config::{Config, Kind, Objective, OptimizerKind};
use bouquet_tune::folder::{self, RunFolder, Stage};
use bouquet_tune::schedule::Schedule;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::errors::{asked_wrongly, wrong};
use crate::open::{encoding_names, wire_names};

/// Settings that may be given; what is not given comes from elsewhere.
#[derive(Clone, Debug, Default, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// Records to learn from: JSONL, CSV, TSV, Parquet or plain text (.txt: a sentence a line, or for causal a text a
    /// file), also compressed (.gz, .zst), a folder of these, or - for standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Option<Vec<String>>,
    /// Which columns are what: anchor=premise,positive=hypothesis [default: guessed by their names, and said]
    #[arg(long, value_name = "MAP")]
    columns: Option<String>,
    /// What is learned
    #[arg(long, value_parser = objectives())]
    objective: Option<Objective>,
    /// What the frozen weights are computed in [default: int8, or as the folder is encoded]
    #[arg(long, value_parser = encoding_names())]
    #[serde(with = "optional_text")]
    encoding: Option<Encoding>,
    /// Round hidden states before the first block and behind each, as a swarm with such a wire does [default: f32, not at
    /// all]
    #[arg(long, value_parser = wire_names())]
    #[serde(with = "optional_text")]
    wire: Option<Rounding>,
    /// What is learned on top of them: pairs of low rank, rows before the text, or rows added in each block
    #[arg(long, value_parser = kinds(), help_heading = ADAPTER)]
    kind: Option<Kind>,
    /// Rank of the pairs [default: 8]
    #[arg(long, value_name = "R", help_heading = ADAPTER)]
    rank: Option<usize>,
    /// The pairs' share is scaled by ALPHA / R [default: 16]
    #[arg(long, help_heading = ADAPTER)]
    alpha: Option<f32>,
    /// Scale by ALPHA / √R instead
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = ADAPTER)]
    rslora: Option<bool>,
    /// Probability with which a channel of a pair's input is dropped [default: 0, or 0.1 for simcse]
    #[arg(long, value_name = "P", help_heading = ADAPTER)]
    dropout: Option<f32>,
    /// The linears that have a pair, by their names, or all [default: those of queries, keys and values]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = ADAPTER)]
    targets: Option<Vec<String>>,
    /// Rows of a prompt [default: 16]
    #[arg(long, value_name = "N", help_heading = ADAPTER)]
    prompt_tokens: Option<usize>,
    /// The adapter to begin with; its rank, scale and linears count
    #[arg(long, value_name = "DIR", help_heading = ADAPTER)]
    init_adapter: Option<String>,
    /// Records of a batch [default: 32, or 8 for causal]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    batch_size: Option<usize>,
    /// Batches of a step; their gradients are averaged [default: 1]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    accumulation: Option<usize>,
    /// Sequences whose gradients are summed together: another number gives other last bits [default: 8]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    leaf: Option<usize>,
    /// Optimizer steps
    #[arg(long, value_name = "N", conflicts_with = "epochs", help_heading = TRAINING)]
    steps: Option<u64>,
    /// Passes over the data [default: 1]
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    epochs: Option<f64>,
    /// The highest learning rate [default: 1e-3, or 2e-4 for causal]
    #[arg(long, help_heading = TRAINING)]
    lr: Option<f32>,
    /// A factor of the learning rate for a group, again and again: B=16 (LoRA+), query_key_value=0.5, "blocks 0-5=0.1",
    /// prompt=10; factors of groups that overlap are multiplied
    #[arg(long, value_name = "GROUP=X", value_parser = lr_group, help_heading = TRAINING)]
    #[serde(with = "groups")]
    lr_group: Option<Vec<(String, f32)>>,
    /// How the learning rate changes after its warm-up [default: linear]
    #[arg(long, value_parser = schedules(), help_heading = TRAINING)]
    #[serde(with = "optional_text")]
    schedule: Option<Schedule>,
    /// Steps in which the learning rate rises [default: a tenth of all]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    warmup_steps: Option<u64>,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    weight_decay: Option<f32>,
    /// Gradients are scaled down to this norm; 0 leaves them as they are [default: 1]
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    max_grad_norm: Option<f32>,
    /// What updates the parameters [default: adamw]
    #[arg(long, value_parser = optimizers(), help_heading = TRAINING)]
    optimizer: Option<OptimizerKind>,
    /// 1 over the temperature of a contrastive loss [default: 20]
    #[arg(long, help_heading = SENTENCES)]
    scale: Option<f32>,
    /// Positives have to find their anchors, too
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = SENTENCES)]
    symmetric: Option<bool>,
    /// How the tokens of a sentence become one vector [default: mean]
    #[arg(long, value_parser = poolings(), help_heading = SENTENCES)]
    #[serde(with = "optional_text")]
    pooling: Option<Pooling>,
    /// Tokens after which a sentence is cut, or of a block of text [default: 64, or 512 for causal]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    max_tokens: Option<usize>,
    /// Whiten embeddings behind the last step: a linear map, fitted on N different sentences of the data, makes their
    /// covariance the identity, for sentence-transformers as 2_Dense [default of N: 5000]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5000", help_heading = SENTENCES)]
    whiten: Option<usize>,
    /// What random numbers begin with [default: 0]
    #[arg(long, help_heading = TRAINING)]
    seed: Option<u64>,
    /// Take rows as they come: no sorting, and no look for duplicates
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = TRAINING)]
    keep_order: Option<bool>,
    /// A row that cannot be used ends the run
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    strict: Option<bool>,
    /// Steps between checkpoints; there is one every five minutes as well [default: 50]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    save_every: Option<u64>,
    /// Files to evaluate on: for sentences pairs with scores (Spearman's correlation), or pairs alone (how well partners
    /// are found among at most 2,000 pairs of a file); for causal as --data
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = EVALUATION)]
    eval_data: Option<Vec<String>>,
    /// Steps between evaluations; the best is kept [default: a tenth of all]
    #[arg(long, value_name = "N", help_heading = EVALUATION)]
    eval_every: Option<u64>,
    /// Stop after so many evaluations that are not better; 0 for never [default: 0]
    #[arg(long, value_name = "N", help_heading = EVALUATION)]
    patience: Option<u32>,
}

const ADAPTER: &str = "What is learned";
const TRAINING: &str = "Training";
const SENTENCES: &str = "Sentences";
const EVALUATION: &str = "Evaluation";

/// All but the number of steps, and what depends on it, is known.
pub(super) struct Draft {
    table: Table,
    epochs: f64,
}

impl Settings {
    /// Settings out of a text.
    pub(super) fn of(text: &str) -> Result<Settings> {
        toml::from_str(text).context("the settings are damaged")
    }

    /// The same for another model, other data and so many steps.
    pub(super) fn with(self, model: &Path, data: &Path, steps: u64) -> Settings {
        let [model, data] = [model, data].map(|path| path.display().to_string());
        Settings { model: Some(model), data: Some(vec![data]), steps: Some(steps), epochs: None, ..self }
    }

    /// Puts the settings together. `config` is a file of them; `resume` says whether a run in `output` is gone on with.
    pub(super) fn draft(&self, config: Option<&Path>, output: &Path, resume: bool) -> Result<Draft> {
        let begun = resume && RunFolder::stage(output) != Stage::New;
        let begun = if begun { read_table(&output.join(folder::SETTINGS))? } else { Table::new() };
        let given = Table::try_from(self).context("cannot read the flags")?;
        let file = config.map(read_table).transpose()?.unwrap_or_default();
        let mut table = begun.clone();
        // Whether a number of steps stands beside a number of epochs is decided by who is nearer.
        for layer in [file, given] {
            if layer.contains_key("epochs") {
                table.remove("steps");
            }
            if layer.contains_key("steps") {
                table.remove("epochs");
            }
            table.extend(layer);
        }
        let objective = match table.get("objective").and_then(Value::as_str) {
            Some(objective) => objective.to_owned(),
            None => return Err(missing("--objective contrastive, cosine, simcse or causal")),
        };
        for (name, hint) in [("model", "the model"), ("data", "--data FILE")] {
            if !table.contains_key(name) {
                return Err(missing(hint));
            }
        }
        let epochs = match table.remove("epochs") {
            Some(Value::Float(epochs)) => epochs,
            Some(Value::Integer(epochs)) => epochs as f64,
            _ => 1.0,
        };
        if !(epochs > 0.0 && epochs <= 1e6) {
            return Err(asked_wrongly(format!("--epochs {epochs} makes no run"), "give a number above 0"));
        }
        for (name, value) in defaults(&objective) {
            table.entry(name).or_insert(value);
        }
        Ok(Draft { table, epochs })
    }
}

impl Draft {
    /// A setting that is known already.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.table.get(name).and_then(Value::as_str)
    }

    /// The settings, with encoding and targets where they were not given.
    pub(super) fn known(&self, encoding: Encoding, targets: &[String], max_positions: Option<usize>) -> Result<Config> {
        let mut table = self.table.clone();
        let usual = if self.text("objective") == Some("causal") { 512 } else { 64 };
        let is_prompt = self.text("kind") == Some("soft-prompt");
        let prompt = table.get("prompt-tokens").and_then(Value::as_integer).filter(|_| is_prompt).unwrap_or(0);
        // A model for fewer positions takes what it can.
        let room = max_positions.map_or(usual, |limit| (limit as i64).saturating_sub(prompt).max(1));
        table.entry("max-tokens").or_insert(Value::Integer(usual.min(room)));
        table.entry("encoding").or_insert_with(|| encoding.name().into());
        table.entry("targets").or_insert_with(|| targets.to_vec().into());
        for (name, value) in [("steps", 1), ("warmup-steps", 0), ("eval-every", 0)] {
            table.entry(name).or_insert(Value::Integer(value));
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            asked_wrongly(format!("the settings are wrong: {}", error.message()), "see bouquet help finetune")
        })?;
        Ok(config)
    }

    /// The rest, now that it is known how many steps pass over the data once.
    pub(super) fn complete(&self, mut config: Config, steps_per_epoch: u64) -> Config {
        if !self.table.contains_key("steps") {
            config.steps = ((steps_per_epoch as f64 * self.epochs).ceil() as u64).max(1);
        }
        if !self.table.contains_key("warmup-steps") {
            config.warmup_steps = config.steps / 10;
        }
        if !self.table.contains_key("eval-every") {
            config.eval_every = if config.eval_data.is_empty() { 0 } else { (config.steps / 10).max(1) };
        }
        config
    }
}

/// The settings that a run is begun with, unless others are given.
fn defaults(objective: &str) -> Vec<(&'static str, Value)> {
    let causal = objective == "causal";
    let none = || Value::Array(Vec::new());
    vec![
        ("columns", "".into()),
        ("wire", Rounding::None.name().into()),
        ("kind", "lora".into()),
        ("rank", 8.into()),
        ("alpha", 16.0.into()),
        ("rslora", false.into()),
        ("dropout", if objective == "simcse" { 0.1 } else { 0.0 }.into()),
        ("prompt-tokens", 16.into()),
        ("init-adapter", "".into()),
        ("batch-size", if causal { 8 } else { 32 }.into()),
        ("accumulation", 1.into()),
        ("leaf", 8.into()),
        ("lr", if causal { 2e-4 } else { 1e-3 }.into()),
        ("lr-group", Value::Table(Table::new())),
        ("schedule", "linear".into()),
        ("weight-decay", 0.01.into()),
        ("max-grad-norm", 1.0.into()),
        ("optimizer", "adamw".into()),
        ("scale", 20.0.into()),
        ("symmetric", false.into()),
        ("pooling", Pooling::Mean.name().into()),
        ("seed", 0.into()),
        ("whiten", 0.into()),
        ("keep-order", false.into()),
        ("strict", false.into()),
        ("save-every", 50.into()),
        ("eval-data", none()),
        ("patience", 0.into()),
    ]
}

/// The settings that a run was begun with.
pub(super) fn read(path: &Path) -> Result<Config> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// The file of settings beside a result.
pub(super) fn written(config: &Config) -> Result<String> {
    let header = "# The settings of this run. bouquet finetune --config takes this file.\n";
    Ok(format!("{header}{}", toml::to_string(config)?))
}

/// Settings out of a file.
fn read_table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let settings: Settings = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let message = format!("line {line} of {} is wrong: {}", path.display(), error.message());
        wrong(message, "its keys are the long flags of bouquet help finetune")
    })?;
    Ok(Table::try_from(settings)?)
}

fn missing(what: &str) -> anyhow::Error {
    asked_wrongly(format!("give {what}"), "or a file that says it, with --config; see bouquet help finetune")
}

/// Values by the names that they have in files of settings.
fn by_name<T: for<'de> Deserialize<'de> + Clone + Send + Sync + 'static>(
    names: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names.iter().copied())
        .map(|name| Value::String(name).try_into().expect("one of the names"))
}

fn objectives() -> impl TypedValueParser<Value = Objective> {
    by_name(&["contrastive", "cosine", "simcse", "causal"])
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    by_name(&["lora", "soft-prompt", "deep-prompt"])
}

fn optimizers() -> impl TypedValueParser<Value = OptimizerKind> {
    by_name(&["adamw", "adamw8bit"])
}

fn poolings() -> impl TypedValueParser<Value = Pooling> {
    PossibleValuesParser::new(Pooling::ALL.map(Pooling::name)).map(|name| name.parse().expect("one of the names"))
}

fn schedules() -> impl TypedValueParser<Value = Schedule> {
    PossibleValuesParser::new(Schedule::ALL.map(Schedule::name)).map(|name| name.parse().expect("one of the names"))
}

/// A group and its factor.
fn lr_group(typed: &str) -> Result<(String, f32), String> {
    let (group, factor) = typed.split_once('=').ok_or("it is not GROUP=X, such as B=16")?;
    let factor = factor.trim().parse().map_err(|_| format!("{factor:?} is not a number"))?;
    Ok((group.trim().to_owned(), factor))
}

/// Groups and their factors as a table; of a group that was given twice, the last factor counts.
mod groups {
    use bouquet_tune::rates::LrGroups;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Groups = Option<Vec<(String, f32)>>;

    pub(super) fn serialize<S: Serializer>(groups: &Groups, serializer: S) -> Result<S::Ok, S::Error> {
        groups.as_ref().map(|groups| groups.iter().cloned().collect::<LrGroups>()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Groups, D::Error> {
        Ok(Some(LrGroups::deserialize(deserializer)?.into_iter().collect()))
    }
}

/// The same for values that may be missing.
mod optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            None => serializer.serialize_none(),
            Some(value) => serializer.collect_str(value),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
    }
}
