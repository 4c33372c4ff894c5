//! Random weights of a published shape as a folder, for start-up times, servers and other programs.

use std::path::Path;

use anyhow::Result;
use bouquet_kernels::Cpu;
use bouquet_model::Encoding;
use bouquet_model::random::{RandomModel, Shape};
use serde_json::json;

use super::BenchArgs;
use super::plan::SEED;
use crate::errors::{CANCELLED, Done, asked_wrongly};
use crate::interrupt::Work;
use crate::{open, output};

pub(super) fn run(args: &BenchArgs, shape: Shape, folder: &Path, cpu: &Cpu) -> Result<()> {
    let (spec, encoding) = (shape.spec(), args.encoding.unwrap_or(Encoding::F32));
    let weight_bytes = open::weight_bytes(&spec, encoding);
    let stored = if encoding == Encoding::F32 { "f16" } else { encoding.name() };
    if folder.exists() {
        return Err(asked_wrongly(format!("{} is there already", folder.display()), "give the path of a new folder"));
    }
    if !args.dry_run {
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
