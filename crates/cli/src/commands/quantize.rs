//! `bouquet quantize`: a model's folder with its weights in codes.

use std::path::PathBuf;

use anyhow::Result;
use bouquet_model::Encoding;
use bouquet_model::checkpoint::Checkpoint;
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{self, Request};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::writing::{Plan, Task};
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// Folder of the model, or its name on the hub, with weights in floats; or a GGUF file
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
    let spec = load_spec(&args.model)?;
    let source = Checkpoint::open(&args.model)?;
    let request = Request {
        encoding: args.encoding,
        double: args.double,
        embedding: args.embedding.unwrap_or(Encoding::F32),
        max_shard_bytes: args.max_shard_size,
    };
    let plan = quantize::Plan::new(&spec, &source, request)?;
    let stored = plan.stored.clone();
    let plan = Plan::Folder(plan);
    let task = Task {
        model: &args.model,
        source: &source,
        output: &args.output,
        compute: &args.compute,
        dry_run: args.dry_run,
    };
    let outcome = plan.carry_out(&task)?;
    let ours = !stored.is_of_bitsandbytes();
    if args.json {
        let more = json!({
            "encoding": stored.linears.name(),
            "double": args.double,
            "embedding": stored.embedding.name(),
            "opens_in_transformers": !ours,
        });
        return plan.report(&task, &outcome, more);
    }
    let files = output::counted(plan.files(&args.output).len(), "file");
    let [bytes, was] = [plan.bytes(), plan.bytes_before()].map(output::bytes);
    let (path, would) = (args.output.display(), outcome.would());
    output::line(&format!("{path}: {would}{bytes} of weights in {files}, where {was} were before"))?;
    let in_codes = match (stored.linears, stored.embedding) {
        (linears, Encoding::F32) => format!("linears in {linears}, embedding and head as they were"),
        (linears, embedding) => format!("linears in {linears}, embedding and head in {embedding}"),
    };
    output::note(&match ours {
        true => format!("{in_codes}; a layout of Bouquet's own, which transformers and bitsandbytes do not open"),
        false => format!("{in_codes}; transformers opens it with bitsandbytes"),
    });
    outcome.note();
    Ok(())
}
