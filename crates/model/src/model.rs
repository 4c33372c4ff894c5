//! A model opened from a folder: the parts along the data path, put together; [`Network`] without those for texts.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::{Cpu, Weight};
use bouquet_span::Span;

use crate::block::Block;
use crate::checkpoint::{Checkpoint, TensorSource};
use crate::encoding::Encoding;
use crate::ends::{Embedding, LOGIT_BYTES, LmHead};
use crate::families;
use crate::form::Form;
use crate::generation_config::GenerationConfig;
use crate::load::Loader;
use crate::local::LocalSpan;
use crate::tokenizer::{Tokenizer, Unparsed};
use crate::{ModelError, ModelSpec, Result};

/// Everything between a text and its logits: a [`Network`], and what texts need besides.
pub struct Model {
    /// Where it was opened.
    pub folder: PathBuf,
    /// Ids to logits.
    pub network: Network,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Sampling defaults.
    pub generation_config: GenerationConfig,
}

/// From ids to logits: what of a model needs no tokenizer.
pub struct Network {
    /// Its architecture.
    pub spec: ModelSpec,
    /// Instruction set and threads that it computes with.
    pub cpu: Arc<Cpu>,
    /// Ids to hidden states.
    pub embedding: Embedding,
    /// All blocks, wherever they run.
    pub blocks: Arc<dyn Span>,
    /// Each block alone, for the hidden states between them.
    pub each_block: Vec<Arc<dyn Span>>,
    /// Hidden states to logits.
    pub head: LmHead,
    /// The weights that tokens are multiplied with, for those who count what a token costs: of all linears in order, and
    /// of the head. Each shares its bytes with the part that it belongs to.
    pub weights: Vec<Weight>,
}

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Instruction set and threads.
    pub cpu: Arc<Cpu>,
    /// What sessions cache, and passes work in and keep, may take in all, where `memory_left` does not say.
    pub memory_bytes: u64,
    /// Says how many bytes of memory are free, where that is known. It is asked twice: before weights are loaded, which have
    /// to fit, and afterwards, for what they have left to compute with.
    pub memory_left: fn() -> Option<u64>,
    /// What weights are computed in.
    pub encoding: Encoding,
    /// How sessions keep keys and values.
    pub cache_encoding: CacheEncoding,
}

/// Memory that is left alone: for the logits of some tokens, and all that is too small to be counted.
const SPARE_BYTES: u64 = LOGIT_BYTES as u64;

/// Bytes that a tokenizer takes for each of its file: 22 were measured, while it is parsed, with 250 000 tokens.
const TOKENIZER_BYTES_PER_BYTE: u64 = 32;

impl OpenOptions {
    /// With keys and values in single precision, in so much memory whatever is free.
    pub fn new(cpu: impl Into<Arc<Cpu>>, memory_bytes: u64, encoding: Encoding) -> Self {
        let cache_encoding = CacheEncoding::F32;
        OpenOptions { cpu: cpu.into(), memory_bytes, memory_left: || None, encoding, cache_encoding }
    }

    /// Whether a folder can be opened in the memory that is free. What is computed as it is stored stays in its files, whose
    /// pages the system takes back when it has to, so codes that are made of floats count, and what comes `besides`.
    fn check_memory(&self, source: &Checkpoint, spec: &ModelSpec, besides: u64) -> Result<()> {
        let Some(available) = (self.memory_left)() else { return Ok(()) };
        let codes = Loader { source, spec, encoding: None }.bytes_of_codes(self.encoding)?;
        let needed = codes.saturating_add(besides).saturating_add(SPARE_BYTES);
        if needed <= available {
            return Ok(());
        }
        Err(ModelError::TooLarge { folder: source.location().to_owned(), encoding: self.encoding, needed, available })
    }

    /// What is left for caches and passes, now that weights are loaded.
    fn budget(&self) -> u64 {
        (self.memory_left)().map_or(self.memory_bytes, |left| left.saturating_sub(SPARE_BYTES))
    }
}

impl Model {
    /// Opens a Hugging Face folder. Weights that are computed as they are stored stay in their files, mapped into memory.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; [`ModelError::TooLarge`].
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<Model> {
        // Small files first: what is wrong with them is said at once.
        let form = Form::open(folder)?;
        let spec = families::spec_of(&form)?;
        let generation_config = GenerationConfig::load(folder)?;
        let unparsed = Unparsed::read(&form)?;
        let checkpoint = Checkpoint::of(form)?;
        options.check_memory(&checkpoint, &spec, TOKENIZER_BYTES_PER_BYTE * unparsed.bytes())?;
        let vocab_size = spec.vocab_size;
        let parse = || unparsed.parse(vocab_size);
        // A vocabulary of 250 000 tokens takes half a second, as the weights of a small model do.
        let (tokenizer, network) = thread::scope(|scope| {
            let parsing = thread::Builder::new().name("tokenizer".to_owned()).spawn_scoped(scope, parse);
            let network = Network::from_source(&checkpoint, spec, options);
            let tokenizer = match parsing {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => parse(),
            };
            (tokenizer, network)
        });
        let (tokenizer, network) = (tokenizer?, network?);
        Ok(Model { folder: folder.to_owned(), network, tokenizer, generation_config })
    }
}

impl Deref for Model {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Network {
    /// Opens a Hugging Face folder, as [`Model::open`] does.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name.
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<Network> {
        let form = Form::open(folder)?;
        let spec = families::spec_of(&form)?;
        let checkpoint = Checkpoint::of(form)?;
        options.check_memory(&checkpoint, &spec, 0)?;
        Network::from_source(&checkpoint, spec, options)
    }

    /// Puts the network of a specification together from tensors, wherever they are.
    ///
    /// # Errors
    /// A tensor that is missing, damaged, or of another shape or type, by its name; codes of another encoding than the one
    /// that is asked for.
    pub fn from_source(source: &dyn TensorSource, spec: ModelSpec, options: &OpenOptions) -> Result<Network> {
        let OpenOptions { cpu, encoding, cache_encoding, .. } = options.clone();
        spec.stored.check(encoding)?;
        let loader = Loader { source, spec: &spec, encoding: Some((&cpu, encoding)) };
        let embedding = loader.embedding()?;
        let head = loader.head(&embedding)?;
        let blocks = loader.blocks(0..spec.num_blocks)?;
        let weights = blocks.iter().flat_map(Block::weights).chain([&head.weight]).cloned().collect();
        let blocks = LocalSpan::new(cpu.clone(), spec.block.clone(), blocks, options.budget());
        let blocks = blocks.with_cache_encoding(cache_encoding);
        let each_block = (0..spec.num_blocks).map(|block| Arc::new(blocks.slice(block..block + 1)) as Arc<dyn Span>);
        let each_block = each_block.collect();
        Ok(Network { spec, cpu, embedding, each_block, blocks: Arc::new(blocks), head, weights })
    }
}
