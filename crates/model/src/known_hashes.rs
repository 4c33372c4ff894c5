//! The hashes of a model's parts, each computed once: what was found is kept in a file, until the model's files change.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bouquet_kernels::{ARITHMETIC_VERSION, Cpu};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::checkpoint::{Checkpoint, TensorSource};
use crate::ends::Ends;
use crate::form::Form;
use crate::load::Loader;
use crate::{Encoding, Hash, LocalSpan, ModelError, ModelSpec, OpenOptions, Result, beside, families, files, hash};

/// Bytes that a file of hashes may have: more than those of all blocks that a model can have.
const MAX_BYTES: u64 = 4 << 20;

/// What is known of the parts of one model, as it is served in one encoding.
pub struct KnownHashes {
    model: PathBuf,
    spec: ModelSpec,
    encoding: Encoding,
    /// Where they are kept, and what of: another program, file or encoding has other ones.
    kept: Option<(PathBuf, Value)>,
    ends: Option<Hash>,
    blocks: Vec<Option<Hash>>,
}

impl KnownHashes {
    /// Those of the model of a folder, or of a GGUF file, in an encoding; with a folder `cache`, those that an earlier program
    /// found are taken from there, and what is found is kept. A file there that is damaged, or of other files, counts as none.
    ///
    /// # Errors
    /// Whatever is wrong with the model's small files.
    pub fn open(model: &Path, encoding: Encoding, cache: Option<&Path>) -> Result<KnownHashes> {
        let spec = families::load_spec(model)?;
        spec.stored.check(encoding)?;
        let kept = match cache {
            Some(cache) => {
                let of = what(model, encoding)?;
                Some((cache.join(format!("{}.json", Hash::of(of.to_string()))), of))
            }
            None => None,
        };
        let blocks = vec![None; spec.num_blocks];
        let mut known = KnownHashes { model: model.to_owned(), spec, encoding, kept, ends: None, blocks };
        known.recall();
        Ok(known)
    }

    /// The hash of the ends, which are opened where it is not known.
    ///
    /// # Errors
    /// Those of [`Ends::open`].
    pub fn ends(&mut self, options: &OpenOptions) -> Result<Hash> {
        if let Some(known) = self.ends {
            return Ok(known);
        }
        let found = Ends::open(&self.model, &OpenOptions { encoding: self.encoding, ..options.clone() })?.hash();
        self.ends = Some(found);
        self.keep();
        Ok(found)
    }

    /// The hashes of the blocks of a span, which are loaded. Panics for blocks that the model does not have.
    pub fn of_blocks(&mut self, span: &LocalSpan) -> Vec<Hash> {
        let range = bouquet_span::Span::range(span);
        if self.blocks[range.clone()].iter().any(Option::is_none) {
            for (known, found) in self.blocks[range.clone()].iter_mut().zip(span.hashes()) {
                *known = Some(found);
            }
            self.keep();
        }
        self.blocks[range].iter().copied().flatten().collect()
    }

    /// The blocks of a span that are not those of a list, which has one for each block of the model.
    pub fn differing(&mut self, span: &LocalSpan, list: &[Hash]) -> Vec<usize> {
        let first = bouquet_span::Span::range(span).start;
        let differs = |(index, found): (usize, Hash)| {
            let block = first + index;
            (list.get(block) != Some(&found)).then_some(block)
        };
        self.of_blocks(span).into_iter().enumerate().filter_map(differs).collect()
    }

    /// All of them. Parts that are not known yet are loaded one after the other and dropped, so that it takes no more memory
    /// than the largest; `progress` is told how many of all are known.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; what `progress` returns.
    pub fn all(
        &mut self,
        cpu: &std::sync::Arc<Cpu>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<(Hash, Vec<Hash>)> {
        let missing: Vec<usize> = (0..self.blocks.len()).filter(|&block| self.blocks[block].is_none()).collect();
        let parts = self.blocks.len() + 1;
        if self.ends.is_none() || !missing.is_empty() {
            let checkpoint = Checkpoint::of(Form::open(&self.model)?)?;
            let release = |data: &[u8]| checkpoint.release(data);
            if self.ends.is_none() {
                progress(parts - missing.len() - 1, parts)?;
                let options = OpenOptions::new(cpu.clone(), 0, self.encoding);
                let ends = Ends::from_source(&checkpoint, self.spec.clone(), &options)?;
                self.ends = Some(hash::of_ends(&ends, &release));
            }
            for (done, &index) in missing.iter().enumerate() {
                progress(parts - missing.len() + done, parts)?;
                let loader = Loader { source: &checkpoint, spec: &self.spec, encoding: Some((cpu, self.encoding)) };
                for block in loader.blocks(one(index))? {
                    self.blocks[index] = Some(hash::of_block(cpu, &block, &release));
                }
            }
            self.keep();
        }
        let ends = self.ends.expect("it was found");
        Ok((ends, self.blocks.iter().copied().flatten().collect()))
    }

    /// What an earlier program has kept.
    fn recall(&mut self) {
        let Some((file, of)) = &self.kept else { return };
        let Ok(Some(bytes)) = files::read(file, MAX_BYTES) else { return };
        let Ok(found) = serde_json::from_slice::<Value>(&bytes) else { return };
        let hash = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let blocks = found["blocks"].as_array().filter(|blocks| blocks.len() == self.blocks.len());
        if let (true, Some(blocks)) = (found["of"] == *of, blocks) {
            self.blocks = blocks.iter().map(hash).collect();
            self.ends = hash(&found["ends"]);
        }
    }

    /// Keeps what is known for the next program. Where that cannot be done, the next program reads the model again.
    fn keep(&self) {
        let Some((file, of)) = &self.kept else { return };
        let (ends, blocks) = (self.ends, &self.blocks);
        let text = json!({ "of": of, "ends": ends, "blocks": blocks }).to_string();
        let write = || -> std::io::Result<()> {
            let folder = file.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let mut temporary = NamedTempFile::new_in(folder)?;
            temporary.write_all(text.as_bytes())?;
            temporary.as_file().sync_all()?;
            temporary.persist(file)?;
            Ok(())
        };
        let _ = write();
    }
}

fn one(block: usize) -> Range<usize> {
    block..block + 1
}

/// What hashes are of: where the model is, name, length and time of its files, and what makes codes of them.
fn what(model: &Path, encoding: Encoding) -> Result<Value> {
    let path = fs::canonicalize(model).map_err(|source| ModelError::Io { path: model.to_owned(), source })?;
    let small = ["config.json", "model.safetensors.index.json"].map(|name| {
        let metadata = fs::metadata(path.join(name)).ok()?;
        let time = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((metadata.len(), time.as_nanos().to_string()))
    });
    Ok(json!({
        "version": [env!("CARGO_PKG_VERSION"), ARITHMETIC_VERSION],
        "model": path.to_string_lossy(),
        "files": beside::weights(model)?,
        "settings": small,
        "encoding": encoding.name(),
    }))
}
