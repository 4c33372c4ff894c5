//! This machine in a swarm: from an invite to a model whose blocks others run. Of a swarm's model a client keeps the ends,
//! in a folder of its own in the cache; whoever opens that folder runs the blocks in the swarm.
//!
//! | module | job |
//! |---|---|
//! | [`mod@ends`] | where the ends come from, and how they are checked |
//! | [`waiting`] | what is said while nobody hosts some blocks |

pub(crate) mod ends;
mod waiting;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::{Encoding, Ends, Model, Network, OpenOptions};
use bouquet_span::Span;
use bouquet_swarm::client::guide::Guide as _;
use bouquet_swarm::client::routed::RoutedSpan;
use bouquet_swarm::client::{Client, Patience};
use bouquet_swarm::directory::Directory;
use bouquet_swarm::member::GOSSIP;
use bouquet_swarm::network::{self, Settings};
use bouquet_swarm::wire::message::SessionId;
use bouquet_swarm::{Invite, Record, Transport, Wire};
use libp2p_identity::{Keypair, PeerId};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::waiting::Waiting;
use crate::errors::{asked_wrongly, wrong};

/// How long is waited for others: a flag of commands that compute.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct WaitArgs {
    /// Where an invite stands for the model: seconds to wait for somebody to host blocks that nobody does
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS, value_parser = clap::value_parser!(u32).range(..=86_400))]
    wait: u32,
}

/// How an invite is used: flags of commands that compute with one model.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct InviteArgs {
    #[command(flatten)]
    pub(crate) waiting: WaitArgs,
    /// Where an invite stands for the model: a folder or a GGUF file that has its embedding, head and tokenizer, so that they
    /// need not be fetched
    #[arg(long = "model", id = "model_of_invite", value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
}

/// What `--wait` is unless it is said.
const WAIT_SECONDS: u32 = 30;

impl Default for WaitArgs {
    fn default() -> Self {
        WaitArgs { wait: WAIT_SECONDS }
    }
}

impl From<WaitArgs> for InviteArgs {
    fn from(waiting: WaitArgs) -> Self {
        InviteArgs { waiting, model: None }
    }
}

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

/// The ends of an invite's model, from wherever they are nearest. From now on this machine uses the swarm.
pub(crate) fn ends(text: &str, how: &InviteArgs) -> Result<PathBuf> {
    let swarm = Arc::new(Connected::new(invite(text)?, how.waiting)?);
    let model = swarm.ends_here(how.model.as_deref())?;
    connected().push((model.clone(), swarm));
    Ok(model)
}

impl Connected {
    /// Finds the swarm of an invite.
    pub(crate) fn new(invite: Invite, waiting: WaitArgs) -> Result<Connected> {
        let keypair = Keypair::generate_ed25519();
        let me = keypair.public().to_peer_id();
        let settings = Settings { keypair, key: invite.key, listen: Vec::new(), mdns: true };
        let network = Arc::new(network::Network::start(settings)?);
        let transport: Arc<dyn Transport> = network.clone();
        let handle = network.handle().clone();
        let directory = Arc::new(Directory::new(me, invite.fingerprint));
        let finding = directory.clone();
        let (asked, peers) = (transport.clone(), invite.peers.clone());
        handle.block_on(async move { finding.find(&*asked, &peers).await })?;
        handle.spawn(directory.clone().gossip(transport.clone(), Arc::new(Notify::new()), GOSSIP));
        let missing = Duration::from_secs(waiting.wait.into());
        let client = Client {
            transport,
            guide: Arc::new(Waiting::new(directory.clone(), missing)),
            fingerprint: invite.fingerprint,
            wire: invite.wire,
            patience: Patience { missing, ..Patience::default() },
        };
        Ok(Connected { invite, directory, client: Arc::new(client), network })
    }

    /// Measures the way to each server; those that answer. The others are taken to have failed.
    pub(crate) fn measure(&self) -> BTreeSet<PeerId> {
        let measure = |(peer, record): (PeerId, Record)| {
            let (directory, transport) = (self.directory.clone(), self.client.transport.clone());
            let asked = async move {
                let exchange = directory.exchange(&*transport, peer, record.addresses);
                let answers = timeout(ANSWER, exchange).await.is_ok_and(|answer| answer.is_ok());
                if !answers {
                    directory.failed(peer);
                }
                answers.then_some(peer)
            };
            self.network.handle().spawn(asked)
        };
        let asked: Vec<_> = self.directory.records().into_iter().map(measure).collect();
        self.network.handle().block_on(async {
            let mut answered = BTreeSet::new();
            for one in asked {
                answered.extend(one.await.ok().flatten());
            }
            answered
        })
    }

    /// How its model is opened: in the encoding and with the wire of the swarm.
    pub(crate) fn options(&self, options: &OpenOptions) -> Result<OpenOptions> {
        let (encoding, rounding) = (encoding(&self.invite)?, self.invite.wire.rounding());
        Ok(OpenOptions { encoding, rounding, cache_encoding: CacheEncoding::F32, ..options.clone() })
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
}

/// The encoding that a swarm computes in.
pub(crate) fn encoding(invite: &Invite) -> Result<Encoding> {
    let unknown = |_| wrong("the invite names an encoding that is not known", "use a newer version of this program");
    invite.encoding.parse().map_err(unknown)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// What an invite's model is called: a name of a hub, or the last part of a path.
pub(crate) fn model_name(invite: &Invite) -> String {
    let path = Path::new(&invite.model);
    let last = path.file_name().filter(|_| path.is_absolute());
    last.map_or_else(|| invite.model.clone(), |last| last.to_string_lossy().into_owned())
}

/// What was typed for a model, where others may read it: an invite holds a key, so the name that it gives the model stands
/// for it.
pub(crate) fn shown(typed: &str) -> String {
    match typed.parse::<Invite>() {
        Ok(invite) => model_name(&invite),
        Err(_) if Invite::is_meant(typed) => "an invite".to_owned(),
        Err(_) => typed.to_owned(),
    }
}

/// What a swarm computes in, as the end of a sentence: `in int8`, `as stored`.
pub(crate) fn computed(invite: &Invite) -> String {
    if invite.encoding == Encoding::Stored.name() { "as stored".to_owned() } else { format!("in {}", invite.encoding) }
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

/// How long a server may take to answer before it is said that it does not. Sessions take as long.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a server waits for its clients to go elsewhere.
pub(crate) const LEAVING: Duration = Duration::from_secs(10);
