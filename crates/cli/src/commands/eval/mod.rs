//! `bouquet eval`: how good embeddings are, on files of examples.

mod chart;
mod retrieval;
mod sts;

use std::path::PathBuf;

use anyhow::Result;
use bouquet_model::Encoding;
use clap::Subcommand;
use serde_json::Value;

use crate::compute::ComputeArgs;
use crate::embedding::{Embedding, EmbeddingArgs};
use crate::hub;
use crate::open::{encoding_names, or_f32};
use crate::swarm::WaitArgs;

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Pairs of sentences with scores: how well cosines follow the scores
    #[command(after_help = sts::HELP)]
    Sts(TaskArgs),
    /// Parallel sentences: how often a sentence finds its translation
    #[command(after_help = retrieval::HELP)]
    Retrieval(TaskArgs),
}

/// What was typed after the name of a task.
#[derive(clap::Args)]
struct TaskArgs {
    /// Files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    embedding: EmbeddingArgs,
    /// What weights are held in and computed with [default: f32; of an invite what its swarm does]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    waiting: WaitArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet eval sts stsb/de.test.csv --model MODEL
  bouquet eval sts stsb --model MODEL --adapter ADAPTER --json
  bouquet eval retrieval deu-eng.tsv --model MODEL";

pub(crate) fn run(args: EvalArgs) -> Result<()> {
    match args.task {
        Task::Sts(args) => sts::run(args),
        Task::Retrieval(args) => retrieval::run(args),
    }
}

impl TaskArgs {
    fn open(&self) -> Result<Embedding> {
        let folder = hub::folder_or_ends(self.model.clone(), &self.waiting.into())?;
        Embedding::open(&folder, &self.embedding, self.compute.cpu()?, or_f32(self.encoding, &folder)?)
    }
}

/// Figures, with what they were computed in.
fn named(mut figures: Value, embedding: &Embedding) -> Value {
    figures["encoding"] = embedding.encoding.name().into();
    figures["wire"] = embedding.wire.name().into();
    figures
}

/// The lines of a table, each with its bar.
fn with_bars(table: &str, bars: &[String]) -> String {
    let lines = table.lines().zip(bars);
    lines.map(|(line, bar)| format!("{}\n", format!("{line}  {bar}").trim_end())).collect()
}

/// A figure for a table.
fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"))
}
