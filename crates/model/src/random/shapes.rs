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
    /// Number of decoder blocks.
    pub num_blocks: usize,
    /// Query heads.
    pub heads: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// What it has besides.
    pub family: ShapeFamily,
}

/// The family of a shape, and what only that has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeFamily {
    /// BLOOM.
    Bloom,
    /// Llama.
    Llama {
        /// Key and value heads.
        kv_heads: usize,
        /// Channels inside the feed-forward.
        intermediate_size: usize,
        /// Llama 3: its rotary positions, and the head tied to the embedding.
        third: bool,
    },
}

/// BLOOM (arXiv 2211.05100, table 3) and Llama (arXiv 2307.09288, 2407.21783), as far as one machine goes.
pub const SHAPES: [Shape; 7] = [
    bloom("bloom-560m", 1024, 24, 16),
    bloom("bloom-1b1", 1536, 24, 16),
    bloom("bloom-1b7", 2048, 24, 16),
    bloom("bloom-3b", 2560, 30, 32),
    bloom("bloom-7b1", 4096, 30, 32),
    Shape {
        name: "llama32-1b",
        hidden_size: 2048,
        num_blocks: 16,
        heads: 32,
        vocab_size: 128_256,
        family: ShapeFamily::Llama { kv_heads: 8, intermediate_size: 8192, third: true },
    },
    Shape {
        name: "llama2-7b",
        hidden_size: 4096,
        num_blocks: 32,
        heads: 32,
        vocab_size: 32_000,
        family: ShapeFamily::Llama { kv_heads: 32, intermediate_size: 11_008, third: false },
    },
];

const fn bloom(name: &'static str, hidden_size: usize, num_blocks: usize, heads: usize) -> Shape {
    Shape { name, hidden_size, num_blocks, heads, vocab_size: 250_880, family: ShapeFamily::Bloom }
}

impl Shape {
    /// The shape of a name.
    pub fn of_name(name: &str) -> Option<Shape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Its `config.json`.
    pub fn config(&self) -> Value {
        match self.family {
            ShapeFamily::Bloom => json!({
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
            }),
            ShapeFamily::Llama { kv_heads, intermediate_size, third } => json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": self.hidden_size,
                "num_hidden_layers": self.num_blocks,
                "num_attention_heads": self.heads,
                "num_key_value_heads": kv_heads,
                "intermediate_size": intermediate_size,
                "hidden_act": "silu",
                "vocab_size": self.vocab_size,
                "rms_norm_eps": 1e-5,
                "max_position_embeddings": if third { 131_072 } else { 4096 },
                "rope_theta": if third { 500_000.0 } else { 10_000.0 },
                "rope_scaling": third.then(|| json!({
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                })),
                "tie_word_embeddings": third,
                "attention_bias": false,
                "mlp_bias": false,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 3,
                "use_cache": true,
                "torch_dtype": "float16",
            }),
        }
    }

    /// Its specification.
    pub fn spec(&self) -> ModelSpec {
        let config = Config::parse(self.config().to_string().as_bytes());
        config.and_then(|config| families::spec(&config)).expect("shapes of published models are of a known family")
    }
}
