//! The folder of a run: what is in it, and that only one process works there.
//!
//! | file | what | when |
//! |---|---|---|
//! | `finetune.toml` | the settings, all of them | from the beginning |
//! | `checkpoint.safetensors` | where the run stands | until it is finished |
//! | `metrics.jsonl` | a line for each step and each evaluation | grows |
//! | `report.html` | the run as a page | with each checkpoint |
//! | `adapter_config.json`, ... | the result | when it is finished |
//! | `summary.json` | how it ended; written last | when it is finished |

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use bouquet_model::checkpoint::new_file::{self, write_whole};

use crate::error::cannot_write;
use crate::{Result, TuneError};

/// The settings of the run.
pub const SETTINGS: &str = "finetune.toml";
/// A line for each step and each evaluation.
pub const METRICS: &str = "metrics.jsonl";
/// The run as a page.
pub const REPORT: &str = "report.html";
/// How it ended.
pub const SUMMARY: &str = "summary.json";
/// What is locked.
const LOCK: &str = ".lock";

/// The folder of a run, which no other process works in as long as this lives; the lock dies with the process.
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

/// What a folder has of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing.
    New,
    /// One that is not finished.
    Begun,
    /// One that is.
    Finished,
}

impl RunFolder {
    /// What a folder has of a run, without touching it.
    pub fn stage(path: &Path) -> Stage {
        match (path.join(SUMMARY).exists(), path.join(SETTINGS).exists()) {
            (true, _) => Stage::Finished,
            (false, true) => Stage::Begun,
            (false, false) => Stage::New,
        }
    }

    /// Takes a folder for a run, and makes it if it is not there. With `resume`, what there is of a run stays.
    ///
    /// # Errors
    /// [`TuneError::HasRun`], [`TuneError::NotEmpty`], [`TuneError::Busy`]; the disk's.
    pub fn take(path: &Path, resume: bool) -> Result<(RunFolder, Stage)> {
        fs::create_dir_all(path).map_err(|error| cannot_write(path, error))?;
        // Looked at before anything is put there. What begins with a dot a process that was killed may have left.
        let entries = fs::read_dir(path).map_err(|source| TuneError::Read { path: path.to_owned(), source })?;
        let foreign = |name: &str| !name.starts_with('.');
        let foreign = entries.flatten().any(|entry| entry.file_name().to_str().is_none_or(foreign));
        if RunFolder::stage(path) == Stage::New && foreign {
            return Err(TuneError::NotEmpty { folder: path.to_owned() });
        }
        let lock_path = path.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| cannot_write(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TuneError::Busy { folder: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(cannot_write(&lock_path, error)),
        }
        let stage = RunFolder::stage(path);
        if stage != Stage::New && !resume {
            return Err(TuneError::HasRun { folder: path.to_owned() });
        }
        Ok((RunFolder { path: path.to_owned(), _lock: lock }, stage))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file of the run: all of it, or nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        Ok(write_whole(&path, bytes)?)
    }

    /// Removes a file of the run, if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Removes temporary files that processes which were killed have left.
    pub fn sweep(&self) {
        new_file::sweep(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_run_and_one_process() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run");
        assert_eq!(RunFolder::stage(&path), Stage::New);
        let (folder, stage) = RunFolder::take(&path, false).unwrap();
        assert_eq!(stage, Stage::New);
        assert!(matches!(RunFolder::take(&path, true), Err(TuneError::Busy { .. })));
        folder.write(SETTINGS, b"x = 1").unwrap();
        drop(folder);
        assert!(matches!(RunFolder::take(&path, false), Err(TuneError::HasRun { .. })));
        let (folder, stage) = RunFolder::take(&path, true).unwrap();
        assert_eq!(stage, Stage::Begun);
        fs::write(path.join(".bouquet-abc.part"), "half").unwrap();
        folder.sweep();
        assert!(!path.join(".bouquet-abc.part").exists());
        folder.write(SUMMARY, b"{}").unwrap();
        assert_eq!(RunFolder::stage(&path), Stage::Finished);
    }

    #[test]
    fn a_folder_of_other_things_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), "precious").unwrap();
        assert!(matches!(RunFolder::take(root.path(), true), Err(TuneError::NotEmpty { .. })));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
