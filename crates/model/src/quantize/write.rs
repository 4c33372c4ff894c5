//! A plan carried out.

use std::path::Path;

use bouquet_kernels::{ARITHMETIC_VERSION, Cpu, FloatEncoding, Matrix, Weight};
use bouquet_span::{Limits, SpanError};
use serde_json::{Value, json};

use super::{Change, Piece, Plan, Shard, Unit, bytes};
use crate::beside::{self, Beside, pretty};
use crate::checkpoint::parts::{self, not_finite, wrong};
use crate::checkpoint::write::{Planned, Writer};
use crate::checkpoint::{Dtype, Tensor, TensorSource};
use crate::merge::Fold;
use crate::rows::{AT_A_TIME, Rows, Share, Work};
use crate::staging::Staging;
use crate::{ModelError, Result};

/// What a plan is carried out with.
pub struct Job<'a> {
    /// Encodes.
    pub cpu: &'a Cpu,
    /// The tensors of the plan.
    pub source: &'a dyn TensorSource,
    /// The folder or the GGUF file of the source, for what is said there besides.
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
    fn write_small_files(&self, model: &Path, staging: &Staging) -> Result<()> {
        if let Some(index) = self.index() {
            staging.write("model.safetensors.index.json", pretty(&index).as_bytes())?;
        }
        for file in beside::others(model)? {
            match file {
                Beside::Copied(path, place) => staging.copy(&path, &place)?,
                Beside::Made(name, bytes) => staging.write(name, &bytes)?,
            }
        }
        let mut config = beside::config(model)?;
        let fields = config.as_object_mut().ok_or_else(|| ModelError::Config("it is no JSON object".to_owned()))?;
        for (field, value) in self.config.iter().cloned() {
            // As JSON has it, null is for what is not there.
            if value.is_null() {
                fields.remove(&field)
            } else {
                fields.insert(field, value)
            };
        }
        staging.write("config.json", pretty(&config).as_bytes())
    }

    /// What is written, and from what.
    fn what(&self, model: &Path) -> Result<Value> {
        Ok(json!({
            "version": [env!("CARGO_PKG_VERSION"), ARITHMETIC_VERSION],
            "wanted": self.what,
            "config": beside::config(model)?,
            "weights": beside::weights(model)?,
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
            Change::Floats(fold) => return self.floats(tensor, fold.as_ref(), job, writer, progress),
            Change::Encoded(layout) => layout,
        };
        let was = match tensor.dtype {
            Dtype::F32 => FloatEncoding::F32,
            Dtype::Bf16 => FloatEncoding::Bf16,
            _ => FloatEncoding::F16,
        };
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let weight = parts::weight(job.source, name, tensor, rows, cols)?;
        let weight = layout.encoding.encode(job.cpu, name, weight, &|data| job.source.release(data))?;
        for (planned, contents) in tensors.iter().zip(layout.contents(&weight, was)) {
            writer.write(&planned.name, 0, &contents)?;
            progress(bytes(planned));
        }
        Ok(())
    }

    fn floats(
        &self,
        tensor: Tensor,
        fold: Option<&Fold>,
        job: &Job<'_>,
        writer: &mut Writer,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let Planned { name, dtype, shape } = &self.tensors[0];
        let weight = match (shape.as_slice(), &tensor.dtype) {
            (&[rows, cols], _) => parts::weight(job.source, &self.source, tensor, rows, cols)?,
            // Vectors, and what no part of a model is.
            (shape, _) => {
                let cols = shape.last().copied().unwrap_or(1);
                let encoding = parts::check_floats(&self.source, &tensor, shape)?;
                Weight::from_bytes(encoding, shape.iter().product::<usize>() / cols.max(1), cols, tensor.data)
            }
        };
        let share = fold.map(|fold| move |first, numbers: &mut Matrix| fold.add(job.cpu, first, numbers));
        let share = share.as_ref().map(|share| share as Share<'_>);
        let mut written = 0;
        let work = Work { cpu: job.cpu, limits: job.limits, release: &|data| job.source.release(data) };
        Rows { name, weight: &weight, order: None, share, dtype }.write(work, &mut |bytes| {
            writer.write(name, written, bytes)?;
            written += bytes.len() as u64;
            progress(bytes.len() as u64);
            Ok(())
        })
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
