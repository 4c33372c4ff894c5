//! A file comes into being under its name when all of it is on the disk; until then it is a temporary file beside, which is
//! removed if anything goes wrong. What was there before is as it was until then.

use std::fs::{File, Permissions};
use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::{ModelError, Result};

/// What names of temporary files begin with, and end with.
const PREFIX: &str = ".bouquet-";
const SUFFIX: &str = ".part";

/// Writes a small file.
///
/// # Errors
/// [`ModelError::NotAFile`] for a folder, or for what is there and no plain file; [`ModelError::Write`].
pub fn write_whole(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = begin(target)?;
    file.write_all(bytes).map_err(|source| cannot_write(target, source))?;
    put_in_place(file, target)
}

/// Removes temporary files that processes which were killed have left in a folder. Only for a folder that no other process
/// writes to.
pub fn sweep(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The temporary file, which shows whether `target` can be written at all.
///
/// # Errors
/// [`ModelError::NotAFile`] for a folder, or for what is there and no plain file; [`ModelError::Write`].
pub fn begin(target: &Path) -> Result<NamedTempFile> {
    let refuse = |problem: &str| Err(ModelError::NotAFile { path: target.to_owned(), problem: problem.to_owned() });
    if target.file_name().is_none() || target.is_dir() {
        return refuse("is a folder, not a file to write");
    }
    if target.exists() && !target.is_file() {
        return refuse("is not a plain file, and would be replaced by one");
    }
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    if let Some(permissions) = usual_permissions() {
        builder.permissions(permissions);
    }
    // A folder that is not there, in the words of the system.
    folder.metadata().map_err(|source| cannot_write(target, source))?;
    // Else by its kind alone: the error would name the temporary file, which the user never asked for.
    let file = builder.tempfile_in(folder).map_err(|error| std::io::Error::from(error.kind()));
    file.map_err(|source| cannot_write(target, source))
}

/// Gives the file its name, once the disk has it.
///
/// # Errors
/// [`ModelError::Write`].
pub fn put_in_place(file: NamedTempFile, target: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|source| cannot_write(target, source))?;
    file.persist(target).map_err(|error| cannot_write(target, error.error))?;
    // The name is on the disk when its folder is; where folders cannot be opened, the system sees to it.
    if let Some(Ok(folder)) = target.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

pub(super) fn cannot_write(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Write { path: path.to_owned(), source }
}

/// What a program gives its files, before the user's mask: temporary ones are for their owner alone otherwise.
#[cfg(unix)]
fn usual_permissions() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn usual_permissions() -> Option<Permissions> {
    None
}
