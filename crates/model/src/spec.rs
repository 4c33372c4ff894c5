//! An architecture as data. A family fills this in from `config.json`; the one decoder block reads it. A new family is
//! a page in [`families`](crate::families) and at most another variant here.

use std::borrow::Cow;
use std::ops::Range;

use bouquet_kernels::math::pow;
use bouquet_kernels::ops::activation::Activation;
use bouquet_kernels::ops::alibi::AlibiKind;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::ops::rope;
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
    /// Blocks, ascending, that see all keys even though [`AttentionSpec::window`] gives the others a window.
    pub full_attention: Vec<usize>,
    /// Columns of the embedding and of the head. Where it is not the hidden size, a matrix leads in and another out (OPT).
    pub embedding_size: usize,
    /// Whether the embedding's output is normalized (BLOOM).
    pub embedding_norm: bool,
    /// Whether the last block's output is normalized. It is not where blocks end in a norm.
    pub final_norm: bool,
    /// Whether the head shares the embedding's weight.
    pub tied_head: bool,
    /// The longest sequence the positions are made for; `None` where the architecture sets no limit (ALiBi). Learned
    /// positions are a table, which ends there.
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
    /// How norms, attention, the feed-forward and the sums hang together.
    pub wiring: Wiring,
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

    /// Whether the model has these blocks, and at least one is asked for.
    ///
    /// # Errors
    /// [`ModelError::NoSuchBlock`] for one that it has not, [`ModelError::NoBlocks`].
    pub fn check_blocks(&self, range: &Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Err(ModelError::NoBlocks { range: range.clone() });
        }
        self.block(range.end - 1).map(drop)
    }

    /// Whether a matrix leads from the embedding to the hidden size, and another back to the head.
    pub fn projects(&self) -> bool {
        self.embedding_size != self.block.hidden_size
    }

    /// Rows of the table of learned positions, where there is one.
    pub fn position_rows(&self) -> Option<usize> {
        match self.block.attention.positions {
            Positions::Learned { offset } => Some(self.max_positions.unwrap_or(0) + offset),
            _ => None,
        }
    }

    /// What a block's queries see: as the specification of all blocks says, or everything.
    pub fn window(&self, block: usize) -> Option<usize> {
        self.block.attention.window.filter(|_| !self.full_attention.contains(&block))
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
    /// Whether weights and biases were learned; without, they are ones and zeros and in no file.
    pub learned: bool,
}

impl NormSpec {
    /// A norm that was learned.
    pub fn new(kind: NormKind, epsilon: f64) -> Self {
        NormSpec { kind, epsilon: epsilon as f32, learned: true }
    }

    /// Vectors that it has learned: a weight, and a bias where the kind has one.
    pub fn vectors(&self) -> u64 {
        match (self.learned, self.kind) {
            (false, _) => 0,
            (true, NormKind::RmsNorm) => 1,
            (true, NormKind::LayerNorm) => 2,
        }
    }
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
    /// Whether each head of the queries and of the keys is normalized, by a root-mean-square norm over its channels, before
    /// it is rotated (Qwen3).
    pub query_key_norm: bool,
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
    Alibi(AlibiKind),
    /// Rotation of queries and keys.
    Rope(RopeSpec),
    /// A row of a table for each position, added to the embedding; that of position `p` is row `p + offset`.
    Learned {
        /// Rows before that of position 0.
        offset: usize,
    },
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// What the frequencies are made of.
    pub settings: RopeSettings,
    frequencies: Vec<f32>,
    scaling: f32,
    dynamic: Option<DynamicRope>,
    carried: usize,
}

/// What the frequencies of rotary positions are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSettings {
    /// The base.
    pub theta: f64,
    /// What carries them beyond the trained length.
    pub scaling: RopeScaling,
}

/// What carries rotary positions beyond the trained length; the formulas are told in
/// [`families`](crate::families).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// All frequencies are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Frequencies that fall with the length.
    Dynamic(DynamicRope),
    /// Low frequencies are divided by a factor.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Frequencies that turn less often over the trained length are low.
        low_freq_factor: f64,
        /// Frequencies that turn more often over the trained length are high.
        high_freq_factor: f64,
        /// The trained length.
        trained_tokens: usize,
    },
    /// YaRN.
    Yarn {
        /// What low frequencies are divided by.
        factor: f64,
        /// The trained length.
        trained_tokens: usize,
        /// Channels that turn more often over the trained length keep their frequency.
        beta_fast: f64,
        /// Those that turn less often are divided.
        beta_slow: f64,
        /// Whether the two borders are rounded to whole channels.
        truncate: bool,
    },
    /// Each frequency is divided by a number of its own, which a GGUF file brings.
    Divided,
}

/// Frequencies that fall with the length of the sequence once that exceeds the trained one ("NTK-aware" scaling).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicRope {
    /// The base for sequences up to the trained length.
    pub theta: f64,
    /// How fast the base grows.
    pub factor: f64,
    /// The trained length.
    pub trained_tokens: usize,
}

impl RopeSpec {
    /// The same frequencies for all lengths, and a factor of the cosines and sines (1 where a kind has none).
    pub fn new(settings: RopeSettings, frequencies: Vec<f32>, scaling: f32) -> Self {
        RopeSpec { settings, frequencies, scaling, dynamic: None, carried: 0 }
    }

    /// Frequencies that depend on the length, for heads whose first `rotary` channels turn.
    pub fn dynamic(rotary: usize, dynamic: DynamicRope) -> Self {
        let settings = RopeSettings { theta: dynamic.theta, scaling: RopeScaling::Dynamic(dynamic) };
        let frequencies = rope::frequencies(rotary, dynamic.theta);
        RopeSpec { dynamic: Some(dynamic), ..RopeSpec::new(settings, frequencies, 1.0) }
    }

    /// The same, meant to carry a model to `tokens`.
    pub fn carried_to(self, tokens: usize) -> Self {
        RopeSpec { carried: tokens, ..self }
    }

    /// Radians per position for each pair of channels, `head_dim / 2` of them, of a sequence that may grow to `reserved`
    /// tokens.
    pub fn frequencies(&self, reserved: usize) -> Cow<'_, [f32]> {
        match self.dynamic {
            Some(dynamic) if reserved > dynamic.trained_tokens => {
                Cow::Owned(dynamic.frequencies(2 * self.frequencies.len(), reserved))
            }
            _ => Cow::Borrowed(&self.frequencies),
        }
    }

    /// The longest sequence that a model is good for whose configuration says `max_positions`: positions are scaled to carry
    /// it further.
    pub fn longest(&self, max_positions: usize) -> usize {
        self.carried.max(max_positions)
    }

    /// Factor of the cosines and sines.
    pub fn scaling(&self) -> f32 {
        self.scaling
    }
}

impl DynamicRope {
    /// With `g = factor · reserved / trained − (factor − 1)` the base is `theta · g^(rotary / (rotary − 2))`, rounded
    /// where transformers rounds it.
    fn frequencies(&self, rotary: usize, reserved: usize) -> Vec<f32> {
        let stretch = (self.factor * reserved as f64) as f32 / self.trained_tokens as f32 - (self.factor - 1.0) as f32;
        let exponent = rotary as f64 / (rotary as f64 - 2.0);
        let growth = pow(f64::from(stretch), f64::from(exponent as f32)) as f32;
        rope::frequencies(rotary, f64::from(self.theta as f32 * growth))
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

/// How norms, attention, the feed-forward and the sums of a block hang together; drawn in [`block`](crate::block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Norms before attention and before the feed-forward; what came into the norm is added to what comes out behind it
    /// (the usual).
    PreNorm,
    /// The same, but what came out of the norm is added (BLOOM's `apply_residual_connection_post_layernorm`).
    NormedResidual,
    /// Norms behind the sums (OPT's `do_layer_norm_before` = false).
    PostNorm,
    /// Attention and feed-forward side by side, each behind its norm of the block's input (Falcon's `parallel_attn`). The two
    /// are the same norm where their names are.
    Parallel,
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
    /// The table of learned positions, where there is one.
    pub positions: &'static str,
    /// The matrix from the embedding to the hidden size, where there is one.
    pub project_in: &'static str,
    /// The matrix from the hidden size to the head, where there is one.
    pub project_out: &'static str,
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
    /// The norm of each head's queries, inside its block, where there is one.
    pub query_norm: &'static str,
    /// The norm of each head's keys, inside its block, where there is one.
    pub key_norm: &'static str,
    /// A linear, inside its block; `None` where the family has no such site.
    pub site: fn(Site) -> Option<String>,
}

impl TensorNames {
    /// No names: what families leave out.
    pub const NONE: TensorNames = TensorNames {
        prefix: "",
        embedding: "",
        embedding_norm: "",
        positions: "",
        project_in: "",
        project_out: "",
        final_norm: "",
        head: "lm_head",
        block: "",
        attention_norm: "",
        feed_forward_norm: "",
        query_norm: "",
        key_norm: "",
        site: |_| None,
    };
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
