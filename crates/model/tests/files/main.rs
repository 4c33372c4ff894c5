//! What is read from a folder: the fixtures as they are, every lie that a file can tell, and random damage.

mod adapter;
mod adapter_lies;
mod convert;
mod encoded;
mod fingerprint;
mod fuzz;
mod fuzz_gguf;
mod gguf;
mod gguf_tokenizer;
mod lies;
mod merge;
mod opens;
mod quantize;
mod settings;
mod tokenizer;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The folder of a fixture model, or of the one that ships with the repository.
fn model(name: &str) -> PathBuf {
    let places = ["models", "tests/fixtures/models", "tests/fixtures/families/models"];
    let folder = places.into_iter().map(|place| repository().join(place).join(name)).find(|folder| folder.exists());
    folder.unwrap_or_else(|| panic!("{name} is nowhere"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The bytes of a safetensors file with this header.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Fails unless `found` is an error of one line with `expected` in it.
#[track_caller]
fn refused<T>(found: bouquet_model::Result<T>, expected: &str, what: &str) {
    let Err(error) = found else { panic!("{what} was not refused") };
    let error = error.to_string();
    assert!(error.contains(expected), "{what}: expected …{expected}…, found: {error}");
    assert!(!error.contains('\n') && error.len() < 1000, "{what}: not one short line: {error}");
}
