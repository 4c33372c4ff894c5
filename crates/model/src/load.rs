//! From named tensors to the parts of a model, by the names and shapes of its specification.

use std::ops::{AddAssign, Range};

use bouquet_kernels::{Cpu, Weight};
use bouquet_span::{LinearId, Rounding, Site};

use crate::block::Block;
use crate::block::attention::{Attention, HeadNorms, Qkv};
use crate::block::feed_forward::{Expert, FeedForward};
use crate::checkpoint::{TensorSource, load_vector, load_weight};
use crate::encoding::Encoding;
use crate::ends::{Embedding, LmHead, PositionTable};
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{ModelSpec, NormKind, NormSpec, Positions, QkvLayout};
use crate::{ModelError, Result};

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    /// A linear of one of several feed-forwards.
    Expert,
    Router,
    /// Embedding or head.
    Vocabulary,
    /// Learned positions.
    Positions,
}

/// Reads the parts of one model.
pub struct Loader<'a> {
    /// Where the tensors are.
    pub source: &'a dyn TensorSource,
    /// What they should be.
    pub spec: &'a ModelSpec,
    /// What linears, embedding and head are computed in, and what encodes them; `None` takes them as they are stored, to
    /// be decoded.
    pub encoding: Option<(&'a Cpu, Encoding)>,
}

/// Bytes that weights take once they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// Of codes that are made of what is stored: they have to fit into memory.
    pub made: u64,
    /// Of what is computed as it is stored: it stays in its files, whose pages the system takes back when it has to.
    pub mapped: u64,
}

impl WeightBytes {
    /// Of a weight as it is stored, loaded in an encoding.
    fn of(weight: &Weight, encoding: Encoding) -> Self {
        let made = match (weight, encoding) {
            (Weight::Float(_), Encoding::Stored) => Encoding::Int8.bytes(weight.rows(), weight.cols()),
            (Weight::Float(_) | Weight::Blocks(..), encoding) => encoding.bytes(weight.rows(), weight.cols()),
            _ => None,
        };
        match made {
            Some(made) => WeightBytes { made, mapped: 0 },
            None => WeightBytes { made: 0, mapped: weight.bytes() as u64 },
        }
    }

    /// Both.
    pub fn total(self) -> u64 {
        self.made.saturating_add(self.mapped)
    }
}

impl AddAssign for WeightBytes {
    fn add_assign(&mut self, more: Self) {
        self.made = self.made.saturating_add(more.made);
        self.mapped = self.mapped.saturating_add(more.mapped);
    }
}

impl Loader<'_> {
    /// Whether every tensor of the model is there, with the shape and the type that it should have. Reads biases and
    /// norms, and no weights.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn check(&self) -> Result<()> {
        self.head(&self.embedding()?)?;
        (0..self.spec.num_blocks).try_for_each(|index| self.block(index).map(drop))
    }

    /// What the ends take in an encoding, by their shapes.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn bytes_of_ends(&self, encoding: Encoding) -> Result<WeightBytes> {
        let embedding = self.embedding()?;
        let head = self.head(&embedding)?;
        let mut bytes = WeightBytes::of(&embedding.weight, encoding.of_vocabulary());
        if !self.tied_head()? {
            bytes += WeightBytes::of(&head.weight, encoding.of_vocabulary());
        }
        let projections = [&embedding.projection, &head.projection];
        projections.into_iter().flatten().for_each(|weight| bytes += WeightBytes::of(weight, encoding));
        Ok(bytes)
    }

    /// What the linears of a block take in an encoding, by their shapes.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn bytes_of_block(&self, index: usize, encoding: Encoding) -> Result<WeightBytes> {
        Ok(self.block(index)?.weights().fold(WeightBytes::default(), |mut sum, weight| {
            sum += WeightBytes::of(weight, encoding);
            sum
        }))
    }

    /// Blocks in a row.
    ///
    /// # Errors
    /// [`ModelError::NoSuchBlock`]; a tensor that is missing, or of another shape or type, by its name.
    pub fn blocks(&self, range: Range<usize>) -> Result<Vec<Block>> {
        range.map(|index| self.block(index)).collect()
    }

    /// The input end.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn embedding(&self) -> Result<Embedding> {
        let names = &self.spec.names;
        let norm = if self.spec.embedding_norm { Some(self.norm(names.embedding_norm)?) } else { None };
        let hidden_size = self.spec.block.hidden_size;
        let positions = match (self.spec.position_rows(), &self.spec.block.attention.positions) {
            (Some(rows), &Positions::Learned { offset }) => {
                let weight = self.weight(names.positions, Kind::Positions, rows, hidden_size)?;
                Some(PositionTable { weight, offset })
            }
            _ => None,
        };
        let projection = self.projection(names.project_in, hidden_size, self.spec.embedding_size)?;
        let weight = self.vocabulary(names.embedding)?;
        Ok(Embedding { weight, projection, positions, norm, rounding: Rounding::None })
    }

    /// The output end; a tied head shares the bytes of the embedding, unless the files have a head of their own.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks).
    pub fn head(&self, embedding: &Embedding) -> Result<LmHead> {
        let names = &self.spec.names;
        let weight = if self.tied_head()? { embedding.weight.clone() } else { self.vocabulary(names.head)? };
        let norm = if self.spec.final_norm { Some(self.norm(names.final_norm)?) } else { None };
        let projection = self.projection(names.project_out, self.spec.embedding_size, self.spec.block.hidden_size)?;
        Ok(LmHead { norm, projection, weight })
    }

    /// The matrix between the width of the embedding and that of hidden states, where these are not the same.
    fn projection(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        self.spec.projects().then(|| self.weight(name, Kind::Linear, rows, cols)).transpose()
    }

    /// Whether the head is the embedding: the configuration says so and the files have no head. One that they have is
    /// the better witness, as in transformers 5; where it equals the embedding, so do the results.
    ///
    /// # Errors
    /// Those of the source.
    pub fn tied_head(&self) -> Result<bool> {
        Ok(self.spec.tied_head && self.source.tensor(&format!("{}.weight", self.spec.names.head))?.is_none())
    }

    fn block(&self, index: usize) -> Result<Block> {
        let (spec, names) = (self.spec.block(index)?, &self.spec.names);
        let qkv = match spec.attention.qkv {
            QkvLayout::Fused => Qkv::Fused(self.linear(index, Site::Qkv)?),
            QkvLayout::Separate => Qkv::Separate {
                q: self.linear(index, Site::Q)?,
                k: self.linear(index, Site::K)?,
                v: self.linear(index, Site::V)?,
            },
        };
        let feed_forward = match spec.feed_forward.experts {
            None => FeedForward::Dense(self.expert(index, Site::Gate, Site::Up, Site::Down)?),
            Some(experts) => FeedForward::Experts {
                router: self.linear(index, Site::Router)?,
                experts: (0..experts.count as u16)
                    .map(|e| self.expert(index, Site::ExpertGate(e), Site::ExpertUp(e), Site::ExpertDown(e)))
                    .collect::<Result<_>>()?,
                per_token: experts.per_token,
            },
        };
        let window = self.spec.window(index);
        let head_norms = if spec.attention.query_key_norm {
            let norm = |name| self.norm_of(&names.in_block(index, name), spec.attention.head_dim, NormKind::RmsNorm);
            Some(HeadNorms { query: norm(names.query_norm)?, key: norm(names.key_norm)? })
        } else {
            None
        };
        Ok(Block {
            index,
            wiring: spec.wiring,
            attention_norm: self.norm(&names.in_block(index, names.attention_norm))?,
            attention: Attention::new(&spec.attention, window, qkv, head_norms, self.linear(index, Site::O)?),
            feed_forward_norm: self.norm(&names.in_block(index, names.feed_forward_norm))?,
            feed_forward,
        })
    }

    fn expert(&self, block: usize, gate: Site, up: Site, down: Site) -> Result<Expert> {
        let spec = &self.spec.block.feed_forward;
        Ok(Expert {
            activation: spec.activation,
            gate: if spec.gated { Some(self.linear(block, gate)?) } else { None },
            up: self.linear(block, up)?,
            down: self.linear(block, down)?,
        })
    }

    fn linear(&self, block: usize, site: Site) -> Result<Linear> {
        let id = LinearId::new(block, site);
        let (Some(shape), Some(name)) = (self.spec.block.linear(site), self.spec.names.linear(id)) else {
            unreachable!("the family names every linear of its specification, but not {id}")
        };
        let kind = match site {
            Site::Router => Kind::Router,
            Site::ExpertGate(_) | Site::ExpertUp(_) | Site::ExpertDown(_) => Kind::Expert,
            _ => Kind::Linear,
        };
        let weight = self.weight(&name, kind, shape.outputs, shape.inputs)?;
        let bias = if shape.bias { Some(self.vector(&format!("{name}.bias"), shape.outputs)?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        self.norm_of(name, self.spec.block.hidden_size, self.spec.block.norm.kind)
    }

    fn norm_of(&self, name: &str, size: usize, kind: NormKind) -> Result<Norm> {
        let spec = NormSpec { kind, ..self.spec.block.norm };
        if !spec.learned {
            return Ok(Norm { spec, weight: vec![1.0; size], bias: vec![0.0; size] });
        }
        let weight = self.vector(&format!("{name}.weight"), size)?;
        let bias = match kind {
            NormKind::LayerNorm => self.vector(&format!("{name}.bias"), size)?,
            NormKind::RmsNorm => vec![0.0; size],
        };
        Ok(Norm { spec, weight, bias })
    }

    fn vocabulary(&self, name: &str) -> Result<Weight> {
        self.weight(name, Kind::Vocabulary, self.spec.vocab_size, self.spec.embedding_size)
    }

    /// The weight of a module, which is stored as the specification says, computed as is asked.
    fn weight(&self, module: &str, kind: Kind, rows: usize, cols: usize) -> Result<Weight> {
        let name = format!("{module}.weight");
        let (name, weight) = load_weight(self.source, &self.spec.names, &name, rows, cols)?;
        self.check_stored(module, &name, kind, Encoding::of(&weight))?;
        match self.encoding {
            // A router is small, and decides much; positions are looked up: they stay as they are stored.
            Some((cpu, encoding)) if !matches!(kind, Kind::Router | Kind::Positions) => {
                let encoding = if kind == Kind::Vocabulary { encoding.of_vocabulary() } else { encoding };
                encoding.encode(cpu, &name, weight, &|data| self.source.release(data))
            }
            _ => Ok(weight),
        }
    }

    /// Whether a weight, whose name in the file is `name`, is stored as the configuration says.
    fn check_stored(&self, module: &str, name: &str, kind: Kind, found: Encoding) -> Result<()> {
        let stored = &self.spec.stored;
        let said = match kind {
            Kind::Vocabulary => stored.embedding,
            Kind::Positions => Encoding::F32,
            Kind::Linear | Kind::Expert | Kind::Router => stored.linears,
        };
        let full_name = format!("{}{module}", self.spec.names.prefix);
        // transformers holds the experts of a block in one tensor, which bitsandbytes passes over.
        let passed_over = matches!(kind, Kind::Router | Kind::Expert);
        let may_be_floats = passed_over || stored.skips(module) || stored.skips(&full_name);
        if found == said || found == Encoding::F32 && may_be_floats {
            return Ok(());
        }
        let called = |encoding: Encoding| if encoding == Encoding::F32 { "floats" } else { encoding.name() };
        let problem = format!("is stored in {}, but by config.json it should be in {}", called(found), called(said));
        Err(ModelError::Tensor { name: name.to_owned(), problem })
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        load_vector(self.source, &self.spec.names, name, length)
    }
}
