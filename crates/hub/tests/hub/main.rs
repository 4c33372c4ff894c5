//! The way from a name to a folder, with a hub on this machine that speaks the paths of Hugging Face's, and lies in every
//! way that we could think of.

#![forbid(unsafe_code)]

mod cache;
mod failures;
mod gguf;
mod lies;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bouquet_hub::{Event, Hub, HubError, Missing, Name, Patience, Settings};
use server::Server;
use tempfile::TempDir;

/// A small configuration; nobody reads it here.
const CONFIG: &[u8] = br#"{"model_type": "bloom"}"#;

/// Numbers that do not repeat, as weights do not.
fn weights(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A hub, and an empty cache.
struct Bench {
    server: Server,
    cache: TempDir,
}

impl Bench {
    fn new(files: &[(&str, &[u8])]) -> Bench {
        Bench { server: Server::new("org/name", files), cache: tempfile::tempdir().unwrap() }
    }

    /// A model in one file of so many bytes, with what else a repository has.
    fn model(length: usize) -> Bench {
        let (weights, pickle) = (weights(length), weights(9));
        let files: [(&str, &[u8]); 5] = [
            ("config.json", CONFIG),
            ("tokenizer.json", b"{}"),
            ("README.md", b"# A model"),
            ("model.safetensors", &weights),
            ("pytorch_model.bin", &pickle),
        ];
        Bench::new(&files)
    }

    /// Impatient settings: tests do not sleep.
    fn settings(&self) -> Settings {
        let patience = Patience {
            silence: Duration::from_millis(300),
            lock: Duration::from_millis(200),
            first_wait: Duration::ZERO,
            ..Patience::default()
        };
        let endpoint = self.server.address();
        Settings { endpoint, patience, ..Settings::new(self.cache.path()) }
    }

    fn hub(&self) -> Hub {
        Hub::open(self.settings()).unwrap()
    }

    fn name(&self) -> Name {
        Name::parse("org/name").unwrap()
    }

    fn find(&self) -> Option<PathBuf> {
        self.hub().find(&self.name())
    }

    fn fetch(&self) -> Result<PathBuf, HubError> {
        self.fetch_with(self.settings(), "org/name", &mut |_| {})
    }

    fn offline(&self) -> Result<PathBuf, HubError> {
        self.fetch_with(Settings { offline: true, ..self.settings() }, "org/name", &mut |_| {})
    }

    fn fetch_with(&self, settings: Settings, name: &str, observe: &mut dyn FnMut(Event)) -> Result<PathBuf, HubError> {
        Hub::open(settings)?.fetch(&Name::parse(name).unwrap(), observe)
    }

    /// The folder of the repository in the cache.
    fn repository(&self) -> PathBuf {
        self.cache.path().join("models--org--name")
    }

    /// What is in a folder of the repository: names and lengths.
    fn listed(&self, folder: &str) -> BTreeMap<String, u64> {
        listed(&self.repository().join(folder))
    }

    /// Holds that nothing half-written is taken for whole, and that nothing is in the cache that nobody asked for.
    fn assert_nothing_is_whole(&self) {
        assert!(matches!(self.offline(), Err(HubError::NotCached { .. } | HubError::PartlyCached { .. })));
        let snapshot = self.repository().join("snapshots").join(server::COMMIT);
        assert!(!snapshot.join("model.safetensors").exists());
    }
}

fn listed(folder: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), path.metadata().unwrap().len());
    entries.map(of).collect()
}
