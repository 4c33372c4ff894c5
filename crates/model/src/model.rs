//! A model opened from a folder: the parts along the data path, put together; [`Network`] without those for texts.

use std::ops::{Deref, Range};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::{Cpu, Weight};
use bouquet_span::{Rounded, Rounding, Span, SpanError};

use crate::checkpoint::{Checkpoint, TensorSource};
use crate::encoding::Encoding;
use crate::ends::{Embedding, Ends, LOGIT_BYTES, LmHead};
use crate::families;
use crate::form::Form;
use crate::generation_config::GenerationConfig;
use crate::load::{Loader, WeightBytes};
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
    /// The weights of the linears in order, where blocks run in this process, for those who count what a token costs. Each
    /// shares its bytes with its block.
    pub linears: Vec<Weight>,
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
    /// What hidden states are rounded to before the first block and behind each: what a swarm's wire carries.
    pub rounding: Rounding,
}

/// Memory that is left alone: for the logits of some tokens, and all that is too small to be counted.
const SPARE_BYTES: u64 = LOGIT_BYTES as u64;

/// Bytes that a tokenizer takes for each of its file: 22 were measured, while it is parsed, with 250 000 tokens.
const TOKENIZER_BYTES_PER_BYTE: u64 = 32;

impl OpenOptions {
    /// With keys and values in single precision and nothing rounded, in so much memory whatever is free.
    pub fn new(cpu: impl Into<Arc<Cpu>>, memory_bytes: u64, encoding: Encoding) -> Self {
        let cache_encoding = CacheEncoding::F32;
        let rounding = Rounding::None;
        OpenOptions { cpu: cpu.into(), memory_bytes, memory_left: || None, encoding, cache_encoding, rounding }
    }

    /// Whether a part of a model can be opened in the memory that is free: its ends, some blocks, and what comes `besides`.
    /// What is computed as it is stored stays in its files, so codes that are made of floats count.
    pub(crate) fn check_memory(
        &self,
        source: &Checkpoint,
        spec: &ModelSpec,
        ends: bool,
        blocks: Range<usize>,
        besides: u64,
    ) -> Result<()> {
        let Some(available) = (self.memory_left)() else { return Ok(()) };
        let loader = Loader { source, spec, encoding: None };
        let mut weights = if ends { loader.bytes_of_ends(self.encoding)? } else { WeightBytes::default() };
        for block in blocks {
            weights += loader.bytes_of_block(block, self.encoding)?;
        }
        let needed = weights.made.saturating_add(besides).saturating_add(SPARE_BYTES);
        if needed <= available {
            return Ok(());
        }
        Err(ModelError::TooLarge { folder: source.location().to_owned(), encoding: self.encoding, needed, available })
    }

    /// What is left for caches and passes, now that weights are loaded.
    pub(crate) fn budget(&self) -> u64 {
        (self.memory_left)().map_or(self.memory_bytes, |left| left.saturating_sub(SPARE_BYTES))
    }
}

impl Model {
    /// Opens a Hugging Face folder. Weights that are computed as they are stored stay in their files, mapped into memory.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; [`ModelError::TooLarge`].
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<Model> {
        Model::open_with(folder, options, true, |checkpoint, spec| Network::from_source(checkpoint, spec, options))
    }

    /// Opens all of a folder but its blocks, which run where `span` says: see [`Network::over`].
    ///
    /// # Errors
    /// As [`open`](Self::open), of the ends alone.
    pub fn over(
        folder: &Path,
        options: &OpenOptions,
        span: impl Fn(Range<usize>) -> Arc<dyn Span> + Send,
    ) -> Result<Model> {
        Model::open_with(folder, options, false, |checkpoint, spec| {
            Network::over(Ends::from_source(checkpoint, spec, options)?, span)
        })
    }

    fn open_with(
        folder: &Path,
        options: &OpenOptions,
        with_blocks: bool,
        network: impl FnOnce(&Checkpoint, ModelSpec) -> Result<Network>,
    ) -> Result<Model> {
        // Small files first: what is wrong with them is said at once.
        let form = Form::open(folder)?;
        let spec = families::spec_of(&form)?;
        let generation_config = GenerationConfig::load(folder)?;
        let unparsed = Unparsed::read(&form)?;
        let checkpoint = Checkpoint::of(form)?;
        let blocks = if with_blocks { 0..spec.num_blocks } else { 0..0 };
        options.check_memory(&checkpoint, &spec, true, blocks, TOKENIZER_BYTES_PER_BYTE * unparsed.bytes())?;
        let vocab_size = spec.vocab_size;
        let parse = || unparsed.parse(vocab_size);
        // A vocabulary of 250 000 tokens takes half a second, as the weights of a small model do.
        let (tokenizer, network) = thread::scope(|scope| {
            let parsing = thread::Builder::new().name("tokenizer".to_owned()).spawn_scoped(scope, parse);
            let network = network(&checkpoint, spec);
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
        options.check_memory(&checkpoint, &spec, true, 0..spec.num_blocks, 0)?;
        Network::from_source(&checkpoint, spec, options)
    }

    /// Puts the network of a specification together from tensors, wherever they are.
    ///
    /// # Errors
    /// A tensor that is missing, damaged, or of another shape or type, by its name; codes of another encoding than the one
    /// that is asked for.
    pub fn from_source(source: &dyn TensorSource, spec: ModelSpec, options: &OpenOptions) -> Result<Network> {
        let ends = Ends::from_source(source, spec, options)?;
        let blocks = LocalSpan::from_source(source, &ends.spec, 0..ends.spec.num_blocks, options)?;
        let linears = blocks.linears().cloned().collect();
        Ok(Network { linears, ..Network::over(ends, |range| Arc::new(blocks.slice(range)))? })
    }

    /// The weights that tokens are multiplied with: of the linears, and of the head.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.linears.iter().chain([&self.head.weight])
    }

    /// Ends, and blocks that run where `span` says. It is asked for all blocks, and for each alone; where the ends round,
    /// so does what it returns.
    ///
    /// # Errors
    /// [`SpanError`] for blocks that are not those, or of another width.
    pub fn over(ends: Ends, span: impl Fn(Range<usize>) -> Arc<dyn Span>) -> Result<Network> {
        let Ends { spec, cpu, embedding, head } = ends;
        let checked = |range: Range<usize>| -> Result<Arc<dyn Span>> {
            let span = span(range.clone());
            if span.range() != range {
                let problem = format!("blocks {range:?} were asked for, and the span has {:?}", span.range());
                return Err(SpanError::Failed(problem).into());
            }
            let (expected, found) = (spec.block.hidden_size, span.hidden_size());
            if expected != found {
                return Err(SpanError::Shape { what: "hidden_size", expected, found }.into());
            }
            Ok(match embedding.rounding {
                Rounding::None => span,
                rounding => Arc::new(Rounded::new(span, rounding)),
            })
        };
        let blocks = checked(0..spec.num_blocks)?;
        let each_block = (0..spec.num_blocks).map(|block| checked(block..block + 1)).collect::<Result<_>>()?;
        Ok(Network { spec, cpu, embedding, blocks, each_block, head, linears: Vec::new() })
    }
}
