//! Opening a model for a command: the folder, the threads, and the memory that its sessions may take.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families::load_spec;
use bouquet_model::inspect::Inspection;
use bouquet_model::{Encoding, Model, ModelSpec, Network, OpenOptions, is_gguf};
use bouquet_span::Rounding;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::errors::{asked_wrongly, wrong};
use crate::swarm::{self, Connected};
use crate::{output, system};

/// A model, and how long it took to open.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

/// Memory that caches and passes may take where nobody can say how much there is: what a machine of 8 GiB can spare.
const MEMORY_BYTES_IF_UNKNOWN: u64 = 4 << 30;

/// The names of encodings, for a flag.
pub(crate) fn encoding_names() -> impl TypedValueParser<Value = Encoding> {
    let names = PossibleValuesParser::new(Encoding::ALL.map(Encoding::name));
    names.map(|name| name.parse().expect("the name of an encoding"))
}

/// How keys and values are kept: a flag of commands that generate.
#[derive(clap::Args)]
pub(crate) struct CacheArgs {
    /// How keys and values of a sequence are kept; f16 takes half the memory, and results differ a little
    #[arg(long, default_value = CacheEncoding::F32.name(), value_parser = cache_names())]
    pub(crate) kv_cache: CacheEncoding,
}

/// How hidden states are rounded between blocks: a flag of commands that compute with a model.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct WireArgs {
    /// Round hidden states before the first block and behind each, as a swarm with such a wire does: the same bits [default:
    /// f32, not at all; of an invite what its swarm does]
    #[arg(long, value_parser = wire_names())]
    pub(crate) wire: Option<Rounding>,
}

impl WireArgs {
    /// What was asked for, for the model of a folder.
    ///
    /// # Errors
    /// Another than that of the swarm whose model it is.
    pub(crate) fn of(self, folder: &Path) -> Result<Rounding> {
        or_of_swarm(
            self.wire,
            folder,
            |swarm| Ok(swarm.invite.wire.rounding()),
            ("--wire", "has the wire", Rounding::name),
        )
        .map(Option::unwrap_or_default)
    }
}

/// The names of wires, for a flag.
pub(crate) fn wire_names() -> impl TypedValueParser<Value = Rounding> {
    let names = PossibleValuesParser::new(Rounding::ALL.map(Rounding::name));
    names.map(|name| name.parse().expect("the name of a wire"))
}

/// What has been learned on top: a flag of commands that compute with a model.
#[derive(clap::Args)]
pub(crate) struct AdapterArgs {
    /// Folder of an adapter to compute with, as PEFT saves it: LoRA, or a soft prompt, whose tokens count as others do
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

impl AdapterArgs {
    /// Opens it for the model of a folder, before that is loaded; nothing where none was asked for.
    pub(crate) fn open(&self, model: &Path) -> Result<Learned> {
        let Some(adapter) = &self.adapter else { return Ok(Learned::default()) };
        Ok(Learned::open(adapter, &load_spec(model)?)?.0)
    }
}

/// The names of ways to keep keys and values, for a flag.
pub(crate) fn cache_names() -> impl TypedValueParser<Value = CacheEncoding> {
    let names = PossibleValuesParser::new(CacheEncoding::ALL.map(CacheEncoding::name));
    names.map(|name| CacheEncoding::ALL.into_iter().find(|known| known.name() == name).expect("one of the names"))
}

/// The encoding that was asked for, or the usual one: of a GGUF file its blocks as they are; of a folder int8, unless it is
/// encoded already.
pub(crate) fn or_usual(encoding: Option<Encoding>, folder: &Path) -> Result<Encoding> {
    Ok(match encoding_of_swarm(encoding, folder)? {
        Some(encoding) => encoding,
        None if is_gguf(folder) => Encoding::Stored,
        None => load_spec(folder)?.stored.usual(),
    })
}

/// The encoding that was asked for, or f32; of a swarm's model its own.
pub(crate) fn or_f32(encoding: Option<Encoding>, folder: &Path) -> Result<Encoding> {
    Ok(encoding_of_swarm(encoding, folder)?.unwrap_or(Encoding::F32))
}

fn encoding_of_swarm(asked: Option<Encoding>, folder: &Path) -> Result<Option<Encoding>> {
    or_of_swarm(asked, folder, |swarm| swarm::encoding(&swarm.invite), ("--encoding", "computes in", Encoding::name))
}

/// What a swarm has chosen for all, where a folder is that of its model; else what was asked for. `words` name the flag, what
/// a swarm does, and the choice.
fn or_of_swarm<T: Copy + PartialEq>(
    asked: Option<T>,
    folder: &Path,
    chosen: impl FnOnce(&Connected) -> Result<T>,
    words: (&str, &str, fn(T) -> &'static str),
) -> Result<Option<T>> {
    let Some(swarm) = swarm::of(folder) else { return Ok(asked) };
    let (chosen, (flag, does, name)) = (chosen(&swarm)?, words);
    if asked.is_none_or(|asked| asked == chosen) {
        return Ok(Some(chosen));
    }
    Err(asked_wrongly(format!("this swarm {does} {}", name(chosen)), format!("leave {flag} out")))
}

/// Bytes that a text takes for each of its own while it is cut into tokens: 130 were measured.
const BYTES_PER_BYTE_OF_TEXT: u64 = 160;

/// Whether a text can be cut into tokens in the memory that is free.
///
/// # Errors
/// A text that is too long for it.
pub(crate) fn check_text(text: &str) -> Result<()> {
    let (bytes, available) = (text.len() as u64, system::available_memory_bytes().unwrap_or(u64::MAX));
    let needed = bytes * BYTES_PER_BYTE_OF_TEXT;
    if needed <= available {
        return Ok(());
    }
    let [bytes, needed, available] = [bytes, needed, available].map(output::bytes);
    let message = format!("cutting a text of {bytes} into tokens takes about {needed}, and {available} are free");
    Err(wrong(message, "give it in parts, or free some memory"))
}

/// Where the hashes of models are kept, once they are known.
pub(crate) fn hash_cache() -> Option<PathBuf> {
    Some(system::cache_folder()?.join("bouquet").join("hashes"))
}

/// Opens what of a folder's model needs no tokenizer.
pub(crate) fn open_network(folder: &Path, options: &OpenOptions) -> Result<Network> {
    match swarm::of(folder) {
        Some(swarm) => swarm.open_network(folder, options),
        None => Ok(Network::open(folder, options)?),
    }
}

/// How models are opened here: what they compute with may take the memory that is there.
pub(crate) fn options(cpu: Cpu, encoding: Encoding) -> OpenOptions {
    let memory_left = system::available_memory_bytes;
    OpenOptions { memory_left, ..OpenOptions::new(cpu, MEMORY_BYTES_IF_UNKNOWN, encoding) }
}

/// Opens the model of a folder.
pub(crate) fn open(folder: &Path, options: &OpenOptions) -> Result<Opened> {
    let start = Instant::now();
    let model = match swarm::of(folder) {
        Some(swarm) => swarm.open(folder, options)?,
        None => Model::open(folder, options)?,
    };
    Ok(Opened { model, time: start.elapsed() })
}

/// What has been learned on top of a model: the adapter of a folder, or nothing.
pub(crate) fn learned(folder: Option<&Path>, spec: &ModelSpec) -> Result<Learned> {
    let Some(folder) = folder else { return Ok(Learned::default()) };
    let (learned, _) = Learned::open(folder, spec)?;
    Ok(learned)
}

/// Bytes of all weights of a model as they will be held; vectors, which are small, are left out.
///
/// # Errors
/// A file that cannot be read, where they stay as they are stored.
pub(crate) fn weight_bytes(folder: &Path, spec: &ModelSpec, encoding: Encoding) -> Result<u64> {
    match encoding {
        Encoding::F32 | Encoding::Stored => Ok(Inspection::new(spec, &Checkpoint::open(folder)?)?.weight_bytes),
        _ => Ok(bytes_in(spec, encoding)),
    }
}

/// Bytes of all weights in an encoding; where that is f32, of floats in f16.
pub(crate) fn bytes_in(spec: &ModelSpec, encoding: Encoding) -> u64 {
    let bytes = |encoding: Encoding, rows, cols| encoding.bytes(rows, cols).unwrap_or(2 * (rows * cols) as u64);
    let linears = spec.block.linears();
    let block: u64 = linears.iter().map(|linear| bytes(encoding, linear.outputs, linear.inputs)).sum();
    let vocabulary = bytes(encoding.of_vocabulary(), spec.vocab_size, spec.embedding_size);
    block * spec.num_blocks as u64 + vocabulary * if spec.tied_head { 1 } else { 2 }
}
