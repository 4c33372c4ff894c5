//! What is particular to a system: links, and how much room a disk has.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Makes `link` lead to `blob`, which `relative` is as seen from where the link will be. Where links are not allowed
/// (Windows, some network disks), the file gets a second name, or a copy.
pub(crate) fn link(relative: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(relative, link).or_else(|_| fs::hard_link(blob, link)).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Bytes that this user may still write to the disk of a folder; `None` where the system does not say.
#[cfg(unix)]
pub(crate) fn available_bytes(folder: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(folder).ok()?;
    // Counted in 32 bits on some systems.
    #[allow(clippy::useless_conversion)]
    Some(u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size())))
}

#[cfg(not(unix))]
pub(crate) fn available_bytes(_folder: &Path) -> Option<u64> {
    None
}
