//! Mixtral (arXiv 2401.04088): Llama's attention without biases, and a router that sends each token to a few of several
//! gated feed-forwards.

use bouquet_span::Site;

use super::limits;
use super::llama::{self, Defaults};
use crate::Result;
use crate::config::{Bounds, Config};
use crate::spec::{ExpertSpec, ModelSpec, TensorNames};

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
    let number = |field| config.optional_number(field, limits::EXPERTS);
    let count = number("num_local_experts")?.or(number("num_experts")?).unwrap_or(8);
    let per_token = config.optional_number("num_experts_per_tok", Bounds::up_to(count as u64))?.unwrap_or(count.min(2));
    let defaults = Defaults { kv_heads: Some(8), head_dim: None, theta: 1e6, epsilon: 1e-5, max_positions: 4096 * 32 };
    let mut spec = llama::decoder("mixtral", config, &defaults)?;
    spec.block.attention.window = config.optional_number("sliding_window", limits::POSITIONS)?;
    spec.block.feed_forward.experts = Some(ExpertSpec { count, per_token });
    spec.names = NAMES;
    Ok(spec)
}
