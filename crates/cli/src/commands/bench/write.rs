//! Random weights of a published shape as a folder, for start-up times, servers and other programs.

use std::path::Path;

use anyhow::Result;
use bouquet_kernels::Cpu;
use bouquet_model::Encoding;
use bouquet_model::random::{RandomModel, Shape};
use serde_json::json;

use super::BenchArgs;
use super::plan::{SEED, nothing_stored};
use crate::errors::{CANCELLED, Done, asked_wrongly, wrong};
use crate::interrupt::Work;
use crate::{open, output, system};

/// Bytes that a token takes while a tokenizer is written.
const BYTES_PER_TOKEN: usize = 600;

/// Whether the largest tensor can be made: its floats, what they are encoded to, and tokens as many as it has rows.
fn check_memory(shape: Shape) -> Result<()> {
    let needed = (shape.vocab_size * (4 * shape.hidden_size + BYTES_PER_TOKEN)) as u64;
    match system::available_memory_bytes() {
        Some(available) if needed > available => {
            let [needed, available] = [needed, available].map(output::bytes);
            let message = format!("writing {} takes {needed} of memory, and {available} are free", shape.name);
            Err(wrong(message, "free some memory, or give a smaller shape"))
        }
        _ => Ok(()),
    }
}

pub(super) fn run(args: &BenchArgs, shape: Shape, folder: &Path, cpu: &Cpu) -> Result<()> {
    let (spec, encoding) = (shape.spec(), args.encoding.unwrap_or(Encoding::F32));
    if encoding == Encoding::Stored {
        return Err(nothing_stored());
    }
    let weight_bytes = open::bytes_in(&spec, encoding);
    let stored = if encoding == Encoding::F32 { "f16" } else { encoding.name() };
    if folder.exists() {
        return Err(asked_wrongly(format!("{} is there already", folder.display()), "give the path of a new folder"));
    }
    if !args.dry_run {
        check_memory(shape)?;
        let work = Work::begin();
        let mut progress = output::Progress::new();
        let mut more = |written, all| {
            progress.show(&format!("writing {}: {written} of {all} tensors", folder.display()));
            !work.cancel.is_cancelled()
        };
        let source = RandomModel::new(&spec, SEED, args.outliers, cpu.threads());
        if !source.write(&shape, cpu, encoding, folder, &mut more)? {
            return Err(Done(CANCELLED).into());
        }
    }
    if args.json {
        let folder = folder.display().to_string();
        return output::json(&json!({
            "model": shape.name, "folder": folder, "stored": stored, "weight_bytes": weight_bytes, "written": !args.dry_run,
        }));
    }
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let size = output::bytes(weight_bytes);
    output::line(&format!("{verb} {}: {} with random weights in {stored}, {size}", folder.display(), shape.name))
}
