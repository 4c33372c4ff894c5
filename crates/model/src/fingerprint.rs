//! A model's fingerprint: equal fingerprints, equal bits.
//!
//! It is the SHA-256 of a few lines: what a block and the ends of the model are, what weights are computed in, what hidden
//! states are rounded to between blocks, how keys and values are kept, the version of the arithmetic, and a
//! [hash](crate::hash) for the ends and for each block, of the weights as they are held. Neither the folder, nor its form,
//! nor what its weights are stored in goes in. So it is the same for the same model anywhere, and for one whose codes are
//! made when it is loaded and one whose folder has these codes. It reads all weights, unless their hashes are known.

use std::path::Path;

use bouquet_kernels::ARITHMETIC_VERSION;
use serde::Serialize;

use crate::{Encoding, Hash, KnownHashes, ModelSpec, OpenOptions, Result, Stored, families};

/// All that decides the bits of a model's results, but what a request brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    /// SHA-256 of all below, in hexadecimal like the others.
    pub fingerprint: Hash,
    /// Of what the model is.
    pub config: Hash,
    /// How it is computed.
    #[serde(flatten)]
    pub computed: Computed,
    /// Of what is in no block: embedding, head and their norms.
    pub ends: Hash,
    /// Of each block.
    pub blocks: Vec<Hash>,
}

/// The part of it that no weight has to be read for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Computed {
    /// What the linears of blocks are stored in; not part of the fingerprint.
    pub stored: String,
    /// What embedding and head are stored in; not part of the fingerprint.
    pub stored_embedding: String,
    /// What weights are computed in.
    pub encoding: &'static str,
    /// What hidden states are rounded to between blocks.
    pub wire: &'static str,
    /// How sessions keep keys and values.
    pub kv_cache: &'static str,
    /// [`ARITHMETIC_VERSION`].
    pub arithmetic_version: u32,
}

impl Computed {
    /// That of a model that is opened so.
    pub fn of(stored: &Stored, options: &OpenOptions) -> Computed {
        let (linears, embedding) = match &stored.kinds {
            Some(kinds) => (kinds.linears.as_str(), kinds.embedding.as_str()),
            None => (stored.linears.name(), stored.embedding.name()),
        };
        Computed {
            stored: linears.to_owned(),
            stored_embedding: embedding.to_owned(),
            encoding: options.encoding.name(),
            wire: options.rounding.name(),
            kv_cache: options.cache_encoding.name(),
            arithmetic_version: ARITHMETIC_VERSION,
        }
    }
}

impl Fingerprint {
    /// That of the model of a folder, or of a GGUF file, opened so. Reads what `cache` does not know of it, a part at a time,
    /// on all threads; `progress` is told how many parts of all are known.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; an encoding that stored codes cannot be computed in.
    pub fn of(
        model: &Path,
        options: &OpenOptions,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Fingerprint> {
        let mut known = KnownHashes::open(model, options.encoding, cache)?;
        let (ends, blocks) = known.all(&options.cpu, progress)?;
        Ok(Fingerprint::new(&families::load_spec(model)?, options, ends, blocks))
    }

    /// That of a model whose parts have these hashes.
    pub fn new(spec: &ModelSpec, options: &OpenOptions, ends: Hash, blocks: Vec<Hash>) -> Fingerprint {
        let (config, computed) = (config(spec), Computed::of(&spec.stored, options));
        let encoding = served(&spec.stored, options.encoding);
        let Computed { wire, kv_cache, arithmetic_version, .. } = computed;
        let mut lines = format!(
            "config {config}\nencoding {encoding}\nwire {wire}\nkv_cache {kv_cache}\n\
             arithmetic_version {arithmetic_version}\nends {ends}\n"
        );
        blocks.iter().for_each(|block| lines += &format!("block {block}\n"));
        Fingerprint { fingerprint: Hash::of(lines), config, computed, ends, blocks }
    }
}

/// What a model is, without what its files are like, how far it is good for and when it ends a text.
fn config(spec: &ModelSpec) -> Hash {
    let ModelSpec { vocab_size, num_blocks, embedding_size, embedding_norm, final_norm, .. } = spec;
    let ModelSpec { block, full_attention, .. } = spec;
    Hash::of(format!(
        "{num_blocks} x {block:?} full_attention {full_attention:?} vocab_size {vocab_size} embedding_size \
         {embedding_size} embedding_norm {embedding_norm} final_norm {final_norm}"
    ))
}

/// The encoding by the name that says what is computed: where weights are asked for as they are stored, that of the codes, or
/// what floats become.
fn served(stored: &Stored, asked: Encoding) -> Encoding {
    match (asked, stored.linears) {
        (Encoding::Stored, Encoding::F32) if stored.kinds.is_none() => Encoding::Int8,
        (Encoding::Stored, Encoding::F32) => Encoding::Stored,
        (Encoding::Stored, codes) => codes,
        (asked, _) => asked,
    }
}
