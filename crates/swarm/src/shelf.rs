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
    /// Its name; one in a folder has that before it, `1_Pooling/config.json`.
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

    /// What a folder has, and folders in it.
    pub fn of(folder: &Path) -> Shelf {
        Shelf { folder: Some(folder.to_owned()) }
    }

    /// What there is.
    pub(crate) fn list(&self) -> Vec<FileInfo> {
        let mut files = self.folder.as_deref().map(|folder| files_in(folder, "")).unwrap_or_default();
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

/// The files of a folder whose name and a slash are `before`, or of the folder itself, where `before` is empty, and of those
/// in it.
fn files_in(folder: &Path, before: &str) -> Vec<FileInfo> {
    let mut files = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        let name = format!("{before}{name}");
        if metadata.is_dir() && before.is_empty() {
            files.extend(files_in(&entry.path(), &format!("{name}/")));
        } else if metadata.is_file() && is_plain(&name) {
            files.push(FileInfo { name, bytes: metadata.len() });
        }
    }
    files
}

/// Whether a name stays in its folder on every system: that of a file, or of one in a folder there.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let part = |part: &str| !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.chars().all(plain);
    name.split('/').count() <= 2 && name.split('/').all(part)
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
        for wrong in ["", "..", ".hidden", "a/../b", "../b", "/b", "a/", "a/.b", "a/b/c", "a\\b", "C:x", "a b", "ä"] {
            assert!(!is_plain(wrong), "{wrong}");
        }
        assert!(is_plain("model-00001-of-00002.safetensors") && is_plain("1_Pooling/config.json"));
        assert!(Shelf::of(Path::new("/")).read("../etc/passwd", 0).is_err());
        assert!(Shelf::empty().list().is_empty());
    }

    #[test]
    fn folders_are_handed_on_one_deep() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("1_Pooling/deeper")).unwrap();
        for name in ["a.json", "1_Pooling/config.json", "1_Pooling/deeper/b", ".lock"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let shelf = Shelf::of(folder.path());
        let names: Vec<String> = shelf.list().into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["1_Pooling/config.json", "a.json"]);
        assert_eq!(shelf.read("1_Pooling/config.json", 2).unwrap(), b"Pooling/config.json");
        assert!(shelf.read("1_Pooling/deeper/b", 0).is_err());
    }
}
