//! `bouquet pull`: fetches a model from the hub, or what is new of it.

use anyhow::Result;
use bouquet_hub::{Hub, Missing, Name, Plan, Settings};
use serde_json::{Value, json};

use crate::errors::asked_wrongly;
use crate::{hub, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Name of the model on the hub: org/name, org/name@revision (a branch, a tag or a commit), org/name:Q4_K_M (one of its GGUF files)
    #[arg(value_name = "NAME")]
    name: String,
    /// Say what would be fetched, and how many bytes, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet pull bigscience/bloom-560m
  bouquet pull bigscience/bloom-560m@main --dry-run
  bouquet pull bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M
  HF_HUB_CACHE=/disk/models bouquet pull bigscience/bloom-7b1

Prints the folder, which is in the cache of Python's huggingface_hub: each finds what the other
fetched. That is config.json, generation_config.json, the tokenizer and safetensors, never pickle. A
download that ended early goes on where it ended; all is checked against the hub's checksums.

Of a repository with GGUF files, what stands behind the colon chooses one by the end of its name, in
any case, or by all of it; its path is printed. All parts of a split one are fetched. Where nothing is
said and there are no safetensors, that is Q4_K_M, else Q4_K_S, Q4_0, Q5_K_M, Q8_0, or the only one.

Environment: HF_HOME and HF_HUB_CACHE (where the cache is), HF_TOKEN (for private and gated models),
HF_ENDPOINT (another hub), HF_HUB_OFFLINE=1 (ask nobody), HTTPS_PROXY, SSL_CERT_FILE.";

pub(crate) fn run(args: PullArgs) -> Result<()> {
    let name = Name::parse(&args.name).ok_or_else(|| {
        let hint = "give org/name, org/name@revision or org/name:Q4_K_M: bouquet pull bigscience/bloom-560m";
        asked_wrongly(format!("{:?} is not the name of a model on a hub", args.name), hint)
    })?;
    let hub = Hub::open(Settings::from_env()?)?;
    let plan = hub::plan(&hub, &name)?;
    hub::say_choice(&name, &plan.model);
    if !args.dry_run {
        hub::fetch(&hub, &name, &plan)?;
    }
    if args.json {
        return output::json(&as_json(&hub, &name, &plan, args.dry_run));
    }
    if !args.dry_run {
        return output::line(&plan.model.display().to_string());
    }
    output::write(&report(&hub, &name, &plan))
}

fn report(hub: &Hub, name: &Name, plan: &Plan) -> String {
    let (folder, model) = (plan.folder.display(), plan.model.display());
    if plan.missing.is_empty() {
        let is = if plan.model == plan.folder { "is in" } else { "is" };
        return format!("Nothing to fetch: {name} {is} {model}\n");
    }
    let row = |missing: &Missing| {
        let here = match missing.arrived {
            0 => String::new(),
            bytes => format!("{} here", output::bytes(bytes)),
        };
        vec![missing.file().to_owned(), output::bytes(missing.bytes()), here]
    };
    let rows: Vec<Vec<String>> = plan.missing.iter().map(row).collect();
    format!(
        "{}{} would be fetched from {}, {}, into {folder}\n",
        output::table(&rows, 1),
        output::bytes(plan.bytes_to_come()),
        hub.host(),
        output::counted(plan.bytes_to_come() as usize, "byte"),
    )
}

fn as_json(hub: &Hub, name: &Name, plan: &Plan, dry_run: bool) -> Value {
    let file = |missing: &Missing| {
        let bytes = missing.bytes();
        json!({"file": missing.file(), "bytes": bytes, "bytes_to_come": bytes - missing.arrived})
    };
    json!({
        "name": name.repository(),
        "revision": name.revision(),
        "commit": plan.commit,
        "host": hub.host(),
        "folder": plan.folder,
        "choice": name.choice(),
        "model": plan.model,
        "dry_run": dry_run,
        "files": plan.missing.iter().map(file).collect::<Vec<_>>(),
        "bytes": plan.bytes(),
        "bytes_to_come": plan.bytes_to_come(),
    })
}
