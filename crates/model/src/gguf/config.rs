//! The metadata of a GGUF file as the fields that a family reads from `config.json`.

use std::collections::BTreeSet;

use bouquet_gguf::Value as Entry;
use bouquet_gguf::{Array, Metadata};
use serde_json::{Map, Value, json};

use super::GgufFile;
use super::rope::{self, Llama3};
use crate::checkpoint::parts::decode;
use crate::config::Config;
use crate::spec::{Positions, RopeScaling, RopeSettings, RopeSpec};
use crate::stored::Kinds;
use crate::{ModelError, ModelSpec, Result, families};

/// Architectures as GGUF calls them, with the family that each is.
const ARCHITECTURES: [(&str, &str); 5] =
    [("bloom", "bloom"), ("falcon", "falcon"), ("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")];

/// Factors that a file may bring: half of the largest heads.
const MAX_FACTORS: u64 = families::limits::HEAD_DIM.max / 2;

/// Classes of transformers, by family.
const CLASSES: [(&str, &str); 7] = [
    ("bloom", "Bloom"),
    ("falcon", "Falcon"),
    ("llama", "Llama"),
    ("mistral", "Mistral"),
    ("mixtral", "Mixtral"),
    ("qwen2", "Qwen2"),
    ("qwen3", "Qwen3"),
];

/// The model that a file describes.
pub(super) fn spec(file: &GgufFile) -> Result<ModelSpec> {
    let fields = Fields { file, metadata: file.metadata() };
    let config = Value::Object(fields.config()?);
    let config = Config::parse_as(config.to_string().as_bytes(), ModelError::Gguf)?;
    let mut spec = families::spec(&config)?;
    if let Positions::Rope(rope) = &spec.block.attention.positions
        && let Some(divided) = fields.divided(rope)?
    {
        spec.block.attention.positions = Positions::Rope(divided);
    }
    spec.stored.kinds = kinds(file);
    Ok(spec)
}

/// The kinds of a file's weights, where they are more than floats.
fn kinds(file: &GgufFile) -> Option<Kinds> {
    let of = |in_block: bool| {
        let weights =
            file.tensors().filter(|tensor| tensor.shape.len() > 1 && tensor.name.starts_with("blk.") == in_block);
        let names: BTreeSet<String> = weights
            .map(|tensor| match tensor.kind.block_size() {
                1 => "f32".to_owned(),
                _ => tensor.kind.name().to_lowercase(),
            })
            .collect();
        names.into_iter().collect::<Vec<_>>().join("+")
    };
    let kinds = Kinds { linears: of(true), embedding: of(false) };
    (kinds.linears != "f32" || kinds.embedding != "f32").then_some(kinds)
}

/// The fields of the `config.json` that says the same as a file.
///
/// # Errors
/// Those of [`spec`]; [`ModelError::Gguf`] for rotary positions that no `config.json` can say.
pub(super) fn json(file: &GgufFile) -> Result<Map<String, Value>> {
    let fields = Fields { file, metadata: file.metadata() };
    let mut config = fields.config()?;
    if let Positions::Rope(rope) = spec(file)?.block.attention.positions
        && rope.settings.scaling == RopeScaling::Divided
    {
        return Err(ModelError::Gguf(format!("its {} are of no kind that config.json can say", rope::NAME)));
    }
    let family = config["model_type"].as_str().unwrap_or_default();
    let (_, class) = CLASSES.into_iter().find(|(known, _)| *known == family).expect("every family has a class");
    let architecture = fields.read(fields.metadata.text("general.architecture"))?;
    config.insert("architectures".to_owned(), json!([format!("{class}ForCausalLM")]));
    if architecture == "bloom" {
        // Its configuration knows these numbers by older names, too.
        config.insert("n_layer".to_owned(), config["num_hidden_layers"].clone());
        config.insert("n_head".to_owned(), config["num_attention_heads"].clone());
    }
    for (field, key) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        let id = fields.read(fields.metadata.optional_u64(&format!("tokenizer.ggml.{key}_token_id")))?;
        config.insert(field.to_owned(), json!(id));
    }
    // A window that is null is none, where one that is missing is the family's own.
    config.retain(|field, value| !value.is_null() || field == "sliding_window");
    Ok(config)
}

/// Where the fields come from.
struct Fields<'a> {
    file: &'a GgufFile,
    metadata: &'a Metadata,
}

impl Fields<'_> {
    fn config(&self) -> Result<Map<String, Value>> {
        let architecture = self.read(self.metadata.text("general.architecture"))?;
        let Some((_, family)) = ARCHITECTURES.iter().find(|(known, _)| *known == architecture) else {
            let known = ARCHITECTURES.map(|(known, _)| known).join(", ");
            return Err(ModelError::UnknownFamily { family: architecture.chars().take(100).collect(), known });
        };
        let Some((embedding, _)) = self.file.tensor("token_embd.weight") else {
            return Err(self.file.damaged("it has no tensor token_embd.weight, the embedding"));
        };
        let number = |key: &str| self.read(self.metadata.optional_u64(&format!("{architecture}.{key}")));
        let required = |key: &str| self.read(self.metadata.u64(&format!("{architecture}.{key}")));
        let float = |key: &str| self.float(&format!("{architecture}.{key}"));
        let heads = required("attention.head_count")?;
        let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
        let experts = number("expert_count")?.filter(|&count| count > 0);
        let has = |name: &str| self.file.has(name);
        let window = number("attention.sliding_window")?.filter(|&window| window > 0);
        let family = match *family {
            "llama" if experts.is_some() => "mixtral",
            "llama" if window.is_some() => "mistral",
            family => family,
        };
        let mut config = json!({
            "model_type": family,
            "vocab_size": embedding.shape[0],
            "hidden_size": required("embedding_length")?,
            "num_hidden_layers": required("block_count")?,
            "num_attention_heads": heads,
            "max_position_embeddings": number("context_length")?,
            "tie_word_embeddings": !has("output.weight"),
            "eos_token_id": self.ends()?,
        });
        let mut more = match family {
            "bloom" => json!({ "layer_norm_epsilon": float("attention.layer_norm_epsilon")? }),
            "falcon" => json!({
                "layer_norm_epsilon": float("attention.layer_norm_epsilon")?,
                "ffn_hidden_size": number("feed_forward_length")?,
                "multi_query": kv_heads == 1,
                "new_decoder_architecture": kv_heads != 1 || has("blk.0.attn_norm_2.weight"),
                "num_kv_heads": kv_heads,
                "num_ln_in_parallel_attn": if has("blk.0.attn_norm_2.weight") { 2 } else { 1 },
                "parallel_attn": true,
                "bias": has("blk.0.attn_qkv.bias"),
                "alibi": false,
            }),
            _ => json!({
                "rms_norm_eps": float("attention.layer_norm_rms_epsilon")?,
                "intermediate_size": required("feed_forward_length")?,
                "num_key_value_heads": kv_heads,
                // Families have defaults of their own, which are not meant here.
                "head_dim": number("attention.key_length")?.or(required("embedding_length")?.checked_div(heads)),
                "attention_bias": has("blk.0.attn_q.bias"),
                "mlp_bias": has("blk.0.ffn_up.bias"),
                "num_local_experts": experts,
                "num_experts_per_tok": number("expert_used_count")?,
                "sliding_window": window,
            }),
        };
        if family != "bloom" {
            (more["rope_theta"], more["rope_scaling"]) = self.rope(architecture)?;
        }
        if family.starts_with("qwen") && window.is_some() {
            more["use_sliding_window"] = json!(true);
            more["layer_types"] = json!(self.windows(architecture, required("block_count")?)?);
        }
        match (&mut config, more) {
            (Value::Object(config), Value::Object(more)) => config.extend(more),
            _ => unreachable!("both are objects"),
        }
        let Value::Object(config) = config else { unreachable!("it is an object") };
        Ok(config)
    }

    /// Which blocks have the window: all, unless the file says otherwise.
    fn windows(&self, architecture: &str, blocks: u64) -> Result<Vec<&'static str>> {
        let key = format!("{architecture}.attention.sliding_window_pattern");
        let kind = |&windowed: &bool| if windowed { "sliding_attention" } else { "full_attention" };
        match self.metadata.get(&key) {
            Some(Entry::Array(Array::Bool(windowed))) => Ok(windowed.iter().map(kind).collect()),
            Some(_) => Err(self.file.damaged(format!("its metadata {key} should be a list of true and false"))),
            // A file of a billion blocks is refused when they are counted.
            None => Ok(vec!["sliding_attention"; blocks.min(1 << 16) as usize]),
        }
    }

    /// The base of rotary positions, and how they are scaled, in the fields that every version of transformers reads.
    fn rope(&self, architecture: &str) -> Result<(Value, Value)> {
        let float = |key: &str| self.float(&format!("{architecture}.rope.{key}"));
        let key = |key: &str| format!("{architecture}.rope.scaling.{key}");
        let kind = self.read(self.metadata.optional_text(&key("type")))?.filter(|&kind| kind != "none");
        // A file without a kind may have a factor nevertheless, by its older name as well.
        let factor = float("scaling.factor")?.or(float("scale_linear")?).filter(|&factor| factor > 1.0);
        let attention_factor = match (float("scaling.attn_factor")?, factor) {
            (Some(given), Some(factor)) if kind == Some("yarn") && given != 1.0 => {
                Some(given * (0.1 * factor.ln() + 1.0))
            }
            _ => None,
        };
        let theta = float("freq_base")?.unwrap_or(10_000.0);
        let trained = self.read(self.metadata.optional_u64(&key("original_context_length")))?;
        let mut scaling = match (factor, self.factors()?) {
            (Some(factor), _) => json!({
                "rope_type": kind.unwrap_or("linear"),
                "factor": factor,
                "attention_factor": attention_factor,
                "original_max_position_embeddings": trained,
                "beta_fast": float("scaling.yarn_beta_fast")?,
                "beta_slow": float("scaling.yarn_beta_slow")?,
            }),
            (None, Some(factors)) => {
                let trained = trained.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
                // A base that no model can have is refused by the family.
                let base = Some(theta).filter(|theta| (1.0..1e15).contains(theta));
                base.and_then(|theta| Llama3::of_factors(&factors, theta, trained)).map_or(Value::Null, |found| {
                    json!({
                        "rope_type": "llama3",
                        "factor": found.factor,
                        "low_freq_factor": found.low,
                        "high_freq_factor": found.high,
                        "original_max_position_embeddings": found.trained_tokens,
                    })
                })
            }
            (None, None) => Value::Null,
        };
        if let Value::Object(fields) = &mut scaling {
            fields.retain(|_, value| !value.is_null());
        }
        Ok((json!(theta), scaling))
    }

    /// What frequencies are divided by, where the file says so.
    fn factors(&self) -> Result<Option<Vec<f32>>> {
        let Some((info, data)) = self.file.tensor(rope::NAME) else { return Ok(None) };
        if info.kind != bouquet_gguf::TensorKind::F32 || info.shape.len() != 1 || info.shape[0] as u64 > MAX_FACTORS {
            let problem = format!("its {} should hold a row of at most {MAX_FACTORS} numbers in F32", rope::NAME);
            return Err(self.file.damaged(problem));
        }
        let factors = decode(bouquet_kernels::FloatEncoding::F32, &data);
        match factors.iter().find(|factor| !(1e-6..=1e6).contains(*factor)) {
            Some(factor) => Err(self.file.damaged(format!("its {} has {factor}", rope::NAME))),
            None => Ok(Some(factors)),
        }
    }

    /// Frequencies divided by the factors that a file brings, where these are of no kind that has a name.
    fn divided(&self, rope: &RopeSpec) -> Result<Option<RopeSpec>> {
        let Some(factors) = self.factors()? else { return Ok(None) };
        let frequencies = rope.frequencies(0);
        if factors.len() != frequencies.len() {
            return Err(self.file.damaged(format!("its {} should hold {} numbers", rope::NAME, frequencies.len())));
        }
        if matches!(rope.settings.scaling, RopeScaling::Llama3 { .. }) {
            return Ok(None);
        }
        let divided = frequencies.iter().zip(&factors).map(|(frequency, factor)| frequency / factor).collect();
        let settings = RopeSettings { scaling: RopeScaling::Divided, ..rope.settings };
        Ok(Some(RopeSpec::new(settings, divided, rope.scaling())))
    }

    /// Tokens that end a text, and a turn of a conversation.
    fn ends(&self) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for key in ["eos", "eot", "eom"] {
            let id = self.read(self.metadata.optional_u64(&format!("tokenizer.ggml.{key}_token_id")))?;
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    /// A number as people write it: of those that round to the same f32, the shortest.
    fn float(&self, key: &str) -> Result<Option<f64>> {
        let found = self.read(self.metadata.optional_f64(key))?;
        let shortest = |number: f64| (number as f32).to_string().parse().unwrap_or(number);
        Ok(found.map(|number| if f64::from(number as f32) == number { shortest(number) } else { number }))
    }

    fn read<T>(&self, found: bouquet_gguf::Result<T>) -> Result<T> {
        found.map_err(|error| self.file.damaged(error))
    }
}
