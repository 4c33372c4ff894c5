//! A conversation in a terminal: one text that grows, of which each line that is typed is a part and each answer is the
//! next. What was said is cached and not computed again.

use anyhow::{Context, Result};
use bouquet_generate::{FinishReason, GenerateError, GenerateOptions, Generator};
use bouquet_model::Model;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generation_flags::Plan;
use super::run::note_timings;
use crate::errors::report;
use crate::interrupt::Work;
use crate::output;

const HELP: &str = "\
Type a text, and the model goes on from it. What was said before is remembered.
  /new    forget it, and begin again
  /bye    leave (so do Ctrl-C and Ctrl-D); during an answer, Ctrl-C stops the answer";

/// Reads lines and answers them until somebody leaves.
pub(super) fn converse(model: &Model, plan: &Plan) -> Result<()> {
    let mut generator = Generator::open(model, plan.context)?;
    let mut editor = DefaultEditor::new().context("cannot read from this terminal")?;
    let mut token_ids: Vec<u32> = Vec::new();
    let mut answers = 0;
    output::note(HELP);
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("cannot read from this terminal"),
        };
        // A line that cannot be remembered is still answered.
        let _ = editor.add_history_entry(line.as_str());
        match line.trim() {
            "" => continue,
            "/bye" => return Ok(()),
            "/new" => token_ids.clear(),
            "/help" | "/?" => output::note(HELP),
            command if command.starts_with('/') && !command.contains(' ') => {
                output::note(&format!("{command} is not known\n{HELP}"));
            }
            _ => {
                // A failed answer leaves the text as it was before.
                let before = token_ids.len();
                let seed = plan.sampling.seed.wrapping_add(answers);
                answers += 1;
                if let Err(error) = answer(&mut generator, model, plan, seed, &line, &mut token_ids) {
                    token_ids.truncate(before);
                    match error.downcast_ref() {
                        Some(GenerateError::PromptTooLong { .. }) if before > 0 => {
                            output::note("this text is full; type /new to begin again");
                        }
                        Some(_) => drop(report(&error)),
                        None => return Err(error),
                    }
                }
            }
        }
    }
}

/// Answers a line, which becomes part of the text with its answer.
fn answer(
    generator: &mut Generator<'_>,
    model: &Model,
    plan: &Plan,
    seed: u64,
    line: &str,
    token_ids: &mut Vec<u32>,
) -> Result<()> {
    let first = token_ids.is_empty();
    let line = if first { line.to_owned() } else { format!("\n{line}") };
    token_ids.extend(model.tokenizer.encode(&line, first)?.ids);
    let work = Work::begin();
    let mut options =
        GenerateOptions { sampling: plan.sampling.clone(), stop: plan.stop.clone(), cancel: work.cancel.clone() };
    options.sampling.seed = seed;
    let mut written = Ok(());
    let generation = generator.generate(token_ids, &options, &mut |piece| {
        if written.is_ok() {
            written = output::write(piece);
        }
    })?;
    drop(work);
    written?;
    let mut said = generation.token_ids;
    if generation.finish_reason == FinishReason::Stop {
        // An end-of-text token would end what is said next as well.
        said.retain(|id| !plan.stop.eos_token_ids.contains(id));
    }
    token_ids.extend(said);
    output::write("\n")?;
    note_timings(&generation.timings, None);
    output::note("");
    Ok(())
}
