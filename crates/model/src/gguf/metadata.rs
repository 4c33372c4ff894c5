//! The metadata of a file, from the folder of a model: the keys that llama.cpp reads.

use std::path::Path;

use bouquet_gguf::{Array, Metadata, Value};
use bouquet_kernels::ops::activation::Activation;
use serde_json::{Map, Value as Json};

use super::rope::Llama3;
use crate::chat_template::template_of;
use crate::config::{Config, TOKEN_ID};
use crate::files::{self, MAX_SETTINGS_BYTES};
use crate::spec::{ModelSpec, NormKind, Positions, RopeScaling, Wiring};
use crate::tokenizer::gguf::SpecialIds;
use crate::{ModelError, Result, Tokenizer, tokenizer};

/// Where neither the positions nor the configuration of a model say how long a text may be.
const CONTEXT: usize = 2048;

/// What llama.cpp calls the architecture of a model.
///
/// # Errors
/// [`ModelError::NoGguf`] for what it does not compute.
pub(super) fn architecture(spec: &ModelSpec) -> Result<&'static str> {
    let refuse = |problem: String| Err(ModelError::NoGguf(problem));
    let (block, attention) = (&spec.block, &spec.block.attention);
    let architecture = match spec.family {
        "bloom" => "bloom",
        "falcon" => "falcon",
        "llama" | "mistral" | "mixtral" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        other => return refuse(format!("llama.cpp has no models of the family {other}")),
    };
    let (wiring, activation) = match architecture {
        "bloom" => (Wiring::PreNorm, Activation::GeluTanh),
        "falcon" => (Wiring::Parallel, Activation::Gelu),
        _ => (Wiring::PreNorm, Activation::Silu),
    };
    let rope = matches!(attention.positions, Positions::Rope(_));
    match () {
        () if block.wiring != wiring => {
            refuse(format!("its blocks are put together in a way that llama.cpp's {architecture} does not have"))
        }
        () if block.feed_forward.activation != activation => {
            refuse(format!("its activation is not that of llama.cpp's {architecture}"))
        }
        () if architecture == "falcon" && !rope => refuse("llama.cpp's falcon has rotary positions alone".to_owned()),
        () if architecture == "falcon" && attention.qkv_bias => refuse("llama.cpp's falcon has no biases".to_owned()),
        () if architecture == "qwen3" && attention.qkv_bias => refuse("llama.cpp's qwen3 has no biases".to_owned()),
        () => Ok(architecture),
    }
}

/// The metadata of a model, and the factors of its rotary positions where it has some. `notes` gets what is not the same in
/// llama.cpp.
///
/// # Errors
/// [`ModelError::NoGguf`], [`ModelError::GgufTokenizer`]; files that are missing or damaged.
pub(super) fn of_folder(
    folder: &Path,
    spec: &ModelSpec,
    notes: &mut Vec<String>,
) -> Result<(Metadata, Option<Vec<f32>>)> {
    let architecture = architecture(spec)?;
    let config = Config::load(folder)?;
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", architecture);
    metadata.set("general.type", "model");
    if let Some(name) = folder.canonicalize().ok().as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) {
        metadata.set("general.name", name);
    }
    let mut set = |key: &str, value: Value| metadata.set(format!("{architecture}.{key}"), value);
    let whole = |number: usize| Value::U32(number as u32);
    let (block, attention) = (&spec.block, &spec.block.attention);
    let context = match &attention.positions {
        Positions::Rope(rope) => match rope.settings.scaling {
            RopeScaling::Dynamic(dynamic) => Some(dynamic.trained_tokens),
            // What the configuration says, before it is stretched.
            RopeScaling::Linear { factor } => {
                spec.max_positions.map(|positions| (positions as f64 / factor.max(1.0)).round() as usize)
            }
            _ => spec.max_positions,
        },
        _ => config.optional_number("seq_length", crate::families::limits::POSITIONS)?,
    };
    set("vocab_size", whole(spec.vocab_size));
    set("context_length", whole(context.unwrap_or(CONTEXT)));
    set("embedding_length", whole(block.hidden_size));
    set("block_count", whole(spec.num_blocks));
    set("feed_forward_length", whole(block.feed_forward.intermediate_size));
    set("attention.head_count", whole(attention.heads));
    set("attention.head_count_kv", whole(attention.kv_heads));
    match block.norm.kind {
        NormKind::RmsNorm => {
            set("attention.layer_norm_rms_epsilon", Value::F32(block.norm.epsilon));
            set("attention.key_length", whole(attention.head_dim));
            set("attention.value_length", whole(attention.head_dim));
        }
        NormKind::LayerNorm => set("attention.layer_norm_epsilon", Value::F32(block.norm.epsilon)),
    }
    if let Some(experts) = block.feed_forward.experts {
        set("expert_count", whole(experts.count));
        set("expert_used_count", whole(experts.per_token));
    }
    if let Some(window) = attention.window {
        set("attention.sliding_window", whole(window));
        if !spec.full_attention.is_empty() {
            let windowed = (0..spec.num_blocks).map(|block| spec.window(block).is_some()).collect();
            set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
        }
        notes.push(format!("llama.cpp computes this architecture without its window of {window} tokens"));
    }
    let factors = rope(spec, &mut set, notes)?;
    metadata_of_texts(folder, spec, &config, &mut metadata)?;
    Ok((metadata, factors))
}

/// What is said of rotary positions.
fn rope(spec: &ModelSpec, set: &mut dyn FnMut(&str, Value), notes: &mut Vec<String>) -> Result<Option<Vec<f32>>> {
    let attention = &spec.block.attention;
    let Positions::Rope(rope) = &attention.positions else { return Ok(None) };
    let theta = rope.settings.theta;
    set("rope.dimension_count", Value::U32(attention.head_dim as u32));
    set("rope.freq_base", Value::F32(theta as f32));
    let mut scale = |kind: &str, factor: f64| {
        set("rope.scaling.type", Value::Text(kind.to_owned()));
        set("rope.scaling.factor", Value::F32(factor as f32));
    };
    match rope.settings.scaling {
        RopeScaling::None | RopeScaling::Divided => {}
        RopeScaling::Linear { factor } => scale("linear", factor),
        RopeScaling::Dynamic(dynamic) => notes.push(format!(
            "GGUF has no rotary positions that grow with the text: beyond {} tokens, results are not those of the folder",
            dynamic.trained_tokens
        )),
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, trained_tokens } => {
            // llama.cpp takes the factors alone; the length makes four numbers of them again.
            set("rope.scaling.original_context_length", Value::U32(trained_tokens as u32));
            return Ok(Some(Llama3 { factor, low, high, trained_tokens }.factors(theta, attention.head_dim)));
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            return Err(ModelError::NoGguf("llama.cpp rounds the borders of YaRN, and truncate is false".to_owned()));
        }
        RopeScaling::Yarn { factor, trained_tokens, beta_fast, beta_slow, .. } => {
            scale("yarn", factor);
            set("rope.scaling.original_context_length", Value::U32(trained_tokens as u32));
            for (key, beta, usual) in [("yarn_beta_fast", beta_fast, 32.0), ("yarn_beta_slow", beta_slow, 1.0)] {
                if beta != usual {
                    set(&format!("rope.scaling.{key}"), Value::F32(beta as f32));
                }
            }
            let share = f64::from(rope.scaling()) / (0.1 * bouquet_kernels::math::ln(factor) + 1.0);
            if (share - 1.0).abs() > 1e-6 {
                set("rope.scaling.attn_factor", Value::F32(share as f32));
            }
        }
    }
    Ok(None)
}

/// Tokenizer, special tokens and chat template.
fn metadata_of_texts(folder: &Path, spec: &ModelSpec, config: &Config, metadata: &mut Metadata) -> Result<()> {
    let json = Tokenizer::read(folder)?;
    let tokenizer = Tokenizer::parse(&json, spec.vocab_size)?;
    let (template, named) = template_of(folder)?;
    let named = |name: &str| named.get(name).and_then(|token| tokenizer.token_to_id(token));
    let known = |id: &u32| (*id as usize) < spec.vocab_size;
    let number =
        |field| Ok::<_, ModelError>(config.optional_number(field, TOKEN_ID)?.map(|id| id as u32).filter(known));
    let mut ends: Vec<u32> = named("eos_token").into_iter().chain(spec.eos_token_ids.iter().copied()).collect();
    ends.extend(generation_ends(folder)?.into_iter().filter(known));
    let mut seen = Vec::new();
    ends.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    let ids = SpecialIds {
        bos: named("bos_token").or(number("bos_token_id")?),
        eos: ends.first().copied(),
        padding: named("pad_token").or(number("pad_token_id")?),
    };
    for (key, value) in tokenizer::gguf::metadata(&json, spec.vocab_size, ids)?.iter() {
        metadata.set(key, value.clone());
    }
    // What else ends a text has two more names.
    for (key, id) in ["eot", "eom"].into_iter().zip(ends.into_iter().skip(1)) {
        metadata.set(format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
    }
    if let Some(template) = template {
        metadata.set("tokenizer.chat_template", template);
    }
    Ok(())
}

/// Ids that end a text, by `generation_config.json`.
fn generation_ends(folder: &Path) -> Result<Vec<u32>> {
    let Some(bytes) = files::read(&folder.join("generation_config.json"), MAX_SETTINGS_BYTES)? else {
        return Ok(Vec::new());
    };
    let object: Map<String, Json> = serde_json::from_slice(&bytes).unwrap_or_default();
    match object.is_empty() {
        true => Ok(Vec::new()),
        false => Config::parse_as(&bytes, ModelError::GenerationConfig)?.eos_token_ids(),
    }
}
