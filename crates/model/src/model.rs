//! A model opened from a folder: the parts along the data path, put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_span::Span;

use crate::ends::{Embedding, LmHead};
use crate::generation_config::GenerationConfig;
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
    /// Hidden states to logits.
    pub head: LmHead,
}

impl Model {
    /// Opens a Hugging Face folder. Weights stay in their files, mapped into memory.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name.
    pub fn open(folder: &Path, cpu: Arc<Cpu>) -> Result<Model> {
        let _ = (folder, cpu);
        todo!()
    }
}
