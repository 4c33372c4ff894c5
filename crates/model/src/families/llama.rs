//! Llama (arXiv 2302.13971, 2307.09288) and all that call themselves so: rotary positions, RMS norms, keys and values
//! shared by groups of heads, a gated feed-forward.

use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::rope;
use bouquet_span::Site;

use super::limits;
use crate::Result;
use crate::config::Config;
use crate::files::shown;
use crate::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, ModelSpec, NormKind, NormSpec, Positions, QkvLayout, Residual, RopeSpec,
    TensorNames,
};
use crate::stored::Stored;

/// How Llama calls its tensors.
pub const NAMES: TensorNames = TensorNames {
    prefix: "model.",
    embedding: "embed_tokens",
    embedding_norm: "",
    final_norm: "norm",
    head: "lm_head",
    block: "layers.",
    attention_norm: "input_layernorm",
    feed_forward_norm: "post_attention_layernorm",
    site,
};

fn site(site: Site) -> Option<String> {
    let name = match site {
        Site::Q => "self_attn.q_proj",
        Site::K => "self_attn.k_proj",
        Site::V => "self_attn.v_proj",
        Site::O => "self_attn.o_proj",
        Site::Gate => "mlp.gate_proj",
        Site::Up => "mlp.up_proj",
        Site::Down => "mlp.down_proj",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The specification that a Llama's `config.json` describes. `pretraining_tp` changes nothing: the same products, cut
/// differently.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config), also for kinds of rotary positions that are not known yet.
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let attention_bias = config.optional_flag("attention_bias")?.unwrap_or(false);
    Ok(ModelSpec {
        family: "llama",
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size: config.number(&["hidden_size"], limits::HIDDEN_SIZE)?,
            norm: rms_norm(config, 1e-6)?,
            attention: AttentionSpec {
                qkv_bias: attention_bias,
                output_bias: attention_bias,
                ..rotary_attention(config, None, 10_000.0)?
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: config.number(&["intermediate_size"], limits::INTERMEDIATE_SIZE)?,
                activation: activation(config)?,
                gated: true,
                bias: config.optional_flag("mlp_bias")?.unwrap_or(false),
                experts: None,
            },
            residual: Residual::NormInput,
        },
        embedding_norm: false,
        tied_head: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        max_positions: Some(config.optional_number("max_position_embeddings", limits::POSITIONS)?.unwrap_or(2048)),
        eos_token_ids: config.eos_token_ids()?,
        names: NAMES,
        stored: Stored::floats(),
    })
}

/// RMS norms whose epsilon is `default` where the file does not say.
pub(super) fn rms_norm(config: &Config, default: f64) -> Result<NormSpec> {
    let epsilon = config.optional_float("rms_norm_eps", 0.0, 1.0)?.unwrap_or(default);
    Ok(NormSpec { kind: NormKind::RmsNorm, epsilon: epsilon as f32 })
}

/// The one activation that is known here.
pub(super) fn activation(config: &Config) -> Result<Activation> {
    match config.optional_text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => Err(config.error("hidden_act", format!("is {}, but only silu is known", shown(other)))),
    }
}

/// Attention with rotary positions, keys and values shared by groups of heads, no biases and no window. Key heads are
/// `default_kv_heads`, or as many as heads, where the file does not say.
pub(super) fn rotary_attention(
    config: &Config,
    default_kv_heads: Option<usize>,
    default_theta: f64,
) -> Result<AttentionSpec> {
    let hidden_size = config.number(&["hidden_size"], limits::HIDDEN_SIZE)?;
    let heads = config.number(&["num_attention_heads"], limits::HEADS)?;
    let kv_heads = config.optional_number("num_key_value_heads", limits::HEADS)?;
    let kv_heads = kv_heads.or(default_kv_heads).unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("is {kv_heads}, which does not divide the {heads} attention heads");
        return Err(config.error("num_key_value_heads", problem));
    }
    let head_dim = match config.optional_number("head_dim", limits::HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let problem = format!("is {heads}, which does not divide the hidden_size of {hidden_size}");
            return Err(config.error("num_attention_heads", problem));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim as u64 > limits::HEAD_DIM.max {
        let problem =
            format!("is {head_dim}, but rotary positions need an even one of at most {}", limits::HEAD_DIM.max);
        return Err(config.error("head_dim", problem));
    }
    Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        qkv: QkvLayout::Separate,
        qkv_bias: false,
        output_bias: false,
        positions: Positions::Rope(rotary(config, head_dim, default_theta)?),
        window: None,
    })
}

/// Rotary positions: `rope_theta` and `rope_scaling`, or both in the `rope_parameters` of transformers 5.
fn rotary(config: &Config, head_dim: usize, default_theta: f64) -> Result<RopeSpec> {
    let theta = |from: &Config| from.optional_float("rope_theta", 1.0, 1e15);
    let mut found = theta(config)?;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(parameters) = config.optional_object(field)? else { continue };
        for kind in ["rope_type", "type"] {
            if let Some(other) = parameters.optional_text(kind)?.filter(|kind| *kind != "default") {
                return Err(parameters.error(kind, format!("is {}, but only default is known yet", shown(other))));
            }
        }
        whole_heads(&parameters)?;
        found = theta(&parameters)?.or(found);
    }
    whole_heads(config)?;
    Ok(RopeSpec::new(rope::frequencies(head_dim, found.unwrap_or(default_theta)), 1.0))
}

/// Refuses positions that turn a part of each head only.
fn whole_heads(config: &Config) -> Result<()> {
    const FIELD: &str = "partial_rotary_factor";
    match config.optional_float(FIELD, 0.0, 1.0)? {
        Some(part) if part != 1.0 => Err(config.error(FIELD, format!("is {part}, but only 1 is known yet"))),
        _ => Ok(()),
    }
}
