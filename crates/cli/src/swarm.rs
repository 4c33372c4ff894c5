//! This machine in a swarm: from an invite to a model whose blocks others run. Of a swarm's model a client keeps the ends,
//! in a folder of its own in the cache; whoever opens that folder runs the blocks in the swarm.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bouquet_model::{Encoding, Ends, Fingerprint, Hash, Model, Network, OpenOptions};
use bouquet_span::{Limits, Span};
use bouquet_swarm::client::routed::RoutedSpan;
use bouquet_swarm::client::{Client, Patience};
use bouquet_swarm::directory::Directory;
use bouquet_swarm::member::GOSSIP;
use bouquet_swarm::network::{self, Settings};
use bouquet_swarm::wire::message::SessionId;
use bouquet_swarm::{Digest, Invite, Transport, Wire};
use libp2p_identity::Keypair;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::errors::{asked_wrongly, wrong};
use crate::output::{self, Progress};
use crate::system;

/// The file beside a model's ends that has the hash of each part.
const MANIFEST: &str = "manifest.json";

/// Bytes that a manifest may have.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A swarm that this machine uses.
pub(crate) struct Connected {
    pub(crate) invite: Invite,
    pub(crate) directory: Arc<Directory>,
    client: Arc<Client>,
    network: Arc<network::Network>,
}

/// The swarms of this program, each by what of its model is here.
static CONNECTED: Mutex<Vec<(PathBuf, Arc<Connected>)>> = Mutex::new(Vec::new());

fn connected() -> MutexGuard<'static, Vec<(PathBuf, Arc<Connected>)>> {
    CONNECTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The swarm whose model's ends a path is.
pub(crate) fn of(model: &Path) -> Option<Arc<Connected>> {
    connected().iter().find(|(path, _)| path == model).map(|(_, swarm)| swarm.clone())
}

/// The ends of an invite's model, fetched from its servers if they are not here yet. From now on this machine uses the swarm.
pub(crate) fn ends(text: &str) -> Result<PathBuf> {
    let swarm = Arc::new(Connected::new(invite(text)?)?);
    let folder = swarm.fetch()?;
    let model = Ends::path_in(&folder);
    connected().push((model.clone(), swarm));
    Ok(model)
}

impl Connected {
    /// Finds the swarm of an invite.
    pub(crate) fn new(invite: Invite) -> Result<Connected> {
        let keypair = Keypair::generate_ed25519();
        let me = keypair.public().to_peer_id();
        let settings = Settings { keypair, key: invite.key, listen: Vec::new(), mdns: false };
        let network = Arc::new(network::Network::start(settings)?);
        let transport: Arc<dyn Transport> = network.clone();
        let handle = network.handle().clone();
        let directory = Arc::new(Directory::new(me, invite.fingerprint));
        let finding = directory.clone();
        let (asked, peers) = (transport.clone(), invite.peers.clone());
        handle.block_on(async move { finding.find(&*asked, &peers).await })?;
        handle.spawn(directory.clone().gossip(transport.clone(), Arc::new(Notify::new()), GOSSIP));
        let client = Client {
            transport,
            guide: directory.clone(),
            fingerprint: invite.fingerprint,
            wire: invite.wire,
            patience: Patience::default(),
        };
        Ok(Connected { invite, directory, client: Arc::new(client), network })
    }

    /// How its model is opened: in the encoding and with the wire of the swarm.
    pub(crate) fn options(&self, options: &OpenOptions) -> Result<OpenOptions> {
        Ok(OpenOptions { encoding: encoding(&self.invite)?, rounding: self.invite.wire.rounding(), ..options.clone() })
    }

    /// Its blocks, as spans.
    fn spans(&self, blocks: usize, hidden_size: usize) -> impl Fn(Range<usize>) -> Arc<dyn Span> + Send + use<> {
        let new_id = Arc::new(|| SessionId(random()));
        let whole = RoutedSpan::new(self.client.clone(), self.network.handle().clone(), 0..blocks, hidden_size, new_id);
        move |range| Arc::new(whole.slice(range))
    }

    /// Opens its model: the ends here, the blocks there.
    pub(crate) fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Model> {
        let spec = bouquet_model::families::load_spec(folder)?;
        let spans = self.spans(spec.num_blocks, spec.block.hidden_size);
        Ok(Model::over(folder, &self.options(options)?, spans)?)
    }

    /// The same without what texts need.
    pub(crate) fn open_network(&self, folder: &Path, options: &OpenOptions) -> Result<Network> {
        let ends = Ends::open(folder, &self.options(options)?)?;
        let spans = self.spans(ends.spec.num_blocks, ends.spec.block.hidden_size);
        Ok(Network::over(ends, spans)?)
    }

    /// The hashes of the model's parts, from whoever has them, if they are those of the invite's fingerprint. `model` is what
    /// this machine has of it.
    pub(crate) fn hashes(&self, model: &Path, options: &OpenOptions) -> Result<(Hash, Vec<Hash>)> {
        let room = tempfile::tempdir()?;
        self.fetch_files(room.path(), &|name| name == MANIFEST)?;
        let (ends, blocks) = read_manifest(&room.path().join(MANIFEST))?;
        let spec = bouquet_model::families::load_spec(model)?;
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
        let cpu = bouquet_kernels::Cpu::new(system::threads());
        let options = self.options(&crate::open::options(cpu, Encoding::F32))?;
        let checked = || -> Result<bool> {
            let (hash, blocks) = read_manifest(&part.join(MANIFEST))?;
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
            let fetching = self.client.fetch(peer, addresses.to_vec(), &file, &path, &mut show);
            handle.block_on(fetching)?;
        }
        Ok(())
    }
}

/// The encoding that a swarm computes in.
pub(crate) fn encoding(invite: &Invite) -> Result<Encoding> {
    let unknown = |_| wrong("the invite names an encoding that is not known", "use a newer version of this program");
    invite.encoding.parse().map_err(unknown)
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
    let manifest = json!({ "ends": hashes.0, "blocks": hashes.1 });
    fs::write(made.join(MANIFEST), manifest.to_string())?;
    if let Err(error) = fs::rename(&made, &folder) {
        let _ = fs::remove_dir_all(&made);
        if !folder.join(MANIFEST).exists() {
            return Err(error.into());
        }
    }
    Ok(folder)
}

/// What a manifest says: the hash of the ends, and of each block.
fn read_manifest(path: &Path) -> Result<(Hash, Vec<Hash>)> {
    let damaged = || wrong("the list of the model's hashes is damaged", "try again: another server may have it whole");
    if fs::metadata(path)?.len() > MAX_MANIFEST_BYTES {
        return Err(damaged());
    }
    let manifest: Value = serde_json::from_slice(&fs::read(path)?).map_err(|_| damaged())?;
    let hash = |value: &Value| value.as_str().and_then(|text| text.parse::<Hash>().ok());
    let blocks: Option<Vec<Hash>> =
        manifest["blocks"].as_array().map(|blocks| blocks.iter().map(hash).collect()).unwrap_or(None);
    hash(&manifest["ends"]).zip(blocks).ok_or_else(damaged)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// The wire of a flag.
pub(crate) fn wire(rounding: bouquet_span::Rounding) -> Wire {
    Wire::of(rounding)
}

/// What was typed where an invite is meant.
pub(crate) fn invite(text: &str) -> Result<Invite> {
    text.parse().map_err(|error: bouquet_swarm::SwarmError| {
        asked_wrongly(error.to_string(), "copy the whole word that bouquet join printed, from bouquet1 on")
    })
}

/// How long a server waits for its clients to go elsewhere.
pub(crate) const LEAVING: Duration = Duration::from_secs(10);
