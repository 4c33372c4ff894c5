//! Falcon (arXiv 2311.16867): BLOOM's queries, keys and values in one matrix, attention and feed-forward side by side behind
//! one norm (7B) or two (40B), rotary positions, few key heads. Falcon-RW has ALiBi and BLOOM's order of parts instead.

use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::alibi::AlibiKind;

use super::{activation, bloom, head_dim, limits, rope};
use crate::Result;
use crate::config::Config;
use crate::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, ModelSpec, NormKind, NormSpec, Positions, QkvLayout, TensorNames, Wiring,
};
use crate::stored::Stored;

/// How Falcon calls its tensors where one part comes after the other: as BLOOM.
const ONE_AFTER_THE_OTHER: TensorNames = TensorNames { embedding_norm: "", ..bloom::NAMES };
/// Side by side behind one norm.
const ONE_NORM: TensorNames = TensorNames { feed_forward_norm: "input_layernorm", ..ONE_AFTER_THE_OTHER };
/// Side by side behind a norm each.
const TWO_NORMS: TensorNames =
    TensorNames { attention_norm: "ln_attn", feed_forward_norm: "ln_mlp", ..ONE_AFTER_THE_OTHER };

/// The specification that a Falcon's `config.json` describes, by the present names of its fields or by those of its first
/// version (`RefinedWeb`), which transformers reads no longer.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let flag = |field, default| Ok::<bool, crate::ModelError>(config.optional_flag(field)?.unwrap_or(default));
    let hidden_size = config.number(&["hidden_size", "n_embed"], limits::HIDDEN_SIZE)?;
    let heads = config.number(&["num_attention_heads", "n_head"], limits::HEADS)?;
    let head_dim = head_dim(config, heads, hidden_size)?;
    let new = flag("new_decoder_architecture", false)?;
    let kv_heads = match (new, flag("multi_query", true)?) {
        (true, _) => config.optional_number("num_kv_heads", limits::HEADS)?.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("is {kv_heads}, which does not divide the {heads} attention heads");
        return Err(config.error("num_kv_heads", problem));
    }
    let parallel = flag("parallel_attn", true)?;
    if new && !parallel {
        return Err(config.error("parallel_attn", "is false, which the new decoder architecture does not have"));
    }
    let norms = config.optional_number("num_ln_in_parallel_attn", crate::config::Bounds::up_to(2))?;
    let names = match (parallel, norms.unwrap_or(if new { 2 } else { 1 })) {
        (false, _) => ONE_AFTER_THE_OTHER,
        (true, 2) if new => TWO_NORMS,
        (true, _) => ONE_NORM,
    };
    let max_positions = config.optional_number("max_position_embeddings", limits::POSITIONS)?.unwrap_or(2048);
    let (positions, longest) = if flag("alibi", false)? {
        (Positions::Alibi(AlibiKind::Bf16Positions), None)
    } else {
        let rope = rope::read(config, head_dim, 10_000.0, max_positions)?;
        let longest = rope.longest(max_positions);
        (Positions::Rope(rope), Some(longest))
    };
    let bias = flag("bias", false)?;
    let epsilon = config.optional_float("layer_norm_epsilon", 0.0, 1.0)?.unwrap_or(1e-5);
    let inner = config.optional_number("ffn_hidden_size", limits::INTERMEDIATE_SIZE)?.unwrap_or(4 * hidden_size);
    Ok(ModelSpec {
        family: "falcon",
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers", "n_layer"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size,
            norm: NormSpec::new(NormKind::LayerNorm, epsilon),
            attention: AttentionSpec {
                heads,
                kv_heads,
                head_dim,
                qkv: QkvLayout::Fused,
                qkv_bias: bias,
                output_bias: bias,
                query_key_norm: false,
                positions,
                window: None,
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: inner,
                activation: activation(config, "activation", Activation::Gelu)?,
                gated: false,
                bias,
                experts: None,
            },
            wiring: if parallel { Wiring::Parallel } else { Wiring::PreNorm },
        },
        full_attention: Vec::new(),
        embedding_size: hidden_size,
        embedding_norm: false,
        final_norm: true,
        tied_head: config.optional_flag("tie_word_embeddings")?.unwrap_or(true),
        max_positions: longest,
        eos_token_ids: config.eos_token_ids()?,
        names,
        stored: Stored::floats(),
    })
}
