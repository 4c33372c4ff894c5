//! `bouquet demo`: the small model of the repository at work, in less than half a minute.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_generate::{FinishReason, GenerateOptions, Generation, SamplingOptions, StopRules, generate};
use bouquet_model::{Model, families};
use bouquet_span::Pass;
use serde_json::{Value, json};

use crate::errors::{CANCELLED, Done, wrong};
use crate::interrupt::Work;
use crate::open::{ThreadArgs, open};
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Folder of another model, or its name on the hub
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where the model is in the repository.
const MODEL: &str = "models/bloom-small-trained";

/// Texts to go on from, in languages that the model has seen.
const PROMPTS: [(&str, &str); 3] = [
    ("English", "Once upon a time there was a"),
    ("French", "Les habitants de la ville"),
    ("Spanish", "El presidente de la"),
];

const MAX_TOKENS: usize = 32;

pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let folder = args.model.clone().map_or_else(find_model, hub::folder)?;
    let threads = args.threads.threads();
    let opened = open(&folder, threads)?;
    let model = &opened.model;
    let style = output::stdout_style();
    if !args.json {
        if args.model.is_none() {
            output::line("A small model, trained for less than an hour: it writes things that look like sentences.")?;
        }
        output::line(&format!(
            "{}{}{}: {}, {} parameters in {} blocks of {} channels, {} tokens, opened in {}\n",
            style.strong,
            folder.display(),
            style.plain,
            model.spec.family.to_uppercase(),
            families::parameters(&model.spec).map_or("many".to_owned(), |counted| output::count(counted.total)),
            model.spec.num_blocks,
            model.spec.block.hidden_size,
            output::grouped(model.spec.vocab_size as u64),
            output::seconds(opened.time)
        ))?;
    }

    let work = Work::begin();
    let mut texts = Vec::new();
    for (language, prompt) in PROMPTS {
        let options = GenerateOptions {
            sampling: SamplingOptions { temperature: 0.5, top_k: 40, seed: 10, ..SamplingOptions::default() },
            stop: StopRules {
                eos_token_ids: model.spec.eos_token_ids.clone(),
                strings: vec!["\n".to_owned()],
                max_tokens: MAX_TOKENS,
            },
            cancel: work.cancel.clone(),
        };
        let generation = continue_text(model, language, prompt, &options, args.json)?;
        if generation.finish_reason == FinishReason::Cancelled {
            return Err(Done(CANCELLED).into());
        }
        texts.push(json!({
            "language": language,
            "prompt": prompt,
            "text": generation.text,
            "generation_tokens_per_sec": generation.timings.generation_tokens_per_sec(),
        }));
    }
    let same = same_bits(model, &folder)?;
    drop(work);
    finish(&args, &folder, texts, same)
}

/// Shows a prompt and what the model makes of it.
fn continue_text(
    model: &Model,
    language: &str,
    prompt: &str,
    options: &GenerateOptions,
    silent: bool,
) -> Result<Generation> {
    let style = output::stdout_style();
    let mut written = Ok(());
    if !silent {
        output::write(&format!("{}{language}{}\n{}{prompt}{}", style.quiet, style.plain, style.strong, style.plain))?;
    }
    let prompt_ids = model.tokenizer.encode(prompt, true)?.ids;
    let context = prompt_ids.len() + options.stop.max_tokens;
    let generation = generate(model, &prompt_ids, context, options, &mut |piece| {
        if !silent && written.is_ok() {
            written = output::write(piece);
        }
    })?;
    written?;
    if !silent {
        let timings = &generation.timings;
        output::line(&format!(
            "\n{}{} read at {}, {} written at {}{}\n",
            style.quiet,
            output::tokens(timings.prompt_tokens),
            output::speed(timings.prompt_tokens_per_sec()),
            output::tokens(timings.generated_tokens),
            output::speed(timings.generation_tokens_per_sec()),
            style.plain
        ))?;
    }
    Ok(generation)
}

/// How many logits were compared between 1 and 2 threads, and how many of them had the same bits.
struct Same {
    compared: usize,
    equal: usize,
}

impl Same {
    fn check(&self) -> Result<()> {
        if self.equal == self.compared {
            return Ok(());
        }
        Err(wrong("1 thread and 2 do not give the same bits", "this is a mistake in bouquet itself: please report it"))
    }
}

/// Computes one prompt on one thread, and on two.
fn same_bits(model: &Model, folder: &Path) -> Result<Same> {
    let prompt_ids = model.tokenizer.encode(PROMPTS[0].1, true)?.ids;
    let logits = |threads| -> Result<Vec<f32>> {
        let model = open(folder, threads)?.model;
        let hidden = model.embedding.embed(&model.cpu, &[&prompt_ids])?;
        let (hidden, _) = model.blocks.forward(hidden, &Pass::default())?;
        Ok(model.head.logits(&model.cpu, hidden.values().view()).into_vec())
    };
    let (one, two) = (logits(1)?, logits(2)?);
    let equal = one.iter().zip(&two).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    Ok(Same { compared: one.len(), equal })
}

fn finish(args: &DemoArgs, folder: &Path, texts: Vec<Value>, same: Same) -> Result<()> {
    if args.json {
        let bits = json!({ "compared": same.compared, "equal": same.equal });
        output::json(&json!({ "model": folder.display().to_string(), "texts": texts, "same_bits": bits }))?;
        return same.check();
    }
    let style = output::stdout_style();
    let shown = folder.display();
    // As it was called: a program that is not installed is not found by its name alone.
    let program = std::env::args().next().unwrap_or_else(|| "bouquet".to_owned());
    output::line(&format!(
        "On 1 thread and on 2, {} of {} logits have the same bits.\n\n\
         Next:\n  \
         {g}{program} run {shown} \"Once upon a time\"{p}\n  \
         {g}{program} inspect {shown}{p}\n  \
         {g}{program} --help{p}",
        output::grouped(same.equal as u64),
        output::grouped(same.compared as u64),
        g = style.good,
        p = style.plain
    ))?;
    same.check()
}

/// The model beside the current folder, or beside the program.
fn find_model() -> Result<PathBuf> {
    let here = PathBuf::from(MODEL);
    if here.is_dir() {
        return Ok(here);
    }
    let program = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let beside = program.ancestors().skip(1).map(|folder| folder.join(MODEL)).find(|folder| folder.is_dir());
    beside.ok_or_else(|| {
        let hint = "run it in a clone of the repository, or give the folder of a model with --model DIR";
        wrong(format!("the model of the demo, {MODEL}, is not here"), hint)
    })
}
