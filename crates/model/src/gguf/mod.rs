//! A model in a GGUF file, seen as the folder that it was made from: its metadata become the fields of a `config.json`, its
//! tensors get the names and the order of rows that transformers has. So families, encodings, adapters and everything
//! behind them are the same for both.
//!
//! | module | job |
//! |---|---|
//! | `config` | metadata to the fields of `config.json` |
//! | `layout` | which tensors there are, and the order of their rows |
//! | `metadata` | the metadata that says what a folder says |
//! | `rope` | factors of Llama 3's rotary positions |
//! | `tensors` | the tensors by the names of the family, rows put in order |
//! | `write` | a model in a file |
//!
//! Which metadata and names there are is told by llama.cpp's converters (`convert_hf_to_gguf.py`, `gguf-py/gguf/constants.py`).

mod config;
mod layout;
mod metadata;
mod rope;
mod tensors;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_gguf::{Gguf, MAGIC, Metadata, TensorInfo, TensorKind, split};
use bouquet_kernels::weight::BlockFormat;
use bytes::Bytes;

use crate::checkpoint::Dtype;
use crate::checkpoint::mmap::{self, Mapped};
use crate::files::{self, damaged, missing};
use crate::{ModelError, ModelSpec, Result};

pub(crate) use self::tensors::GgufTensors;
pub use self::write::{Plan, WRITTEN};

/// A model's GGUF file, or all files of one that is split. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GgufFile {
    path: PathBuf,
    parts: Arc<[Part]>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    mapped: Mapped,
    bytes: Bytes,
    header: Gguf,
}

/// Whether a path is that of a GGUF file: by its first bytes, since a file in the store of another program has no ending; or
/// by its ending, so that one that is damaged, or not there, is told as what it was meant to be.
pub fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let begins = || {
        let mut start = [0; MAGIC.len()];
        // A pipe would keep whoever opens it waiting.
        path.is_file()
            && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start == *MAGIC)
    };
    if named { !path.is_dir() } else { begins() }
}

impl GgufFile {
    /// Maps a file and checks its header; of a split one all files, whichever is given.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Io`]; [`ModelError::Damaged`] for a file that lies, or files that do not belong
    /// together; [`ModelError::Unread`].
    pub(crate) fn open(path: &Path) -> Result<GgufFile> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let names = split::parts(name).map_or_else(|| vec![name.to_owned()], |parts| parts.names);
        let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
        let parts = paths.iter().map(|path| Part::open(path)).collect::<Result<Vec<_>>>()?;
        for (number, (part, path)) in parts.iter().zip(&paths).enumerate() {
            let found = split::Split::of(&part.header.metadata).map_err(|error| damaged(path, error.to_string()))?;
            let (is, of) = found.map_or((0, 1), |split| (split.number, split.count));
            if (is, of) != (number, parts.len()) {
                let problem =
                    format!("it is part {} of {of}, but its name says {} of {}", is + 1, number + 1, parts.len());
                return Err(damaged(path, problem));
            }
            let tensors = parts.iter().map(|part| part.header.tensors.len()).sum::<usize>();
            if let Some(promised) = found.and_then(|split| split.tensors).filter(|&promised| promised != tensors) {
                return Err(damaged(
                    path,
                    format!("its parts should have {promised} tensors in all, but have {tensors}"),
                ));
            }
        }
        Ok(GgufFile { path: path.to_owned(), parts: parts.into() })
    }

    /// The path that it was opened by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes before the tensors, most of them of the tokenizer.
    pub(crate) fn header_bytes(&self) -> u64 {
        self.parts[0].header.data.start as u64
    }

    /// What is said of the model, in the first part.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.parts[0].header.metadata
    }

    /// The model that it describes.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] for metadata that are missing or of another kind; those of [`families::spec`](crate::families::spec).
    pub(crate) fn spec(&self) -> Result<ModelSpec> {
        config::spec(self)
    }

    /// The `config.json` that says the same.
    ///
    /// # Errors
    /// Those of [`spec`](Self::spec); [`ModelError::Gguf`] for what no `config.json` can say.
    pub(crate) fn config(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        config::json(self)
    }

    /// The template of conversations, where there is one, and the special tokens that it may name.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] for metadata of another kind.
    pub(crate) fn template_and_tokens(&self) -> Result<(Option<String>, BTreeMap<String, String>)> {
        let metadata = self.metadata();
        let text = metadata.optional_text("tokenizer.chat_template").map_err(|error| self.damaged(error))?;
        let tokens = metadata.optional_texts("tokenizer.ggml.tokens").map_err(|error| self.damaged(error))?;
        let mut special = BTreeMap::new();
        for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
            let id = metadata.optional_u64(&format!("tokenizer.ggml.{key}_token_id"));
            let id = id.map_err(|error| self.damaged(error))?.and_then(|id| usize::try_from(id).ok());
            if let Some(token) = id.and_then(|id| tokens.unwrap_or_default().get(id)) {
                special.insert(format!("{name}_token"), token.clone());
            }
        }
        Ok((text.map(str::to_owned), special))
    }

    /// A tensor by its own name, and its bytes.
    fn tensor(&self, name: &str) -> Option<(&TensorInfo, Bytes)> {
        self.parts.iter().find_map(|part| {
            let info = part.header.tensor(name)?;
            Some((info, part.bytes.slice(info.data.clone())))
        })
    }

    fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.header.tensor(name).is_some())
    }

    /// All tensors, part after part.
    fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().flat_map(|part| &part.header.tensors)
    }

    /// The paths of all parts.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    fn release(&self, data: &[u8]) {
        self.parts.iter().for_each(|part| part.mapped.release(data));
    }

    fn damaged(&self, problem: impl ToString) -> ModelError {
        damaged(&self.path, problem.to_string())
    }
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        let Some((file, length)) = files::open(path)? else {
            return Err(missing(path.to_owned(), "the model is in it, or a part of it"));
        };
        let mapped = mmap::map(&file).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
        let bytes = mapped.bytes();
        // The file may have changed since its length was asked.
        if bytes.len() as u64 != length {
            return Err(damaged(path, "its length changed while it was opened"));
        }
        let header = Gguf::parse(&bytes).map_err(|error| match error.is_unread() {
            true => ModelError::Unread { path: path.to_owned(), problem: error.to_string() },
            false => damaged(path, error.to_string()),
        })?;
        Ok(Part { path: path.to_owned(), mapped, bytes, header })
    }
}

/// Kinds as they are called here.
const KINDS: [(TensorKind, Dtype); 14] = [
    (TensorKind::F32, Dtype::F32),
    (TensorKind::F16, Dtype::F16),
    (TensorKind::Bf16, Dtype::Bf16),
    (TensorKind::Q4_0, Dtype::Blocks(BlockFormat::Q4_0)),
    (TensorKind::Q4_1, Dtype::Blocks(BlockFormat::Q4_1)),
    (TensorKind::Q5_0, Dtype::Blocks(BlockFormat::Q5_0)),
    (TensorKind::Q5_1, Dtype::Blocks(BlockFormat::Q5_1)),
    (TensorKind::Q8_0, Dtype::Blocks(BlockFormat::Q8_0)),
    (TensorKind::Q2K, Dtype::Blocks(BlockFormat::Q2K)),
    (TensorKind::Q3K, Dtype::Blocks(BlockFormat::Q3K)),
    (TensorKind::Q4K, Dtype::Blocks(BlockFormat::Q4K)),
    (TensorKind::Q5K, Dtype::Blocks(BlockFormat::Q5K)),
    (TensorKind::Q6K, Dtype::Blocks(BlockFormat::Q6K)),
    (TensorKind::Iq4Nl, Dtype::Blocks(BlockFormat::Iq4Nl)),
];

fn dtype(kind: TensorKind) -> Dtype {
    KINDS.into_iter().find(|(known, _)| *known == kind).expect("every kind is in the table").1
}
