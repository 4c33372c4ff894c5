//! Files that servers hand on: what describes the model, and what a client needs that has none of it. Nothing here looks
//! inside; who fetches them checks what they hold against the fingerprint of the invite.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::client::guide::Stop;
use crate::client::passes::ask;
use crate::wire::message::Request;
use crate::{Refusal, Result, SwarmError};

/// Bytes of a file that are sent at a time.
pub const PIECE_BYTES: u64 = 8 << 20;

/// Files that a shelf may have.
pub const MAX_FILES: usize = 64;

/// A file on a shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name, without folders.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// The files of a folder.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    folder: Option<PathBuf>,
}

impl Shelf {
    /// Nothing.
    pub fn empty() -> Shelf {
        Shelf::default()
    }

    /// What a folder has, besides folders.
    pub fn of(folder: &Path) -> Shelf {
        Shelf { folder: Some(folder.to_owned()) }
    }

    /// What there is.
    pub(crate) fn list(&self) -> Vec<FileInfo> {
        let entries = self.folder.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
        let info = |entry: std::fs::DirEntry| {
            let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(FileInfo { name: entry.file_name().into_string().ok()?, bytes: metadata.len() })
        };
        let mut files: Vec<FileInfo> = entries.filter_map(info).filter(|file| is_plain(&file.name)).collect();
        files.sort_by(|one, other| one.name.cmp(&other.name));
        files.truncate(MAX_FILES);
        files
    }

    /// A piece of a file.
    pub(crate) fn read(&self, name: &str, offset: u64) -> std::result::Result<Vec<u8>, Refusal> {
        let Some(folder) = self.folder.as_ref().filter(|_| is_plain(name)) else {
            return Err(Refusal::Wrong("there is no such file".to_owned()));
        };
        let read = || {
            let mut file = File::open(folder.join(name))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error: io::Error| Refusal::Failed(format!("a file cannot be read: {error}")))
    }
}

/// Whether a name stays in its folder on every system.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(plain)
}

impl Client {
    /// What files a server has.
    ///
    /// # Errors
    /// [`SwarmError::Unreachable`], [`SwarmError::Refused`], [`SwarmError::Garbage`].
    pub async fn files(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<Vec<FileInfo>> {
        let stop = Stop { peer, addresses, blocks: 0..0 };
        let bytes = ask(self, &stop, Request::Files, &[]).await?;
        let garbage = || SwarmError::Garbage { peer, problem: "a list of files that is none".to_owned() };
        let files: Vec<FileInfo> = postcard::from_bytes(&bytes).map_err(|_| garbage())?;
        let plain = files.len() <= MAX_FILES && files.iter().all(|file| is_plain(&file.name));
        if plain { Ok(files) } else { Err(garbage()) }
    }

    /// Fetches a file to a path, going on behind what is there of it. `progress` is told of each piece, in bytes.
    ///
    /// # Errors
    /// [`SwarmError::Unreachable`], [`SwarmError::Refused`], [`SwarmError::Garbage`]; [`SwarmError::Network`] where it cannot
    /// be written.
    pub async fn fetch(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        file: &FileInfo,
        to: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<()> {
        let failed = |error: io::Error| SwarmError::Network(format!("{} cannot be written: {error}", to.display()));
        let stop = Stop { peer, addresses, blocks: 0..0 };
        let mut out = File::options().create(true).append(true).open(to).map_err(failed)?;
        let mut offset = out.metadata().map_err(failed)?.len();
        while offset < file.bytes {
            let request = Request::File { name: file.name.clone(), offset };
            let piece = ask(self, &stop, request, &[]).await?;
            let more = piece.len() as u64;
            if more == 0 || offset + more > file.bytes {
                return Err(SwarmError::Garbage { peer, problem: "a file of another size".to_owned() });
            }
            out.write_all(&piece).map_err(failed)?;
            offset += more;
            progress(more);
        }
        out.sync_all().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for wrong in ["", "..", ".hidden", "a/b", "a\\b", "C:x", "a b", "ä"] {
            assert!(!is_plain(wrong), "{wrong}");
        }
        assert!(is_plain("model-00001-of-00002.safetensors"));
        assert!(Shelf::of(Path::new("/")).read("../etc/passwd", 0).is_err());
        assert!(Shelf::empty().list().is_empty());
    }
}
