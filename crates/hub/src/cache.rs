//! The cache of one repository, laid out as Python's `huggingface_hub` does (the picture is in the root of this crate).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::checksum::Etag;
use crate::files::{CONFIG, INDEX, MAX_INDEX_BYTES, TOKENIZER, WEIGHTS, shards};
use crate::gguf::{self, Unclear};
use crate::name::is_commit;
use crate::remote::Facts;
use crate::{HubError, Name, Result, system};

/// What a cache has of one repository.
pub(crate) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// The place of a repository, whether or not anything is there.
    pub(crate) fn new(cache: &Path, name: &Name) -> Repository {
        let folder = name.cache_folder();
        Repository { locks: cache.join(".locks").join(&folder), folder: cache.join(folder) }
    }

    /// The folder that has the files of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit of a revision: that which it is, or that which the branch or tag was last seen at.
    pub(crate) fn commit_of(&self, name: &Name) -> Option<String> {
        if let Some(commit) = name.commit() {
            return Some(commit.to_owned());
        }
        let mut commit = String::new();
        // What is longer than a commit is none.
        File::open(self.reference(name)).ok()?.take(64).read_to_string(&mut commit).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Says which commit a branch or tag is at.
    pub(crate) fn set_commit_of(&self, name: &Name, commit: &str) -> Result<()> {
        if self.commit_of(name).is_some_and(|known| known == commit) {
            return Ok(());
        }
        let path = self.reference(name);
        // Not beside it, where it could be taken for a branch.
        let temporary = self.folder.join(format!("ref.{}.tmp", std::process::id()));
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
            let mut file = File::create(&temporary)?;
            file.write_all(commit.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            HubError::Write { path: path.clone(), source }
        })
    }

    /// Whether a file of a commit is there, or is known not to be in the repository.
    pub(crate) fn has_or_lacks(&self, commit: &str, file: &str) -> bool {
        self.has(commit, file) || self.lack(commit, file).exists()
    }

    /// Says that the repository does not have a file.
    pub(crate) fn set_lacks(&self, commit: &str, file: &str) -> Result<()> {
        let path = self.lack(commit, file);
        let made = fs::create_dir_all(path.parent().unwrap_or(&self.folder)).and_then(|()| fs::write(&path, ""));
        made.map_err(|source| HubError::Write { path, source })
    }

    /// What of a commit is meant, when all of it is there: its folder, or a GGUF file, of a split one the first part. Unless
    /// somebody is `offline`, what the hub may have besides counts as missing.
    ///
    /// # Errors
    /// [`HubError::NotCached`], [`HubError::PartlyCached`], [`HubError::SeveralFiles`].
    pub(crate) fn find(&self, name: &Name, commit: &str, offline: bool) -> Result<PathBuf> {
        let partly = |file: String| HubError::PartlyCached { name: name.to_string(), file };
        let mut absent = self.not_cached(name);
        if name.choice().is_none() {
            let known = |file: &str| offline || self.has_or_lacks(commit, file);
            // Who needs no tokenizer may have fetched all but that, with another program.
            let missing = self.missing(commit).or_else(|| (!known(TOKENIZER)).then(|| TOKENIZER.to_owned()));
            let Some(missing) = missing else { return Ok(self.snapshot(commit)) };
            absent = partly(missing);
            if [WEIGHTS, INDEX].iter().any(|file| self.has(commit, file) || !known(file)) {
                return Err(absent);
            }
        }
        let files = self.gguf_files(commit);
        let parts = match gguf::choose(files.iter().map(String::as_str), name.choice()) {
            Ok(parts) => parts,
            Err(Unclear::Nothing(_)) => return Err(absent),
            Err(several) => return Err(HubError::unclear(name, several)),
        };
        match parts.iter().find(|part| !files.contains(*part)) {
            Some(part) => Err(partly(part.clone())),
            None => Ok(self.snapshot(commit).join(&parts[0])),
        }
    }

    /// [`HubError::NotCached`].
    pub(crate) fn not_cached(&self, name: &Name) -> HubError {
        let cache = self.folder.parent().unwrap_or(&self.folder).to_owned();
        HubError::NotCached { name: name.to_string(), cache }
    }

    /// The GGUF files of a commit that are there: models alone, by their paths in the repository.
    fn gguf_files(&self, commit: &str) -> BTreeSet<String> {
        let (mut files, mut folders) = (BTreeSet::new(), vec![(String::new(), 0)]);
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(self.snapshot(commit).join(&folder)).into_iter().flatten().flatten() {
                let Some(path) = entry.file_name().to_str().map(|name| format!("{folder}{name}")) else { continue };
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if depth < gguf::MAX_FOLDERS {
                        folders.push((path + "/", depth + 1));
                    }
                } else if gguf::is_model(&path) && self.has(commit, &path) {
                    files.insert(path);
                }
            }
        }
        files
    }

    /// The first file that the folder of this commit lacks; `None` when it can be opened.
    pub(crate) fn missing(&self, commit: &str) -> Option<String> {
        let has = |file: &str| self.has(commit, file);
        if !has(CONFIG) {
            return Some(CONFIG.to_owned());
        }
        if has(WEIGHTS) {
            return None;
        }
        match self.shards(commit) {
            Ok(shards) => shards.into_iter().find(|shard| !has(shard)),
            Err(HubError::Damaged { .. }) => Some(INDEX.to_owned()),
            Err(_) => Some(WEIGHTS.to_owned()),
        }
    }

    /// The files that the index of a commit names.
    pub(crate) fn shards(&self, commit: &str) -> Result<BTreeSet<String>> {
        let path = self.snapshot(commit).join(INDEX);
        let mut index = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut index)) {
            Ok(_) => shards(&index).map_err(|problem| HubError::Damaged { path, problem }),
            Err(source) => Err(HubError::Read { path, source }),
        }
    }

    /// Whether a file of a commit is there.
    pub(crate) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// Makes the folders that fetching a commit needs.
    pub(crate) fn prepare(&self, commit: &str) -> Result<()> {
        for folder in [self.folder.join("blobs"), self.snapshot(commit), self.locks.clone()] {
            fs::create_dir_all(&folder).map_err(|source| HubError::Write { path: folder, source })?;
        }
        Ok(())
    }

    /// Where contents are when they are whole.
    pub(crate) fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(etag.as_str())
    }

    /// Where they are until then.
    pub(crate) fn part(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", etag.as_str()))
    }

    /// What whoever fetches them holds.
    pub(crate) fn lock(&self, etag: &Etag) -> PathBuf {
        self.locks.join(format!("{}.lock", etag.as_str()))
    }

    /// Whether the contents of a file are there.
    pub(crate) fn has_blob(&self, facts: &Facts) -> bool {
        fs::metadata(self.blob(&facts.etag)).is_ok_and(|blob| blob.is_file() && blob.len() == facts.size)
    }

    /// Bytes that have come of contents that are not whole, by whoever fetches them: Python gives each process a part of
    /// its own, `ETAG.XXXXXXXX.incomplete`.
    pub(crate) fn arrived(&self, etag: &Etag) -> u64 {
        let of_blob = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let is_of_blob = entry.file_name().to_str()?.starts_with(etag.as_str());
            Some(entry.metadata().ok()?.len()).filter(|_| is_of_blob)
        };
        fs::read_dir(self.folder.join("blobs")).map_or(0, |entries| entries.filter_map(of_blob).sum())
    }

    /// Bytes of a file that need not be fetched any more.
    pub(crate) fn usable(&self, facts: &Facts) -> u64 {
        if self.has_blob(facts) {
            return facts.size;
        }
        // What is longer than it should be is begun anew, and so is what no checksum could be held against.
        let part = fs::metadata(self.part(&facts.etag)).map_or(0, |part| part.len());
        if part <= facts.size && facts.etag.is_checksum() { part } else { 0 }
    }

    /// Puts contents that are there under the name that they have in a commit. Whoever calls holds their lock.
    pub(crate) fn link(&self, commit: &str, facts: &Facts) -> Result<()> {
        let path = self.snapshot(commit).join(&facts.file);
        let up = "../".repeat(2 + facts.file.matches('/').count());
        let (blob, relative) = (self.blob(&facts.etag), Path::new(&up).join("blobs").join(facts.etag.as_str()));
        // Not beside the link, where it could be taken for a file of the repository.
        let temporary = blob.with_extension("link");
        let folder = fs::create_dir_all(path.parent().unwrap_or(&self.folder));
        let linked = folder.and_then(|()| system::link(&relative, &blob, &temporary));
        let linked = linked.and_then(|()| fs::rename(&temporary, &path));
        linked.map_err(|source| HubError::Write { path, source })
    }

    /// Bytes that this user may still write beside the blobs.
    pub(crate) fn available_bytes(&self) -> Option<u64> {
        system::available_bytes(&self.folder)
    }

    /// The folder of the repository.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn reference(&self, name: &Name) -> PathBuf {
        self.folder.join("refs").join(name.revision())
    }

    /// The mark that a commit does not have a file.
    fn lack(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }
}
