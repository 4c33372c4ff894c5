//! `bouquet merge`: a model's folder with an adapter folded into its weights.

use std::path::PathBuf;

use anyhow::Result;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::families::load_spec;
use bouquet_model::merge;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::writing::{Plan, Task};
use crate::compute::ComputeArgs;
use crate::errors::wrong;
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MergeArgs {
    /// Folder of the model, or its name on the hub, with weights in floats; or a GGUF file
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
    let plan = Plan::Folder(plan);
    let task = Task {
        model: &args.model,
        source: &source,
        output: &args.output,
        compute: &args.compute,
        dry_run: args.dry_run,
    };
    let outcome = plan.carry_out(&task)?;
    let dtypes = plan.dtypes();
    if args.json {
        return plan.report(&task, &outcome, json!({ "pairs": pairs, "dtypes": dtypes }));
    }
    let files = output::counted(plan.files(&args.output).len(), "file");
    let [bytes, linears] = [output::bytes(plan.bytes()), output::counted(pairs, "linear")];
    let (path, would, dtypes) = (args.output.display(), outcome.would(), dtypes.join(" and "));
    output::line(&format!("{path}: {would}{bytes} of weights in {dtypes}, {files}, {linears} changed by the adapter"))?;
    outcome.note();
    Ok(())
}
