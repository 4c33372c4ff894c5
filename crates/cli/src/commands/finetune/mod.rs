//! `bouquet finetune`: a little is learned on top of a frozen model.

mod evaluate;
mod follow;
mod memory;
mod prepare;
mod settings;
mod whiten;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_embed::Dense;
use bouquet_embed::export::Export;
use bouquet_model::OpenOptions;
use bouquet_model::adapter::Learned;
use bouquet_span::Limits;
use bouquet_tune::checkpoint::{self, Checkpoint, Progress};
use bouquet_tune::config::{Config, Objective};
use bouquet_tune::folder::{self, RunFolder, Stage};
use bouquet_tune::gradient::PassPlan;
use bouquet_tune::optimizer::State;
use bouquet_tune::plan::MemoryPlan;
use bouquet_tune::trainer::Ending;
use bouquet_tune::{Trainer, TuneError};
use serde_json::{Value, json};

use self::evaluate::Evaluator;
use self::follow::Follower;
pub(crate) use self::prepare::default_targets;
use self::prepare::{Examples, Prepared};
use self::settings::Settings;
use self::whiten::Whitened;
use crate::compute::ComputeArgs;
use crate::errors::{CANCELLED, Done, disk_hint, wrong};
use crate::interrupt::Work;
use crate::open::{open_network, options};
use crate::swarm::{self, WaitArgs};
use crate::{output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    settings: Settings,
    /// The folder of the run, which becomes that of the adapter
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// A file of settings, whose keys are these flags; flags go before it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Go on with the run that the folder has, if it has one
    #[arg(long)]
    resume: bool,
    /// Take no more memory than this: 4GB, 500MB; the result does not depend on it [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = output::size)]
    memory: Option<u64>,
    /// Say what the run would take, and write nothing
    #[arg(long)]
    dry_run: bool,
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
  bouquet finetune MODEL --objective contrastive --data pairs.jsonl -o my-adapter
  bouquet finetune MODEL --objective cosine --data scored.csv --pooling weightedmean -o my-adapter
  bouquet finetune MODEL --objective causal --data chats.jsonl --epochs 3 --lr 1e-4 -o my-adapter
  bouquet finetune MODEL --objective simcse --data texts.txt --steps 0 --whiten -o whitened
  bouquet finetune --resume -o my-adapter

With --whiten, a linear map is fitted behind the last step that makes all directions of embeddings count;
--steps 0 fits it alone, on the model or on the adapter of --init-adapter.

The folder becomes an adapter that PEFT opens, and for sentences a folder of sentence-transformers as well;
bouquet takes it with --adapter. Until then it has a checkpoint: after Ctrl-C, kill -9 or a power cut, the
same command with --resume goes on and ends with the same bits.";

pub(crate) fn run(args: FinetuneArgs) -> Result<()> {
    match RunFolder::stage(&args.output) {
        Stage::Finished if args.resume => {
            output::note(&format!("the run in {} is finished already", args.output.display()));
            return Ok(());
        }
        Stage::Begun | Stage::Finished if !args.resume => {
            return Err(TuneError::HasRun { folder: args.output }.into());
        }
        _ => {}
    }
    let draft = args.settings.draft(args.config.as_deref(), &args.output, args.resume)?;
    let prepared = Prepared::new(&args, &draft)?;
    let (plan, memory) = prepared.plan(&args)?;
    if args.dry_run {
        return tell(&args, &prepared, plan, memory);
    }
    if !args.json {
        say_begin(&prepared, plan, memory);
    }
    let (end, summary) = learn(&args, &prepared, plan, memory)?;
    if args.json {
        return output::json(&summary);
    }
    say_end(&args, &end, summary["loss"].as_f64())
}

/// The same from a program: a run of so many steps that says nothing but how far it is.
pub(crate) fn quietly(
    model: &Path,
    data: &Path,
    settings: &str,
    steps: u64,
    output: &Path,
    compute: &ComputeArgs,
) -> Result<()> {
    let settings = Settings::of(settings)?.with(model, data, steps);
    let (output, compute) = (output.to_owned(), compute.clone());
    let args = FinetuneArgs {
        settings,
        output,
        config: None,
        resume: false,
        memory: None,
        dry_run: false,
        waiting: WaitArgs::default(),
        compute,
        json: true,
    };
    let draft = args.settings.draft(None, &args.output, false)?;
    let prepared = Prepared::new(&args, &draft)?;
    let (plan, memory) = prepared.plan(&args)?;
    learn(&args, &prepared, plan, memory).map(drop)
}

/// Carries a run out. Returns where it ended, and what there is to say of it.
fn learn(args: &FinetuneArgs, prepared: &Prepared, plan: PassPlan, memory: MemoryPlan) -> Result<(Checkpoint, Value)> {
    let config = &prepared.config;
    bouquet_kernels::set_most_idle_bytes(usize::try_from(memory.idle).unwrap_or(usize::MAX));
    // Before the folder is taken: a model that cannot be opened leaves none.
    let how = OpenOptions { rounding: config.wire, ..options(args.compute.cpu()?, config.encoding) };
    let network = open_network(&prepared.folder, &how)?;
    let (folder, from) = begin(args, prepared)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let trainer = Trainer { config, network: &network, plan, limits: &limits };
    let mut follower = Follower::new(prepared, &network, plan, &limits, &folder, from.progress.steps)?;
    let ran = trainer.run(from, &mut prepared.source(), &mut follower);
    let (end, ending) = ran.map_err(|error| with_what_is_kept(error.into(), &args.output))?;
    let loss = follower.recent_loss();
    drop(follower);
    if ending == Ending::Interrupted {
        let done = end.progress.steps;
        output::note(&format!("stopped after step {done} of {}; the same command with --resume goes on", config.steps));
        return Err(Done(CANCELLED).into());
    }
    let learned = end.best.as_ref().unwrap_or(&end.learned);
    let result = Evaluator { config, network: &network, learned, dense: None, plan, limits: &limits };
    let whitened = whiten::whiten(prepared, &result, args.json).map_err(|error| stopped(error, &limits))?;
    let dense = whitened.as_ref().map(|whitened| &whitened.dense);
    write_result(prepared, &folder, learned, dense).map_err(|error| with_what_is_kept(error, &args.output))?;
    let summary = json!({
        "output": args.output.display().to_string(),
        "steps": end.progress.steps,
        "tokens": end.progress.tokens,
        "seconds": end.progress.seconds,
        "loss": loss,
        "best": end.progress.best,
        "whitened": whitened.as_ref().map(Whitened::as_json),
        "stopped_early": ending == Ending::StoppedEarly,
        "peak_memory_bytes": system::peak_memory_bytes(),
        "planned_memory_bytes": memory.total(),
    });
    folder.write(folder::SUMMARY, format!("{summary:#}\n").as_bytes())?;
    folder.remove(checkpoint::FILE);
    Ok((end, summary))
}

/// An error behind the last step: somebody may have asked to stop there.
fn stopped(error: anyhow::Error, limits: &Limits) -> anyhow::Error {
    if limits.check().is_ok() {
        return error;
    }
    output::note("stopped behind the last step; the same command with --resume goes on");
    Done(CANCELLED).into()
}

/// An error of the disk, and that a checkpoint has been kept, where one has.
fn with_what_is_kept(error: anyhow::Error, folder: &Path) -> anyhow::Error {
    let of_disk = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    match of_disk.filter(|_| folder.join(checkpoint::FILE).exists()) {
        None => error,
        Some(source) => {
            let hint =
                format!("{}; the same command with --resume goes on from the last checkpoint", disk_hint(source));
            wrong(error.to_string(), hint)
        }
    }
}

/// Takes the folder, and finds where to go on.
fn begin(args: &FinetuneArgs, prepared: &Prepared) -> Result<(RunFolder, Checkpoint)> {
    let config = &prepared.config;
    let (folder, stage) = RunFolder::take(&args.output, args.resume)?;
    folder.sweep();
    if stage == Stage::New {
        folder.write(folder::SETTINGS, settings::written(config)?.as_bytes())?;
    } else {
        settings::read(&args.output.join(folder::SETTINGS))?.check_same(config)?;
    }
    let data = prepared.fingerprint.clone();
    match Checkpoint::load(&args.output, &prepared.learned)? {
        Some(checkpoint) if checkpoint.progress.data != data => Err(wrong(
            format!("the data are not those that the run in {} was begun with", args.output.display()),
            "give the same files, or another folder with -o",
        )),
        Some(checkpoint) => {
            output::note(&format!("going on after step {} of {}", checkpoint.progress.steps, config.steps));
            Ok((folder, checkpoint))
        }
        None => {
            let progress = Progress { data, ..Progress::default() };
            let learned = prepared.learned.clone();
            Ok((folder, Checkpoint { progress, learned, optimizer: State::new(), best: None }))
        }
    }
}

/// Writes what was learned: a folder of PEFT, and of sentence-transformers where sentences were learned.
fn write_result(prepared: &Prepared, folder: &RunFolder, learned: &Learned, dense: Option<&Dense>) -> Result<()> {
    let Prepared { config, spec, adapter_settings, .. } = prepared;
    learned.write(folder.path(), adapter_settings, spec)?;
    if config.objective != Objective::Causal {
        let hidden_size = spec.embedding_size;
        let (pooling, max_tokens) = (config.pooling, config.max_tokens);
        let export = Export { base: &prepared.folder, hidden_size, pooling, dense, max_tokens };
        export.write(folder.path())?;
    }
    Ok(())
}

/// What is learned, and what it takes.
fn facts(prepared: &Prepared, plan: PassPlan, memory: MemoryPlan) -> Vec<(&'static str, String)> {
    let config = &prepared.config;
    let records = match &prepared.examples {
        Examples::Sentences(sentences) => sentences.rows.len(),
        Examples::Texts(texts) => texts.sequences.len(),
    };
    let kept = match plan.kept_bytes {
        None => "nothing, so all is computed again".to_owned(),
        Some(bytes) => format!("block inputs, and {} of activations", output::bytes(bytes)),
    };
    let mut facts = vec![
        ("model", format!("{}, in {}", swarm::shown(&config.model), config.encoding)),
        ("learned", format!("{} numbers", output::grouped(prepared.parameters()))),
        (
            "data",
            format!("{} examples, {} a step", output::grouped(records as u64), config.batch_size * config.accumulation),
        ),
        ("steps", output::grouped(config.steps)),
        ("learning rate", learning_rate(config)),
        ("kept for the backward", kept),
        ("weights, and what is held now", output::bytes(memory.held)),
        ("adapter and optimizer", output::bytes(memory.learned)),
        ("a pass", output::bytes(memory.working)),
        ("kept between passes", output::bytes(memory.kept)),
        ("memory in all", output::bytes(memory.total())),
    ];
    if !prepared.whitened_by.is_empty() {
        facts.insert(3, ("whitened by", output::counted(prepared.whitened_by.len(), "sentence")));
    }
    facts
}

/// The highest learning rate, and the factors of groups.
fn learning_rate(config: &Config) -> String {
    let groups = config.lr_group.iter().map(|(group, factor)| format!(", times {factor} for {group}"));
    format!("{}{}", config.lr, groups.collect::<String>())
}

fn tell(args: &FinetuneArgs, prepared: &Prepared, plan: PassPlan, memory: MemoryPlan) -> Result<()> {
    if args.json {
        return output::json(&json!({
            "settings": prepared.config,
            "parameters": prepared.parameters(),
            "tokens_per_pass": plan.tokens_per_pass,
            "kept_activation_bytes": plan.kept_bytes,
            "held_bytes": memory.held,
            "learned_bytes": memory.learned,
            "working_bytes": memory.working,
            "kept_bytes": memory.kept,
            "total_bytes": memory.total(),
            "available_memory_bytes": system::available_memory_bytes(),
        }));
    }
    let rows: Vec<Vec<String>> =
        facts(prepared, plan, memory).into_iter().map(|(name, fact)| vec![name.to_owned(), fact]).collect();
    output::write(&output::table(&rows, 2))
}

fn say_begin(prepared: &Prepared, plan: PassPlan, memory: MemoryPlan) {
    let config = &prepared.config;
    output::note(&format!(
        "{} numbers learned in {} steps, {} planned{}",
        output::grouped(prepared.parameters()),
        output::grouped(config.steps),
        output::bytes(memory.total()),
        if plan.kept_bytes.is_none() { ", all is computed again" } else { "" },
    ));
}

fn say_end(args: &FinetuneArgs, end: &Checkpoint, loss: Option<f64>) -> Result<()> {
    let best = end.progress.best.map_or_else(String::new, |best| format!(", the best after step {}", best.steps));
    output::line(&format!("{}{best}", args.output.display()))?;
    let loss = loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
    let peak =
        system::peak_memory_bytes().map_or_else(String::new, |peak| format!(", peak memory {}", output::bytes(peak)));
    let time = std::time::Duration::from_secs_f64(end.progress.seconds);
    output::note(&format!("{} steps in {}{loss}{peak}", output::grouped(end.progress.steps), output::seconds(time)));
    Ok(())
}
