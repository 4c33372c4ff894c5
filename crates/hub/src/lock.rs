//! One process at a time fetches a blob. The lock is the system's, on the file that Python's `huggingface_hub` locks, so
//! it holds against that as well, and dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{HubError, Result};

/// How often to look whether the lock is free: the system offers no wait that ends after a while.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Holds the lock as long as it lives.
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock at `path`. While another process has it, `arrived` says how much that one has, and it is waited for as
/// long as this grows at least once in `patience`; `waits` is called once.
pub(crate) fn take(path: &Path, patience: Duration, arrived: impl Fn() -> u64, waits: impl FnOnce()) -> Result<Lock> {
    let cannot = |source| HubError::Write { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(cannot)?;
    let mut waits = Some(waits);
    let (mut seen, mut since) = (arrived(), Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(source)) => return Err(cannot(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(waits) = waits.take() {
            waits();
        }
        thread::sleep(LOOK_AGAIN.min(patience));
        let now = arrived();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= patience {
            return Err(HubError::Locked { path: path.to_owned(), waited: since.elapsed() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_lock_is_free_when_its_holder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let patience = Duration::from_millis(1);
        let held = take(&path, patience, || 0, || panic!("nobody has it")).unwrap();
        let waited = Cell::new(false);
        let refused = take(&path, patience, || 0, || waited.set(true));
        assert!(matches!(refused, Err(HubError::Locked { .. })));
        assert!(waited.get());
        drop(held);
        take(&path, patience, || 0, || panic!("it was given back")).unwrap();
    }

    #[test]
    fn who_makes_progress_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let patience = Duration::from_millis(1);
        let held = Cell::new(Some(take(&path, patience, || 0, || {}).unwrap()));
        let arrived = Cell::new(0);
        let grows = || {
            arrived.set(arrived.get() + 1);
            if arrived.get() == 5 {
                held.take();
            }
            arrived.get()
        };
        take(&path, patience, grows, || {}).unwrap();
        assert!(arrived.get() >= 5);
    }
}
