//! Shapes of published models.

use serde_json::{Value, json};

use crate::config::Config;
use crate::families;
use crate::spec::ModelSpec;

/// A published shape, by the name that it has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The name.
    pub name: &'static str,
    /// `hidden_size`.
    pub hidden_size: usize,
    /// `n_layer`.
    pub num_blocks: usize,
    /// `n_head`.
    pub heads: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

/// BLOOM (arXiv 2211.05100, table 3), as far as one machine goes.
pub const SHAPES: [Shape; 5] = [
    bloom("bloom-560m", 1024, 24, 16),
    bloom("bloom-1b1", 1536, 24, 16),
    bloom("bloom-1b7", 2048, 24, 16),
    bloom("bloom-3b", 2560, 30, 32),
    bloom("bloom-7b1", 4096, 30, 32),
];

const fn bloom(name: &'static str, hidden_size: usize, num_blocks: usize, heads: usize) -> Shape {
    Shape { name, hidden_size, num_blocks, heads, vocab_size: 250_880 }
}

impl Shape {
    /// The shape of a name.
    pub fn of_name(name: &str) -> Option<Shape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Its `config.json`.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["BloomForCausalLM"],
            "model_type": "bloom",
            "hidden_size": self.hidden_size,
            "n_layer": self.num_blocks,
            "n_head": self.heads,
            "vocab_size": self.vocab_size,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "apply_residual_connection_post_layernorm": false,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "unk_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
            "use_cache": true,
            "torch_dtype": "float16",
        })
    }

    /// Its specification.
    pub fn spec(&self) -> ModelSpec {
        let config = Config::parse(self.config().to_string().as_bytes());
        config.and_then(|config| families::spec(&config)).expect("shapes of published models are of a known family")
    }
}
