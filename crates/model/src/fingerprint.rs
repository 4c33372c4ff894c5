//! A model's fingerprint: equal fingerprints, equal bits.
//!
//! It is the SHA-256 of a few lines: what `config.json` holds, how weights are stored, what they are computed in, how keys
//! and values are kept, the version of the arithmetic, and a checksum for each block and for the rest. Neither the folder,
//! nor how weights are cut into files, nor the prefix of their names goes in; so it is the same for the same model
//! anywhere. It reads all weights, and is therefore taken when somebody asks.
//!
//! Checksums are of tensors as they are stored, over their names, types, shapes and bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_kernels::{ARITHMETIC_VERSION, Cpu};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, TensorSource};
use crate::files::{self, MAX_SETTINGS_BYTES, missing};
use crate::spec::TensorNames;
use crate::{Encoding, Result, Stored, beside, families, is_gguf};

/// Bytes of a tensor that are held in memory at a time.
const PIECE_BYTES: usize = 16 << 20;

/// All that decides the bits of a model's results, but what a request brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    /// SHA-256 of all below, in hexadecimal like the others.
    pub fingerprint: String,
    /// Of `config.json`.
    pub config: String,
    /// How it is computed.
    #[serde(flatten)]
    pub computed: Computed,
    /// Of what is in no block: embedding, head and their norms.
    pub ends: String,
    /// Of each block.
    pub blocks: Vec<String>,
}

/// The part of it that no weight has to be read for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Computed {
    /// What the linears of blocks are stored in.
    pub stored: String,
    /// What embedding and head are stored in.
    pub stored_embedding: String,
    /// What weights are computed in.
    pub encoding: &'static str,
    /// How sessions keep keys and values.
    pub kv_cache: &'static str,
    /// [`ARITHMETIC_VERSION`].
    pub arithmetic_version: u32,
}

impl Computed {
    /// That of a model, computed in `encoding`.
    pub fn of(stored: &Stored, encoding: Encoding, kv_cache: CacheEncoding) -> Computed {
        let (linears, embedding) = match &stored.kinds {
            Some(kinds) => (kinds.linears.as_str(), kinds.embedding.as_str()),
            None => (stored.linears.name(), stored.embedding.name()),
        };
        Computed {
            stored: linears.to_owned(),
            stored_embedding: embedding.to_owned(),
            encoding: encoding.name(),
            kv_cache: kv_cache.name(),
            arithmetic_version: ARITHMETIC_VERSION,
        }
    }
}

impl Fingerprint {
    /// That of a folder's model, computed in `encoding`. Reads all weights once, on all threads.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; an encoding that stored codes cannot be computed in.
    pub fn of(folder: &Path, cpu: &Cpu, encoding: Encoding, kv_cache: CacheEncoding) -> Result<Fingerprint> {
        let spec = families::load_spec(folder)?;
        spec.stored.check(encoding)?;
        let config = match is_gguf(folder) {
            true => beside::config(folder)?.to_string().into_bytes(),
            false => {
                let path = folder.join("config.json");
                files::read(&path, MAX_SETTINGS_BYTES)?.ok_or_else(|| missing(path, "it describes the model"))?
            }
        };
        let (ends, blocks) = checksums(&Checkpoint::open(folder)?, cpu, &spec.names, spec.num_blocks)?;
        let mut fingerprint = Fingerprint {
            fingerprint: String::new(),
            config: hex(Sha256::digest(config)),
            computed: Computed::of(&spec.stored, encoding, kv_cache),
            ends,
            blocks,
        };
        fingerprint.fingerprint = hex(Sha256::digest(fingerprint.lines()));
        Ok(fingerprint)
    }

    /// What the fingerprint is the checksum of.
    fn lines(&self) -> String {
        let Fingerprint { fingerprint: _, config, computed, ends, blocks } = self;
        let Computed { stored, stored_embedding, encoding, kv_cache, arithmetic_version } = computed;
        let mut lines = format!(
            "config {config}\nstored {stored}\nstored_embedding {stored_embedding}\nencoding {encoding}\n\
             kv_cache {kv_cache}\narithmetic_version {arithmetic_version}\nends {ends}\n"
        );
        blocks.iter().for_each(|block| lines += &format!("block {block}\n"));
        lines
    }
}

/// The checksum of what is in no block, and of each block.
fn checksums(
    source: &(impl TensorSource + Sync),
    cpu: &Cpu,
    names: &TensorNames,
    num_blocks: usize,
) -> Result<(String, Vec<String>)> {
    // By name without prefix; where a tensor is there with and without, the model takes the one with it.
    let mut tensors: BTreeMap<&str, &str> = BTreeMap::new();
    let full_names = source.names();
    for &name in &full_names {
        match name.strip_prefix(names.prefix) {
            Some(bare) if !names.prefix.is_empty() => tensors.insert(bare, name),
            _ => Some(*tensors.entry(name).or_insert(name)),
        };
    }
    let tensors: Vec<(&str, &str)> = tensors.into_iter().collect();
    let found: Vec<Mutex<Result<String>>> = tensors.iter().map(|_| Mutex::new(Ok(String::new()))).collect();
    cpu.run(tensors.len(), |index| {
        let (name, full_name) = tensors[index];
        *found[index].lock().expect("no task panics while it holds this") = line(source, name, full_name);
    });
    let (mut ends, mut blocks) = (Sha256::new(), vec![Sha256::new(); num_blocks]);
    for ((name, _), line) in tensors.iter().zip(found) {
        let line = line.into_inner().expect("no task panics while it holds this")?;
        let block = name.strip_prefix(names.block).and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
        block.and_then(|block| blocks.get_mut(block)).unwrap_or(&mut ends).update(line);
    }
    Ok((hex(ends.finalize()), blocks.into_iter().map(|block| hex(block.finalize())).collect()))
}

/// What of a tensor goes into the checksum of its block.
fn line(source: &dyn TensorSource, name: &str, full_name: &str) -> Result<String> {
    let Some(tensor) = source.tensor(full_name)? else { return Ok(String::new()) };
    let mut hasher = Sha256::new();
    for piece in tensor.data.chunks(PIECE_BYTES) {
        hasher.update(piece);
        source.release(piece);
    }
    Ok(format!("{name:?} {} {:?} {}\n", tensor.dtype, tensor.shape, hex(hasher.finalize())))
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
