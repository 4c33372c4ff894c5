//! Fixture models and the outputs recorded for them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;

use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::{Encoding, Model, OpenOptions};
use safetensors::{Dtype, SafeTensors};

/// Bytes that the sessions of a test may reserve.
pub(crate) const CACHE_BYTES: u64 = 1 << 30;

/// Every fixture model, with the golden that holds for it.
pub(crate) const MODELS: [(&str, &str); 24] = [
    ("bloom-tiny", "bloom-tiny"),
    ("bloom-tiny-unprefixed", "bloom-tiny"),
    ("bloom-tiny-sharded", "bloom-tiny"),
    ("bloom-tiny-fp16", "bloom-tiny-fp16"),
    ("bloom-tiny-bf16", "bloom-tiny-bf16"),
    ("bloom-tiny-h6-postres", "bloom-tiny-h6-postres"),
    ("bloom-small-trained", "bloom-small-trained"),
    ("llama-tiny", "llama-tiny"),
    ("llama-tiny-tied", "llama-tiny-tied"),
    ("llama3-rope-tiny", "llama3-rope-tiny"),
    ("mixtral-tiny", "mixtral-tiny"),
    ("qwen3-tiny", "qwen3-tiny"),
    ("falcon-tiny", "falcon-tiny"),
    ("falcon-tiny-newarch", "falcon-tiny-newarch"),
    ("falcon-alibi-tiny", "falcon-alibi-tiny"),
    ("mistral-tiny", "mistral-tiny"),
    ("qwen2-tiny", "qwen2-tiny"),
    ("llama-linear-tiny", "llama-linear-tiny"),
    ("llama-dynamic-tiny", "llama-dynamic-tiny"),
    ("llama-yarn-tiny", "llama-yarn-tiny"),
    ("opt-tiny", "opt-tiny"),
    ("opt-tiny-postln", "opt-tiny-postln"),
    ("opt-bare-tiny", "opt-bare-tiny"),
    ("llama-q4_k_m.gguf", "llama-q4_k_m"),
];

/// A model per architecture and stored float: what properties are tested on, beyond the recorded outputs.
pub(crate) const ARCHITECTURES: [&str; 21] = [
    "bloom-tiny",
    "bloom-tiny-fp16",
    "bloom-tiny-bf16",
    "bloom-tiny-h6-postres",
    "llama-tiny",
    "llama-tiny-tied",
    "llama3-rope-tiny",
    "mixtral-tiny",
    "qwen3-tiny",
    "falcon-tiny",
    "falcon-tiny-newarch",
    "falcon-alibi-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "llama-linear-tiny",
    "llama-dynamic-tiny",
    "llama-yarn-tiny",
    "opt-tiny",
    "opt-tiny-postln",
    "opt-bare-tiny",
    "llama-q4_k_m.gguf",
];

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where a model lies, a folder or a GGUF file: with the program, among the fixtures, or among those that were made for this
/// repository.
pub(crate) fn folder(model: &str) -> PathBuf {
    let places = ["models", "tests/fixtures/models", "tests/fixtures/families/models", "tests/fixtures/gguf"];
    let folder = places.into_iter().map(|place| repository().join(place).join(model)).find(|folder| folder.exists());
    folder.unwrap_or_else(|| panic!("{model} is nowhere"))
}

pub(crate) fn open(model: &str, threads: usize) -> Model {
    open_in(Encoding::F32, model, threads)
}

pub(crate) fn open_in(encoding: Encoding, model: &str, threads: usize) -> Model {
    Model::open(&folder(model), &OpenOptions::new(Cpu::new(threads), CACHE_BYTES, encoding))
        .unwrap_or_else(|error| panic!("{model}: {error}"))
}

/// Recorded outputs: tensors and the scalars of the manifest.
pub(crate) struct Golden {
    pub(crate) manifest: serde_json::Value,
    floats: HashMap<String, Matrix>,
    ids: HashMap<String, Vec<Vec<i64>>>,
}

impl Golden {
    /// `path` below `goldens`, without ending.
    pub(crate) fn load(path: &str) -> Golden {
        let places = ["tests/fixtures/goldens", "tests/fixtures/families/goldens", "tests/fixtures/gguf"]
            .map(|place| repository().join(place));
        let paths = places.map(|place| place.join(path));
        let path = paths.into_iter().find(|path| path.with_extension("json").exists()).expect("a golden of this name");
        let manifest = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        let bytes = fs::read(path.with_extension("safetensors")).unwrap();
        let (mut floats, mut ids) = (HashMap::new(), HashMap::new());
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let cols = *tensor.shape().last().unwrap();
            match tensor.dtype() {
                Dtype::F32 => {
                    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                    floats.insert(name, Matrix::from_vec(values.len() / cols, cols, values));
                }
                Dtype::I64 => {
                    let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                    ids.insert(name, values.chunks(cols).map(<[i64]>::to_vec).collect());
                }
                other => panic!("{name} has type {other:?}"),
            }
        }
        Golden { manifest, floats, ids }
    }

    /// A recorded tensor, its leading dimensions flattened.
    pub(crate) fn floats(&self, name: &str) -> &Matrix {
        self.floats.get(name).unwrap_or_else(|| panic!("no {name} was recorded"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.floats.contains_key(name) || self.ids.contains_key(name)
    }

    /// The names of all tensors of floats that begin so.
    pub(crate) fn names(&self, beginning: &str) -> BTreeSet<String> {
        self.floats.keys().filter(|name| name.starts_with(beginning)).cloned().collect()
    }

    /// Recorded token ids, a row per sequence.
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        self.ids[name].iter().map(|row| row.iter().map(|&id| id as u32).collect()).collect()
    }

    /// Token ids of a padded batch without its padding, and the row of each kept token in the padded batch.
    pub(crate) fn unpadded(&self, ids: &str, mask: &str) -> (Vec<Vec<u32>>, Vec<usize>) {
        let (ids, mask) = (self.ids(ids), self.ids(mask));
        let width = ids[0].len();
        let (mut sequences, mut rows) = (Vec::new(), Vec::new());
        for (sequence, (ids, mask)) in ids.iter().zip(&mask).enumerate() {
            let kept: Vec<usize> = (0..width).filter(|&column| mask[column] == 1).collect();
            sequences.push(kept.iter().map(|&column| ids[column]).collect());
            rows.extend(kept.iter().map(|&column| sequence * width + column));
        }
        (sequences, rows)
    }
}

pub(crate) fn slices(sequences: &[Vec<u32>]) -> Vec<&[u32]> {
    sequences.iter().map(Vec::as_slice).collect()
}

/// The largest absolute difference of two matrices of one shape.
pub(crate) fn distance(a: &Matrix, b: &Matrix) -> f32 {
    assert_eq!((a.rows(), a.cols()), (b.rows(), b.cols()), "shapes");
    a.data().iter().zip(b.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(crate) fn bits(matrix: &Matrix) -> Vec<u32> {
    matrix.data().iter().map(|value| value.to_bits()).collect()
}
