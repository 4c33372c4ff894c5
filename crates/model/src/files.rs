//! Small files of a model's folder, read whole, but never more of them than a limit.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bouquet_span::counted;

use crate::{ModelError, Result};

/// Bytes that a JSON file of settings may have.
pub(crate) const MAX_SETTINGS_BYTES: u64 = 16 << 20;

/// Characters of a file's own text (a tensor's name, a value) that an error repeats.
const SHOWN_CHARS: usize = 120;

/// Checks that `folder` is one.
///
/// # Errors
/// [`ModelError::NotAModel`] when there is nothing, or a file, at that path.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    let problem = match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is a file; a model is a folder with config.json and its weights",
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "there is no such folder",
        Err(source) => return Err(ModelError::Io { path: folder.to_owned(), source }),
    };
    Err(ModelError::NotAModel { path: folder.to_owned(), problem: problem.to_owned() })
}

/// Opens a regular file and says how long it is; `None` when there is none. Pipes, devices and folders are refused
/// before they are opened.
///
/// # Errors
/// [`ModelError::Io`], or [`ModelError::Damaged`] for what is no regular file.
pub(crate) fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let fail = |source| ModelError::Io { path: path.to_owned(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A link that leads nowhere is damage; a name that is not there is not.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(fail(error)),
    };
    if !metadata.is_file() {
        return Err(damaged(path, "it is not a regular file"));
    }
    let file = File::open(path).map_err(fail)?;
    Ok(Some((file, metadata.len())))
}

/// The bytes of a file of at most `limit` bytes; `None` when there is none.
///
/// # Errors
/// As [`open`], and [`ModelError::Damaged`] for a larger file.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some((file, length)) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    if length <= limit {
        // One more than the limit: the file may grow while it is read.
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    }
    let length = length.max(bytes.len() as u64);
    if length > limit {
        return Err(damaged(path, format!("it has {}, and more than {limit} are not read", counted(length, "byte"))));
    }
    Ok(Some(bytes))
}

/// [`ModelError::Damaged`].
pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> ModelError {
    ModelError::Damaged { path: path.to_owned(), problem: problem.into() }
}

/// [`ModelError::Missing`].
pub(crate) fn missing(path: PathBuf, hint: impl Into<String>) -> ModelError {
    ModelError::Missing { path, hint: hint.into() }
}

/// What a file says, in quotes, with control characters escaped, and cut when it is long: safe to print.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
