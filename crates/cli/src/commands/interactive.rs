//! A conversation in a terminal: one text that grows, of which each line that is typed is a part and each answer is the
//! next. What was said is cached and not computed again.

use anyhow::{Context, Result};
use bouquet_generate::{Adapted, FinishReason, GenerateError, GenerateOptions, Generator};
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
pub(super) fn converse(adapted: Adapted<'_>, plan: &Plan) -> Result<()> {
    let model = adapted.model;
    let mut generator = Generator::open(adapted, plan.context)?;
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
                let seed = plan.sampling.seed.wrapping_add(answers);
                answers += 1;
                answer_or_say_why(&mut generator, model, plan, seed, &line, &mut token_ids)?;
            }
        }
    }
}

/// Answers a line, or says why there is no answer, which leaves the text as it was.
///
/// # Errors
/// Those that end a conversation: nobody can be told.
fn answer_or_say_why(
    generator: &mut Generator<'_>,
    model: &Model,
    plan: &Plan,
    seed: u64,
    line: &str,
    token_ids: &mut Vec<u32>,
) -> Result<()> {
    let before = token_ids.len();
    let Err(error) = answer(generator, model, plan, seed, line, token_ids) else { return Ok(()) };
    token_ids.truncate(before);
    match error.downcast_ref() {
        Some(GenerateError::PromptTooLong { .. }) if before > 0 => {
            output::note("this text is full; type /new to begin again");
        }
        Some(_) => drop(report(&error)),
        None => return Err(error),
    }
    Ok(())
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
    token_ids.extend(model.tokenizer.encode(&line, first).map_err(GenerateError::from)?.ids);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bouquet_generate::{SamplingOptions, StopRules};
    use bouquet_kernels::Cpu;

    use super::*;

    #[test]
    fn a_line_that_cannot_be_cut_does_not_end_a_conversation() {
        // A vocabulary of whole texts, without a token for unknown ones: it knows the text that every tokenizer is
        // tried with, and no other.
        let folder = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/bloom-tiny");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(tiny.join(name), folder.path().join(name)).unwrap();
        }
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"A trial, 試み": 5}, "unk_token": "no such token"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        use bouquet_model::{Encoding, OpenOptions};
        let model = Model::open(folder.path(), &OpenOptions::new(Cpu::new(1), 1 << 24, Encoding::F32)).unwrap();
        let plan = Plan {
            sampling: SamplingOptions::default(),
            stop: StopRules { eos_token_ids: vec![], strings: vec![], max_tokens: 0 },
            context: 16,
        };
        let mut generator = Generator::open(&model, plan.context).unwrap();
        let mut token_ids = vec![5];
        let error = answer(&mut generator, &model, &plan, 0, "unheard of", &mut token_ids).unwrap_err();
        assert!(error.downcast_ref::<GenerateError>().is_some(), "{error}");
        answer_or_say_why(&mut generator, &model, &plan, 0, "unheard of", &mut token_ids).unwrap();
        assert_eq!(token_ids, [5]);
        // And it goes on.
        token_ids.clear();
        answer_or_say_why(&mut generator, &model, &plan, 0, "A trial, 試み", &mut token_ids).unwrap();
        assert_eq!(token_ids, [5]);
    }
}
