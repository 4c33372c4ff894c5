//! `bouquet demo`: the small model of the repository at work, in less than two minutes: it writes, learns and searches, and
//! is served by several machines of which one dies.

mod learn;
mod together;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bouquet_generate::{FinishReason, GenerateOptions, Generation, SamplingOptions, StopRules, Timings, generate};
use bouquet_kernels::{Cpu, Isa};
use bouquet_model::{Encoding, Model, families};
use bouquet_span::Pass;
use serde_json::{Value, json};

use crate::compute::ComputeArgs;
use crate::errors::{CANCELLED, Done, wrong};
use crate::interrupt::Work;
use crate::limits::{MachineLimits, Memory, TokenCost, arithmetic};
use crate::open::{encoding_names, open, options, or_usual};
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Folder of another model, its GGUF file, or its name on the hub
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    /// Steps of fine-tuning; 0 leaves it out [default: 92, or 0 with --model]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=100_000))]
    steps: Option<u64>,
    #[command(flatten)]
    compute: ComputeArgs,
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

/// Steps of fine-tuning: the pairs once.
const STEPS: u64 = 92;

pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let folder = args.model.clone().map_or_else(find_model, hub::folder)?;
    let encoding = or_usual(args.encoding, &folder)?;
    let opened = open(&folder, &options(args.compute.cpu()?, encoding))?;
    let model = &opened.model;
    let style = output::stdout_style();
    if !args.json {
        if args.model.is_none() {
            output::line("A small model, trained for less than an hour: it writes things that look like sentences.")?;
        }
        output::line(&format!(
            "{}{}{}: {}, {} parameters in {} of {}, {}, in {encoding}, opened in {}\n",
            style.strong,
            folder.display(),
            style.plain,
            model.spec.family.to_uppercase(),
            families::parameters(&model.spec).map_or("many".to_owned(), |counted| output::count(counted.total)),
            output::counted(model.spec.num_blocks, "block"),
            output::counted(model.spec.block.hidden_size, "channel"),
            output::tokens(model.spec.vocab_size),
            output::seconds(opened.time)
        ))?;
    }

    let work = Work::begin();
    let (mut texts, mut written) = (Vec::new(), Written::default());
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
        written.add(&generation.timings);
        texts.push(json!({
            "language": language,
            "prompt": prompt,
            "text": generation.text,
            "generation_tokens_per_sec": generation.timings.generation_tokens_per_sec(),
        }));
    }
    let speed = Speed::of(&written, model, encoding);
    let same = same_bits(model, &folder, encoding)?;
    drop(work);
    if !args.json {
        output::line(&speed.sentence())?;
        output::line(&same.sentence())?;
    }
    let steps = args.steps.unwrap_or(if args.model.is_none() { STEPS } else { 0 });
    let lesson = if steps > 0 { Some(learn::learn(model, steps, &args.compute)?) } else { None };
    let together = match args.model {
        None => Some(together::together(&folder, encoding, model.spec.num_blocks)?),
        Some(_) => None,
    };
    if args.json {
        output::json(&json!({
            "model": folder.display().to_string(),
            "encoding": encoding.name(),
            "texts": texts,
            "speed": speed.json(),
            "same_bits": { "compared": same.compared, "equal": same.equal, "computed": same.ways },
            "learned": lesson.as_ref().map(learn::Lesson::json),
            "together": together.as_ref().map(together::Together::json),
        }))?;
    } else {
        if let Some(lesson) = &lesson {
            output::line(&lesson.told())?;
        }
        if let Some(together) = &together {
            output::line(&together.told())?;
        }
        output::line(&next_steps(&folder))?;
    }
    together.iter().try_for_each(together::Together::check)?;
    same.check()
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

/// What was written, in all texts.
#[derive(Default)]
struct Written {
    tokens: usize,
    time: Duration,
}

impl Written {
    /// The first token belongs to the prompt.
    fn add(&mut self, timings: &Timings) {
        self.tokens += timings.generated_tokens.saturating_sub(1);
        self.time += timings.generation;
    }
}

/// How fast the model wrote, and what this machine could do at best.
struct Speed {
    isa: Isa,
    threads: usize,
    arithmetic: &'static str,
    tokens_per_sec: f64,
    bytes_per_sec: f64,
    ops_per_sec: f64,
    limits: MachineLimits,
}

impl Speed {
    fn of(written: &Written, model: &Model, encoding: Encoding) -> Speed {
        let tokens_per_sec = written.tokens as f64 / written.time.as_secs_f64().max(1e-9);
        let (cpu, cost) = (&model.cpu, TokenCost::of(model));
        let memory = Memory::of(model.weights().map(|weight| weight.bytes() as u64).sum());
        Speed {
            isa: cpu.isa(),
            threads: cpu.threads(),
            arithmetic: arithmetic(encoding),
            tokens_per_sec,
            bytes_per_sec: tokens_per_sec * cost.weight_bytes,
            ops_per_sec: tokens_per_sec * (cost.block_ops + cost.head_ops),
            limits: MachineLimits::measure(cpu, encoding, memory.pieces(model.weights())),
        }
    }

    fn sentence(&self) -> String {
        format!(
            "{} written: {:.1} GB/s of weights read, {:.0} GOP/s computed.\n\
             The limits here, {} on {}: {:.1} GB/s from memory, {:.0} GOP/s in {}.",
            output::speed(Some(self.tokens_per_sec)),
            self.bytes_per_sec / 1e9,
            self.ops_per_sec / 1e9,
            self.isa.name(),
            output::counted(self.threads, "thread"),
            self.limits.read_bytes_per_sec / 1e9,
            self.limits.ops_per_sec / 1e9,
            self.arithmetic,
        )
    }

    fn json(&self) -> Value {
        json!({
            "isa": self.isa.name(),
            "threads": self.threads,
            "tokens_per_sec": self.tokens_per_sec,
            "gb_per_sec": self.bytes_per_sec / 1e9,
            "gop_per_sec": self.ops_per_sec / 1e9,
            "limits": {
                "gb_per_sec": self.limits.read_bytes_per_sec / 1e9,
                "gop_per_sec": self.limits.ops_per_sec / 1e9,
                "arithmetic": self.arithmetic,
            },
        })
    }
}

/// How many logits were compared between several ways of computing, and how many had the same bits in all of them.
struct Same {
    compared: usize,
    equal: usize,
    /// Instruction sets and threads.
    ways: Vec<(&'static str, usize)>,
}

impl Same {
    fn sentence(&self) -> String {
        let mut isas: Vec<&str> = self.ways.iter().map(|&(isa, _)| isa).collect();
        isas.dedup();
        format!(
            "On 1 thread and on 2, with {}: {} of {} logits have the same bits.",
            isas.join(" and "),
            output::grouped(self.equal as u64),
            output::grouped(self.compared as u64)
        )
    }

    fn check(&self) -> Result<()> {
        if self.equal == self.compared {
            return Ok(());
        }
        let hint = "this is a mistake in bouquet itself: please report it";
        Err(wrong("threads and instruction sets do not give the same bits", hint))
    }
}

/// Computes one prompt on one thread and on two, with the instruction set in use and with plain code.
fn same_bits(model: &Model, folder: &Path, encoding: Encoding) -> Result<Same> {
    let prompt_ids = model.tokenizer.encode(PROMPTS[0].1, true)?.ids;
    let (mut ways, mut logits) = (Vec::new(), Vec::new());
    for (isa, threads) in [(model.cpu.isa(), 1), (model.cpu.isa(), 2), (Isa::Scalar, 1), (Isa::Scalar, 2)] {
        let Some(cpu) = Cpu::with_isa(isa, threads) else { continue };
        let model = open(folder, &options(cpu, encoding))?.model;
        let hidden = model.embedding.embed(&model.cpu, &[&prompt_ids])?;
        let (hidden, _) = model.blocks.forward(hidden, &Pass::default())?;
        ways.push((isa.name(), threads));
        logits.push(model.head.logits(&model.cpu, hidden.values().view()).into_vec());
    }
    let compared = logits[0].len();
    let same = |index: usize| logits.iter().all(|all| all[index].to_bits() == logits[0][index].to_bits());
    Ok(Same { compared, equal: (0..compared).filter(|&index| same(index)).count(), ways })
}

/// What to type now.
fn next_steps(folder: &Path) -> String {
    let (style, shown) = (output::stdout_style(), folder.display());
    // As it was called: a program that is not installed is not found by its name alone.
    let program = std::env::args().next().unwrap_or_else(|| "bouquet".to_owned());
    format!(
        "\nNext:\n  \
         {g}{program} run {shown} \"Once upon a time\"{p}\n  \
         {g}{program} help finetune{p}\n  \
         {g}{program} bench {shown}{p}\n  \
         {g}{program} doctor{p}\n  \
         {g}{program} --help{p}",
        g = style.good,
        p = style.plain
    )
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
