//! Of a model how much of it this machine can host, how many such machines it needs, and how fast they would be.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bouquet_model::families::load_spec;
use bouquet_model::{Encoding, LocalSpan, OpenOptions};
use bouquet_span::Speed;
use bouquet_swarm::Wire;
use bouquet_swarm::wire::codes;
use serde_json::json;

use super::{PlanArgs, milliseconds};
use crate::hosting::{self, PartBytes, USUAL_TOKENS};
use crate::open::{options, or_usual};
use crate::output::Progress;
use crate::{hub, output, system};

/// Round trips between machines that are told of: in a house, in a country, across an ocean.
const ROUND_TRIPS: [(&str, f64); 3] = [("1 ms", 0.001), ("20 ms", 0.02), ("100 ms", 0.1)];

/// What a hop costs beyond its blocks, in seconds.
const HOP_SECONDS: f64 = 0.0005;

/// What a model needs of machines, and what this one can do for it.
pub(super) fn of_model(args: &PlanArgs) -> Result<()> {
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
    use super::*;

    #[test]
    fn more_machines_cost_legs() {
        assert!(tokens_per_second(30, 2, 0.001, 0.1) > tokens_per_second(30, 3, 0.001, 0.1));
        assert!(why(30, 2, 0.001).contains("30.0 ms in the blocks") && why(30, 2, 0.001).contains("trips of 20.0 ms"));
    }
}
