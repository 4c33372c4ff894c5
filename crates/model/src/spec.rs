//! An architecture as data. A family fills this in from `config.json`; the one decoder block reads it. A new family is
//! a page in [`families`](crate::families) and at most another variant here.

use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_span::Site;

use crate::kv_cache::CacheShape;
use crate::stored::Stored;
use crate::{ModelError, Result};

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of config.json.
    pub family: &'static str,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Number of decoder blocks.
    pub num_blocks: usize,
    /// What every block looks like.
    pub block: BlockSpec,
    /// Whether the embedding's output is normalized (BLOOM).
    pub embedding_norm: bool,
    /// Whether the head shares the embedding's weight.
    pub tied_head: bool,
    /// The longest sequence the positions are made for; `None` where the architecture sets no limit (ALiBi).
    pub max_positions: Option<usize>,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
    /// How the family calls its tensors.
    pub names: TensorNames,
    /// How its weights are stored.
    pub stored: Stored,
}

/// A decoder block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// Channels between blocks.
    pub hidden_size: usize,
    /// Both norms of the block, and the final one.
    pub norm: NormSpec,
    /// Attention.
    pub attention: AttentionSpec,
    /// Feed-forward.
    pub feed_forward: FeedForwardSpec,
    /// What is added to the output of attention and of the feed-forward.
    pub residual: Residual,
}

impl ModelSpec {
    /// What the block of a number looks like.
    ///
    /// # Errors
    /// [`ModelError::NoSuchBlock`].
    pub fn block(&self, index: usize) -> Result<&BlockSpec> {
        let num_blocks = self.num_blocks;
        if index < num_blocks { Ok(&self.block) } else { Err(ModelError::NoSuchBlock { index, num_blocks }) }
    }

    /// Bytes of keys and values that a token takes in all blocks.
    pub fn cache_bytes_per_token(&self, encoding: CacheEncoding) -> u64 {
        CacheShape::new(&self.block, encoding).bytes_per_token() * self.num_blocks as u64
    }
}

/// A normalization over `hidden_size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Which normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and variance, weight and bias.
    LayerNorm,
    /// Mean square, weight.
    RmsNorm,
}

/// Attention of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// How queries, keys and values are stored.
    pub qkv: QkvLayout,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output matrix has a bias.
    pub output_bias: bool,
    /// How positions enter.
    pub positions: Positions,
    /// A query sees this many keys, itself among them; all before it without a window.
    pub window: Option<usize>,
}

/// How the rows of queries, keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// A matrix each.
    Separate,
    /// One matrix, `[kv_heads, heads / kv_heads + 2, head_dim]` by rows: for each key head its queries, its key, its
    /// value. With as many key heads as heads this is BLOOM's `[heads, 3, head_dim]`.
    Fused,
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Linear biases on the scores.
    Alibi,
    /// Rotation of queries and keys.
    Rope(RopeSpec),
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    frequencies: Vec<f32>,
    scaling: f32,
}

impl RopeSpec {
    /// The same frequencies for all lengths, and a factor of the cosines and sines (1 where a kind has none).
    pub fn new(frequencies: Vec<f32>, scaling: f32) -> Self {
        RopeSpec { frequencies, scaling }
    }

    /// Radians per position for each pair of channels, `head_dim / 2` of them, of a sequence that may grow to `reserved`
    /// tokens. The kinds that are known so far are the same for all.
    pub fn frequencies(&self, _reserved: usize) -> &[f32] {
        &self.frequencies
    }

    /// Factor of the cosines and sines.
    pub fn scaling(&self) -> f32 {
        self.scaling
    }
}

/// Feed-forward of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardSpec {
    /// Channels inside.
    pub intermediate_size: usize,
    /// The nonlinearity.
    pub activation: Activation,
    /// Whether a gate multiplies it.
    pub gated: bool,
    /// Whether its matrices have biases.
    pub bias: bool,
    /// Present where a router chooses among several feed-forwards.
    pub experts: Option<ExpertSpec>,
}

/// Mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSpec {
    /// How many there are.
    pub count: usize,
    /// How many each token uses; their weights are the softmax over all, divided by the sum of the chosen.
    pub per_token: usize,
}

/// What is added to the output of attention and of the feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// The input of the norm before it (pre-norm, the usual).
    NormInput,
    /// The output of that norm (`apply_residual_connection_post_layernorm`).
    NormOutput,
}

/// How a family calls its tensors. A full name is `[prefix]part.weight` or `.bias`; the prefix may be absent in a file.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    /// What stands before all but the head: `transformer.`, `model.`.
    pub prefix: &'static str,
    /// The embedding.
    pub embedding: &'static str,
    /// The norm after the embedding, where there is one.
    pub embedding_norm: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// The head, which transformers writes without the prefix.
    pub head: &'static str,
    /// What stands before the number of a block: `h.`, `layers.`.
    pub block: &'static str,
    /// The norm before attention, inside its block.
    pub attention_norm: &'static str,
    /// The norm before the feed-forward, inside its block.
    pub feed_forward_norm: &'static str,
    /// A linear, inside its block; `None` where the family has no such site.
    pub site: fn(Site) -> Option<String>,
}

impl PartialEq for TensorNames {
    fn eq(&self, other: &Self) -> bool {
        (self.prefix, self.embedding, self.block) == (other.prefix, other.embedding, other.block)
    }
}

impl TensorNames {
    /// The name of a linear without prefix and without `.weight`: what PEFT calls it, too.
    pub fn linear(&self, linear: bouquet_span::LinearId) -> Option<String> {
        (self.site)(linear.site).map(|site| self.in_block(linear.block, &site))
    }

    /// A name without prefix as transformers writes it.
    pub fn full_name(&self, name: &str) -> String {
        let prefix = if name.starts_with(self.head) { "" } else { self.prefix };
        format!("{prefix}{name}")
    }

    /// The name of a part of a block, without prefix.
    pub fn in_block(&self, block: usize, part: &str) -> String {
        format!("{}{block}.{part}", self.block)
    }
}

impl BlockSpec {
    /// The linears of a block with their shapes `[outputs, inputs]` and whether each has a bias, in the order in which
    /// data passes them.
    pub fn linears(&self) -> Vec<LinearShape> {
        let AttentionSpec { heads, kv_heads, head_dim, qkv, qkv_bias, output_bias, .. } = self.attention;
        let hidden = self.hidden_size;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let shape = |site, outputs, inputs, bias| LinearShape { site, outputs, inputs, bias };
        let mut linears = match qkv {
            QkvLayout::Fused => vec![shape(Site::Qkv, queries + 2 * keys, hidden, qkv_bias)],
            QkvLayout::Separate => vec![
                shape(Site::Q, queries, hidden, qkv_bias),
                shape(Site::K, keys, hidden, qkv_bias),
                shape(Site::V, keys, hidden, qkv_bias),
            ],
        };
        linears.push(shape(Site::O, hidden, queries, output_bias));
        let FeedForwardSpec { intermediate_size, gated, bias, experts, .. } = self.feed_forward;
        let mut feed_forward = |gate, up, down| {
            if gated {
                linears.push(shape(gate, intermediate_size, hidden, bias));
            }
            linears.push(shape(up, intermediate_size, hidden, bias));
            linears.push(shape(down, hidden, intermediate_size, bias));
        };
        match experts {
            None => feed_forward(Site::Gate, Site::Up, Site::Down),
            Some(ExpertSpec { count, .. }) => {
                for expert in 0..count as u16 {
                    feed_forward(Site::ExpertGate(expert), Site::ExpertUp(expert), Site::ExpertDown(expert));
                }
                linears.push(shape(Site::Router, count, hidden, false));
            }
        }
        linears
    }

    /// The linear at a site; `None` where blocks have no such one.
    pub fn linear(&self, site: Site) -> Option<LinearShape> {
        self.linears().into_iter().find(|linear| linear.site == site)
    }
}

/// One linear of a block as the specification has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Which.
    pub site: Site,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}
