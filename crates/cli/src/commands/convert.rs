//! `bouquet convert`: a model in another form, a folder or a GGUF file.

use std::path::PathBuf;

use anyhow::Result;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{self, Request};
use bouquet_model::{Encoding, floats, gguf, is_gguf};
use clap::ValueEnum;
use serde_json::json;

use super::writing::{Plan, Task};
use crate::compute::ComputeArgs;
use crate::errors::asked_wrongly;
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConvertArgs {
    /// Folder of the model, or its name on the hub, or a GGUF file
    model: PathBuf,
    /// The GGUF file to write (NAME.gguf), or the folder
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// What weights become [default: f16; from GGUF to GGUF, what they are]
    #[arg(long, value_name = "TYPE")]
    to: Option<To>,
    /// Cut the weights of a folder into files of at most this size, between blocks: 5GB, 500MB
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
  bouquet convert MODEL -o model.gguf
  bouquet convert MODEL -o model-Q8_0.gguf --to q8_0
  bouquet convert model-Q4_K_M.gguf -o MODEL
  bouquet convert model-Q4_K_M.gguf -o MODEL-int8 --to int8

Folders have f32, f16 and bf16, which transformers opens, and the codes of bouquet quantize: int8, nf4, int4.
GGUF files, which llama.cpp opens, have f32, f16, bf16, q8_0 and q4_0; tokenizer and chat template are in them.
Weights in codes or blocks are decoded for it. What is there already is never replaced.";

/// What weights can become.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// bfloat16
    Bf16,
    /// blocks of 8 bits, in a GGUF file
    #[value(name = "q8_0")]
    Q8_0,
    /// blocks of 4 bits, in a GGUF file
    #[value(name = "q4_0")]
    Q4_0,
    /// 8 bits and a scale for each row, in a folder
    Int8,
    /// 4 bits, in a folder, as bitsandbytes has them
    Nf4,
    /// 4 bits, in a folder that only Bouquet opens
    Int4,
}

impl To {
    /// The codes of a folder.
    fn encoding(self) -> Option<Encoding> {
        match self {
            To::Int8 => Some(Encoding::Int8),
            To::Nf4 => Some(Encoding::Nf4),
            To::Int4 => Some(Encoding::Int4),
            _ => None,
        }
    }

    /// The type of numbers; `None` for codes.
    fn dtype(self) -> Option<Dtype> {
        let name = self.to_possible_value().expect("no value is hidden").get_name().to_uppercase();
        gguf::WRITTEN.into_iter().find(|dtype| dtype.name() == name)
    }
}

pub(crate) fn run(mut args: ConvertArgs) -> Result<()> {
    let to_file = args.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let to = args.to.unwrap_or(To::F16);
    if to_file && to.encoding().is_some() {
        return Err(asked_wrongly(
            format!("{} is for folders, and {} would be a GGUF file", args.to(), args.output.display()),
            "give f32, f16, bf16, q8_0 or q4_0, or a name without .gguf",
        ));
    }
    if !to_file && matches!(to, To::Q8_0 | To::Q4_0) {
        return Err(asked_wrongly(
            format!("{} is for GGUF files, and {} would be a folder", args.to(), args.output.display()),
            "give a name that ends with .gguf, or f32, f16, bf16, int8, nf4 or int4",
        ));
    }
    args.model = hub::folder_for(args.model, args.dry_run)?;
    let spec = load_spec(&args.model)?;
    let source = Checkpoint::open(&args.model)?;
    let max_shard_bytes = args.max_shard_size;
    let plan = match (to_file, to.dtype(), to.encoding()) {
        (true, dtype, _) if is_gguf(&args.model) => {
            Plan::File(gguf::Plan::of_file(&args.model, dtype.filter(|_| args.to.is_some()).as_ref())?.into())
        }
        (true, Some(dtype), _) => Plan::File(gguf::Plan::of_folder(&args.model, &spec, &source, &dtype)?.into()),
        (_, _, Some(encoding)) => {
            let request = Request { encoding, double: false, embedding: Encoding::F32, max_shard_bytes };
            Plan::Folder(quantize::Plan::new(&spec, &source, request)?)
        }
        (_, dtype, _) => Plan::Folder(floats::plan(&spec, &source, dtype, max_shard_bytes)?),
    };
    let task = Task {
        model: &args.model,
        source: &source,
        output: &args.output,
        compute: &args.compute,
        dry_run: args.dry_run,
    };
    let outcome = plan.carry_out(&task)?;
    let (dtypes, notes) = (
        plan.dtypes(),
        match &plan {
            Plan::File(plan) => plan.notes.clone(),
            Plan::Folder(_) => Vec::new(),
        },
    );
    if args.json {
        let form = if to_file { "gguf" } else { "folder" };
        return plan.report(&task, &outcome, json!({ "form": form, "dtypes": dtypes, "notes": notes }));
    }
    let files = output::counted(plan.files(&args.output).len(), "file");
    let [bytes, was] = [plan.bytes(), plan.bytes_before()].map(output::bytes);
    let (path, would, dtypes) = (args.output.display(), outcome.would(), dtypes.join(", "));
    output::line(&format!("{path}: {would}{bytes} in {files} ({dtypes}), where {was} were before"))?;
    notes.iter().for_each(|note| output::note(note));
    outcome.note();
    Ok(())
}

impl ConvertArgs {
    /// What was asked for, as it is typed.
    fn to(&self) -> String {
        self.to.and_then(|to| Some(to.to_possible_value()?.get_name().to_owned())).unwrap_or_default()
    }
}
