//! What can be wrong with a model's files. Each message names the file or tensor; the command line adds what to do.

use std::path::PathBuf;

use bouquet_span::{SpanError, human_bytes};

use crate::encoding::Encoding;
use crate::files::shown;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;

/// Why a model could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written. What was there before is as it was.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path that no file can be written to.
    #[error("{} {problem}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
    /// A path where no folder can be made.
    #[error("{} {problem}", path.display())]
    NotANewFolder {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
    /// A folder that another program is writing.
    #[error("{} is being written by another program", path.display())]
    Busy {
        /// Which folder.
        path: PathBuf,
    },
    /// Codes where floats are needed to make codes of.
    #[error("the weights are stored in {stored} already, and only floats are encoded")]
    AlreadyEncoded {
        /// What they are stored in.
        stored: Encoding,
    },
    /// Codes where floats are needed to fold an adapter into.
    #[error("the weights are stored in {stored}, and an adapter can be folded into floats alone")]
    NotFloats {
        /// What they are stored in.
        stored: Encoding,
    },
    /// A path where no model is.
    #[error("{} is not a model's folder: {problem}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
    /// A file that a model needs is not in its folder.
    #[error("{} is missing: {hint}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What it is for, or what to do.
        hint: String,
    },
    /// Only pickled weights, which can run code when they are opened.
    #[error("{} holds only pickled weights ({file}), which Bouquet never opens", folder.display())]
    PickleOnly {
        /// The model's folder.
        folder: PathBuf,
        /// One of the files.
        file: String,
    },
    /// A file that is not what its name says: truncated, or with a header that lies.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that may be whole, but is written in a way that is not read.
    #[error("{} cannot be read: {problem}", path.display())]
    Unread {
        /// Which file.
        path: PathBuf,
        /// What of it is not read, and what is.
        problem: String,
    },
    /// A configuration that no model can have, or that asks for what Bouquet does not do.
    #[error("config.json: {0}")]
    Config(String),
    /// Sampling defaults of the wrong kind, or that no sampler can follow.
    #[error("generation_config.json: {0}")]
    GenerationConfig(String),
    /// An architecture that is not known.
    #[error("the model family {family:?} is not known (known: {known})")]
    UnknownFamily {
        /// `model_type` of config.json.
        family: String,
        /// Those that are.
        known: String,
    },
    /// A block that the model does not have.
    #[error("the model has no block {index}: its blocks are numbered 0 to {}", num_blocks.saturating_sub(1))]
    NoSuchBlock {
        /// The number asked for.
        index: usize,
        /// How many there are.
        num_blocks: usize,
    },
    /// Blocks of which there is none.
    #[error("there is no block in {}:{}", range.start, range.end)]
    NoBlocks {
        /// What was asked for.
        range: std::ops::Range<usize>,
    },
    /// A tensor that should be there is not.
    #[error("the tensor {} is missing from {}", shown(name), folder.display())]
    MissingTensor {
        /// Its name: as transformers writes it, or in a GGUF file its name there.
        name: String,
        /// The model's folder, or its GGUF file.
        folder: PathBuf,
    },
    /// A tensor of another shape or type than the configuration implies.
    #[error("the tensor {} {problem}", shown(name))]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A tokenizer that cannot be read, or that does not fit the model.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// The tokenizer of a GGUF file, which is in its metadata, or one that such a file has no words for.
    #[error("the tokenizer of the GGUF file: {0}")]
    GgufTokenizer(String),
    /// A chat template that is no Jinja, fails, or refuses a conversation.
    #[error("the chat template {0}")]
    ChatTemplate(String),
    /// Codes of one encoding, where another was asked for.
    #[error("the weights are stored in {stored}, and cannot be computed in {asked}")]
    StoredEncoding {
        /// What they are stored in.
        stored: Encoding,
        /// What was asked for.
        asked: Encoding,
    },
    /// A model that does not fit into the memory that is free.
    #[error("{} in {encoding} takes {} to open, and {} are free", folder.display(), human_bytes(*needed), human_bytes(*available))]
    TooLarge {
        /// Its folder.
        folder: PathBuf,
        /// What was asked for.
        encoding: Encoding,
        /// Bytes that opening it takes.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A token id outside of the vocabulary.
    #[error("token id {id} is outside of the vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        id: u64,
        /// Number of tokens of the model.
        vocab_size: usize,
    },
    /// Metadata of a GGUF file that no model can have.
    #[error("the file's metadata: {0}")]
    Gguf(String),
    /// A model that no GGUF file can hold so that llama.cpp computes the same.
    #[error("no GGUF file is written of this model: {0}")]
    NoGguf(String),
    /// A position that the model's table of positions does not have.
    #[error("position {position} is beyond the {known} that this model has learned")]
    Position {
        /// Counted from 0.
        position: usize,
        /// How many there are.
        known: usize,
    },
    /// An embedding that cannot be computed with.
    #[error("the embedding of token id {id} is not finite")]
    EmbeddingNotFinite {
        /// The id.
        id: u32,
    },
    /// A soft prompt that cannot be computed with.
    #[error("the soft prompt of the adapter is not finite")]
    PromptNotFinite,
    /// Settings of an adapter that none can have, or that ask for what Bouquet does not do.
    #[error("{file}: {problem}")]
    AdapterConfig {
        /// Which file of the adapter's folder.
        file: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An adapter that is damaged, or of another model.
    #[error("the adapter in {path} {problem}")]
    Adapter {
        /// Its folder.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the blocks refused.
    #[error(transparent)]
    Span(#[from] SpanError),
}
