//! The settings of a run: all that decides its result, but for the files themselves. They are written beside the result
//! as `finetune.toml`, which is also a way to give them.

use std::fmt;
use std::str::FromStr;

use bouquet_model::adapter::{Learned, Task};
use bouquet_model::{Encoding, Pooling};
use bouquet_span::Rounding;
use serde::{Deserialize, Serialize};

use crate::data::RecordKind;
use crate::objective::sentences::SentenceLoss;
use crate::optimizer::{AdamW, AdamW8bit, AdamWSettings, Optimizer};
use crate::parameters::tensors;
use crate::rates::LrGroups;
use crate::schedule::Schedule;
use crate::{Result, TuneError};

/// All settings of a run. Keys are the names of the flags of `bouquet finetune`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The frozen model: a name of the hub, or the absolute path of a folder.
    pub model: String,
    /// Files of records.
    pub data: Vec<String>,
    /// Which columns of the files are what; empty where they are guessed by their names.
    pub columns: String,
    /// What is learned.
    pub objective: Objective,
    /// What the frozen weights are computed in.
    #[serde(with = "text")]
    pub encoding: Encoding,
    /// What hidden states are rounded to between blocks.
    #[serde(with = "text", default)]
    pub wire: Rounding,
    /// What is learned on top of them.
    pub kind: Kind,
    /// Rank of the pairs.
    pub rank: usize,
    /// The pairs' share is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Scaled by `alpha / √rank` instead (rsLoRA).
    pub rslora: bool,
    /// Probability with which a channel of a pair's input is dropped.
    pub dropout: f32,
    /// The linears that have a pair.
    pub targets: Vec<String>,
    /// Rows of a prompt.
    pub prompt_tokens: usize,
    /// The adapter to begin with, whose rank, scale and linears count; empty for a new one.
    pub init_adapter: String,
    /// Records of a batch.
    pub batch_size: usize,
    /// Batches of a step; their gradients are averaged.
    pub accumulation: usize,
    /// Sequences whose gradients are summed together.
    pub leaf: usize,
    /// Optimizer steps in all.
    pub steps: u64,
    /// The highest learning rate.
    pub lr: f32,
    /// How the learning rate changes.
    #[serde(with = "text")]
    pub schedule: Schedule,
    /// Steps in which it rises.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 leaves them as they are.
    pub max_grad_norm: f32,
    /// What updates the parameters.
    pub optimizer: OptimizerKind,
    /// 1 over the temperature of a contrastive loss.
    pub scale: f32,
    /// Whether positives have to find their anchors, too.
    pub symmetric: bool,
    /// How the tokens of a sentence become one vector.
    #[serde(with = "text")]
    pub pooling: Pooling,
    /// Tokens of a sentence, or of a block of text.
    pub max_tokens: usize,
    /// What random numbers begin with.
    pub seed: u64,
    /// Whether rows are taken as they come, without sorting and without looking for duplicates.
    pub keep_order: bool,
    /// Whether a bad row ends the run.
    pub strict: bool,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Sentences that embeddings are whitened by behind the last step, at most; 0 for none.
    #[serde(default)]
    pub whiten: usize,
    /// Files to evaluate on; empty for none.
    pub eval_data: Vec<String>,
    /// Steps between evaluations.
    pub eval_every: u64,
    /// Evaluations without a better one after which the run ends; 0 for never.
    pub patience: u32,
    /// Factors of the learning rate by group, such as 16 for `B` (LoRA+).
    pub lr_group: LrGroups,
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Pairs of texts that belong together, against all others of the batch.
    Contrastive,
    /// Pairs of texts with how alike they are.
    Cosine,
    /// Texts alone, each its own pair under another dropout (SimCSE, arXiv 2104.08821).
    Simcse,
    /// The next token.
    Causal,
}

/// What is learned on top of frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Pairs of low rank beside linears.
    Lora,
    /// Rows before the first token.
    SoftPrompt,
    /// Rows added at the input of each block.
    DeepPrompt,
}

/// What updates the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// AdamW with its state in f32.
    Adamw,
    /// AdamW with its state in 8 bits.
    Adamw8bit,
}

impl OptimizerKind {
    /// One at its first step, for what is learned.
    pub fn begin(self, learned: &Learned) -> Box<dyn Optimizer> {
        let lengths: Vec<usize> = tensors(learned).iter().map(|(_, matrix)| matrix.data().len()).collect();
        match self {
            OptimizerKind::Adamw => Box::new(AdamW::new(AdamWSettings::default(), &lengths)),
            OptimizerKind::Adamw8bit => Box::new(AdamW8bit::new(AdamWSettings::default(), &lengths)),
        }
    }
}

impl Objective {
    /// Which records it learns from.
    pub fn records(self) -> RecordKind {
        match self {
            Objective::Contrastive => RecordKind::Pairs,
            Objective::Cosine => RecordKind::ScoredPairs,
            Objective::Simcse => RecordKind::Texts,
            Objective::Causal => RecordKind::Continuations,
        }
    }

    /// What the adapter is for.
    pub fn task(self) -> Task {
        if self == Objective::Causal { Task::Causal } else { Task::FeatureExtraction }
    }
}

impl Config {
    /// The loss of sentence embeddings; of no meaning where texts are learned.
    pub fn sentence_loss(&self) -> SentenceLoss {
        match self.objective {
            Objective::Cosine => SentenceLoss::Cosine,
            _ => SentenceLoss::Contrastive { scale: self.scale, symmetric: self.symmetric },
        }
    }

    /// Whether the settings make sense by themselves.
    ///
    /// # Errors
    /// [`TuneError::Setting`] for the first that does not.
    pub fn check(&self) -> Result<()> {
        let at_least = |name, value: u64, least: u64| {
            let problem = format!("should be at least {least}, not {value}");
            if value < least { Err(TuneError::Setting { name, problem }) } else { Ok(()) }
        };
        let within = |name, value: f32, range: std::ops::RangeInclusive<f32>| {
            let problem = format!("should be from {} to {}, not {value}", range.start(), range.end());
            if range.contains(&value) { Ok(()) } else { Err(TuneError::Setting { name, problem }) }
        };
        let pairs = matches!(self.objective, Objective::Contrastive | Objective::Simcse);
        at_least("batch-size", self.batch_size as u64, if pairs { 2 } else { 1 })?;
        at_least("accumulation", self.accumulation as u64, 1)?;
        at_least("leaf", self.leaf as u64, 1)?;
        if self.whiten > 0 && self.objective == Objective::Causal {
            let problem = "is for embeddings of sentences, and this objective makes none".to_owned();
            return Err(TuneError::Setting { name: "whiten", problem });
        }
        // Whitening alone needs none.
        at_least("steps", self.steps, if self.whiten > 0 { 0 } else { 1 })?;
        at_least("max-tokens", self.max_tokens as u64, if self.objective == Objective::Causal { 2 } else { 1 })?;
        match self.kind {
            Kind::Lora => at_least("rank", self.rank as u64, 1)?,
            Kind::SoftPrompt | Kind::DeepPrompt => at_least("prompt-tokens", self.prompt_tokens as u64, 1)?,
        }
        if self.objective == Objective::Simcse && self.dropout == 0.0 {
            let problem = "should be above 0: without it both views of a text are the same".to_owned();
            return Err(TuneError::Setting { name: "dropout", problem });
        }
        within("dropout", self.dropout, 0.0..=0.99)?;
        within("lr", self.lr, 0.0..=1e3)?;
        self.lr_group.values().try_for_each(|&factor| within("lr-group", factor, 0.0..=1e3))?;
        within("alpha", self.alpha, 0.0..=1e6)?;
        within("scale", self.scale, 1e-3..=1e4)?;
        within("weight-decay", self.weight_decay, 0.0..=10.0)?;
        within("max-grad-norm", self.max_grad_norm, 0.0..=1e9)
    }

    /// Every setting by its name, as a file of settings may have it.
    pub fn listed(&self) -> Vec<(String, String)> {
        self.table().into_iter().map(|(name, value)| (name, shown(&value))).collect()
    }

    fn table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("numbers, texts, lists and tables of them")
    }

    /// Whether a run that was begun with `self` may go on with `other`: what decides the result is the same.
    ///
    /// # Errors
    /// [`TuneError::OtherSettings`] for the first that differs.
    pub fn check_same(&self, other: &Config) -> Result<()> {
        // How often something is saved changes no result.
        const FREE: &str = "save-every";
        let (begun, asked) = (self.table(), other.table());
        let differs = begun.iter().find(|(name, value)| *name != FREE && asked[*name] != **value);
        match differs {
            None => Ok(()),
            Some((name, begun)) => {
                Err(TuneError::OtherSettings { name: name.clone(), begun: shown(begun), asked: shown(&asked[name]) })
            }
        }
    }
}

/// A value on one line, as a file of settings may have it.
fn shown(value: &toml::Value) -> String {
    let toml::Value::Table(table) = value else { return value.to_string() };
    let entries: Vec<String> = table.iter().map(|(name, value)| format!("{name:?} = {value}")).collect();
    format!("{{ {} }}", entries.join(", "))
}

/// Values that are written as they are typed.
pub mod text {
    use super::{Display, FromStr};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// As it is typed.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// From what was typed.
    ///
    /// # Errors
    /// A text that is none of these values.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

use fmt::Display;
