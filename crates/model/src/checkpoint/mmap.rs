//! The one file of this crate with `unsafe` code: a file as bytes, without reading it, and memory for what is made of it.

#![allow(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapMut};

/// A mapped file.
#[derive(Clone, Debug)]
pub(crate) struct Mapped(Arc<Mmap>);

/// Maps a file, read-only. Pages are read when they are first touched, and can be dropped by the system at any time;
/// the mapping lives as long as any piece of the bytes. There is no other way in: where a file system cannot map, the
/// error says so, since reading instead would hold a whole model in memory that the user did not offer.
pub(crate) fn map(file: &File) -> std::io::Result<Mapped> {
    // SAFETY: the mapping is private and read-only, so nothing in this process writes to it. The promise that nobody
    // else changes the file cannot be kept by any program that maps: if its content is overwritten meanwhile, numbers
    // change under way (they are numbers only: what was checked, header and offsets, was read before and is kept
    // apart); if the file is cut short, the system ends the process when the lost pages are touched.
    Ok(Mapped(Arc::new(unsafe { Mmap::map(file)? })))
}

impl Mapped {
    /// All of the file.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Says that a part of the file is not needed for a while: its pages count as this process's memory no longer, and are
    /// read again, from the system's cache if they are there, when somebody looks. What is no part of the file is let be.
    /// A little on both sides goes with it: a system that is asked for a page maps those around it, so that the reader of
    /// the next part brings back the end of this one.
    pub(crate) fn release(&self, part: &[u8]) {
        let offset = (part.as_ptr() as usize).checked_sub(self.0.as_ptr() as usize);
        let Some(offset) = offset.filter(|offset| offset + part.len() <= self.0.len()) else { return };
        #[cfg(unix)]
        {
            /// As much as the largest page.
            const AROUND: usize = 2 << 20;
            let (start, end) = (offset.saturating_sub(AROUND), self.0.len().min(offset + part.len() + AROUND));
            // SAFETY: the mapping is of a file and never written to, so a page that is dropped comes back as it was; that
            // holds for the pages at the borders, which other tensors share, as well.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
        #[cfg(not(unix))]
        let _ = offset;
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes in memory, zeros that `fill` writes over, and what it returns. Large ones lie in huge pages where the system has
/// them, which spares the processor most of its look-ups of addresses.
pub(crate) fn filled<T, E>(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<T, E>) -> Result<(Bytes, T), E> {
    /// Bytes from which on a mapping of its own is worth it: two huge pages.
    const LARGE: usize = 4 << 20;
    if length >= LARGE
        && let Ok(mut map) = MmapMut::map_anon(length)
    {
        // Advice: where it is not taken, the memory is as good as any.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let made = fill(&mut map)?;
        return Ok((Bytes::from_owner(map), made));
    }
    let mut bytes = vec![0; length];
    let made = fill(&mut bytes)?;
    Ok((bytes.into(), made))
}
