//! `adapter_config.json`, as PEFT writes and reads it. What changes the numbers of an adapter and is not done here is
//! refused by its name; fields that only say how it was begun or saved are passed over.

use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::{Settings, Task, scale};
use crate::config::{Bounds, Config};
use crate::files::{self, MAX_SETTINGS_BYTES, shown};
use crate::{ModelError, ModelSpec, Result};

/// The file's name.
pub(super) const FILE: &str = "adapter_config.json";

/// Ranks that a configuration may name. What is allocated goes by the tensors, not by these.
const RANK: Bounds = Bounds::up_to(1 << 24);

/// Tokens that a soft prompt may have.
const PROMPT_TOKENS: Bounds = Bounds::up_to(1 << 24);

/// The largest `lora_alpha`, of either sign.
const MAX_ALPHA: f64 = 1e9;

/// Entries of `rank_pattern` and `alpha_pattern`, each a regular expression that is tried on each linear.
const MAX_PATTERNS: usize = 4096;

/// Bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 18;

/// Rank and alpha where a file does not say.
const DEFAULT: usize = 8;

/// What must be absent, false or empty: all of these change what a pair means, or what else is learned.
const REFUSED: [&str; 13] = [
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_qalora",
    "use_bdlora",
];

/// Beginnings of a pair that leave the model's own weights as they are; others change them when PEFT opens the adapter.
const HARMLESS_BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// A configuration, understood.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) kind: Kind,
    /// `None` for tasks that Bouquet has no word for.
    pub(super) task: Option<Task>,
    pub(super) base_model: String,
}

/// What of an adapter the folder holds.
#[derive(Debug)]
pub(super) enum Kind {
    LowRank(LowRankConfig),
    SoftPrompt { tokens: usize },
}

/// How pairs were made.
#[derive(Debug)]
pub(super) struct LowRankConfig {
    pub(super) rank: usize,
    pub(super) alpha: f32,
    pub(super) rank_stabilized: bool,
    pub(super) dropout: f32,
    ranks: Patterns,
    alphas: Patterns,
}

/// Numbers of some linears; of several that suit a name the first counts, as in PEFT.
#[derive(Debug)]
struct Patterns(Vec<(Regex, f64)>);

impl PeftConfig {
    /// That of a folder; `None` where there is none.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>> {
        let bytes = files::read(&folder.join(FILE), MAX_SETTINGS_BYTES)?;
        let error = |problem| ModelError::AdapterConfig { file: FILE, problem };
        bytes.map(|bytes| Self::parse(&Config::parse_as(&bytes, error)?)).transpose()
    }

    fn parse(config: &Config) -> Result<Self> {
        let kind = match config.optional_text("peft_type")? {
            Some("LORA") => Kind::LowRank(LowRankConfig::parse(config)?),
            Some("PROMPT_TUNING") => Kind::SoftPrompt { tokens: prompt_tokens(config)? },
            Some(other) => {
                let problem = format!("is {}, but only LORA and PROMPT_TUNING are known", shown(other));
                return Err(config.error("peft_type", problem));
            }
            None => return Err(config.error("peft_type", "is missing")),
        };
        let task = config.optional_text("task_type")?.and_then(Task::of_name);
        let base_model = config.optional_text("base_model_name_or_path")?.unwrap_or_default().to_owned();
        Ok(PeftConfig { kind, task, base_model })
    }
}

fn prompt_tokens(config: &Config) -> Result<usize> {
    const SUBMODULES: &str = "num_transformer_submodules";
    if let Some(count) = config.optional_number(SUBMODULES, RANK)?.filter(|&count| count != 1) {
        return Err(config.error(SUBMODULES, format!("is {count}, but a decoder has one")));
    }
    config.number(&["num_virtual_tokens"], PROMPT_TOKENS)
}

impl LowRankConfig {
    fn parse(config: &Config) -> Result<Self> {
        if let Some(field) = REFUSED.into_iter().find(|field| config.is_set(field)) {
            return Err(config.error(field, "is set, which Bouquet does not do"));
        }
        if let Some(bias) = config.optional_text("bias")?.filter(|&bias| bias != "none") {
            return Err(config.error("bias", format!("is {}, but only none is known", shown(bias))));
        }
        const BEGINNING: &str = "init_lora_weights";
        // True or false, or a name.
        if let Ok(Some(name)) = config.optional_text(BEGINNING)
            && !HARMLESS_BEGINNINGS.contains(&name)
        {
            let problem = format!(
                "is {}, which changes the weights of the model itself: save it again as plain LoRA \
                 (path_initial_model_for_weight_conversion)",
                shown(name)
            );
            return Err(config.error(BEGINNING, problem));
        }
        Ok(LowRankConfig {
            rank: config.optional_number("r", RANK)?.unwrap_or(DEFAULT),
            alpha: config.optional_float("lora_alpha", -MAX_ALPHA, MAX_ALPHA)?.unwrap_or(DEFAULT as f64) as f32,
            rank_stabilized: config.optional_flag("use_rslora")?.unwrap_or(false),
            dropout: dropout(config)?,
            ranks: Patterns::parse(config, "rank_pattern", 1.0..=RANK.max as f64)?,
            alphas: Patterns::parse(config, "alpha_pattern", -MAX_ALPHA..=MAX_ALPHA)?,
        })
    }

    /// The rank of a linear's pair.
    pub(super) fn rank(&self, module: &str) -> usize {
        self.ranks.of(module).map_or(self.rank, |rank| rank as usize)
    }

    /// The factor of a linear's pair.
    pub(super) fn scale(&self, module: &str) -> f32 {
        let alpha = self.alphas.of(module).unwrap_or_else(|| f64::from(self.alpha));
        scale(alpha, self.rank(module), self.rank_stabilized)
    }
}

/// Below 1: all channels cannot be dropped.
fn dropout(config: &Config) -> Result<f32> {
    const FIELD: &str = "lora_dropout";
    match config.optional_float(FIELD, 0.0, 1.0)?.unwrap_or(0.0) as f32 {
        rate if rate < 1.0 => Ok(rate),
        rate => Err(config.error(FIELD, format!("is {rate}, but should be below 1"))),
    }
}

impl Patterns {
    fn parse(config: &Config, field: &str, bounds: std::ops::RangeInclusive<f64>) -> Result<Self> {
        let Some(entries) = config.optional_object(field)? else { return Ok(Patterns(Vec::new())) };
        let fields: Vec<&str> = entries.fields().collect();
        if fields.len() > MAX_PATTERNS {
            return Err(config.error(field, format!("has {} entries, more than {MAX_PATTERNS}", fields.len())));
        }
        let mut patterns = Vec::with_capacity(fields.len());
        for pattern in fields {
            let Some(number) = entries.optional_float(pattern, *bounds.start(), *bounds.end())? else { continue };
            if field == "rank_pattern" && number.fract() != 0.0 {
                return Err(entries.error(pattern, format!("is {number}, but a rank is a whole number")));
            }
            // As PEFT has it: from the beginning of the name or of one of its parts, to the end.
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).size_limit(MAX_PATTERN_BYTES).build();
            let regex = regex.map_err(|_| {
                config.error(field, format!("has {}, which is no regular expression that is known", shown(pattern)))
            })?;
            patterns.push((regex, number));
        }
        Ok(Patterns(patterns))
    }

    fn of(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|&(_, number)| number)
    }
}

/// The configuration of pairs. `modules` are the names of the linears that have one; `ranks` and `alphas` are those of
/// linears whose pairs differ from `settings`.
pub(super) fn of_pairs(
    settings: &Settings,
    modules: Vec<String>,
    ranks: Map<String, Value>,
    alphas: Map<String, Value>,
) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": settings.task.name(),
        "base_model_name_or_path": settings.base_model,
        "revision": null,
        "inference_mode": true,
        "r": settings.rank,
        "lora_alpha": number(settings.alpha),
        "use_rslora": settings.rank_stabilized,
        "lora_dropout": number(settings.dropout),
        "target_modules": modules,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "layers_to_transform": null,
        "layers_pattern": null,
    })
}

/// The configuration of a soft prompt.
pub(super) fn of_soft_prompt(settings: &Settings, tokens: usize, spec: &ModelSpec) -> Value {
    json!({
        "peft_type": "PROMPT_TUNING",
        "task_type": settings.task.name(),
        "base_model_name_or_path": settings.base_model,
        "revision": null,
        "inference_mode": true,
        "num_virtual_tokens": tokens,
        "token_dim": spec.block.hidden_size,
        "num_transformer_submodules": 1,
        "num_attention_heads": spec.block.attention.heads,
        "num_layers": spec.num_blocks,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": null,
        "tokenizer_name_or_path": null,
    })
}

/// A number as people would write it: 16, 0.05.
fn number(value: f32) -> Value {
    match value as i64 {
        whole if whole as f32 == value => json!(whole),
        _ => json!(value.to_string().parse::<f64>().expect("a number is written as one")),
    }
}
