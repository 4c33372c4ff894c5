//! A plan carried out.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use bouquet_kernels::{ARITHMETIC_VERSION, Cpu, FloatEncoding, Weight};
use bouquet_span::{Limits, SpanError};
use serde_json::{Value, json};

use super::{Change, Piece, Plan, Shard, Unit, bytes, goes_along};
use crate::checkpoint::parts::{not_finite, wrong};
use crate::checkpoint::write::{Planned, Writer};
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::files::{self, MAX_SETTINGS_BYTES, damaged, missing};
use crate::staging::Staging;
use crate::{ModelError, Result, merge};

/// Bytes of a tensor that are read at a time.
pub(crate) const AT_A_TIME: usize = 16 << 20;

/// What a plan is carried out with.
pub struct Job<'a> {
    /// Encodes.
    pub cpu: &'a Cpu,
    /// The tensors of the plan.
    pub source: &'a dyn TensorSource,
    /// Where the source's other files are.
    pub folder: &'a Path,
    /// The folder to write: none yet, or an empty one.
    pub target: &'a Path,
    /// When to stop.
    pub limits: &'a Limits,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being written.
    pub label: &'a str,
    /// Bytes of tensors that have been written, those of an earlier try among them.
    pub bytes: u64,
    /// Bytes of all of them.
    pub total: u64,
}

impl Plan {
    /// Writes the folder, or goes on with it where an earlier try was interrupted. Returns the bytes of tensors that such
    /// a try had written.
    ///
    /// # Errors
    /// [`ModelError::NotANewFolder`]; [`ModelError::Busy`] while another program writes it; [`ModelError::Write`];
    /// [`ModelError::Tensor`] for a number that is not finite, encoded or copied. What the next try would meet again leaves
    /// nothing. After [`SpanError::Cancelled`], and where the disk is at fault, what is finished stays for it.
    pub fn write(&self, job: &Job<'_>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
        let mut staging = Staging::open(job.target, self.what(job.folder)?)?;
        let written = self.write_all(job, &mut staging, progress);
        match written {
            Ok(before) => staging.finish().map(|()| before),
            Err(error @ ModelError::Span(SpanError::Cancelled)) => Err(error),
            Err(error) => {
                // A disk has room again some day; the weights stay what they are.
                let passes = matches!(error, ModelError::Write { .. } | ModelError::Io { .. });
                if !passes || staging.done == 0 {
                    staging.remove();
                }
                // In the user's words: of the folder that was asked for.
                Err(match error {
                    ModelError::Write { source, .. } => ModelError::Write { path: job.target.to_owned(), source },
                    error => error,
                })
            }
        }
    }

    fn write_all(&self, job: &Job<'_>, staging: &mut Staging, progress: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
        let mut first = 0;
        for shard in &self.shards {
            // A file whose units are all done, but neither whole nor in parts, was taken away.
            let file = staging.file(&shard.file);
            if !file.exists() && !Writer::unfinished(&file).exists() {
                staging.done = staging.done.min(first);
            }
            first += shard.units.len();
        }
        let units = self.shards.iter().flat_map(|shard| &shard.units);
        let before = units.take(staging.done).map(Unit::bytes).sum();
        let (mut first, mut written, total) = (0, before, self.bytes());
        for shard in &self.shards {
            let end = first + shard.units.len();
            if staging.done < end || !staging.file(&shard.file).exists() {
                self.write_shard(job, staging, shard, first, &mut |label, bytes| {
                    written += bytes;
                    progress(Progress { label, bytes: written, total });
                })?;
            }
            first = end;
        }
        self.write_small_files(job.folder, staging)?;
        Ok(before)
    }

    /// Writes a file, whose first unit has this number.
    fn write_shard(
        &self,
        job: &Job<'_>,
        staging: &mut Staging,
        shard: &Shard,
        first: usize,
        progress: &mut dyn FnMut(&str, u64),
    ) -> Result<()> {
        let mut writer = Writer::resume(&staging.file(&shard.file))?;
        let planned: Vec<Planned> = shard.tensors().cloned().collect();
        writer.plan(&planned)?;
        for (index, unit) in shard.units.iter().enumerate() {
            if first + index < staging.done {
                unit.tensors().for_each(|tensor| writer.skip(&tensor.name));
                continue;
            }
            progress(&unit.label, 0);
            for piece in &unit.pieces {
                piece.write(job, &mut writer, &mut |bytes| progress(&unit.label, bytes))?;
            }
            writer.sync()?;
            staging.record(first + index + 1)?;
        }
        writer.finish()
    }

    /// What makes weights into a model, `config.json` last of all.
    fn write_small_files(&self, folder: &Path, staging: &Staging) -> Result<()> {
        if let Some(index) = self.index() {
            staging.write("model.safetensors.index.json", pretty(&index).as_bytes())?;
        }
        for entry in fs::read_dir(folder).map_err(|source| ModelError::Io { path: folder.to_owned(), source })? {
            let path = entry.map_err(|source| ModelError::Io { path: folder.to_owned(), source })?.path();
            if goes_along(&path) && path.is_file() {
                staging.copy(&path)?;
            }
        }
        let mut config = config(folder)?;
        for (field, value) in &self.config {
            config[field] = value.clone();
        }
        staging.write("config.json", pretty(&config).as_bytes())
    }

    /// What is written, and from what.
    fn what(&self, folder: &Path) -> Result<Value> {
        Ok(json!({
            "version": [env!("CARGO_PKG_VERSION"), ARITHMETIC_VERSION],
            "wanted": self.what,
            "config": config(folder)?,
            "weights": weights_files(folder)?,
        }))
    }
}

impl Piece {
    fn write(&self, job: &Job<'_>, writer: &mut Writer, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let Piece { source: name, change, tensors } = self;
        let tensor = job.source.tensor(name)?.expect("a tensor that was there when it was planned");
        job.limits.check()?;
        let layout = match change {
            Change::Copied => return self.copy(&tensor, job, writer, progress),
            Change::Folded(fold) => return merge::write(&tensor, &tensors[0], fold.as_ref(), job, writer, progress),
            Change::Encoded(layout) => layout,
        };
        let was = match tensor.dtype {
            Dtype::F16 => FloatEncoding::F16,
            Dtype::Bf16 => FloatEncoding::Bf16,
            _ => FloatEncoding::F32,
        };
        let weight = Weight::from_bytes(was, tensor.shape[0], tensor.shape[1], tensor.data);
        let weight = layout.encoding.encode(job.cpu, name, weight, &|data| job.source.release(data))?;
        for (planned, contents) in tensors.iter().zip(layout.contents(&weight, was)) {
            writer.write(&planned.name, 0, &contents)?;
            progress(bytes(planned));
        }
        Ok(())
    }

    fn copy(&self, tensor: &Tensor, job: &Job<'_>, writer: &mut Writer, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let name = &self.source;
        for (index, part) in tensor.data.chunks(AT_A_TIME).enumerate() {
            job.limits.check()?;
            let first = (index * AT_A_TIME) as u64;
            if let Some((place, bytes)) = not_finite(&tensor.dtype, part).zip(tensor.dtype.bytes()) {
                let place = first / bytes + place as u64;
                return wrong(name, format!("has a number at index {place} that is not finite"));
            }
            writer.write(&self.tensors[0].name, first, part)?;
            job.source.release(part);
            progress(part.len() as u64);
        }
        Ok(())
    }
}

/// `config.json` as it is.
fn config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    match files::read(&path, MAX_SETTINGS_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string())),
        None => Err(missing(path, "it says what kind of model the folder holds")),
    }
}

/// Name, length and time of the files with weights, which tell whether they have changed.
fn weights_files(folder: &Path) -> Result<Vec<Value>> {
    let failed = |source| ModelError::Io { path: folder.to_owned(), source };
    let mut weights = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let metadata = fs::metadata(&path).map_err(failed)?;
            let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let nanoseconds = time.map(|time| time.as_nanos().to_string());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            weights.push(json!([name, metadata.len(), nanoseconds]));
        }
    }
    weights.sort_by_key(ToString::to_string);
    Ok(weights)
}

/// As transformers writes it.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
