//! BLOOM and BLOOMZ (arXiv 2211.05100): ALiBi, layer norms with biases, one also after the embedding, queries, keys and
//! values in one matrix, a feed-forward of four times the hidden size with GELU, the head tied to the embedding.

use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::alibi::AlibiKind;
use bouquet_span::Site;

use super::{head_dim, limits};
use crate::Result;
use crate::config::Config;
use crate::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, ModelSpec, NormKind, NormSpec, Positions, QkvLayout, TensorNames, Wiring,
};
use crate::stored::Stored;

/// How BLOOM calls its tensors.
pub const NAMES: TensorNames = TensorNames {
    prefix: "transformer.",
    embedding: "word_embeddings",
    embedding_norm: "word_embeddings_layernorm",
    final_norm: "ln_f",
    head: "lm_head",
    block: "h.",
    attention_norm: "input_layernorm",
    feed_forward_norm: "post_attention_layernorm",
    site,
    ..TensorNames::NONE
};

fn site(site: Site) -> Option<String> {
    let name = match site {
        Site::Qkv => "self_attention.query_key_value",
        Site::O => "self_attention.dense",
        Site::Up => "mlp.dense_h_to_4h",
        Site::Down => "mlp.dense_4h_to_h",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The specification that a BLOOM's `config.json` describes.
///
/// The names of a number stand in the order in which transformers lets them win. Its other fields change nothing here:
/// `n_inner` (the model always has four times the hidden size), `seq_length` (ALiBi sets no limit), `pretraining_tp` and
/// `slow_but_exact` (the same products, cut differently), those on dropout and on fusing.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.number(&["n_embed", "hidden_size", "n_embd"], limits::HIDDEN_SIZE)?;
    let heads = config.number(&["num_attention_heads", "n_head"], limits::HEADS)?;
    let post_norm = config.optional_flag("apply_residual_connection_post_layernorm")?.unwrap_or(false);
    let epsilon = config.optional_float("layer_norm_epsilon", 0.0, 1.0)?.unwrap_or(1e-5);
    Ok(ModelSpec {
        family: "bloom",
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers", "n_layer"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size,
            norm: NormSpec::new(NormKind::LayerNorm, epsilon),
            attention: AttentionSpec {
                heads,
                kv_heads: heads,
                head_dim: head_dim(config, heads, hidden_size)?,
                qkv: QkvLayout::Fused,
                qkv_bias: true,
                output_bias: true,
                query_key_norm: false,
                positions: Positions::Alibi(AlibiKind::Distances),
                window: None,
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: 4 * hidden_size,
                activation: Activation::GeluTanh,
                gated: false,
                bias: true,
                experts: None,
            },
            wiring: if post_norm { Wiring::NormedResidual } else { Wiring::PreNorm },
        },
        full_attention: Vec::new(),
        embedding_size: hidden_size,
        embedding_norm: true,
        final_norm: true,
        tied_head: config.optional_flag("tie_word_embeddings")?.unwrap_or(true),
        max_positions: None,
        eos_token_ids: config.eos_token_ids()?,
        names: NAMES,
        stored: Stored::floats(),
    })
}
