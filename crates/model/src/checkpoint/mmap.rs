//! The one file of this crate with `unsafe` code: a file as bytes, without reading it.

#![allow(unsafe_code)]

use std::fs::File;

use bytes::Bytes;

/// Maps a file, read-only. Pages are read when they are first touched, and can be dropped by the system at any time;
/// the mapping lives as long as any piece of the bytes. There is no other way in: where a file system cannot map, the
/// error says so, since reading instead would hold a whole model in memory that the user did not offer.
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is private and read-only, so nothing in this process writes to it. The promise that nobody
    // else changes the file cannot be kept by any program that maps: if its content is overwritten meanwhile, numbers
    // change under way (they are numbers only: what was checked, header and offsets, was read before and is kept
    // apart); if the file is cut short, the system ends the process when the lost pages are touched.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
