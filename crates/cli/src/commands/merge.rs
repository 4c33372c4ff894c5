//! `bouquet merge`: a model's folder with an adapter folded into its weights.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::families::load_spec;
use bouquet_model::merge;
use bouquet_model::quantize::{Job, Plan, unfinished};
use bouquet_span::Limits;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::quantize::{check_disk, write};
use crate::compute::ComputeArgs;
use crate::errors::wrong;
use crate::interrupt::Work;
use crate::open::needs_folder;
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
    /// Say how large it will be, and write nothing
    #[arg(long)]
    dry_run: bool,
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
  bouquet merge MODEL --adapter ADAPTER -o MERGED --dry-run

Each linear that the adapter has a pair for becomes W + scale B A, summed in f32. Written in 16 bits, the
result is rounded as the model's weights are; in f32 it is that of --adapter, but for the last bits.

The folder appears when it is whole. The same command goes on where an interrupted one ended.";

/// Types of floats by their names, for a flag.
fn dtypes() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(["f32", "f16", "bf16"]).map(|name| Dtype::of_name(&name.to_uppercase()))
}

pub(crate) fn run(mut args: MergeArgs) -> Result<()> {
    args.model = hub::folder_for(args.model, args.dry_run)?;
    needs_folder(&args.model, "adapters are folded into the floats of folders so far")?;
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
    let pairs = learned.low_rank.pairs.len();
    if args.dry_run {
        unfinished(&args.output)?;
        return report(&args, &plan, pairs, None);
    }
    check_disk(&args.output, &plan)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let cpu = args.compute.cpu()?;
    let start = Instant::now();
    let job = Job { cpu: &cpu, source: &source, folder: &args.model, target: &args.output, limits: &limits };
    let resumed = write(&plan, &job)?;
    report(&args, &plan, pairs, Some((resumed, start.elapsed())))
}

/// What was written, of which an earlier try had written so many bytes, and in which time; or what would be.
fn report(args: &MergeArgs, plan: &Plan, pairs: usize, written: Option<(u64, Duration)>) -> Result<()> {
    let path = args.output.display();
    let free = system::free_disk_bytes(&args.output);
    let dtypes: Vec<String> = plan.dtypes().into_iter().map(|dtype| dtype.name().to_lowercase()).collect();
    if args.json {
        let files: Vec<_> =
            plan.shards.iter().map(|shard| json!({ "file": shard.file, "bytes": shard.bytes })).collect();
        return output::json(&json!({
            "output": path.to_string(),
            "pairs": pairs,
            "dtypes": dtypes,
            "weight_bytes": plan.bytes(),
            "files": files,
            "free_disk_bytes": free,
            "written": written.is_some(),
            "resumed_bytes": written.map(|(resumed, _)| resumed),
            "seconds": written.map(|(_, time)| time.as_secs_f64()),
            "peak_memory_bytes": system::peak_memory_bytes(),
        }));
    }
    let [bytes, linears, files] =
        [output::bytes(plan.bytes()), output::counted(pairs, "linear"), output::counted(plan.shards.len(), "file")];
    let dtypes = dtypes.join(" and ");
    let would = if written.is_some() { "" } else { "would have " };
    output::line(&format!("{path}: {would}{bytes} of weights in {dtypes}, {files}, {linears} changed by the adapter"))?;
    match (written, free) {
        (Some((_, time)), _) => output::note(&output::seconds(time)),
        (None, Some(free)) => output::note(&format!("its disk has {} free", output::bytes(free))),
        (None, None) => {}
    }
    Ok(())
}
