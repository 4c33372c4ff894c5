//! `bouquet quantize`: a model's folder with its weights in codes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{Job, Plan, Progress, Request, unfinished};
use bouquet_model::{Encoding, ModelError};
use bouquet_span::Limits;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::compute::ComputeArgs;
use crate::errors::{asked_wrongly, disk_hint, wrong};
use crate::interrupt::Work;
use crate::open::needs_folder;
use crate::{hub, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// Folder of the model, or its name on the hub, with weights in floats
    model: PathBuf,
    /// What the linears of blocks are stored in
    #[arg(long, value_parser = names([Encoding::Int8, Encoding::Int4, Encoding::Nf4]))]
    encoding: Encoding,
    /// Store the scales of nf4 in 8 bits as well
    #[arg(long)]
    double: bool,
    /// Store embedding and head in codes, too; only Bouquet opens that [default: as they are]
    #[arg(long, value_parser = names([Encoding::Int8, Encoding::Int4]))]
    embedding: Option<Encoding>,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Cut weights into files of at most this size, between blocks: 5GB, 500MB
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "5GB")]
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
  bouquet quantize MODEL --encoding int8 -o MODEL-int8
  bouquet quantize MODEL --encoding nf4 --double -o MODEL-nf4
  bouquet quantize MODEL --encoding int4 --embedding int4 -o MODEL-int4 --dry-run

int8 and nf4 are written as bitsandbytes stores them, embedding and head as they are: transformers opens
that, and finds the codes that it would have made itself. int4, and --embedding, have a layout of
Bouquet's own, which no other program opens.

The folder appears when it is whole. The same command goes on where an interrupted one ended.";

/// Encodings by their names, for a flag.
fn names<const N: usize>(encodings: [Encoding; N]) -> impl TypedValueParser<Value = Encoding> {
    PossibleValuesParser::new(encodings.map(Encoding::name)).map(|name| name.parse().expect("the name of an encoding"))
}

pub(crate) fn run(mut args: QuantizeArgs) -> Result<()> {
    if args.double && args.encoding != Encoding::Nf4 {
        return Err(asked_wrongly(
            format!("--double is for nf4, and {} has no scales that it could store", args.encoding),
            "leave it out, or give --encoding nf4",
        ));
    }
    args.model = hub::folder_for(args.model, args.dry_run)?;
    needs_folder(&args.model, "only folders are written anew so far")?;
    let spec = load_spec(&args.model)?;
    let source = Checkpoint::open(&args.model)?;
    let request = Request {
        encoding: args.encoding,
        double: args.double,
        embedding: args.embedding.unwrap_or(Encoding::F32),
        max_shard_bytes: args.max_shard_size,
    };
    let plan = Plan::new(&spec, &source, request)?;
    let free = system::free_disk_bytes(&args.output);
    if args.dry_run {
        unfinished(&args.output)?;
        return report(&args, &plan, free, None);
    }
    check_disk(&args.output, &plan)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let cpu = args.compute.cpu()?;
    let job = Job { cpu: &cpu, source: &source, folder: &args.model, target: &args.output, limits: &limits };
    let start = Instant::now();
    let before = write(&plan, &job)?;
    report(&args, &plan, free, Some((before, start.elapsed())))
}

/// Whether the disk has room for a folder to be.
pub(super) fn check_disk(target: &Path, plan: &Plan) -> Result<()> {
    let needed = needed(plan.bytes(), unfinished(target)?.as_deref());
    match system::free_disk_bytes(target).filter(|&free| free < needed) {
        None => Ok(()),
        Some(free) => {
            let (needed, free) = (output::bytes(needed), output::bytes(free));
            Err(wrong(
                format!("{} needs {needed}, and its disk has {free} free", target.display()),
                "make room on the disk, or write to another one",
            ))
        }
    }
}

/// Carries a plan out and shows how far it is; returns the bytes that an earlier try had written.
pub(super) fn write(plan: &Plan, job: &Job<'_>) -> Result<u64> {
    let mut shown = output::Progress::new();
    let before = plan.write(job, &mut |Progress { label, bytes, total }| {
        shown.show(&format!("{label}, {} of {}", output::bytes(bytes), output::bytes(total)));
    });
    before.map_err(|error| with_what_is_kept(error, job.target))
}

/// An error of the disk, and that what is finished has been kept, where it has.
fn with_what_is_kept(error: ModelError, target: &Path) -> anyhow::Error {
    match (&error, unfinished(target)) {
        (ModelError::Write { source, .. }, Ok(Some(_))) => {
            let hint = format!("{}; the same command goes on from what is finished", disk_hint(source));
            wrong(error.to_string(), hint)
        }
        _ => error.into(),
    }
}

/// What a folder of so many bytes needs on its disk besides what an earlier try has left there, which is gone on with or
/// written over.
fn needed(bytes: u64, unfinished: Option<&Path>) -> u64 {
    let entries = unfinished.and_then(|folder| folder.read_dir().ok()).into_iter().flatten();
    let there: u64 = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
    bytes.saturating_sub(there)
}

/// What was written, of which an earlier try had written so many bytes, and in which time; or what would be.
fn report(args: &QuantizeArgs, plan: &Plan, free: Option<u64>, written: Option<(u64, Duration)>) -> Result<()> {
    let path = args.output.display();
    let ours = !plan.stored.is_of_bitsandbytes();
    if args.json {
        let files: Vec<_> =
            plan.shards.iter().map(|shard| json!({ "file": shard.file, "bytes": shard.bytes })).collect();
        return output::json(&json!({
            "output": path.to_string(),
            "encoding": plan.stored.linears.name(),
            "double": args.double,
            "embedding": plan.stored.embedding.name(),
            "opens_in_transformers": !ours,
            "weight_bytes_before": plan.bytes_before,
            "weight_bytes": plan.bytes(),
            "files": files,
            "free_disk_bytes": free,
            "written": written.is_some(),
            "resumed_bytes": written.map(|(before, _)| before),
            "seconds": written.map(|(_, time)| time.as_secs_f64()),
            "peak_memory_bytes": system::peak_memory_bytes(),
        }));
    }
    let files = output::counted(plan.shards.len(), "file");
    let (bytes, was) = (output::bytes(plan.bytes()), output::bytes(plan.bytes_before));
    let would = if written.is_some() { "" } else { "would have " };
    output::line(&format!("{path}: {would}{bytes} of weights in {files}, where {was} were before"))?;
    let in_codes = match (plan.stored.linears, plan.stored.embedding) {
        (linears, Encoding::F32) => format!("linears in {linears}, embedding and head as they were"),
        (linears, embedding) => format!("linears in {linears}, embedding and head in {embedding}"),
    };
    output::note(&match ours {
        true => format!("{in_codes}; a layout of Bouquet's own, which transformers and bitsandbytes do not open"),
        false => format!("{in_codes}; transformers opens it with bitsandbytes"),
    });
    if let Some((before, time)) = written {
        let resumed = match before {
            0 => String::new(),
            before => format!(", after {} that were there", output::bytes(before)),
        };
        let peak = system::peak_memory_bytes().map(|peak| format!(", peak memory {}", output::bytes(peak)));
        output::note(&format!("{}{resumed}{}", output::seconds(time), peak.unwrap_or_default()));
    } else if let Some(free) = free {
        output::note(&format!("its disk has {} free", output::bytes(free)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_try_has_left_needs_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("first"), [0; 300]).unwrap();
        std::fs::write(folder.path().join("second.part"), [0; 50]).unwrap();
        assert_eq!(needed(1000, Some(folder.path())), 650);
        assert_eq!(needed(100, Some(folder.path())), 0);
        assert_eq!(needed(1000, None), 1000);
        assert_eq!(needed(1000, Some(&folder.path().join("gone"))), 1000);
    }
}
