//! `bouquet swarm`: what a swarm is made of, what it can do, and what a model needs of one.

mod plan;
mod status;

use std::ops::Range;

use anyhow::Result;

/// What was typed.
#[derive(clap::Args)]
pub(crate) struct SwarmArgs {
    #[command(subcommand)]
    command: SwarmCommand,
}

#[derive(clap::Subcommand)]
enum SwarmCommand {
    /// List its servers, which blocks they hold, and which nobody holds
    #[command(after_help = status::HELP)]
    Status(status::StatusArgs),
    /// Say where the time of a token goes and why, or what machines a model needs
    #[command(after_help = plan::HELP)]
    Plan(plan::PlanArgs),
}

pub(crate) fn run(args: SwarmArgs) -> Result<()> {
    match args.command {
        SwarmCommand::Status(args) => status::run(&args),
        SwarmCommand::Plan(args) => plan::run(&args),
    }
}

/// `3:9, 12:14`.
pub(super) fn ranges(ranges: &[Range<usize>]) -> String {
    let one = |range: &Range<usize>| format!("{}:{}", range.start, range.end);
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What a hole means, and how it is closed.
fn say_missing(missing: &[Range<usize>], blocks: usize) -> String {
    let hole = &missing[0];
    let which = match missing {
        [one] if one.len() == blocks => "any block".to_owned(),
        [one] if one.len() == 1 => format!("block {} of {blocks}", one.start),
        all => format!("blocks {} of {blocks}", ranges(all)),
    };
    format!(
        "nobody serves {which}, so no text can be made; to host them: bouquet join INVITE --blocks {}:{}",
        hole.start, hole.end
    )
}

/// A peer as it is listed: what its owner calls it, else the end of its key.
fn short(peer: &libp2p_identity::PeerId) -> String {
    let id = peer.to_string();
    id[id.len().saturating_sub(8)..].to_owned()
}
