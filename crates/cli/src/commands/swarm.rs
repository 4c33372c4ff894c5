//! `bouquet swarm`: what a swarm is made of, and what it can do.

use std::time::Duration;

use anyhow::Result;
use bouquet_swarm::route::Need;
use bouquet_swarm::{Record, ServerState};
use libp2p_identity::PeerId;
use serde_json::json;

use crate::output;
use crate::swarm::{self, Connected, WaitArgs};

/// What was typed.
#[derive(clap::Args)]
pub(crate) struct SwarmArgs {
    #[command(subcommand)]
    command: SwarmCommand,
}

#[derive(clap::Subcommand)]
enum SwarmCommand {
    /// List its servers, which blocks they hold, and which nobody holds
    Status(StatusArgs),
}

#[derive(clap::Args)]
struct StatusArgs {
    /// The invite
    invite: String,
    /// Say it again every two seconds
    #[arg(long)]
    watch: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How often it is looked with `--watch`.
const WATCH: Duration = Duration::from_secs(2);

pub(crate) fn run(args: SwarmArgs) -> Result<()> {
    let SwarmCommand::Status(args) = args.command;
    let swarm = Connected::new(swarm::invite(&args.invite)?, WaitArgs::default())?;
    loop {
        let records = swarm.directory.records();
        if args.json {
            output::json(&as_json(&swarm, &records))?;
        } else {
            output::write(&report(&swarm, &records))?;
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

/// The blocks that are known of: up to the last that somebody holds.
fn block_count(records: &[(PeerId, Record)]) -> usize {
    records.iter().map(|(_, record)| record.blocks.end as usize).max().unwrap_or(0)
}

fn state(state: ServerState) -> &'static str {
    match state {
        ServerState::Joining => "joining",
        ServerState::Serving => "serving",
        ServerState::Leaving => "leaving",
    }
}

/// Tokens a second of one session through all blocks on the best route, if there is one.
fn tokens_per_second(swarm: &Connected, blocks: usize) -> Option<f64> {
    swarm.directory.with_servers(|servers| {
        let route = servers.fastest(0..blocks, &Need::token(0)).ok()?;
        Some(servers.plan(&route, 0)?.tokens_per_second())
    })
}

fn report(swarm: &Connected, records: &[(PeerId, Record)]) -> String {
    let mut rows =
        vec![["server", "name", "blocks", "state", "sessions", "ms/block", "free cache"].map(str::to_owned).to_vec()];
    for (peer, record) in records {
        let figures = &record.figures;
        let id = peer.to_string();
        rows.push(vec![
            id[id.len().saturating_sub(8)..].to_owned(),
            record.name.clone(),
            format!("{}:{}", record.blocks.start, record.blocks.end),
            state(record.state).to_owned(),
            figures.sessions.to_string(),
            format!("{:.2}", 1000.0 * figures.decode_seconds_per_block),
            format!("{} tokens", output::grouped(figures.free_cache_tokens)),
        ]);
    }
    let blocks = block_count(records);
    let missing = swarm.directory.with_servers(|servers| servers.missing(&(0..blocks)));
    let holes: Vec<String> = missing.iter().map(|range| format!("{}:{}", range.start, range.end)).collect();
    let state = match (holes.is_empty(), tokens_per_second(swarm, blocks)) {
        (true, Some(speed)) => format!("all {blocks} blocks are served; about {speed:.1} tokens/s for one session"),
        (true, None) => format!("all {blocks} blocks are served"),
        (false, _) => format!("nobody serves blocks {}", holes.join(", ")),
    };
    format!("{}\n{}: {state}\n", output::table(&rows, 4), swarm.invite.model)
}

fn as_json(swarm: &Connected, records: &[(PeerId, Record)]) -> serde_json::Value {
    let blocks = block_count(records);
    let missing = swarm.directory.with_servers(|servers| servers.missing(&(0..blocks)));
    let servers: Vec<_> = records
        .iter()
        .map(|(peer, record)| {
            json!({
                "peer_id": peer.to_string(),
                "name": record.name,
                "addresses": record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "state": state(record.state),
                "blocks": [record.blocks.start, record.blocks.end],
                "sessions": record.figures.sessions,
                "decode_seconds_per_block": output::number(record.figures.decode_seconds_per_block.into()),
                "prompt_seconds_per_block": output::number(record.figures.prompt_seconds_per_block.into()),
                "free_cache_tokens": record.figures.free_cache_tokens,
                "queued_seconds": output::number(record.figures.queued_seconds.into()),
            })
        })
        .collect();
    json!({
        "model": swarm.invite.model,
        "fingerprint": swarm.invite.fingerprint.to_string(),
        "encoding": swarm.invite.encoding,
        "wire": swarm.invite.wire.name(),
        "blocks": blocks,
        "missing": missing.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
        "tokens_per_second": tokens_per_second(swarm, blocks),
        "servers": servers,
    })
}
