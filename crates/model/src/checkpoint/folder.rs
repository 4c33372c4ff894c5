//! The weights of a folder: `model.safetensors`, or shards and `model.safetensors.index.json`, which says for every
//! tensor in which shard it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::safetensors::SafetensorsFile;
use super::unique::UniqueMap;
use super::{Tensor, TensorSource};
use crate::files::{self, damaged, missing, shown};
use crate::form::Form;
use crate::gguf::GgufTensors;
use crate::{ModelError, Result};

/// Weights in one file.
const SINGLE: &str = "model.safetensors";

/// Which shard each tensor is in.
const INDEX: &str = "model.safetensors.index.json";

/// Bytes that an index may have: a name and a shard for each of a million tensors.
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// Endings of files that Python unpickles.
const PICKLED: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// An open folder, or a GGUF file. Tensors are pieces of mapped files.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Files,
}

#[derive(Clone, Debug)]
enum Files {
    Safetensors {
        files: Vec<SafetensorsFile>,
        /// Which of the files each tensor is in.
        tensors: BTreeMap<String, usize>,
    },
    Gguf(GgufTensors),
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

impl Checkpoint {
    /// Opens the weights of a folder, or of a GGUF file, and checks their headers. Nothing is read but those.
    ///
    /// # Errors
    /// A folder without weights, with only pickled ones, with a shard missing, or with a file that lies.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        Checkpoint::of(Form::open(folder)?)
    }

    /// As [`open`](Self::open).
    pub(crate) fn of(model: Form) -> Result<Checkpoint> {
        let folder = match model {
            Form::Folder(folder) => folder,
            Form::Gguf(file) => {
                return Ok(Checkpoint { folder: file.path().to_owned(), files: Files::Gguf(GgufTensors::of(file)?) });
            }
        };
        let folder = folder.as_path();
        files::check_folder(folder)?;
        if let Some(file) = SafetensorsFile::open(&folder.join(SINGLE))? {
            return Ok(Checkpoint::of_files(folder, vec![file]));
        }
        let path = folder.join(INDEX);
        match files::read(&path, MAX_INDEX_BYTES)? {
            Some(bytes) => open_shards(folder, &path, &bytes),
            None => Err(without_weights(folder)),
        }
    }

    /// A checkpoint of files whose tensors are known to differ.
    fn of_files(folder: &Path, files: Vec<SafetensorsFile>) -> Checkpoint {
        let of_file = |(index, file): (usize, &SafetensorsFile)| {
            file.names().map(|name| (name.to_owned(), index)).collect::<Vec<_>>()
        };
        let tensors = files.iter().enumerate().flat_map(of_file).collect();
        Checkpoint { folder: folder.to_owned(), files: Files::Safetensors { files, tensors } }
    }
}

impl TensorSource for Checkpoint {
    fn location(&self) -> &Path {
        &self.folder
    }

    fn names(&self) -> Vec<&str> {
        match &self.files {
            Files::Safetensors { tensors, .. } => tensors.keys().map(String::as_str).collect(),
            Files::Gguf(tensors) => tensors.names(),
        }
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        match &self.files {
            Files::Safetensors { files, tensors } => Ok(tensors.get(name).and_then(|&file| files[file].tensor(name))),
            Files::Gguf(tensors) => tensors.tensor(name),
        }
    }

    fn missing(&self, name: &str) -> ModelError {
        let in_file = match &self.files {
            Files::Gguf(tensors) => tensors.name_in_file(name),
            Files::Safetensors { .. } => None,
        };
        ModelError::MissingTensor { name: in_file.unwrap_or_else(|| name.to_owned()), folder: self.folder.clone() }
    }

    fn release(&self, data: &[u8]) {
        match &self.files {
            Files::Safetensors { files, .. } => files.iter().for_each(|file| file.release(data)),
            Files::Gguf(tensors) => tensors.release(data),
        }
    }
}

fn open_shards(folder: &Path, index_path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    let Index { weight_map: UniqueMap(weight_map) } =
        serde_json::from_slice(bytes).map_err(|error| damaged(index_path, format!("it is no index: {error}")))?;
    let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if shards.is_empty() {
        return Err(damaged(index_path, "it names no tensors"));
    }
    if let Some(shard) = shards.iter().find(|shard| !is_plain_name(shard)) {
        let problem = format!("{} is not the name of a safetensors file beside it", shown(shard));
        return Err(damaged(index_path, problem));
    }
    let mut files = Vec::with_capacity(shards.len());
    let mut places: BTreeMap<String, &str> = BTreeMap::new();
    for &shard in &shards {
        let path = folder.join(shard);
        let Some(file) = SafetensorsFile::open(&path)? else {
            return Err(missing(path, format!("{INDEX} promises this part of the weights")));
        };
        for name in file.names() {
            if let Some(other) = places.insert(name.to_owned(), shard) {
                let problem = format!("{} is in it, but in {} as well", shown(name), shown(other));
                return Err(damaged(&path, problem));
            }
        }
        files.push(file);
    }
    for (name, shard) in &weight_map {
        if places.get(name) != Some(&shard.as_str()) {
            let problem = format!("{INDEX} promises {} in it, but it is not there", shown(name));
            return Err(damaged(&folder.join(shard), problem));
        }
    }
    Ok(Checkpoint::of_files(folder, files))
}

/// Whether a shard's name stays in its folder.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    plain && name.ends_with(".safetensors") && !name.contains(['\\', ':', '\0'])
}

/// Why a folder has no weights that can be opened.
fn without_weights(folder: &Path) -> ModelError {
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(source) => return ModelError::Io { path: folder.to_owned(), source },
    };
    let names: BTreeSet<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    let ends_with = |name: &String, ending: &str| Path::new(name).extension().is_some_and(|found| found == ending);
    if names.iter().any(|name| ends_with(name, "safetensors")) {
        return missing(folder.join(INDEX), "it says which of the folder's safetensors files holds which tensor");
    }
    match names.into_iter().find(|name| PICKLED.iter().any(|ending| ends_with(name, ending))) {
        Some(file) => ModelError::PickleOnly { folder: folder.to_owned(), file },
        None => missing(folder.join(SINGLE), format!("a model has its weights there, or in parts listed by {INDEX}")),
    }
}
