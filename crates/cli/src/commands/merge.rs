//! `bouquet merge`: a model's folder with an adapter folded into its weights.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::families::load_spec;
use bouquet_model::merge;
use bouquet_model::quantize::Job;
use bouquet_span::Limits;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::quantize::{check_disk, write};
use crate::compute::ComputeArgs;
use crate::errors::wrong;
use crate::interrupt::Work;
use crate::{hub, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MergeArgs {
    /// Folder of the model, or its name on the hub, with weights in floats
    model: PathBuf,
    /// Folder of the adapter, as PEFT saves it
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// What floats are written as [default: what they are]
    #[arg(long, value_parser = dtypes())]
    dtype: Option<Dtype>,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Cut weights into files of at most this size, between blocks: 5GB, 500MB
    #[arg(long, value_name = "SIZE", value_parser = crate::output::size, default_value = "5GB")]
    max_shard_size: u64,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet merge MODEL --adapter ADAPTER -o MERGED
  bouquet merge MODEL --adapter ADAPTER --dtype f32 -o MERGED

Each linear that the adapter has a pair for becomes W + scale B A, summed in f32. Written in 16 bits, the
result is rounded as the model's weights are; in f32 it is that of --adapter, but for the last bits.

The folder appears when it is whole. The same command goes on where an interrupted one ended.";

/// Types of floats by their names, for a flag.
fn dtypes() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(["f32", "f16", "bf16"]).map(|name| Dtype::of_name(&name.to_uppercase()))
}

pub(crate) fn run(mut args: MergeArgs) -> Result<()> {
    args.model = hub::folder(args.model)?;
    let spec = load_spec(&args.model)?;
    let (learned, _) = Learned::open(&args.adapter, &spec)?;
    if learned.soft_prompt.is_some() || !learned.deep_prompts.blocks.is_empty() {
        return Err(wrong(
            format!("the adapter in {} has prompts, which cannot be folded into weights", args.adapter.display()),
            "give --adapter to the commands that compute",
        ));
    }
    let source = Checkpoint::open(&args.model)?;
    let plan = merge::plan(&spec, &source, &learned.low_rank, args.dtype.clone(), args.max_shard_size)?;
    check_disk(&args.output, &plan)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let cpu = args.compute.cpu()?;
    let start = Instant::now();
    let job = Job { cpu: &cpu, source: &source, folder: &args.model, target: &args.output, limits: &limits };
    let resumed = write(&plan, &job)?;
    let time = start.elapsed();
    let (path, pairs) = (args.output.display(), learned.low_rank.pairs.len());
    if args.json {
        let files: Vec<_> =
            plan.shards.iter().map(|shard| json!({ "file": shard.file, "bytes": shard.bytes })).collect();
        return output::json(&json!({
            "output": path.to_string(),
            "pairs": pairs,
            "weight_bytes": plan.bytes(),
            "files": files,
            "resumed_bytes": resumed,
            "seconds": time.as_secs_f64(),
            "peak_memory_bytes": system::peak_memory_bytes(),
        }));
    }
    let linears = if pairs == 1 { "1 linear".to_owned() } else { format!("{pairs} linears") };
    output::line(&format!("{path}: {} of weights, {linears} changed by the adapter", output::bytes(plan.bytes())))?;
    output::note(&output::seconds(time));
    Ok(())
}
