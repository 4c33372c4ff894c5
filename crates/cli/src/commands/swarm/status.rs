//! `bouquet swarm status`: who is there, and which blocks nobody holds.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use bouquet_swarm::route::Need;
use bouquet_swarm::{Record, ServerState};
use libp2p_identity::PeerId;
use serde_json::{Value, json};

use super::{say_missing, short};
use crate::output;
use crate::swarm::{self, Connected, WaitArgs};

pub(super) const HELP: &str = "\
decode and prompt are tokens a second through all blocks of a server: of one session that makes tokens
one by one, and of a long prompt; the way between servers comes on top. Free cache is in tokens of sessions. x2 behind blocks is how many serve them.";

#[derive(clap::Args)]
pub(super) struct StatusArgs {
    /// The invite
    invite: String,
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print one JSON object; with --watch one a line
    #[arg(long)]
    json: bool,
}

/// How often it is looked with `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// What is known of a swarm at one moment.
struct Status {
    records: Vec<(PeerId, Record)>,
    /// Those of them that answer.
    answer: BTreeSet<PeerId>,
    blocks: usize,
    missing: Vec<Range<usize>>,
    /// Of one session through all blocks on the best route, if there is one.
    tokens_per_second: Option<f64>,
}

pub(super) fn run(args: &StatusArgs) -> Result<()> {
    let swarm = Connected::new(swarm::invite(&args.invite)?, WaitArgs::default())?;
    // Where nobody can say how many there are, those that are known of: up to the last that somebody holds.
    let last = |records: &[(PeerId, Record)]| records.iter().map(|(_, record)| record.blocks.end as usize).max();
    let blocks = swarm.block_count().ok().or_else(|| last(&swarm.directory.records())).unwrap_or(0);
    let redraw = args.watch && !args.json && std::io::stdout().is_terminal();
    loop {
        let status = Status::of(&swarm, blocks);
        if args.json {
            output::json(&status.as_json(&swarm))?;
        } else if redraw {
            output::write(&on_the_same_screen(&status.report(&swarm)))?;
        } else {
            output::write(&status.report(&swarm))?;
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

/// A text in place of the one before: from the first line of the terminal on, without emptying it first, which flickers.
fn on_the_same_screen(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\r\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}

impl Status {
    fn of(swarm: &Connected, blocks: usize) -> Status {
        // A record outlives who said it by some seconds.
        let answer = swarm.measure();
        let records = swarm.directory.records();
        let (missing, tokens_per_second) = swarm.directory.with_servers(|servers| {
            let plan = servers.fastest(0..blocks, &Need::token(0)).ok().and_then(|route| servers.plan(&route, 0));
            (servers.missing(&(0..blocks)), plan.map(|plan| plan.tokens_per_second()))
        });
        Status { records, answer, blocks, missing, tokens_per_second }
    }

    /// How many serve each block, in ranges of the same number.
    fn coverage(&self) -> Vec<(Range<usize>, usize)> {
        let serves =
            |(peer, record): &&(PeerId, Record)| record.state == ServerState::Serving && self.answer.contains(peer);
        let serving = self.records.iter().filter(serves);
        let mut counts = vec![0; self.blocks];
        for (_, record) in serving {
            let held = counts.iter_mut().take(record.blocks.end as usize).skip(record.blocks.start as usize);
            held.for_each(|count| *count += 1);
        }
        let mut coverage: Vec<(Range<usize>, usize)> = Vec::new();
        for (block, count) in counts.into_iter().enumerate() {
            match coverage.last_mut().filter(|(_, last)| *last == count) {
                Some((range, _)) => range.end = block + 1,
                None => coverage.push((block..block + 1, count)),
            }
        }
        coverage
    }

    fn report(&self, swarm: &Connected) -> String {
        let columns = ["server", "name", "blocks", "state", "sessions", "waiting", "decode", "prompt", "free cache"];
        let mut rows = vec![columns.map(str::to_owned).to_vec()];
        for (peer, record) in &self.records {
            let figures = &record.figures;
            rows.push(vec![
                short(peer),
                record.name.clone(),
                format!("{}:{}", record.blocks.start, record.blocks.end),
                self.state(peer, record).to_owned(),
                figures.sessions.to_string(),
                output::seconds(Duration::from_secs_f32(figures.queued_seconds.min(1e6))),
                per_second(record, figures.decode_seconds_per_block),
                per_second(record, figures.prompt_seconds_per_block),
                output::count(figures.free_cache_tokens),
            ]);
        }
        let table = if self.records.is_empty() { "  nobody is there\n".to_owned() } else { output::table(&rows, 4) };
        let covered: Vec<String> =
            self.coverage().iter().map(|(range, count)| format!("{}:{} x{count}", range.start, range.end)).collect();
        let blocks = self.blocks;
        let sentence = match (&self.missing[..], self.tokens_per_second) {
            ([], Some(speed)) => {
                format!("all {blocks} blocks are served; about {speed:.1} tokens/s for one session")
            }
            ([], None) => format!("all {blocks} blocks are served"),
            (missing, _) => say_missing(missing, blocks),
        };
        let (model, computed) = (swarm::model_name(&swarm.invite), swarm::computed(&swarm.invite));
        let how = format!("{model}: {blocks} blocks, computed {computed}, wire {}", swarm.invite.wire.name());
        format!("{how}\n\n{table}\nblocks {}\n{sentence}\n", covered.join(", "))
    }

    fn as_json(&self, swarm: &Connected) -> Value {
        let servers: Vec<Value> = self.records.iter().map(|(peer, record)| self.server(peer, record)).collect();
        let coverage = self.coverage();
        json!({
            "model": swarm.invite.model,
            "fingerprint": swarm.invite.fingerprint.to_string(),
            "encoding": swarm.invite.encoding,
            "wire": swarm.invite.wire.name(),
            "blocks": self.blocks,
            "missing": self.missing.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
            "coverage": coverage.iter().map(|(range, count)| [range.start, range.end, *count]).collect::<Vec<_>>(),
            "tokens_per_second": self.tokens_per_second.map(output::number),
            "servers": servers,
        })
    }

    fn server(&self, peer: &PeerId, record: &Record) -> Value {
        let figures = &record.figures;
        json!({
            "peer_id": peer.to_string(),
            "name": record.name,
            "addresses": record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "state": self.state(peer, record),
            "blocks": [record.blocks.start, record.blocks.end],
            "sessions": figures.sessions,
            "queued_seconds": output::number(figures.queued_seconds.into()),
            "decode_seconds_per_block": output::number(figures.decode_seconds_per_block.into()),
            "prompt_seconds_per_block": output::number(figures.prompt_seconds_per_block.into()),
            "cache_tokens": figures.cache_tokens,
            "free_cache_tokens": figures.free_cache_tokens,
        })
    }

    fn state(&self, peer: &PeerId, record: &Record) -> &'static str {
        match record.state {
            ServerState::Leaving => "leaving",
            _ if !self.answer.contains(peer) => "no answer",
            ServerState::Joining => "joining",
            ServerState::Serving => "serving",
        }
    }
}

/// Tokens a second through all of a server's blocks; one that leaves says no more how fast it is.
fn per_second(record: &Record, seconds_per_block: f32) -> String {
    let blocks = record.blocks.end.saturating_sub(record.blocks.start);
    let seconds = f64::from(seconds_per_block) * f64::from(blocks);
    if seconds > 0.0 { output::speed(Some(1.0 / seconds)).replace(" tokens", "") } else { "-".to_owned() }
}
