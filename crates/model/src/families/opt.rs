//! OPT (arXiv 2205.01068): learned positions, biases everywhere, ReLU, the head tied to the embedding. The 350M model has
//! its norms behind the sums, and an embedding narrower than its hidden states.

use bouquet_kernels::ops::activation::Activation;
use bouquet_span::Site;

use super::{activation, head_dim, limits};
use crate::Result;
use crate::config::Config;
use crate::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, ModelSpec, NormKind, NormSpec, Positions, QkvLayout, TensorNames, Wiring,
};
use crate::stored::Stored;

/// How OPT calls its tensors.
pub const NAMES: TensorNames = TensorNames {
    prefix: "model.",
    embedding: "decoder.embed_tokens",
    positions: "decoder.embed_positions",
    project_in: "decoder.project_in",
    project_out: "decoder.project_out",
    final_norm: "decoder.final_layer_norm",
    block: "decoder.layers.",
    attention_norm: "self_attn_layer_norm",
    feed_forward_norm: "final_layer_norm",
    site,
    ..TensorNames::NONE
};

fn site(site: Site) -> Option<String> {
    let name = match site {
        Site::Q => "self_attn.q_proj",
        Site::K => "self_attn.k_proj",
        Site::V => "self_attn.v_proj",
        Site::O => "self_attn.out_proj",
        Site::Up => "fc1",
        Site::Down => "fc2",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The specification that an OPT's `config.json` describes.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let flag = |field, default| Ok::<bool, crate::ModelError>(config.optional_flag(field)?.unwrap_or(default));
    let hidden_size = config.number(&["hidden_size"], limits::HIDDEN_SIZE)?;
    let heads = config.number(&["num_attention_heads"], limits::HEADS)?;
    let norm_before = flag("do_layer_norm_before", true)?;
    let bias = flag("enable_bias", true)?;
    Ok(ModelSpec {
        family: "opt",
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size,
            norm: NormSpec {
                learned: flag("layer_norm_elementwise_affine", true)?,
                ..NormSpec::new(NormKind::LayerNorm, 1e-5)
            },
            attention: AttentionSpec {
                heads,
                kv_heads: heads,
                head_dim: head_dim(config, heads, hidden_size)?,
                qkv: QkvLayout::Separate,
                qkv_bias: bias,
                output_bias: bias,
                query_key_norm: false,
                positions: Positions::Learned { offset: 2 },
                window: None,
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: config.number(&["ffn_dim"], limits::INTERMEDIATE_SIZE)?,
                activation: activation(config, "activation_function", Activation::Relu)?,
                gated: false,
                bias,
                experts: None,
            },
            wiring: if norm_before { Wiring::PreNorm } else { Wiring::PostNorm },
        },
        full_attention: Vec::new(),
        embedding_size: config.optional_number("word_embed_proj_dim", limits::HIDDEN_SIZE)?.unwrap_or(hidden_size),
        embedding_norm: false,
        final_norm: norm_before && !flag("_remove_final_layer_norm", false)?,
        tied_head: flag("tie_word_embeddings", true)?,
        max_positions: Some(config.optional_number("max_position_embeddings", limits::POSITIONS)?.unwrap_or(2048)),
        eos_token_ids: config.eos_token_ids()?,
        names: NAMES,
        stored: Stored::floats(),
    })
}
