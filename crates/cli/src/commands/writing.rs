//! What the commands that write models have in common: room on the disk, progress, what was written.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::quantize::{Job, Progress, unfinished};
use bouquet_model::{ModelError, gguf, quantize};
use bouquet_span::Limits;
use serde_json::{Value, json};

use crate::compute::ComputeArgs;
use crate::errors::{disk_hint, wrong};
use crate::interrupt::Work;
use crate::{output, system};

/// What is to be written.
pub(super) enum Plan {
    /// A folder.
    Folder(quantize::Plan),
    /// A GGUF file.
    File(Box<gguf::Plan>),
}

/// From where to where.
pub(super) struct Task<'a> {
    pub(super) model: &'a Path,
    pub(super) source: &'a Checkpoint,
    pub(super) output: &'a Path,
    pub(super) compute: &'a ComputeArgs,
    /// Only look whether it can be done.
    pub(super) dry_run: bool,
}

/// What came of it.
pub(super) struct Outcome {
    /// Bytes that were free on the disk before.
    pub(super) free: Option<u64>,
    /// Bytes that an earlier try had written, and the time that the rest took; nothing for a dry run.
    pub(super) written: Option<(u64, Duration)>,
}

impl Plan {
    /// Bytes of all tensors as they are.
    pub(super) fn bytes_before(&self) -> u64 {
        match self {
            Plan::Folder(plan) => plan.bytes_before,
            Plan::File(plan) => plan.bytes_before,
        }
    }

    /// Bytes to write.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Plan::Folder(plan) => plan.bytes(),
            Plan::File(plan) => plan.bytes(),
        }
    }

    /// The types of all tensors to be.
    pub(super) fn dtypes(&self) -> Vec<String> {
        let dtypes = match self {
            Plan::Folder(plan) => plan.dtypes().into_iter().cloned().collect(),
            Plan::File(plan) => plan.dtypes(),
        };
        dtypes.iter().map(|dtype: &Dtype| dtype.name().to_lowercase()).collect()
    }

    /// The files with weights, and their bytes.
    pub(super) fn files(&self, output: &Path) -> Vec<(String, u64)> {
        match self {
            Plan::Folder(plan) => plan.shards.iter().map(|shard| (shard.file.clone(), shard.bytes)).collect(),
            Plan::File(plan) => {
                vec![(output.file_name().unwrap_or_default().to_string_lossy().into_owned(), plan.bytes())]
            }
        }
    }

    /// What an earlier try has left, that this one goes on with.
    fn unfinished(&self, output: &Path) -> Result<Option<std::path::PathBuf>> {
        Ok(match self {
            Plan::Folder(_) => unfinished(output)?,
            Plan::File(_) => {
                gguf::Plan::check_target(output)?;
                None
            }
        })
    }

    /// Looks whether there is room, and carries it out unless that is not wanted.
    ///
    /// # Errors
    /// A target that cannot be written; a disk without room; whatever goes wrong.
    pub(super) fn carry_out(&self, task: &Task<'_>) -> Result<Outcome> {
        let free = system::free_disk_bytes(task.output);
        let unfinished = self.unfinished(task.output)?;
        if task.dry_run {
            return Ok(Outcome { free, written: None });
        }
        check_disk(task.output, free, needed(self.bytes(), unfinished.as_deref()))?;
        let work = Work::begin();
        let limits = Limits { deadline: None, cancel: work.cancel.clone() };
        let cpu = task.compute.cpu()?;
        let job = Job { cpu: &cpu, source: task.source, folder: task.model, target: task.output, limits: &limits };
        let start = Instant::now();
        let mut shown = output::Progress::new();
        let mut show = |Progress { label, bytes, total }: Progress<'_>| {
            shown.show(&format!("{label}, {} of {}", output::bytes(bytes), output::bytes(total)));
        };
        let before = match self {
            Plan::Folder(plan) => plan.write(&job, &mut show).map_err(|error| with_what_is_kept(error, task.output))?,
            Plan::File(plan) => plan.write(&job, &mut show).map(|()| 0)?,
        };
        Ok(Outcome { free, written: Some((before, start.elapsed())) })
    }

    /// What is the same in the JSON of all commands, with what one has besides.
    pub(super) fn report(&self, task: &Task<'_>, outcome: &Outcome, mut more: Value) -> Result<()> {
        let files = self.files(task.output).into_iter().map(|(file, bytes)| json!({ "file": file, "bytes": bytes }));
        let common = json!({
            "output": task.output.display().to_string(),
            "weight_bytes_before": self.bytes_before(),
            "weight_bytes": self.bytes(),
            "files": files.collect::<Vec<_>>(),
            "free_disk_bytes": outcome.free,
            "written": outcome.written.is_some(),
            "resumed_bytes": outcome.written.map(|(before, _)| before),
            "seconds": outcome.written.map(|(_, time)| time.as_secs_f64()),
            "peak_memory_bytes": system::peak_memory_bytes(),
        });
        if let (Value::Object(more), Value::Object(common)) = (&mut more, common) {
            more.extend(common);
        }
        output::json(&more)
    }
}

impl Outcome {
    /// How long it took, or what is free.
    pub(super) fn note(&self) {
        match (self.written, self.free) {
            (Some((before, time)), _) => {
                let resumed = match before {
                    0 => String::new(),
                    before => format!(", after {} that were there", output::bytes(before)),
                };
                let peak = system::peak_memory_bytes().map(|peak| format!(", peak memory {}", output::bytes(peak)));
                output::note(&format!("{}{resumed}{}", output::seconds(time), peak.unwrap_or_default()));
            }
            (None, Some(free)) => output::note(&format!("its disk has {} free", output::bytes(free))),
            (None, None) => {}
        }
    }

    /// Before what was written, or would be.
    pub(super) fn would(&self) -> &'static str {
        if self.written.is_some() { "" } else { "would have " }
    }
}

/// Whether the disk has room.
fn check_disk(target: &Path, free: Option<u64>, needed: u64) -> Result<()> {
    match free.filter(|&free| free < needed) {
        None => Ok(()),
        Some(free) => {
            let (needed, free) = (output::bytes(needed), output::bytes(free));
            Err(wrong(
                format!("{} needs {needed}, and its disk has {free} free", target.display()),
                "make room on the disk, or write to another one",
            ))
        }
    }
}

/// An error of the disk, and that what is finished has been kept, where it has.
fn with_what_is_kept(error: ModelError, target: &Path) -> anyhow::Error {
    match (&error, unfinished(target)) {
        (ModelError::Write { source, .. }, Ok(Some(_))) => {
            let hint = format!("{}; the same command goes on from what is finished", disk_hint(source));
            wrong(error.to_string(), hint)
        }
        _ => error.into(),
    }
}

/// What a folder of so many bytes needs on its disk besides what an earlier try has left there, which is gone on with or
/// written over.
fn needed(bytes: u64, unfinished: Option<&Path>) -> u64 {
    let entries = unfinished.and_then(|folder| folder.read_dir().ok()).into_iter().flatten();
    let there: u64 = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
    bytes.saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_try_has_left_needs_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("first"), [0; 300]).unwrap();
        std::fs::write(folder.path().join("second.part"), [0; 50]).unwrap();
        assert_eq!(needed(1000, Some(folder.path())), 650);
        assert_eq!(needed(100, Some(folder.path())), 0);
        assert_eq!(needed(1000, None), 1000);
        assert_eq!(needed(1000, Some(&folder.path().join("gone"))), 1000);
    }

    #[test]
    fn a_disk_without_room_is_known_before() {
        let target = Path::new("model.gguf");
        assert!(check_disk(target, Some(10), 10).is_ok() && check_disk(target, None, 10).is_ok());
        let said = check_disk(target, Some(9), 10).unwrap_err().to_string();
        assert!(said.contains("model.gguf needs 10 B, and its disk has 9 B free"), "{said}");
    }
}
