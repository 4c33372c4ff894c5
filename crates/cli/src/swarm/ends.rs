//! The ends of a swarm's model on this machine: a folder in the cache, what of the model is here anyway, or files of a server;
//! and the list of the hashes of all parts, which servers pass on. Whatever it is has to be what the invite's fingerprint says.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_hub::{Hub, Name, Settings};
use bouquet_kernels::Cpu;
use bouquet_model::families::load_spec;
use bouquet_model::manifest::{MAX_MANIFEST_BYTES, Manifest};
use bouquet_model::{Encoding, Ends, Fingerprint, Hash, KnownHashes, OpenOptions};
use bouquet_span::Limits;
use bouquet_swarm::Digest;

use super::Connected;
use crate::errors::wrong;
use crate::open::{hash_cache, options};
use crate::output::{self, Progress};
use crate::{hub, system};

/// The file beside a model's ends that has the hash of each part.
const MANIFEST: &str = "manifest.json";

impl Connected {
    /// Where the model's ends are: what was given, the cache, the hub's cache, or what a server hands on.
    ///
    /// # Errors
    /// What was given and is of another model; else that of the last server that was asked.
    pub(super) fn ends_here(&self, given: Option<&Path>) -> Result<PathBuf> {
        if let Some(given) = given {
            let model = hub::folder(given.to_owned())?;
            self.check_ends(&model)?;
            return Ok(model);
        }
        let folder = shelf(self.invite.fingerprint)?;
        if folder.join(MANIFEST).exists() {
            return Ok(Ends::path_in(&folder));
        }
        // Another revision of it, or a folder that is damaged, is as good as none.
        if let Some(model) = self.in_cache_of_hub().filter(|model| self.check_ends(model).is_ok()) {
            return Ok(model);
        }
        Ok(Ends::path_in(&self.fetch()?))
    }

    /// The model by the name that the invite has, if it was fetched from a hub before.
    fn in_cache_of_hub(&self) -> Option<PathBuf> {
        let name = Name::parse(&self.invite.model)?;
        Hub::open(Settings::from_env().ok()?).ok()?.find(&name)
    }

    /// Whether the ends of a model on this machine are those of the swarm.
    fn check_ends(&self, model: &Path) -> Result<()> {
        let options = self.usual_options()?;
        let (expected, _) = self.hashes(model, &options)?;
        let mut known = KnownHashes::open(model, options.encoding, hash_cache().as_deref())?;
        if known.ends(&options)? == expected {
            return Ok(());
        }
        let message = format!("embedding and head of {} are not those of this swarm", model.display());
        Err(wrong(message, "fetch the model again, or leave --model out to have them from a server"))
    }

    /// How its model is opened to be looked at.
    fn usual_options(&self) -> Result<OpenOptions> {
        self.options(&options(Cpu::new(system::threads()), Encoding::F32))
    }

    /// How many blocks its model has, from whoever knows.
    pub(crate) fn block_count(&self) -> Result<usize> {
        let here = shelf(self.invite.fingerprint)?.join(MANIFEST);
        let manifest = if here.exists() { read_manifest(&here)? } else { self.manifest()? };
        Ok(manifest.blocks.len())
    }

    /// The list of hashes that a server has.
    fn manifest(&self) -> Result<Manifest> {
        let room = tempfile::tempdir()?;
        self.fetch_files(room.path(), &|name| name == MANIFEST)?;
        read_manifest(&room.path().join(MANIFEST))
    }

    /// The hashes of the model's parts, from whoever has them, if they are those of the invite's fingerprint. `model` is what
    /// this machine has of it.
    pub(crate) fn hashes(&self, model: &Path, options: &OpenOptions) -> Result<(Hash, Vec<Hash>)> {
        let Manifest { ends, blocks } = self.manifest()?;
        let spec = load_spec(model)?;
        let found = Fingerprint::new(&spec, options, ends, blocks.clone()).fingerprint;
        if Digest(found.0) == self.invite.fingerprint {
            return Ok((ends, blocks));
        }
        let message = format!("{} is not the model of this swarm, or it is computed otherwise", model.display());
        Err(wrong(message, "give the model that the swarm serves with --model, and the same version of this program"))
    }

    /// The folder of the model's ends, fetched if it is not there yet.
    fn fetch(&self) -> Result<PathBuf> {
        let folder = shelf(self.invite.fingerprint)?;
        if folder.join(MANIFEST).exists() {
            return Ok(folder);
        }
        let parent = folder.parent().expect("it is in the cache");
        fs::create_dir_all(parent)?;
        // What an interrupted one left is gone on with.
        let part = folder.with_extension("part");
        fs::create_dir_all(&part)?;
        self.fetch_files(&part, &|_| true)?;
        let model = Ends::path_in(&part);
        let options = self.usual_options()?;
        let checked = || -> Result<bool> {
            let Manifest { ends: hash, blocks } = read_manifest(&part.join(MANIFEST))?;
            let ends = Ends::open(&model, &options)?;
            let found = Fingerprint::new(&ends.spec, &options, hash, blocks).fingerprint;
            Ok(Digest(found.0) == self.invite.fingerprint && ends.hash() == hash)
        };
        match checked() {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                let _ = fs::remove_dir_all(&part);
                let message = "a server of this swarm hands on files that are not of its model";
                return Err(wrong(message, "ask whoever invited you; try again to ask another server"));
            }
        }
        match fs::rename(&part, &folder) {
            Ok(()) => Ok(folder),
            // Another program was quicker.
            Err(_) if folder.join(MANIFEST).exists() => {
                let _ = fs::remove_dir_all(&part);
                Ok(folder)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fetches files from the first server that gives them.
    fn fetch_files(&self, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let mut problem = wrong("no server of this swarm is there", "ask whoever invited you whether it still runs");
        for (peer, record) in self.directory.records() {
            match self.fetch_from(peer, &record.addresses, to, wanted) {
                Ok(()) => return Ok(()),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn fetch_from(
        &self,
        peer: libp2p_identity::PeerId,
        addresses: &[multiaddr::Multiaddr],
        to: &Path,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        let handle = self.network.handle();
        let mut files = handle.block_on(self.client.files(peer, addresses.to_vec()))?;
        files.retain(|file| wanted(&file.name));
        // The manifest says that all is there.
        files.sort_by_key(|file| file.name == MANIFEST);
        if files.is_empty() {
            return Err(wrong("a server has no files to hand on", "try again: another may"));
        }
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        let (mut progress, mut done) = (Progress::new(), 0);
        for file in files {
            let mut show = |more: u64| {
                done += more;
                progress.show(&format!(
                    "fetching the ends of the model: {} of {}",
                    output::bytes(done),
                    output::bytes(total)
                ));
            };
            let path = to.join(&file.name);
            fs::create_dir_all(path.parent().expect("it is in a folder"))?;
            let fetching = self.client.fetch(peer, addresses.to_vec(), &file, &path, &mut show);
            handle.block_on(fetching)?;
        }
        Ok(())
    }
}

/// Where the ends of a swarm's model are kept.
pub(crate) fn shelf(fingerprint: Digest) -> Result<PathBuf> {
    let hint = "set XDG_CACHE_HOME to a folder";
    let cache = system::cache_folder().ok_or_else(|| wrong("there is no folder for caches", hint))?;
    Ok(cache.join("bouquet").join("swarms").join(fingerprint.to_string()))
}

/// Writes the ends of a model and the hashes of its parts for clients that have nothing of it, unless they are there.
pub(crate) fn fill_shelf(
    model: &Path,
    options: &OpenOptions,
    fingerprint: Digest,
    hashes: (Hash, &[Hash]),
) -> Result<PathBuf> {
    let folder = shelf(fingerprint)?;
    if folder.join(MANIFEST).exists() {
        return Ok(folder);
    }
    fs::create_dir_all(folder.parent().expect("it is in the cache"))?;
    let made = folder.with_extension(format!("made-{}", std::process::id()));
    Ends::write(model, options, &made, &Limits::default())?;
    let manifest = Manifest { ends: hashes.0, blocks: hashes.1.to_vec() };
    fs::write(made.join(MANIFEST), manifest.to_json())?;
    if let Err(error) = fs::rename(&made, &folder) {
        let _ = fs::remove_dir_all(&made);
        if !folder.join(MANIFEST).exists() {
            return Err(error.into());
        }
    }
    Ok(folder)
}

/// The hashes of the model's parts, from a file.
fn read_manifest(path: &Path) -> Result<Manifest> {
    let damaged = || wrong("the list of the model's hashes is damaged", "try again: another server may have it whole");
    if fs::metadata(path)?.len() > MAX_MANIFEST_BYTES {
        return Err(damaged());
    }
    Manifest::parse(&fs::read(path)?).ok_or_else(damaged)
}
