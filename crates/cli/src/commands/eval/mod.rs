//! `bouquet eval`: how good embeddings are, on files of examples.

mod chart;
mod retrieval;
mod sts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bouquet_embed::text_embedder::Counts;
use bouquet_model::Encoding;
use clap::Subcommand;
use serde_json::Value;

use crate::compute::ComputeArgs;
use crate::embedding::{Embedding, EmbeddingArgs, note_losses};
use crate::errors::wrong;
use crate::hub;
use crate::open::encoding_names;
use crate::output;

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
    /// Folder of the model, or its name on the hub
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    embedding: EmbeddingArgs,
    /// What weights are held in and computed with
    #[arg(long, value_parser = encoding_names(), default_value_t = Encoding::F32)]
    encoding: Encoding,
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

/// Files of a folder at most: a wrong folder is more likely than so many.
const MAX_FILES: usize = 10_000;

pub(crate) fn run(args: EvalArgs) -> Result<()> {
    match args.task {
        Task::Sts(args) => sts::run(args),
        Task::Retrieval(args) => retrieval::run(args),
    }
}

impl TaskArgs {
    fn open(&self) -> Result<Embedding> {
        let folder = hub::folder(self.model.clone())?;
        Embedding::open(&folder, &self.embedding, self.compute.cpu()?, self.encoding)
    }

    /// The files that were named, and those of the folders that were, which end with one of `endings`, by name.
    fn files(&self, endings: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                files.extend(files_of(path, endings)?);
            } else {
                files.push(path.clone());
            }
        }
        Ok(files)
    }
}

fn files_of(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let entries = folder.read_dir().with_context(|| format!("cannot read {shown}"))?;
    let mut files = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let path = entry.with_context(|| format!("cannot read {shown}"))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        if endings.contains(&ending.as_str()) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let endings = endings.iter().map(|ending| format!(".{ending}")).collect::<Vec<_>>().join(" or ");
        return Err(wrong(format!("{shown} has no file that ends with {endings}"), "give the files themselves"));
    }
    Ok(files)
}

/// The name of a file without its folders.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The lines of a table, each with its bar.
fn with_bars(table: &str, bars: &[String]) -> String {
    let lines = table.lines().zip(bars);
    lines.map(|(line, bar)| format!("{}\n", format!("{line}  {bar}").trim_end())).collect()
}

/// Says how the figures came about.
fn finish(embedding: &Embedding, counts: &Counts, time: Duration) {
    note_losses(counts, embedding.settled.max_tokens);
    output::note(&format!(
        "{} pooling, {} sentences in {} ({})",
        embedding.settled.pooling,
        output::grouped(counts.texts as u64),
        output::seconds(time),
        output::speed(Some(counts.tokens as f64 / time.as_secs_f64()))
    ));
}

/// A figure for JSON; null where there is none.
fn figure(figure: Option<f64>) -> Value {
    figure.map_or(Value::Null, output::number)
}

/// A figure for a table.
fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"))
}
