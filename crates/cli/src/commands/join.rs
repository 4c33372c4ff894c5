//! `bouquet join`: hosts some of a model's blocks, together with others.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_model::adapter::Learned;
use bouquet_model::families::load_spec;
use bouquet_model::{Encoding, Fingerprint, KnownHashes, LocalSpan, OpenOptions};
use bouquet_span::{Adapter, CancelToken, Span, Speed};
use bouquet_swarm::compute::{Blocks, Compute};
use bouquet_swarm::directory::Directory;
use bouquet_swarm::invite::{MAX_PEERS, Peer};
use bouquet_swarm::member::{GOSSIP, Member};
use bouquet_swarm::network::{DEFAULT_PORT, Network, Settings};
use bouquet_swarm::server::{self, Server};
use bouquet_swarm::shelf::Shelf;
use bouquet_swarm::{Digest, Figures, Invite, ServerState, SwarmError, Transport, balance, identity};
use libp2p_identity::Keypair;
use multiaddr::Multiaddr;
use serde_json::json;
use tokio::sync::Notify;

use super::swarm::ranges;
use crate::compute::ComputeArgs;
use crate::errors::{asked_wrongly, wrong};
use crate::hosting::{self, PartBytes};
use crate::hub;
use crate::interrupt::Work;
use crate::open::{WireArgs, encoding_names, hash_cache, options, or_usual};
use crate::output::{self, Progress};
use crate::swarm::{self, Connected, WaitArgs};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct JoinArgs {
    /// An invite; or, to found a swarm, the folder of the model, its GGUF file, or its name on the hub
    #[arg(value_name = "INVITE|MODEL")]
    what: String,
    /// Where the model of the invite is on this machine [default: its name on the hub]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// The blocks to host: 3:9 is from block 3 up to, not including, 9 [default: as many as fit, where they are needed most]
    #[arg(long, value_name = "FROM:TO", value_parser = block_range)]
    blocks: Option<Range<usize>>,
    /// Memory for weights, caches and all else, such as 6GB [default: three quarters of what is free]
    #[arg(long, value_name = "SIZE", value_parser = output::size)]
    memory: Option<u64>,
    /// What weights are held in and computed with, in the whole swarm [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    wire: WireArgs,
    /// Folder of an adapter, as PEFT saves it: clients that use the same need not send it; may be given several times
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
    /// What others see this machine called
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Where to listen, such as /ip4/127.0.0.1/tcp/0; may be given several times [default: port 31330, or the next that is
    /// free, on all addresses]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Where others reach this machine, if not where it listens, as with a port that a router forwards; may be given several
    /// times
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<Multiaddr>,
    /// A file with this machine's key, made if it is not there: with it the machine is the same after a restart, and a
    /// founder's invites stay good
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object a line, the first when it serves
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet join bigscience/bloom-7b1              found a swarm; prints an invite
  bouquet join INVITE                            join it from another machine
  bouquet join MODEL --blocks 0:12 --name office
  bouquet run INVITE \"Once upon a time\"          use it, from any machine

Whoever has the invite can use the swarm and join it; it holds the key that all connections are
encrypted with. Nobody else is contacted. Ctrl-C leaves: clients go elsewhere first.

Every server prints an invite of its own; all are of the same swarm. Other machines have to reach the
port that it listens on (TCP 31330), through this machine's firewall too; behind a router, forward it
and say so: --announce /ip4/203.0.113.7/tcp/31330";

/// How long a server is measured before it says that it serves.
const MEASURED: Duration = Duration::from_millis(300);

/// The same for one block, before it is chosen which are taken.
const MEASURED_BLOCK: Duration = Duration::from_millis(150);

/// Ports that are tried after the usual one.
const PORTS: u16 = 32;

pub(crate) fn run(args: JoinArgs) -> Result<()> {
    let invited = Invite::is_meant(&args.what).then(|| swarm::invite(&args.what)).transpose()?;
    if invited.is_some() && args.encoding.is_some() {
        return Err(asked_wrongly("a swarm has one encoding, and the invite names it", "leave --encoding out"));
    }
    if invited.is_some() && args.wire.wire.is_some() {
        return Err(asked_wrongly("a swarm has one wire, and the invite names it", "leave --wire out"));
    }
    let model = match (&invited, &args.model) {
        (None, Some(_)) => {
            return Err(asked_wrongly("--model says where the model of an invite is", "give the model alone"));
        }
        (Some(_), Some(model)) => hub::folder(model.clone())?,
        (Some(invite), None) => {
            let model = PathBuf::from(&invite.model);
            if model.is_absolute() && !model.exists() {
                let message =
                    format!("this machine does not have {}, as the founder of this swarm does", model.display());
                return Err(wrong(message, "say where it is: bouquet join INVITE --model MODEL"));
            }
            hub::folder(model)?
        }
        (None, None) => hub::folder(PathBuf::from(&args.what))?,
    };
    let mut options = options(args.compute.cpu()?, Encoding::F32);
    match &invited {
        Some(invite) => {
            options.encoding = swarm::encoding(invite)?;
            options.rounding = invite.wire.rounding();
        }
        None => {
            options.encoding = or_usual(args.encoding, &model)?;
            options.rounding = args.wire.wire.unwrap_or_default();
        }
    }
    let work = Work::begin();
    let connected = invited.map(|invite| Connected::new(invite, WaitArgs::default())).transpose()?;
    let parts = Parts::of(&model, &options, connected.as_ref())?;
    let serving = Serving::start(&args, &model, &options, connected, &parts)?;
    serving.tell(&args, parts.blocks.len())?;
    serving.watch(&work.cancel, parts.blocks.len(), args.json);
    serving.leave(args.json)
}

/// What an invite calls a model: a path of this machine as a whole, so that nobody takes it for a name on the hub.
fn found_again(what: &str) -> String {
    let path = Path::new(what);
    let whole = path.exists().then(|| std::path::absolute(path).ok()).flatten();
    whole.map_or_else(|| what.to_owned(), |path| path.display().to_string())
}

/// `3:9`.
fn block_range(text: &str) -> std::result::Result<Range<usize>, String> {
    let range = text.split_once(':').and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.filter(|range: &Range<usize>| range.start < range.end).ok_or_else(|| "blocks are given as 3:9".to_owned())
}

/// What the model's parts are.
struct Parts {
    fingerprint: Digest,
    ends: bouquet_model::Hash,
    blocks: Vec<bouquet_model::Hash>,
}

impl Parts {
    /// By the swarm, where there is one; else by reading the model, once.
    fn of(model: &Path, options: &OpenOptions, swarm: Option<&Connected>) -> Result<Parts> {
        if let Some(swarm) = swarm {
            let (ends, blocks) = swarm.hashes(model, options)?;
            return Ok(Parts { fingerprint: swarm.invite.fingerprint, ends, blocks });
        }
        let mut progress = Progress::new();
        let mut show = |done: usize, of: usize| {
            progress.show(&format!("taking the fingerprint: {done} of {of} parts"));
            Ok(())
        };
        let found = Fingerprint::of(model, options, hash_cache().as_deref(), &mut show)?;
        let fingerprint = Digest(found.fingerprint.0);
        Ok(Parts { fingerprint, ends: found.ends, blocks: found.blocks })
    }
}

/// Blocks of this machine for others.
struct Hosted {
    span: LocalSpan,
    slices: Mutex<BTreeMap<(usize, usize), Arc<dyn Span>>>,
}

impl Blocks for Hosted {
    fn range(&self) -> Range<usize> {
        self.span.range()
    }

    fn span(&self, range: Range<usize>) -> Arc<dyn Span> {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let slice = slices.entry((range.start, range.end));
        slice.or_insert_with(|| Arc::new(self.span.slice(range))).clone()
    }

    fn cache_bytes(&self) -> u64 {
        self.span.cache_bytes_per_token() / self.span.range().len() as u64
    }
}

/// A server that runs.
struct Serving {
    invite: Invite,
    network: Arc<Network>,
    server: Server,
    member: Arc<Member>,
    _ends: Option<Connected>,
}

impl Serving {
    fn start(
        args: &JoinArgs,
        model: &Path,
        options: &OpenOptions,
        connected: Option<Connected>,
        parts: &Parts,
    ) -> Result<Serving> {
        let fingerprint = parts.fingerprint;
        let spec = load_spec(model)?;
        let adapters = args.adapter.iter().map(|folder| Ok(Learned::open(folder, &spec)?.0.low_rank));
        let adapters = adapters.collect::<Result<Vec<_>>>()?;
        let memory = hosting::memory(args.memory).saturating_sub(adapters.iter().map(|adapter| bytes(adapter)).sum());
        let bytes = PartBytes::of(model, &spec, options.encoding)?;
        let blocks = match &args.blocks {
            Some(blocks) => blocks.clone(),
            None => choose(memory, &bytes, model, options, connected.as_ref())?,
        };
        spec.check_blocks(&blocks)?;
        let shares = bytes.share(memory, blocks.clone())?;
        let mut progress = Progress::new();
        progress.show(&format!("loading blocks {}:{}", blocks.start, blocks.end));
        // What is shared out was free a moment ago; weights count before they are loaded.
        let options = &OpenOptions { memory_bytes: shares.span, memory_left: || None, ..options.clone() };
        let span = LocalSpan::open(model, blocks.clone(), options)?;
        progress.show("comparing them with the hashes of the swarm");
        let mut known = KnownHashes::open(model, options.encoding, hash_cache().as_deref())?;
        if let [block, ..] = known.differing(&span, &parts.blocks)[..] {
            let message = format!("block {block} of {} is not that of the swarm", model.display());
            return Err(wrong(message, "fetch the model again, or give the right one with --model"));
        }
        progress.show("making embedding and head ready for clients");
        let shelf = swarm::ends::fill_shelf(model, options, fingerprint, (parts.ends, &parts.blocks))?;
        progress.show("measuring how fast they are");
        let speed = Speed::measure(&span, 128, MEASURED)?;
        progress.show("looking for others");

        let keypair = match &args.identity {
            Some(path) => identity::load_or_create(path)?,
            None => Keypair::generate_ed25519(),
        };
        let me = keypair.public().to_peer_id();
        // A founder that is the same after a restart founds the same swarm, so that its invites stay good.
        let founded = || match args.identity {
            Some(_) => identity::swarm_key(&keypair, fingerprint).unwrap_or_else(swarm::random),
            None => swarm::random(),
        };
        let key = connected.as_ref().map_or_else(founded, |swarm| swarm.invite.key);
        let network = Arc::new(listen(args, &keypair, key)?);
        let transport: Arc<dyn Transport> = network.clone();
        let directory = Arc::new(Directory::new(me, fingerprint));

        let settings = server::Settings {
            fingerprint,
            wire: swarm::wire(options.rounding),
            cache_bytes: shares.sessions,
            pass_bytes: shares.passes,
            max_sessions: 1024,
            chunk_tokens: 128,
        };
        let figures = Figures {
            decode_seconds_per_block: speed.decode as f32,
            prompt_seconds_per_block: speed.prompt as f32,
            ..Figures::default()
        };
        let hosted = Arc::new(Hosted { span, slices: Mutex::default() });
        let server =
            Server::new(transport.clone(), hosted, Compute::thread()?, directory.clone(), Shelf::of(&shelf), settings);
        adapters.into_iter().for_each(|adapter| server.preload(adapter));
        let wake = Arc::new(Notify::new());
        let member = Arc::new(Member {
            keypair,
            fingerprint,
            name: args.name.clone(),
            directory: directory.clone(),
            transport: transport.clone(),
            wake: wake.clone(),
        });
        // Others hear of it before it says that it serves, so that their answers find it.
        if let Some(swarm) = &connected {
            let (finding, transport, peers) = (directory.clone(), transport.clone(), swarm.invite.peers.clone());
            network.handle().block_on(async move { finding.find(&*transport, &peers).await })?;
        }
        let (running, telling, told) = (server.clone(), member.clone(), server.clone());
        member.announce(ServerState::Serving, blocks, server.figures(figures))?;
        let handle = network.handle();
        handle.spawn(async move { running.run().await });
        handle.spawn(async move { telling.serve(&told, figures).await });
        handle.spawn(directory.gossip(transport, wake, GOSSIP));

        let mut peers = vec![Peer { id: me, addresses: network.addresses() }];
        peers.extend(connected.iter().flat_map(|swarm| swarm.invite.peers.clone()));
        peers.truncate(MAX_PEERS.min(3));
        let named = |swarm: &Connected| (swarm.invite.model.clone(), swarm.invite.wire);
        let (name, wire) = connected.as_ref().map_or_else(|| (found_again(&args.what), settings.wire), named);
        let encoding = options.encoding.name().to_owned();
        let invite = Invite { model: name, fingerprint, encoding, wire, key, peers };
        Ok(Serving { invite, network, server, member, _ends: connected })
    }

    /// Says that it serves, and how to use it.
    fn tell(&self, args: &JoinArgs, block_count: usize) -> Result<()> {
        let (invite, blocks) = (self.invite.to_string(), self.server.blocks());
        if args.json {
            let texts = |addresses: Vec<Multiaddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
            return output::json(&json!({
                "event": "ready",
                "invite": invite,
                "peer_id": self.network.peer_id().to_string(),
                "addresses": texts(self.network.addresses()),
                "listening": texts(self.network.listening()),
                "blocks": [blocks.start, blocks.end],
            }));
        }
        let held = if blocks.len() == block_count {
            format!("hosting all {block_count} blocks")
        } else {
            format!("hosting blocks {}:{} of the {block_count}", blocks.start, blocks.end)
        };
        output::note(&format!(
            "{held} of {}, computed {}",
            swarm::model_name(&self.invite),
            swarm::computed(&self.invite)
        ));
        for address in self.network.listening() {
            output::note(&format!("listening on {address}"));
        }
        let terminal = std::io::stderr().is_terminal();
        if terminal {
            output::note("the invite, one word, which lets in whoever has it:\n");
        }
        output::line(&invite)?;
        if terminal {
            output::note("\nuse it:  bouquet run INVITE     add a machine:  bouquet join INVITE     leave:  Ctrl-C");
        }
        Ok(())
    }

    /// Waits until it is to leave. Says meanwhile what of the model nobody hosts, and on a line how many use it.
    fn watch(&self, cancel: &CancelToken, block_count: usize, json: bool) {
        let (mut line, mut missing, mut looked) = (Progress::new(), Vec::new(), None::<Instant>);
        while !cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(50));
            if json || looked.is_some_and(|looked| looked.elapsed() < Duration::from_secs(1)) {
                continue;
            }
            looked = Some(Instant::now());
            let directory = &self.member.directory;
            let holes = directory.with_servers(|servers| servers.missing(&(0..block_count)));
            if holes != missing {
                line.note(&match holes.is_empty() {
                    true => format!("all {block_count} blocks are hosted now"),
                    false => format!(
                        "nobody hosts blocks {} of {block_count}; others can: bouquet join INVITE",
                        ranges(&holes)
                    ),
                });
                missing = holes;
            }
            let sessions = output::counted(self.server.sessions(), "session");
            let servers = output::counted(directory.records().len(), "server");
            line.show(&format!("{sessions} here, {servers} in the swarm; Ctrl-C leaves"));
        }
    }

    /// Goes, once clients have gone elsewhere.
    fn leave(&self, json: bool) -> Result<()> {
        if !json && self.server.sessions() > 0 {
            output::note("leaving: waiting for sessions to go elsewhere; Ctrl-C again ends at once");
        }
        let (member, server) = (self.member.clone(), self.server.clone());
        self.network.handle().block_on(async move { member.leave(&server, swarm::LEAVING).await });
        self.network.leave();
        if json {
            return output::json(&json!({ "event": "left" }));
        }
        output::note("left the swarm");
        Ok(())
    }
}

/// Which blocks are needed most, of as many as fit into so much memory.
fn choose(
    memory: u64,
    bytes: &PartBytes,
    model: &Path,
    options: &OpenOptions,
    swarm: Option<&Connected>,
) -> Result<Range<usize>> {
    let (count, fits) = (bytes.blocks.len(), bytes.fit(memory));
    if fits == 0 {
        let [takes, memory] = [bytes.least(), memory].map(output::bytes);
        let message = format!("a server of one block takes {takes}, and there are {memory} for it");
        return Err(wrong(message, "give more with --memory, or found the swarm with --encoding int4"));
    }
    // A record outlives who said it by some seconds, and whoever takes a dead server's place should see that it is dead.
    let answer = swarm.map(Connected::measure).unwrap_or_default();
    let mut records = swarm.map(|swarm| swarm.directory.records()).unwrap_or_default();
    records.retain(|(peer, _)| answer.contains(peer));
    if fits == count || records.is_empty() {
        return Ok(0..fits);
    }
    let one = LocalSpan::open(model, 0..1, options)?;
    let seconds_per_block = Speed::measure(&one, 16, MEASURED_BLOCK)?.decode;
    let joiner = balance::Joiner { fits, seconds_per_block };
    let me = libp2p_identity::PeerId::random();
    let others = balance::others(&me, &Default::default(), records.iter().map(|(peer, record)| (*peer, record)));
    Ok(balance::choose(count, &joiner, &others))
}

/// Bytes of an adapter's matrices.
fn bytes(adapter: &Adapter) -> u64 {
    adapter.pairs.values().map(|pair| 4 * (pair.a.data().len() + pair.b.data().len()) as u64).sum()
}

/// Listens where it was asked to, or on the first usual port that is free.
fn listen(args: &JoinArgs, keypair: &Keypair, key: [u8; 32]) -> Result<Network> {
    let start = |listen: Vec<Multiaddr>| {
        let network = Network::start(Settings { keypair: keypair.clone(), key, listen, mdns: true })?;
        Ok(network.announcing(args.announce.clone()))
    };
    if !args.listen.is_empty() {
        return Ok(start(args.listen.clone())?);
    }
    let mut last = SwarmError::Network("no port is free".to_owned());
    for port in DEFAULT_PORT..DEFAULT_PORT + PORTS {
        let address = format!("/ip4/0.0.0.0/tcp/{port}").parse().expect("an address");
        match start(vec![address]) {
            Ok(network) => return Ok(network),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}
