//! Llama (arXiv 2302.13971, 2307.09288) and all that call themselves so: rotary positions, RMS norms, keys and values
//! shared by groups of heads, a gated feed-forward.

use bouquet_kernels::ops::activation::Activation;
use bouquet_span::Site;

use super::{activation, limits, rope};
use crate::Result;
use crate::config::Config;
use crate::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, ModelSpec, NormKind, NormSpec, Positions, QkvLayout, TensorNames, Wiring,
};
use crate::stored::Stored;

/// How Llama calls its tensors.
pub const NAMES: TensorNames = TensorNames {
    prefix: "model.",
    embedding: "embed_tokens",
    final_norm: "norm",
    head: "lm_head",
    block: "layers.",
    attention_norm: "input_layernorm",
    feed_forward_norm: "post_attention_layernorm",
    site,
    ..TensorNames::NONE
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

/// What a family of Llama's kind takes where `config.json` does not say: the values of its configuration in transformers.
pub(super) struct Defaults {
    /// `num_key_value_heads`; as many as heads where this is `None`, or the file says null.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim`; the hidden size over the heads where this is `None`.
    pub(super) head_dim: Option<usize>,
    /// `rope_theta`.
    pub(super) theta: f64,
    /// `rms_norm_eps`.
    pub(super) epsilon: f64,
    /// `max_position_embeddings`.
    pub(super) max_positions: usize,
}

/// The specification that a Llama's `config.json` describes. `pretraining_tp` changes nothing: the same products, cut
/// differently.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config), also for kinds of rotary positions that are not known.
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let defaults = Defaults { kv_heads: None, head_dim: None, theta: 10_000.0, epsilon: 1e-6, max_positions: 2048 };
    let mut spec = decoder("llama", config, &defaults)?;
    let bias = config.optional_flag("attention_bias")?.unwrap_or(false);
    (spec.block.attention.qkv_bias, spec.block.attention.output_bias) = (bias, bias);
    spec.block.feed_forward.bias = config.optional_flag("mlp_bias")?.unwrap_or(false);
    Ok(spec)
}

/// A decoder of Llama's kind: no biases, no window, no experts.
pub(super) fn decoder(family: &'static str, config: &Config, defaults: &Defaults) -> Result<ModelSpec> {
    let hidden_size = config.number(&["hidden_size"], limits::HIDDEN_SIZE)?;
    let max_positions =
        config.optional_number("max_position_embeddings", limits::POSITIONS)?.unwrap_or(defaults.max_positions);
    let epsilon = config.optional_float("rms_norm_eps", 0.0, 1.0)?.unwrap_or(defaults.epsilon);
    let attention = attention(config, hidden_size, max_positions, defaults)?;
    let longest = match &attention.positions {
        Positions::Rope(rope) => rope.longest(max_positions),
        _ => max_positions,
    };
    Ok(ModelSpec {
        family,
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size,
            norm: NormSpec::new(NormKind::RmsNorm, epsilon),
            attention,
            feed_forward: FeedForwardSpec {
                intermediate_size: config.number(&["intermediate_size"], limits::INTERMEDIATE_SIZE)?,
                activation: activation(config, "hidden_act", Activation::Silu)?,
                gated: true,
                bias: false,
                experts: None,
            },
            wiring: Wiring::PreNorm,
        },
        full_attention: Vec::new(),
        embedding_size: hidden_size,
        embedding_norm: false,
        final_norm: true,
        tied_head: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        max_positions: Some(longest),
        eos_token_ids: config.eos_token_ids()?,
        names: NAMES,
        stored: Stored::floats(),
    })
}

/// Attention with rotary positions, keys and values shared by groups of heads.
fn attention(config: &Config, hidden_size: usize, max_positions: usize, defaults: &Defaults) -> Result<AttentionSpec> {
    let heads = config.number(&["num_attention_heads"], limits::HEADS)?;
    let kv_heads = match config.optional_number("num_key_value_heads", limits::HEADS)? {
        None if config.mentions("num_key_value_heads") => heads,
        kv_heads => kv_heads.or(defaults.kv_heads).unwrap_or(heads),
    };
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("is {kv_heads}, which does not divide the {heads} attention heads");
        return Err(config.error("num_key_value_heads", problem));
    }
    let head_dim = match config.optional_number("head_dim", limits::HEAD_DIM)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => super::head_dim(config, heads, hidden_size)?,
    };
    Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        qkv: QkvLayout::Separate,
        qkv_bias: false,
        output_bias: false,
        query_key_norm: false,
        positions: Positions::Rope(rope::read(config, head_dim, defaults.theta, max_positions)?),
        window: None,
    })
}
