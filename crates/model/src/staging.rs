//! The folder beside the one that is wanted, where it is written; and what of it is done.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::files::{self, MAX_SETTINGS_BYTES};
use crate::{ModelError, Result};

/// What is being written, and how many units of it are on the disk.
const PROGRESS: &str = "progress.json";

/// Locked by whoever writes.
const LOCK: &str = "lock";

/// A folder that is being written.
pub(crate) struct Staging {
    target: PathBuf,
    path: PathBuf,
    lock: File,
    /// What is being written, and from what: another try goes on only where both are the same.
    what: Value,
    /// Units that are on the disk.
    pub(crate) done: usize,
}

fn not_a_new_folder(target: &Path, problem: impl Into<String>) -> ModelError {
    ModelError::NotANewFolder { path: target.to_owned(), problem: problem.into() }
}

/// Where a folder is written before it has its name.
fn path_beside(target: &Path) -> Result<PathBuf> {
    let refuse = |problem: &str| Err(not_a_new_folder(target, problem));
    let Some(name) = target.file_name() else { return refuse("is no name for a new folder") };
    match fs::read_dir(target).map(Iterator::count) {
        Ok(1..) => return refuse("is there already, and not empty"),
        Err(_) if target.symlink_metadata().is_ok() => return refuse("is there already, and no folder"),
        _ => {}
    }
    Ok(target.with_file_name(format!(".{}.bouquet-part", name.to_string_lossy())))
}

/// Takes an empty folder of that name away, and puts it back: one that cannot make room at the end (a link to a folder,
/// or one where a disk is mounted) is known at the beginning.
fn check_room(target: &Path) -> Result<()> {
    match make_room(target) {
        Ok(false) => Ok(()),
        Ok(true) => match fs::create_dir(target) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(ModelError::Write { path: target.to_owned(), source: error })
            }
            _ => Ok(()),
        },
        Err(error) => Err(not_a_new_folder(target, format!("is there already, and cannot be replaced: {error}"))),
    }
}

/// Removes an empty folder, and says whether there was one.
fn make_room(target: &Path) -> std::io::Result<bool> {
    match fs::remove_dir(target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where an earlier try to write this folder has left its work, if one has.
///
/// # Errors
/// [`ModelError::NotANewFolder`] where no folder can be written at all.
pub fn unfinished(target: &Path) -> Result<Option<PathBuf>> {
    Ok(Some(path_beside(target)?).filter(|path| path.exists()))
}

impl Staging {
    /// Begins, whatever an earlier try has left there; only one that is still at work is let be.
    pub(crate) fn anew(target: &Path) -> Result<Staging> {
        let staging = Staging::open(target, Value::Null)?;
        staging.clear()?;
        Ok(staging)
    }

    /// Begins, or goes on where an earlier try ended.
    pub(crate) fn open(target: &Path, what: Value) -> Result<Staging> {
        // Without a separator at its end, which would lead through a link.
        let target = target.components().as_path();
        let path = path_beside(target)?;
        check_room(target)?;
        let failed = |source| ModelError::Write { path: target.to_owned(), source };
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        // Where the file system has no locks, there are none to respect.
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(ModelError::Busy { path: target.to_owned() });
        }
        // Another program may have finished it since it was looked for.
        path_beside(target).inspect_err(|_| drop(fs::remove_dir_all(&path)))?;
        let found = match files::read(&path.join(PROGRESS), MAX_SETTINGS_BYTES) {
            Ok(Some(bytes)) => serde_json::from_slice::<Value>(&bytes).ok(),
            _ => None,
        };
        let done = found.filter(|found| found["what"] == what).and_then(|found| found["done"].as_u64());
        let mut staging = Staging { target: target.to_owned(), path, lock, what, done: done.unwrap_or(0) as usize };
        if done.is_none() {
            // Whatever is there is of something else.
            staging.clear().and_then(|()| staging.record(0))?;
        }
        Ok(staging)
    }

    /// Removes all but the lock.
    fn clear(&self) -> Result<()> {
        let clear = || {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else if entry.file_name() != LOCK {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        clear().map_err(|source| self.cannot_write(source))
    }

    /// The path of a file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes down that so many units are on the disk.
    pub(crate) fn record(&mut self, done: usize) -> Result<()> {
        self.done = done;
        let text = json!({ "what": self.what, "done": done }).to_string();
        let new = self.file("progress.json.new");
        write_through(&new, text.as_bytes())
            .and_then(|()| fs::rename(&new, self.file(PROGRESS)))
            .map_err(|source| self.cannot_write(source))
    }

    /// Writes a small file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_through(&self.file(name), bytes).map_err(|source| self.cannot_write(source))
    }

    /// Copies a small file to a place in the folder.
    pub(crate) fn copy(&self, from: &Path, place: &Path) -> Result<()> {
        if files::open(from)?.is_none() {
            return Ok(());
        }
        let to = self.path.join(place);
        let copy = || {
            fs::create_dir_all(to.parent().unwrap_or(&self.path))?;
            fs::copy(from, &to)?;
            File::open(&to)?.sync_all()
        };
        copy().map_err(|source| self.cannot_write(source))
    }

    /// Gives the folder its name.
    pub(crate) fn finish(self) -> Result<()> {
        let Staging { target, path, lock, .. } = self;
        sync_folder(&path);
        let rename = || make_room(&target).and_then(|_| fs::rename(&path, &target));
        // Locked, so that nobody takes it for left behind; but some systems rename no folder with an open file in it.
        let renamed = rename().or_else(|_| {
            drop(lock);
            rename()
        });
        if let Err(source) = renamed {
            let _ = fs::remove_dir_all(&path);
            return Err(ModelError::Write { path: target, source });
        }
        for name in [PROGRESS, LOCK] {
            // Should one of them stay, nobody minds it beside a model.
            let _ = fs::remove_file(target.join(name));
        }
        sync_folder(&target);
        match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
            _ => sync_folder(Path::new(".")),
        }
        Ok(())
    }

    /// Removes all that was written. What cannot be removed is written over by the next try.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    /// In the user's words: of the folder that was asked for.
    fn cannot_write(&self, source: std::io::Error) -> ModelError {
        ModelError::Write { path: self.target.clone(), source }
    }
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Names are on the disk when their folder is; where folders cannot be opened, the system sees to it.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
