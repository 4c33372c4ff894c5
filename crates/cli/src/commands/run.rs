//! `bouquet run`: goes on from a text, or talks.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bouquet_generate::{Adapted, FinishReason, GenerateOptions, Generation, Timings, chat_prompt, generate};
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::adapter::Learned;
use bouquet_model::chat_template::{ChatTemplate, Clock, Message};
use bouquet_model::fingerprint::Computed;
use bouquet_model::{Encoding, Model, OpenOptions};
use serde_json::json;

use super::chat::{self, Settings};
use super::generation_flags::{GenerationArgs, Plan};
use super::interactive;
use crate::compute::ComputeArgs;
use crate::errors::{CANCELLED, Done, asked_wrongly, shorten, wrong};
use crate::interrupt::Work;
use crate::open::{AdapterArgs, CacheArgs, WireArgs, check_text, encoding_names, open, options, or_usual};
use crate::swarm::{self, InviteArgs};
use crate::{hub, input, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    model: PathBuf,
    /// What to answer, or to go on from if the model has no chat template; else standard input, or a conversation in a
    /// terminal. One that begins with a hyphen goes behind --
    prompt: Option<String>,
    /// Read the text from a file; a byte order mark at its beginning and its last line break are dropped
    #[arg(long, conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Go on from the text itself, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// What the model is told before all else, where it has a chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    system: Option<String>,
    /// Say how fast it was behind each answer of a conversation
    #[arg(long)]
    verbose: bool,
    /// Neither read nor keep the lines that are typed in conversations
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    wire: WireArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    invited: InviteArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet run MODEL \"The committee approved the plan\" --max-tokens 40
  bouquet run MODEL --file story.txt --temperature 0.8 --top-p 0.95 --seed 1
  bouquet run MODEL \"Dear customer,\" --adapter ADAPTER
  echo \"Translate to French: Good morning.\" | bouquet run MODEL --json
  bouquet run MODEL                              a conversation; Ctrl-C stops an answer
  bouquet run MODEL --system \"Answer in French.\"
  bouquet run MODEL --raw \"Once upon a time\"     go on from it, and do not answer

Where the model has a chat template (chat_template.jinja, or chat_template in tokenizer_config.json),
a text is what a user says, and the model answers; --raw goes on from the text itself. Special tokens
in a text become what they are in the template as well: roles are a form, not a wall.

What is not given comes from the model's generation_config.json; what that does not say is greedy.
Where tokens are drawn, --top-k is 50 unless the model or you say otherwise, as in transformers.";

/// Where the prompt comes from.
enum Source {
    Text(String),
    Conversation,
}

pub(crate) fn run(mut args: RunArgs) -> Result<()> {
    args.generation.check()?;
    let source = Source::of(&args)?;
    let typed = args.model.clone();
    args.model = hub::folder_or_ends(args.model, &args.invited)?;
    let mut options = options(args.compute.cpu()?, or_usual(args.encoding, &args.model)?);
    options.cache_encoding = args.cache.kv_cache;
    options.rounding = args.wire.of(&args.model)?;
    if swarm::of(&args.model).is_some() && args.cache.kv_cache != CacheEncoding::F32 {
        return Err(asked_wrongly("servers of a swarm keep keys and values in f32", "leave --kv-cache out"));
    }
    let learned = args.adapter.open(&args.model)?;
    let template = if args.raw { None } else { ChatTemplate::load(&args.model, Clock::now())? };
    if args.system.is_some() && template.is_none() {
        return Err(wrong("the model has no chat template, so it cannot be told --system", "put it into the prompt"));
    }
    let prompt = match source {
        Source::Text(prompt) => prompt,
        Source::Conversation => return converse(&args, &typed, &options, &learned, template.as_ref()),
    };
    // From here on an interrupted request ends with what there is, be it an object without text.
    let work = Work::begin();
    let opened = open(&args.model, &options)?;
    let plan = plan(&args, &opened.model, template.as_ref())?;
    let adapted = Adapted { model: &opened.model, learned: Some(&learned) };
    check_length(adapted, &prompt, plan.context)?;
    let prompt_ids = match &template {
        _ if prompt.is_empty() => Vec::new(),
        Some(template) => {
            let system = args.system.map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
            chat_prompt(adapted, template, &messages, plan.context, 0)?.token_ids
        }
        None => opened.model.tokenizer.encode(&prompt, true)?.ids,
    };
    if prompt_ids.is_empty() && args.prompt.is_some() {
        return Err(asked_wrongly("the prompt is empty", "give a text to go on from"));
    }
    let computed = Computed::of(&opened.model.spec.stored, &options);
    let seed = plan.sampling.seed;
    let drawn = args.generation.seed.is_none() && !plan.sampling.is_greedy();
    let options = GenerateOptions { sampling: plan.sampling, stop: plan.stop, cancel: work.cancel.clone() };
    let mut written = Ok(());
    let mut show = |piece: &str| {
        if !args.json && written.is_ok() {
            written = output::write(piece);
            if written.is_err() {
                options.cancel.cancel();
            }
        }
    };
    let generation = generate(adapted, &prompt_ids, plan.context, &options, &mut show)?;
    drop(work);
    written?;
    if args.json {
        output::json(&as_json(&generation, &computed, opened.time))?;
    } else {
        output::write("\n")?;
        note_timings(&generation.timings, drawn.then_some(seed));
    }
    match generation.finish_reason {
        FinishReason::Cancelled => Err(Done(CANCELLED).into()),
        FinishReason::Stop | FinishReason::Length => Ok(()),
    }
}

/// What was asked for, for a model with a chat template or without.
fn plan(args: &RunArgs, model: &Model, template: Option<&ChatTemplate>) -> Result<Plan> {
    match template {
        Some(template) => args.generation.plan_answers(model, template),
        None => args.generation.plan(model),
    }
}

/// A conversation in a terminal, with a model that was `typed` so.
fn converse(
    args: &RunArgs,
    typed: &Path,
    options: &OpenOptions,
    learned: &Learned,
    template: Option<&ChatTemplate>,
) -> Result<()> {
    let opened = open(&args.model, options)?;
    let adapted = Adapted { model: &opened.model, learned: Some(learned) };
    let plan = plan(args, &opened.model, template)?;
    match template {
        Some(template) => {
            let settings = Settings { plan, system: args.system.clone(), verbose: args.verbose };
            // Of a path the last part; the name of a hub is one as a whole.
            let name = match swarm::of(&args.model) {
                // An invite is no name, and a secret.
                Some(swarm) => swarm::model_name(&swarm.invite),
                None if typed.exists() => typed.file_name().map_or(typed, Path::new).display().to_string(),
                None => typed.display().to_string(),
            };
            chat::converse(adapted, &name, template, settings, !args.no_history)
        }
        None => {
            if !args.raw {
                output::note("This model has no chat template: it goes on from what you type, and does not answer.");
            }
            interactive::converse(adapted, &plan)
        }
    }
}

/// Refuses a prompt that is certainly too long before all of it is cut into tokens.
fn check_length(adapted: Adapted<'_>, prompt: &str, context: usize) -> Result<()> {
    let model = adapted.model;
    let least = model.tokenizer.at_least_tokens(prompt).saturating_add(adapted.prompt_tokens());
    if least > context {
        let message = format!(
            "the prompt has {} or more, but the context has room for {context}, the answer included",
            output::tokens(least)
        );
        return Err(wrong(message, shorten(least.saturating_add(1), model.spec.max_positions)));
    }
    check_text(prompt)
}

impl Source {
    fn of(args: &RunArgs) -> Result<Source> {
        if let Some(prompt) = &args.prompt {
            return Ok(Source::Text(prompt.clone()));
        }
        if let Some(file) = &args.file {
            return Ok(Source::Text(text(input::read_file(file)?, &file.display().to_string())?));
        }
        let stdin = std::io::stdin();
        // A conversation needs a terminal on both sides; results that go elsewhere are results of one prompt.
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            if stdin.is_terminal() {
                output::note("type the prompt, and end it with Ctrl-D");
            }
            const ORIGIN: &str = "standard input";
            return Ok(Source::Text(text(input::read(stdin, ORIGIN)?, ORIGIN)?));
        }
        if args.json {
            return Err(asked_wrongly(
                "a conversation cannot be one JSON object",
                "give a prompt, or leave --json out",
            ));
        }
        Ok(Source::Conversation)
    }
}

/// A prompt from bytes, without the line break at its end, which most editors and `echo` add.
fn text(bytes: Vec<u8>, origin: &str) -> Result<String> {
    let text = utf8(bytes, origin)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// A file as text, for commands that measure it: nothing is dropped but a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    utf8(input::read_file(path)?, &path.display().to_string())
}

/// Text without the byte order mark that some editors put before it, which is no part of it.
fn utf8(bytes: Vec<u8>, origin: &str) -> Result<String> {
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| wrong(format!("{origin} is not UTF-8 text"), "convert it to UTF-8"))?;
    Ok(text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text))
}

/// What `--json` prints.
fn as_json(generation: &Generation, computed: &Computed, load: Duration) -> serde_json::Value {
    let timings = &generation.timings;
    json!({
        "text": generation.text,
        "token_ids": generation.token_ids,
        "finish_reason": generation.finish_reason.name(),
        "computed": computed,
        "timings": {
            "prompt_tokens": timings.prompt_tokens,
            "prompt_seconds": timings.prompt.as_secs_f64(),
            "prompt_tokens_per_sec": timings.prompt_tokens_per_sec(),
            "generated_tokens": timings.generated_tokens,
            "generation_seconds": timings.generation.as_secs_f64(),
            "generation_tokens_per_sec": timings.generation_tokens_per_sec(),
            "load_seconds": load.as_secs_f64(),
            "peak_memory_bytes": system::peak_memory_bytes(),
        },
    })
}

/// Speed and memory on standard error, and the seed if it was drawn.
pub(crate) fn note_timings(timings: &Timings, seed: Option<u64>) {
    let style = output::stderr_style();
    let part = |name, tokens, time, speed: Option<f64>| {
        let line =
            format!("{name:<12}{:>13}  {:>8}  {}", output::tokens(tokens), output::seconds(time), output::speed(speed));
        output::note(&format!("{}{}{}", style.quiet, line.trim_end(), style.plain));
    };
    output::note("");
    part("prompt", timings.prompt_tokens, timings.prompt, timings.prompt_tokens_per_sec());
    part("generation", timings.generated_tokens, timings.generation, timings.generation_tokens_per_sec());
    if let Some(peak) = system::peak_memory_bytes() {
        output::note(&format!("{}{:<12}{:>13}{}", style.quiet, "peak memory", output::bytes(peak), style.plain));
    }
    if let Some(seed) = seed {
        output::note(&format!("{}{:<12}{seed:>13}{}", style.quiet, "seed", style.plain));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_dropped_and_a_byte_order_mark() {
        for (bytes, expected) in
            [("\u{FEFF}a\u{FEFF}\n", "a\u{FEFF}"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")]
        {
            assert_eq!(text(bytes.as_bytes().to_vec(), "x").unwrap(), expected);
        }
        assert!(text(vec![0xFF], "x").is_err());
    }
}
