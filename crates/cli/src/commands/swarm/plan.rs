//! `bouquet swarm plan`: of a swarm the way that a token takes, and what bounds it; of a model how much of it this machine
//! can host, and what machines it needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bouquet_model::families::load_spec;
use bouquet_model::{Encoding, LocalSpan, OpenOptions};
use bouquet_span::Speed;
use bouquet_swarm::route::{HopTimes, Need, Plan};
use bouquet_swarm::wire::codes;
use bouquet_swarm::{Invite, Wire};
use serde_json::{Value, json};

use super::{ranges, say_missing, short};
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::hosting::{self, PartBytes, USUAL_TOKENS};
use crate::open::{encoding_names, options, or_usual};
use crate::output::Progress;
use crate::swarm::{self, Connected, WaitArgs};
use crate::{hub, output, system};

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

/// Tokens of a prompt, and tokens behind it, for which a client chooses its route.
const TOKENS: usize = 128;

/// Round trips between machines that are told of: in a house, in a country, across an ocean.
const ROUND_TRIPS: [(&str, f64); 3] = [("1 ms", 0.001), ("20 ms", 0.02), ("100 ms", 0.1)];

/// What a hop costs beyond its blocks, in seconds.
const HOP_SECONDS: f64 = 0.0005;

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

/// The way of a token through a swarm as it is.
fn of_swarm(args: &PlanArgs) -> Result<()> {
    let swarm = Connected::new(swarm::invite(&args.what)?, WaitArgs::default())?;
    let blocks = swarm.block_count()?;
    swarm.measure();
    let cache_tokens = u64::from(args.ctx);
    let need = Need { prompt_tokens: TOKENS, chunk_tokens: TOKENS, new_tokens: TOKENS, cache_tokens };
    let (missing, plan) = swarm.directory.with_servers(|servers| {
        let plan = servers.fastest(0..blocks, &need).ok().and_then(|route| servers.plan(&route, cache_tokens));
        (servers.missing(&(0..blocks)), plan)
    });
    let records = swarm.directory.records();
    let name = |hop: &HopTimes| {
        let named = records.iter().find(|(peer, _)| *peer == hop.hop.peer).map(|(_, record)| record.name.clone());
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| short(&hop.hop.peer))
    };
    if args.json {
        return output::json(&json!({
            "model": swarm.invite.model,
            "encoding": swarm.invite.encoding,
            "wire": swarm.invite.wire.name(),
            "blocks": blocks,
            "servers": records.len(),
            "missing": missing.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
            "ctx": args.ctx,
            "route": plan.as_ref().map(|plan| route_as_json(plan, &name)),
        }));
    }
    let (model, computed) = (swarm::model_name(&swarm.invite), swarm::computed(&swarm.invite));
    output::line(&format!("{model}: {blocks} blocks, computed {computed}, wire {}\n", swarm.invite.wire.name()))?;
    let Some(plan) = plan else {
        return output::line(&match missing.is_empty() {
            true => "no way through it was found".to_owned(),
            false => say_missing(&missing, blocks),
        });
    };
    output::write(&route_table(&plan, &name))?;
    let sessions = match plan.hops.iter().find(|hop| !hop.fits) {
        None => format!("a session of {} fits", output::tokens(args.ctx as usize)),
        Some(full) => format!("a session of {} does not fit on {} now", output::tokens(args.ctx as usize), name(full)),
    };
    output::line(&format!(
        "\none session: {}; prompts: {}; {sessions}",
        output::speed(Some(plan.tokens_per_second())),
        output::speed(Some(plan.prompt_tokens_per_second())),
    ))?;
    output::line(&explained(&plan, &name))
}

/// What takes the time of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Compute,
    Network,
    Queue,
}

/// Seconds of a token by what takes them.
fn parts(plan: &Plan) -> [(Bound, f64); 3] {
    let sum = |part: fn(&HopTimes) -> f64| plan.hops.iter().map(part).sum::<f64>();
    [
        (Bound::Compute, sum(|hop| hop.compute_seconds)),
        (Bound::Network, sum(|hop| hop.link_seconds) + plan.back_seconds),
        (Bound::Queue, sum(|hop| hop.queue_seconds)),
    ]
}

/// What bounds a token, and how long that takes of it.
fn bound(plan: &Plan) -> (Bound, f64) {
    // Of equal ones the first: an empty plan is bound by computing nothing.
    parts(plan).into_iter().rev().max_by(|one, other| one.1.total_cmp(&other.1)).expect("there are three")
}

/// What bounds a token, and what helps.
fn explained(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> String {
    let (bound, seconds) = bound(plan);
    let of = format!("{} of {} a token", milliseconds(seconds), milliseconds(plan.token_seconds()));
    let (hops, legs) = (plan.hops.len(), plan.hops.len() + 1);
    let Some(slowest) = plan.slowest() else { return "nobody has to be asked".to_owned() };
    let slowest = format!("{} (blocks {})", name(slowest), ranges(std::slice::from_ref(&slowest.hop.blocks)));
    match bound {
        Bound::Compute if hops == 1 => {
            format!(
                "bound by computing: {of} are spent in the blocks, all on {slowest}; a faster machine helps, more servers do not"
            )
        }
        Bound::Compute => format!(
            "bound by computing: {of} are spent in the blocks, most on {slowest}; a faster machine there helps; more servers \
             help prompts and several sessions, not one"
        ),
        Bound::Network => format!(
            "bound by the network: {of} are spent on the way, in {legs} legs; fewer servers with more blocks each help, or \
             nearer ones"
        ),
        Bound::Queue => format!(
            "bound by others: {of} are spent waiting behind other sessions, most on {slowest}; another server of these blocks \
             helps"
        ),
    }
}

fn route_table(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> String {
    let mut rows =
        vec![["server", "blocks", "way there", "waiting", "blocks take", "of a token"].map(str::to_owned).to_vec()];
    let share = |seconds: f64| format!("{:.0} %", 100.0 * seconds / plan.token_seconds());
    for hop in &plan.hops {
        let times = [hop.link_seconds, hop.queue_seconds, hop.compute_seconds];
        let mut row = vec![name(hop), ranges(std::slice::from_ref(&hop.hop.blocks))];
        row.extend(times.map(milliseconds));
        row.push(share(times.iter().sum()));
        rows.push(row);
    }
    let back = ["back".to_owned(), String::new(), milliseconds(plan.back_seconds), String::new(), String::new()];
    rows.push(back.into_iter().chain([share(plan.back_seconds)]).collect());
    output::table(&rows, 2)
}

fn route_as_json(plan: &Plan, name: &dyn Fn(&HopTimes) -> String) -> Value {
    let hop = |hop: &HopTimes| {
        json!({
            "peer_id": hop.hop.peer.to_string(),
            "name": name(hop),
            "blocks": [hop.hop.blocks.start, hop.hop.blocks.end],
            "link_seconds": output::number(hop.link_seconds),
            "queue_seconds": output::number(hop.queue_seconds),
            "compute_seconds": output::number(hop.compute_seconds),
            "prompt_token_seconds": output::number(hop.prompt_token_seconds),
            "fits": hop.fits,
        })
    };
    let [(_, compute), (_, network), (_, queue)] = parts(plan);
    json!({
        "hops": plan.hops.iter().map(hop).collect::<Vec<_>>(),
        "back_seconds": output::number(plan.back_seconds),
        "token_seconds": output::number(plan.token_seconds()),
        "compute_seconds": output::number(compute),
        "network_seconds": output::number(network),
        "queue_seconds": output::number(queue),
        "tokens_per_second": output::number(plan.tokens_per_second()),
        "prompt_tokens_per_second": output::number(plan.prompt_tokens_per_second()),
        "fits": plan.hops.iter().all(|hop| hop.fits),
        "bound": match bound(plan).0 {
            Bound::Compute => "compute",
            Bound::Network => "network",
            Bound::Queue => "queue",
        },
        "slowest": plan.slowest().map(|hop| hop.hop.peer.to_string()),
        "explained": explained(plan, name),
    })
}

/// `12.3 ms`.
fn milliseconds(seconds: f64) -> String {
    let number = 1000.0 * seconds;
    let decimals = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.decimals$} ms")
}

/// What a model needs of machines, and what this one can do for it.
fn of_model(args: &PlanArgs) -> Result<()> {
    let model = hub::folder_for(PathBuf::from(&args.what), true)?;
    let spec = load_spec(&model)?;
    let encoding = or_usual(args.encoding, &model)?;
    spec.stored.check(encoding)?;
    let parts = PartBytes::of(&model, &spec, encoding)?;
    let (memory, blocks) = (hosting::memory(args.memory), spec.num_blocks);
    let fits = parts.fit(memory);
    let machines = (fits > 0).then(|| blocks.div_ceil(fits));
    let seconds = (fits > 0).then(|| measured(&model, args, encoding)).transpose()?;
    let wires = [Wire::F32, Wire::Bf16, Wire::Int8];
    let on_the_wire =
        wires.map(|wire| (wire.name(), codes::bytes(wire, 1, spec.block.hidden_size).unwrap_or(0) as u64));
    let speeds = seconds.zip(machines).map(|(seconds, machines)| {
        ROUND_TRIPS.map(|(round_trip, trip)| (round_trip, tokens_per_second(blocks, machines, seconds, trip)))
    });
    let (weights, largest) = (parts.blocks.iter().sum::<u64>(), parts.blocks.iter().max().copied().unwrap_or(0));
    let total = parts.per_block() * blocks as u64;
    if args.json {
        let speed = |(name, speed): (&str, f64)| (name.to_owned(), output::number(speed));
        return output::json(&json!({
            "model": args.what,
            "encoding": encoding.name(),
            "blocks": blocks,
            "block_bytes": largest,
            "weight_bytes": weights,
            "ends_bytes": parts.ends,
            "cache_bytes_per_token": parts.cache * blocks as u64,
            "hosting_bytes": total,
            "memory_bytes": memory,
            "free_memory_bytes": system::available_memory_bytes(),
            "fits": fits,
            "machines": machines,
            "wire_bytes_per_token": on_the_wire.into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect::<serde_json::Map<_, _>>(),
            "decode_seconds_per_block": seconds,
            "tokens_per_second_by_round_trip": speeds.map(|speeds| speeds.into_iter().map(speed).collect::<serde_json::Map<_, _>>()),
        }));
    }
    let bytes = output::bytes;
    let wire = on_the_wire.map(|(name, bytes)| format!("{} in {name}", output::bytes(bytes))).join(", ");
    let mut rows = vec![
        ("blocks", format!("{blocks}, of {} each in {encoding}, {} in all", bytes(largest), bytes(weights))),
        ("sessions", format!("{} a block for {USUAL_TOKENS} tokens", bytes(parts.per_block() - largest))),
        ("to host all", format!("{}, on however many machines", bytes(total))),
        ("a client keeps", format!("{}: embedding and head", bytes(parts.ends))),
        ("between machines", format!("{wire}, a token and leg")),
        (
            "a machine like this",
            match fits {
                0 => format!(
                    "hosts none: a server of one block takes {}, and there are {}",
                    bytes(parts.least()),
                    bytes(memory)
                ),
                fits => format!("hosts {fits} of {blocks} blocks in {}", bytes(memory)),
            },
        ),
    ];
    rows.extend(machines.map(|machines| ("needed", output::counted(machines, "such machine"))));
    if let Some(speeds) = &speeds {
        let told = speeds.map(|(round_trip, speed)| format!("{speed:.1} tokens/s with round trips of {round_trip}"));
        rows.push(("one session", told.join(", ")));
    }
    output::line(&args.what)?;
    output::write(&output::table(
        &rows.iter().map(|(name, fact)| vec![(*name).to_owned(), fact.clone()]).collect::<Vec<_>>(),
        2,
    ))?;
    let sentence = match (machines, seconds) {
        (None, _) => "more memory helps (--memory), or fewer bits: --encoding int4".to_owned(),
        (Some(1), _) => {
            "this machine holds it alone: bouquet run is faster than a swarm of one, which others could use".to_owned()
        }
        (Some(machines), Some(seconds)) => why(blocks, machines, seconds),
        (Some(_), None) => return Ok(()),
    };
    output::line(&format!("\n{sentence}"))
}

/// Seconds that a token takes in a block here, measured on the first.
fn measured(model: &Path, args: &PlanArgs, encoding: Encoding) -> Result<f64> {
    let mut progress = Progress::new();
    progress.show("measuring a block");
    let cpu = Arc::new(args.compute.cpu()?);
    let options = OpenOptions { cpu, ..options(bouquet_kernels::Cpu::new(1), encoding) };
    let span = LocalSpan::open(model, 0..1, &options)?;
    Ok(Speed::measure(&span, 16, Duration::from_millis(300))?.decode)
}

/// Of one session over machines that share the blocks.
fn tokens_per_second(blocks: usize, machines: usize, seconds_per_block: f64, round_trip: f64) -> f64 {
    let (hops, legs) = (machines as f64, (machines + 1) as f64);
    1.0 / (blocks as f64 * seconds_per_block + hops * HOP_SECONDS + legs * round_trip / 2.0)
}

/// What will bound a swarm of such machines.
fn why(blocks: usize, machines: usize, seconds: f64) -> String {
    let computing = blocks as f64 * seconds;
    // Where legs take as long as blocks.
    let even = 2.0 * computing / (machines + 1) as f64;
    format!(
        "a token takes {} in the blocks, wherever they are, and {} legs on the way: computing bounds it below round trips of {}, \
         the network above",
        milliseconds(computing),
        machines + 1,
        milliseconds(even)
    )
}

#[cfg(test)]
mod tests {
    use bouquet_swarm::Hop;
    use libp2p_identity::PeerId;

    use super::*;

    /// Hops of so many seconds on the way, waiting and computing.
    fn plan(hops: &[[f64; 3]]) -> Plan {
        let hop = |(index, &[link_seconds, queue_seconds, compute_seconds]): (usize, &[f64; 3])| HopTimes {
            hop: Hop { peer: PeerId::random(), blocks: 2 * index..2 * index + 2 },
            link_seconds,
            queue_seconds,
            compute_seconds,
            prompt_token_seconds: compute_seconds / 4.0,
            fits: true,
        };
        Plan { hops: hops.iter().enumerate().map(hop).collect(), back_seconds: 0.001 }
    }

    #[test]
    fn what_bounds_a_token_is_said() {
        let cases = [
            (plan(&[[0.001, 0.0, 0.02], [0.001, 0.0, 0.03]]), Bound::Compute, "most on b (blocks 2:4)"),
            (plan(&[[0.001, 0.0, 0.02]]), Bound::Compute, "more servers do not"),
            (plan(&[[0.05, 0.0, 0.02], [0.05, 0.0, 0.03]]), Bound::Network, "101 ms of 151 ms a token"),
            (plan(&[[0.001, 0.2, 0.02], [0.001, 0.0, 0.03]]), Bound::Queue, "most on a (blocks 0:2)"),
        ];
        for (plan, expected, words) in cases {
            let name = |hop: &HopTimes| if hop.hop.blocks.start == 0 { "a" } else { "b" }.to_owned();
            let said = explained(&plan, &name);
            assert_eq!(bound(&plan).0, expected, "{said}");
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn the_table_adds_up() {
        let plan = plan(&[[0.001, 0.0, 0.02], [0.001, 0.002, 0.025]]);
        let table = route_table(&plan, &|_| "x".to_owned());
        assert!(table.contains("42 %") && table.contains("56 %") && table.contains("2 %"), "{table}");
        assert_eq!([0.00123, 0.0123, 0.123].map(milliseconds), ["1.23 ms", "12.3 ms", "123 ms"]);
    }

    #[test]
    fn more_machines_cost_legs() {
        assert!(tokens_per_second(30, 2, 0.001, 0.1) > tokens_per_second(30, 3, 0.001, 0.1));
        assert!(why(30, 2, 0.001).contains("30.0 ms in the blocks") && why(30, 2, 0.001).contains("trips of 20.0 ms"));
    }
}
