//! `bouquet inspect`: what a model is, what it needs, and what of it fits here. Touches no weights, unless its
//! fingerprint is asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families::load_spec;
use bouquet_model::fingerprint::Fingerprint;
use bouquet_model::inspect::{Inspection, TensorSummary};
use bouquet_model::load::Loader;
use bouquet_model::{Encoding, OpenOptions};
use bouquet_span::{Limits, Rounding};
use serde_json::json;

use crate::interrupt::Work;
use crate::open::{cache_names, encoding_names, hash_cache, options, or_usual, wire_names};
use crate::{hub, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Folder of the model, its GGUF file, or its name on the hub
    model: PathBuf,
    /// Print one JSON object, with every tensor
    #[arg(long)]
    json: bool,
    /// Print the model's fingerprint instead: a checksum of all that decides the bits of its results. Reads all weights,
    /// unless their checksums are known from the last time
    #[arg(long)]
    fingerprint: bool,
    /// With --fingerprint: what weights are computed in [default: codes and blocks as stored, floats in int8]
    #[arg(long, requires = "fingerprint", value_parser = encoding_names())]
    encoding: Option<Encoding>,
    /// With --fingerprint: how keys and values are kept [default: f32]
    #[arg(long, requires = "fingerprint", value_parser = cache_names())]
    kv_cache: Option<CacheEncoding>,
    /// With --fingerprint: what hidden states are rounded to between blocks [default: f32, not at all]
    #[arg(long, requires = "fingerprint", value_parser = wire_names())]
    wire: Option<Rounding>,
}

const EXAMPLES: &str = "\
Examples:
  bouquet inspect MODEL --json
  bouquet inspect MODEL --fingerprint --encoding f32

Models with the same fingerprint give the same results, bit for bit, on any machine; in JSON it comes with
all that it is made of, a checksum for each block among them.";

pub(crate) fn run(mut args: InspectArgs) -> Result<()> {
    args.model = hub::folder(args.model)?;
    if args.fingerprint {
        return fingerprint(&args);
    }
    let spec = load_spec(&args.model)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    Loader { source: &checkpoint, spec: &spec, encoding: None }.check()?;
    let inspection = Inspection::new(&spec, &checkpoint)?;
    let available = system::available_memory_bytes();
    if args.json {
        let mut value = serde_json::to_value(&inspection).context("cannot write JSON")?;
        value["available_memory_bytes"] = json!(available);
        value["largest_context"] = json!(available.and_then(|bytes| largest_context(&inspection, bytes)));
        return output::json(&value);
    }
    output::write(&report(&inspection, available))
}

fn fingerprint(args: &InspectArgs) -> Result<()> {
    let encoding = or_usual(args.encoding, &args.model)?;
    let options = OpenOptions {
        cache_encoding: args.kv_cache.unwrap_or(CacheEncoding::F32),
        rounding: args.wire.unwrap_or_default(),
        ..options(Cpu::new(system::threads()), encoding)
    };
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let mut shown = output::Progress::new();
    let cache = hash_cache();
    let found = Fingerprint::of(&args.model, &options, cache.as_deref(), &mut |done, parts| {
        shown.show(&format!("{done}/{parts} parts"));
        Ok(limits.check()?)
    });
    drop(shown);
    let found = found?;
    if args.json {
        return output::json(&serde_json::to_value(&found).context("cannot write JSON")?);
    }
    output::line(&found.fingerprint.to_string())
}

/// The longest context whose keys and values fit beside the weights; `None` where the weights alone do not.
fn largest_context(inspection: &Inspection, available: u64) -> Option<u64> {
    let left = available.checked_sub(inspection.weight_bytes)?;
    let context = left / inspection.kv_cache_bytes_per_token.max(1);
    Some(inspection.max_positions.map_or(context, |limit| context.min(limit as u64)))
}

fn report(inspection: &Inspection, available: Option<u64>) -> String {
    let style = output::stdout_style();
    let heading = |text: &str| format!("{}{text}{}\n", style.strong, style.plain);
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let parameters = &inspection.parameters;
    let by_dtype: Vec<String> = inspection
        .weight_bytes_by_dtype
        .iter()
        .map(|(dtype, bytes)| format!("{} in {dtype}", output::bytes(*bytes)))
        .collect();
    let facts = [
        row(&["family", inspection.family]),
        row(&[
            "parameters",
            &format!(
                "{} ({} in the embedding, {} in each block)",
                output::count(parameters.total),
                output::count(parameters.embedding),
                output::count(parameters.per_block)
            ),
        ]),
        row(&["head", if inspection.tied_head { "shares the embedding" } else { "own tensor" }]),
        row(&["blocks", &inspection.num_blocks.to_string()]),
        row(&["hidden_size", &inspection.hidden_size.to_string()]),
        row(&["vocab_size", &inspection.vocab_size.to_string()]),
        row(&["positions", &inspection.max_positions.map_or("no limit".to_owned(), |limit| limit.to_string())]),
        row(&["weights", &format!("{} ({})", output::bytes(inspection.weight_bytes), by_dtype.join(", "))]),
    ];
    let mut text = heading("Model") + &output::table(&facts, 2);

    text += &heading(&format!("Tensors ({})", inspection.tensors.len()));
    text += &output::table(&tensor_rows(&inspection.tensors), 4);

    text += &heading("Memory by context length");
    let mut rows = vec![row(&["tokens", "keys and values", "with weights", "fits here"])];
    for need in &inspection.memory {
        let fits = available.map_or("unknown", |available| if need.total_bytes <= available { "yes" } else { "no" });
        let cells = [&output::grouped(need.context as u64), &output::bytes(need.kv_cache_bytes)];
        rows.push(row(&[cells[0], cells[1], &output::bytes(need.total_bytes), fits]));
    }
    text += &output::table(&rows, 0);
    text += &match available.map(|available| (available, largest_context(inspection, available))) {
        None => "How much memory this machine has free is not known.\n".to_owned(),
        Some((available, None)) => {
            format!("The weights do not fit into the {} that are free here.\n", output::bytes(available))
        }
        Some((available, Some(context))) => format!(
            "In the {} that are free here, keys and values of {} fit beside all weights; what a step works in comes on top.\n",
            output::bytes(available),
            output::tokens(context as usize)
        ),
    };
    text
}

/// A line for tensors that differ only in the numbers in their names.
fn tensor_rows(tensors: &[TensorSummary]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(String, &str, &[usize]), usize> = BTreeMap::new();
    for tensor in tensors {
        *groups.entry((without_numbers(&tensor.name), &tensor.dtype, &tensor.shape)).or_default() += 1;
    }
    let line = |((name, dtype, shape), count): ((String, &str, &[usize]), usize)| {
        let times = if count > 1 { format!("x {count}") } else { String::new() };
        vec![name, format!("{shape:?}"), dtype.to_owned(), times]
    };
    groups.into_iter().map(line).collect()
}

/// `h.11.mlp.weight` becomes `h.*.mlp.weight`.
fn without_numbers(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let shown = |part: &str| part.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    name.split('.').map(|part| if is_number(part) { "*".to_owned() } else { shown(part) }).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_one_line() {
        assert_eq!(without_numbers("h.11.mlp.4h.weight"), "h.*.mlp.4h.weight");
        assert_eq!(without_numbers("a\x1b.b"), "a?.b");
    }
}
