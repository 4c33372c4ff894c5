//! `bouquet perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use bouquet_generate::{Adapted, PerplexityOptions, perplexity};
use bouquet_model::adapter::Learned;
use bouquet_model::fingerprint::Computed;
use bouquet_model::{Encoding, Model, OpenOptions};
use serde_json::json;

use super::run::read_text;
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::interrupt::Work;
use crate::open::{AdapterArgs, WireArgs, check_text, encoding_names, open, options, or_f32};
use crate::swarm::InviteArgs;
use crate::{hub, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PerplexityArgs {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    model: PathBuf,
    /// The text, in UTF-8; a byte order mark at its beginning is dropped
    file: PathBuf,
    /// Tokens of a window; each is scored alone, and what is left at the end is dropped [default: 512, or the model's
    /// positions where they are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    window: Option<u32>,
    /// Score so many windows only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_windows: Option<u32>,
    /// What weights are held in and computed with [default: f32; of an invite what its swarm does]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    wire: WireArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    invited: InviteArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet perplexity MODEL wiki.test.txt
  bouquet perplexity MODEL wiki.test.txt --window 256 --max-windows 128 --json
  bouquet perplexity MODEL wiki.test.txt --adapter ADAPTER

In f32, weights are used as they are stored, decoded where they are codes. In another encoding, floats are
encoded first, embedding and head among them, and activations are rounded as run does it. Compare numbers
of the same window only.

The text is cut without special tokens: no begin-of-text token stands before it or before a window,
even where the model is used to one (Llama). Programs that put one there get other numbers.";

/// Tokens of a window where the user does not say.
const DEFAULT_WINDOW: usize = 512;

pub(crate) fn run(mut args: PerplexityArgs) -> Result<()> {
    let text = read_text(&args.file)?;
    args.model = hub::folder_or_ends(args.model, &args.invited)?;
    let learned = args.adapter.open(&args.model)?;
    let encoding = or_f32(args.encoding, &args.model)?;
    let how = OpenOptions { rounding: args.wire.of(&args.model)?, ..options(args.compute.cpu()?, encoding) };
    let opened = open(&args.model, &how)?;
    check_text(&text)?;
    let work = Work::begin();
    let options = PerplexityOptions {
        window: window(&args, room(&opened.model, &learned))?,
        max_windows: args.max_windows.map(|windows| windows as usize),
        cancel: work.cancel.clone(),
    };
    let start = Instant::now();
    let mut progress = output::Progress::new();
    let adapted = Adapted { model: &opened.model, learned: Some(&learned) };
    let result = perplexity(adapted, &text, &options, &mut |done, all, mean_nll| {
        progress.show(&format!("{done}/{all} windows, perplexity {:.3}", mean_nll.exp()));
    });
    drop(progress);
    let (result, time) = (result?, start.elapsed());
    let speed = result.tokens as f64 / time.as_secs_f64();
    if args.json {
        return output::json(&json!({
            "encoding": encoding.name(),
            "computed": Computed::of(&opened.model.spec.stored, &how),
            "perplexity": output::number(result.perplexity),
            "mean_nll": result.mean_nll,
            "tokens": result.tokens,
            "windows": result.windows,
            "window": result.window,
            "seconds": time.as_secs_f64(),
            "tokens_per_sec": output::number(speed),
            "peak_memory_bytes": system::peak_memory_bytes(),
        }));
    }
    output::line(&format!(
        "perplexity {:.4} ({:.5} nats a token, {} predicted in {} of {})",
        result.perplexity,
        result.mean_nll,
        output::tokens(result.tokens),
        output::counted(result.windows, "window"),
        output::tokens(result.window),
    ))?;
    let peak =
        system::peak_memory_bytes().map_or_else(String::new, |peak| format!(", peak memory {}", output::bytes(peak)));
    output::note(&format!("{}, {}{peak}", output::seconds(time), output::speed(Some(speed))));
    Ok(())
}

/// Positions for a window, where they are limited: those of the model, less what a soft prompt takes.
fn room(model: &Model, learned: &Learned) -> Option<usize> {
    Some(model.spec.max_positions?.saturating_sub(learned.prompt_tokens()))
}

/// Tokens of a window, for a model of so many positions.
fn window(args: &PerplexityArgs, limit: Option<usize>) -> Result<usize> {
    let Some(asked) = args.window else { return Ok(limit.map_or(DEFAULT_WINDOW, |limit| limit.min(DEFAULT_WINDOW))) };
    match limit {
        Some(limit) if asked as usize > limit => Err(asked_wrongly(
            format!("--window {asked} is beyond the {limit} positions that this model has for a text"),
            format!("give --window {limit} or less"),
        )),
        _ => Ok(asked as usize),
    }
}
