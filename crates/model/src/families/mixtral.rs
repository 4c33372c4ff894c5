//! Mixtral (arXiv 2401.04088): Llama's attention without biases, and a router that sends each token to a few of several
//! gated feed-forwards.

use bouquet_span::Site;

use super::{limits, llama};
use crate::Result;
use crate::config::{Bounds, Config};
use crate::spec::{AttentionSpec, BlockSpec, ExpertSpec, FeedForwardSpec, ModelSpec, Residual, TensorNames};
use crate::stored::Stored;

/// How Mixtral calls its tensors: as Llama, but for the experts, which are numbered `w1` (gate), `w2` (down), `w3` (up).
pub const NAMES: TensorNames = TensorNames { site, ..llama::NAMES };

fn site(site: Site) -> Option<String> {
    let expert = |expert, weight| Some(format!("block_sparse_moe.experts.{expert}.{weight}"));
    match site {
        Site::Router => Some("block_sparse_moe.gate".to_owned()),
        Site::ExpertGate(index) => expert(index, "w1"),
        Site::ExpertDown(index) => expert(index, "w2"),
        Site::ExpertUp(index) => expert(index, "w3"),
        Site::Gate | Site::Up | Site::Down => None,
        attention => (llama::NAMES.site)(attention),
    }
}

/// The specification that a Mixtral's `config.json` describes. The fields on the router's jitter and loss matter in
/// training from scratch only.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config).
pub fn spec(config: &Config) -> Result<ModelSpec> {
    let count = config.number(&["num_local_experts"], limits::EXPERTS)?;
    let per_token = config.number(&["num_experts_per_tok"], Bounds::up_to(count as u64))?;
    Ok(ModelSpec {
        family: "mixtral",
        vocab_size: config.number(&["vocab_size"], limits::VOCAB_SIZE)?,
        num_blocks: config.number(&["num_hidden_layers"], limits::BLOCKS)?,
        block: BlockSpec {
            hidden_size: config.number(&["hidden_size"], limits::HIDDEN_SIZE)?,
            norm: llama::rms_norm(config, 1e-5)?,
            attention: AttentionSpec {
                window: config.optional_number("sliding_window", limits::POSITIONS)?,
                ..llama::rotary_attention(config, Some(8), 1e6)?
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: config.number(&["intermediate_size"], limits::INTERMEDIATE_SIZE)?,
                activation: llama::activation(config)?,
                gated: true,
                bias: false,
                experts: Some(ExpertSpec { count, per_token }),
            },
            residual: Residual::NormInput,
        },
        embedding_norm: false,
        tied_head: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        max_positions: Some(config.optional_number("max_position_embeddings", limits::POSITIONS)?.unwrap_or(4096 * 32)),
        eos_token_ids: config.eos_token_ids()?,
        names: NAMES,
        stored: Stored::floats(),
    })
}
