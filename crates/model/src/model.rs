//! A model opened from a folder: the parts along the data path, put together; [`Network`] without those for texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_span::Span;

use crate::checkpoint::Checkpoint;
use crate::ends::{Embedding, LmHead};
use crate::families;
use crate::generation_config::GenerationConfig;
use crate::load::Loader;
use crate::local::LocalSpan;
use crate::tokenizer::Tokenizer;
use crate::{ModelSpec, Result};

/// Everything between a text and its logits.
pub struct Model {
    /// Where it was opened.
    pub folder: PathBuf,
    /// Its architecture.
    pub spec: ModelSpec,
    /// Instruction set and threads that it computes with.
    pub cpu: Arc<Cpu>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Sampling defaults.
    pub generation_config: GenerationConfig,
    /// Ids to hidden states.
    pub embedding: Embedding,
    /// All blocks, wherever they run.
    pub blocks: Arc<dyn Span>,
    /// Each block alone, for the hidden states between them.
    pub each_block: Vec<Arc<dyn Span>>,
    /// Hidden states to logits.
    pub head: LmHead,
}

/// From ids to logits: what of a model needs no tokenizer.
pub struct Network {
    /// Its architecture.
    pub spec: ModelSpec,
    /// Instruction set and threads that it computes with.
    pub cpu: Arc<Cpu>,
    /// Ids to hidden states.
    pub embedding: Embedding,
    /// All blocks.
    pub blocks: Arc<dyn Span>,
    /// Each block alone.
    pub each_block: Vec<Arc<dyn Span>>,
    /// Hidden states to logits.
    pub head: LmHead,
}

impl Model {
    /// Opens a Hugging Face folder. Weights stay in their files, mapped into memory; what sessions cache, and passes work
    /// in and keep, may take `memory_bytes` in all.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name.
    pub fn open(folder: &Path, cpu: Arc<Cpu>, memory_bytes: u64) -> Result<Model> {
        let Network { spec, cpu, embedding, blocks, each_block, head } = Network::open(folder, cpu, memory_bytes)?;
        let tokenizer = Tokenizer::load(folder, spec.vocab_size)?;
        let generation_config = GenerationConfig::load(folder)?;
        let folder = folder.to_owned();
        Ok(Model { folder, spec, cpu, tokenizer, generation_config, embedding, blocks, each_block, head })
    }
}

impl Network {
    /// Opens a Hugging Face folder, as [`Model::open`] does.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name.
    pub fn open(folder: &Path, cpu: Arc<Cpu>, memory_bytes: u64) -> Result<Network> {
        let spec = families::load_spec(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let loader = Loader { source: &checkpoint, spec: &spec };
        let (embedding, head) = (loader.embedding()?, loader.head()?);
        let blocks = LocalSpan::new(cpu.clone(), spec.block.clone(), loader.blocks(0..spec.num_blocks)?, memory_bytes);
        let each_block = (0..spec.num_blocks).map(|block| Arc::new(blocks.slice(block..block + 1)) as Arc<dyn Span>);
        let each_block = each_block.collect();
        Ok(Network { spec, cpu, embedding, each_block, blocks: Arc::new(blocks), head })
    }
}
