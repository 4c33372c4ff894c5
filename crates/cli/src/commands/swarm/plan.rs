//! `bouquet swarm plan`: of a swarm the way that a token takes, and what bounds it; of a model how much of it this machine
//! can host, and what machines it needs.

mod of_model;
mod of_swarm;

use anyhow::Result;
use bouquet_model::Encoding;
use bouquet_swarm::Invite;

use self::of_model::of_model;
use self::of_swarm::of_swarm;
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::open::encoding_names;
use crate::output;

pub(super) const HELP: &str = "\
Examples:
  bouquet swarm plan INVITE                       the way that a token takes now, and what bounds it
  bouquet swarm plan bigscience/bloom-7b1         what machines that model needs, and how many like this one
  bouquet swarm plan MODEL --encoding int4 --memory 6GB

A token that is decoded goes to each server in turn and back: half a round trip a leg, what waits at a
server, and its blocks. A long prompt goes in parts, and takes what the slowest server needs.";

#[derive(clap::Args)]
pub(super) struct PlanArgs {
    /// An invite; or the folder of a model, its GGUF file, or its name on the hub
    #[arg(value_name = "INVITE|MODEL")]
    what: String,
    /// Tokens of the session that is planned for
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    ctx: u32,
    /// Memory of a server for weights and caches, such as 6GB [default: three quarters of what is free here]
    #[arg(long, value_name = "SIZE", value_parser = output::size)]
    memory: Option<u64>,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    if !Invite::is_meant(&args.what) {
        return of_model(args);
    }
    if args.memory.is_some() || args.encoding.is_some() {
        let message = "a swarm is there already, and its servers have said what they hold";
        return Err(asked_wrongly(message, "give --memory and --encoding with a model"));
    }
    of_swarm(args)
}

/// `12.3 ms`.
fn milliseconds(seconds: f64) -> String {
    let number = 1000.0 * seconds;
    let decimals = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.decimals$} ms")
}
