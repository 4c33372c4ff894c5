//! `bouquet finetune`: a little is learned on top of a frozen model.

mod follow;
mod settings;

use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_embed::export::Export;
use bouquet_model::adapter::initial::{deep_prompts, soft_prompt};
use bouquet_model::adapter::{self, Learned, targets};
use bouquet_model::{Model, ModelSpec, Network, Tokenizer, families};
use bouquet_span::Limits;
use bouquet_tune::checkpoint::{self, Checkpoint, Progress};
use bouquet_tune::config::{Config, Kind, Objective, OptimizerKind};
use bouquet_tune::data::{self, ColumnMap, DataSet, ReadOptions};
use bouquet_tune::folder::{self, RunFolder, Stage};
use bouquet_tune::optimizer::{AdamW, AdamW8bit, AdamWSettings, Optimizer};
use bouquet_tune::parameters::tensors;
use bouquet_tune::plan::{MemoryPlan, Request};
use bouquet_tune::trainer::Ending;
use bouquet_tune::{Trainer, TuneError};
use serde_json::json;

use self::follow::Follower;
use self::settings::{Draft, Settings};
use crate::compute::ComputeArgs;
use crate::errors::{Done, asked_wrongly, wrong};
use crate::interrupt::Work;
use crate::open::{options, or_usual};
use crate::{errors, hub, output, system};

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
  bouquet finetune --resume -o my-adapter

The folder becomes an adapter that PEFT opens, and for sentences a folder of sentence-transformers as well;
bouquet takes it with --adapter. Until then it has a checkpoint: after Ctrl-C, kill -9 or a power cut, the
same command with --resume goes on and ends with the same bits.";

pub(crate) fn run(args: FinetuneArgs) -> Result<()> {
    if args.resume && RunFolder::stage(&args.output) == Stage::Finished {
        output::note(&format!("the run in {} is finished already", args.output.display()));
        return Ok(());
    }
    if !args.resume && RunFolder::stage(&args.output) != Stage::New {
        return Err(TuneError::HasRun { folder: args.output }.into());
    }
    let draft = args.settings.draft(args.config.as_deref(), &args.output, args.resume)?;
    let prepared = Prepared::new(&args, &draft)?;
    let (plan, memory) = prepared.plan(&args)?;
    if args.dry_run {
        return tell(&args, &prepared, plan, memory);
    }
    let (run_folder, stage) = RunFolder::take(&args.output, args.resume)?;
    run_folder.sweep();
    let config = &prepared.config;
    let settings_path = args.output.join(folder::SETTINGS);
    if stage == Stage::Begun {
        let begun = settings::read_config(&settings_path)?;
        begun.check_same(config)?;
    } else {
        run_folder.write(folder::SETTINGS, settings::written(config)?.as_bytes())?;
    }
    let found = Checkpoint::load(&args.output, &prepared.learned)?;
    let fingerprint = prepared.data.fingerprint_text();
    let from = match found {
        Some(checkpoint) if checkpoint.progress.data != fingerprint => {
            return Err(wrong(
                format!("the data are not those that the run in {} was begun with", args.output.display()),
                "give the same files, or another folder with -o",
            ));
        }
        Some(checkpoint) => {
            output::note(&format!("going on after step {} of {}", checkpoint.progress.steps, config.steps));
            checkpoint
        }
        None => Checkpoint {
            progress: Progress { data: fingerprint, ..Progress::default() },
            learned: prepared.learned.clone(),
            optimizer: Default::default(),
            best: None,
        },
    };
    let mut options = options(args.compute.cpu()?, config.encoding);
    // What may be taken is planned here.
    options.memory_left = system::available_memory_bytes;
    let network = Network::open(&prepared.folder, &options)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let trainer = Trainer { config, network: &network, plan, limits: &limits };
    let mut follower = Follower::new(&args, &prepared, &run_folder, &network, from.progress.steps)?;
    let mut source = prepared.batches();
    let (end, ending) = trainer.run(from, &mut source, &mut follower)?;
    let metrics = follower.finish(&end)?;
    if ending == Ending::Interrupted {
        output::note(&format!(
            "stopped after step {} of {}; the same command with --resume goes on",
            end.progress.steps, config.steps
        ));
        return Err(Done(errors::CANCELLED).into());
    }
    write_result(&args, &prepared, &run_folder, &end)?;
    let best = end.progress.best;
    let summary = json!({
        "steps": end.progress.steps,
        "seconds": end.progress.seconds,
        "tokens": end.progress.tokens,
        "loss": metrics.last_loss,
        "best": best.map(|best| json!({ "steps": best.steps, "score": best.score })),
        "stopped_early": ending == Ending::StoppedEarly,
        "peak_memory_bytes": system::peak_memory_bytes(),
        "planned_memory_bytes": memory.total(),
    });
    let mut text = serde_json::to_vec_pretty(&summary)?;
    text.push(b'\n');
    run_folder.write(folder::SUMMARY, &text)?;
    run_folder.remove(checkpoint::FILE);
    if args.json {
        return output::json(&summary);
    }
    follower::say_end(&args, &end, &metrics, memory)
}
