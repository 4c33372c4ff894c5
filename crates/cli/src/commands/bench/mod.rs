//! `bouquet bench`: how fast a model runs here, beside what this machine could do at best, measured in the same run.
//!
//! | module | job |
//! |---|---|
//! | [`plan`] | from what was typed to what is measured, on which model, in how much memory |
//! | [`measure`] | runs a test, and the limits around each repetition |
//! | [`train`] | a step of training |
//! | [`report`] | the table, and JSON |
//! | [`mod@write`] | random weights as a folder, instead of measuring |

mod measure;
mod plan;
mod report;
mod train;
mod write;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use bouquet_model::Encoding;
use bouquet_model::random::{SHAPES, Shape};
use clap::builder::PossibleValuesParser;

use self::measure::Bench;
use self::plan::Plan;
use self::report::Report;
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::interrupt::Work;
use crate::limits::Memory;
use crate::open::{CacheArgs, encoding_names};
use crate::output;
use crate::swarm::InviteArgs;

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    #[arg(required_unless_present = "shape", conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// A published shape with random weights, instead of a model
    #[arg(long, value_name = "NAME", value_parser = shapes())]
    shape: Option<String>,
    /// Put 8 outlier channels into every token, which trained models have and random weights have not
    #[arg(long)]
    outliers: bool,
    /// Write the random weights and a tokenizer to a new folder instead of measuring: in f16, or in --encoding
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Tokens of prompts, each a test; 0 for none
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_values_t = [128, 512], value_parser = tokens())]
    prompt: Vec<u32>,
    /// Tokens to generate one by one, each a test; 0 for none
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_values_t = [64], value_parser = tokens())]
    generate: Vec<u32>,
    /// Tokens that are in the cache already when tokens are generated
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0, value_parser = tokens())]
    depth: u32,
    /// Measure embeddings instead: 512 sentences of 8 to 40 tokens
    #[arg(long, conflicts_with_all = ["prompt", "generate", "batch", "depth"])]
    embed: bool,
    /// Repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Sequences that generate together, each a session of its own
    #[arg(long, visible_alias = "sessions", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Measure steps of low-rank training on pairs of sentences instead: activations recomputed, and kept
    #[arg(long, conflicts_with_all = ["embed", "prompt", "generate", "batch", "depth", "write"])]
    train: bool,
    /// Pairs of a step of training
    #[arg(long, value_name = "N", default_value_t = 8, requires = "train", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pairs: u32,
    /// Tokens of each sentence of a pair
    #[arg(long, value_name = "N", default_value_t = 64, requires = "train", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pair_tokens: u32,
    /// Rank of what is trained on queries, keys and values
    #[arg(long, value_name = "R", default_value_t = 8, requires = "train", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    rank: u32,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    invited: InviteArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Say where the time goes, operation by operation
    #[arg(long)]
    profile: bool,
    /// Say what would be measured and what memory it would take, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet bench MODEL
  bouquet bench --shape bloom-1b7 --encoding int4 --threads 2
  bouquet bench --shape bloom-560m -p 0 -n 64 --batch 4 --profile
  bouquet bench --shape llama32-1b -p 0 -n 32 --depth 8192
  bouquet bench --shape bloom-560m --embed
  bouquet bench --shape bloom-560m --train --encoding int8
  bouquet bench INVITE -p 0 --sessions 8
  bouquet bench --shape bloom-7b1 --write random-7b1 --encoding int8

pp512: 512 tokens of a prompt, with the logits of the last one. tg64: 64 tokens one by one, with the
logits of each and the cache of keys and values; nothing is sampled. tg64 @ d8192: behind 8192 tokens,
whose time does not count. Tokens/s are the mean over the
repetitions, after a warm-up, and their standard deviation. embed: from token ids to vectors, without the head.

GB/s are the weights and the cache read, beside them the share of what memory gives. GOP/s are the
operations of all products with weights, a multiply-add counted as two, beside them the share of what
registers give in the arithmetic of the encoding. Both limits are measured around each repetition.
Weights that fit into the caches can be read faster than memory gives. Of a swarm neither is told: the
blocks are read and computed elsewhere.

train 8 x 64: a step on 8 pairs of sentences of 64 tokens, from token ids through a contrastive loss and
back to AdamW. GOP/s count forward and backward, 4 operations for each weight and token; what is
recomputed to save memory is not counted.";

fn shapes() -> PossibleValuesParser {
    PossibleValuesParser::new(SHAPES.map(|shape| shape.name))
}

/// Lengths of tests.
fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..=1 << 20)
}

pub(crate) fn run(args: BenchArgs) -> Result<()> {
    // clap lets this pass: a model excuses from --shape.
    if args.shape.is_none() && (args.outliers || args.write.is_some()) {
        let message = "--outliers and --write are for random weights";
        return Err(asked_wrongly(message, "give --shape NAME instead of a model"));
    }
    let cpu = args.compute.cpu()?;
    if let (Some(shape), Some(folder)) = (args.shape.as_deref().and_then(Shape::of_name), &args.write) {
        return write::run(&args, shape, folder, &cpu);
    }
    let plan = Plan::of(&args)?;
    if args.dry_run {
        return plan.tell(&cpu, args.json);
    }
    plan.check_memory()?;
    let work = Work::begin();
    let start = Instant::now();
    let mut progress = output::Progress::new();
    progress.show(&format!("opening {}", plan.name));
    // Before the model, which computes in what is left.
    let alone = plan.wire.is_none();
    let memory = if plan.trains() || !alone { Memory::Weights } else { Memory::of(plan.weight_bytes) };
    let network = plan.open(if args.profile { cpu.profiled() } else { cpu })?;
    let bench = Bench::new(network, memory, &plan, &work.cancel);
    drop(progress);
    let mut report = Report::begin(&plan, &bench, start.elapsed(), args.json)?;
    for &test in &plan.tests {
        let measured = bench.measure(test, plan.repetitions)?;
        report.add(test, measured)?;
    }
    drop(work);
    report.finish()
}
