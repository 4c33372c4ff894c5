//! What becomes of errors: one sentence, a hint, an exit code. 1 is for what went wrong (files, models, data, the
//! machine), 2 for what was asked wrongly (flags and arguments), 130 for what was cancelled.

use std::fmt;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;

use bouquet_embed::EmbedError;
use bouquet_generate::GenerateError;
use bouquet_hub::HubError;
use bouquet_model::{ModelError, is_gguf};
use bouquet_span::SpanError;
use bouquet_swarm::SwarmError;
use bouquet_tune::TuneError;
use bouquet_tune::data::DataError;
use clap::error::ErrorKind;

use crate::{hub, output};

/// What went wrong.
pub(crate) const WRONG: u8 = 1;
/// What was asked wrongly; clap's code as well.
const ASKED_WRONGLY: u8 = 2;
/// What a shell reports for Ctrl-C.
pub(crate) const CANCELLED: u8 = 130;

/// An error of the program itself, with its hint.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    hint: String,
    code: u8,
}

/// What ends a command that has printed all it had to, with an exit code other than 0.
#[derive(Debug)]
pub(crate) struct Done(pub(crate) u8);

/// A wrong file, model or machine.
pub(crate) fn wrong(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Problem { message: message.into(), hint: hint.into(), code: WRONG }.into()
}

/// A wrong flag or argument.
pub(crate) fn asked_wrongly(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Problem { message: message.into(), hint: hint.into(), code: ASKED_WRONGLY }.into()
}

/// What comes of arguments that are no command: clap says what was typed wrongly; help and version are no mistake, but
/// results, which have to be written like others.
pub(crate) fn not_a_command(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    if let (Err(failed), false) = (printed, error.use_stderr()) {
        return ExitCode::from(report(&anyhow::Error::from(failed).context(output::CANNOT_WRITE)));
    }
    let hyphens = |arg: String| arg.starts_with('-') && arg.contains(char::is_whitespace);
    if error.kind() == ErrorKind::UnknownArgument
        && std::env::args_os().filter_map(|arg| arg.into_string().ok()).any(hyphens)
    {
        let style = output::stderr_style();
        output::note(&format!(
            "\n{}hint{}: put -- before a text that begins with a hyphen: bouquet run MODEL -- \"- a list\"",
            style.good, style.plain
        ));
    }
    ExitCode::from(if error.use_stderr() { ASKED_WRONGLY } else { 0 })
}

/// Runs a command and says on standard error what went wrong, if anything did.
pub(crate) fn exit_code(command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    static PANIC: Mutex<Option<String>> = Mutex::new(None);
    // A panic says where it was only to its hook. Some are caught and become errors, so the hook says nothing itself.
    panic::set_hook(Box::new(|info| {
        if let Ok(mut panic) = PANIC.lock() {
            *panic = Some(info.to_string().replacen("panicked at ", "", 1));
        }
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        let place = PANIC.lock().ok().and_then(|mut panic| panic.take()).unwrap_or_default();
        let hint = "please report it, with the command that you typed";
        Err(wrong(format!("this is a mistake in bouquet itself: {place}"), hint))
    });
    ExitCode::from(match result {
        Ok(()) => 0,
        Err(error) => report(&error),
    })
}

/// Prints the sentence and the hint; returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if let Some(Done(code)) = error.downcast_ref() {
        return *code;
    }
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        // Whoever read the results has seen enough (`bouquet run ... | head`).
        return 0;
    }
    if error.chain().filter_map(span_error).any(|error| matches!(error, SpanError::Cancelled)) {
        output::note("cancelled");
        return CANCELLED;
    }
    let style = output::stderr_style();
    output::note(&format!("{}error{}: {}", style.bad, style.plain, one_line(&sentence(error))));
    if let Some(hint) = error.chain().find_map(hint) {
        output::note(&format!("{}hint{}: {}", style.good, style.plain, one_line(&hint)));
    }
    error.chain().find_map(code).unwrap_or(WRONG)
}

/// The exit code of an error that has one of its own.
fn code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(ModelError::NotAFile { .. } | ModelError::NotANewFolder { .. } | ModelError::StoredEncoding { .. }) =
        model_error(error)
    {
        return Some(ASKED_WRONGLY);
    }
    if let Some(TuneError::Setting { .. }) = error.downcast_ref() {
        return Some(ASKED_WRONGLY);
    }
    error.downcast_ref::<Problem>().map(|problem| problem.code)
}

/// What to try.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return Some(problem.hint.clone());
    }
    if let Some(error) = span_error(error) {
        return span_hint(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<HubError>() {
        return hub::hint(error);
    }
    if let Some(error) = error.downcast_ref::<SwarmError>() {
        return swarm_hint(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<GenerateError>() {
        return generate_hint(error);
    }
    if let Some(error) = error.downcast_ref::<TuneError>() {
        return tune_hint(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<DataError>() {
        return data_hint(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<EmbedError>() {
        return embed_hint(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<ModelError>() {
        return model_hint(error).map(str::to_owned);
    }
    Some(disk_hint(error.downcast_ref::<io::Error>()?).to_owned())
}

/// What to try where others do not answer, or not as they should.
fn swarm_hint(error: &SwarmError) -> Option<&'static str> {
    Some(match error {
        SwarmError::Invite(_) => "copy the whole word that bouquet join printed, from bouquet1 on",
        SwarmError::Unreachable { .. } => {
            "check that the server still runs and can be reached from here; else ask for a newer invite"
        }
        SwarmError::OtherModel { .. } => "ask for an invite of this swarm, and use the same version of this program",
        SwarmError::Missing(_) => "wait for somebody to host them, or do: bouquet join INVITE",
        SwarmError::Refused { .. } | SwarmError::Stalled { .. } => {
            "try again in a moment, or add a server: bouquet join INVITE"
        }
        SwarmError::Network(_) => "choose another address with --listen, such as /ip4/0.0.0.0/tcp/0",
        SwarmError::Garbage { .. } | SwarmError::Record(_) => "use the same version of this program on all machines",
        _ => return None,
    })
}

/// What to try where the system could not read or write.
pub(crate) fn disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who may read and write it",
        io::ErrorKind::StorageFull => "make room on the disk",
        io::ErrorKind::FileTooLarge => "write less at a time, or allow larger files (ulimit -f)",
        _ => "check the disk and the path",
    }
}

fn tune_hint(error: &TuneError) -> Option<&'static str> {
    Some(match error {
        TuneError::HasRun { .. } => "go on with it, with --resume, or give another folder with -o",
        TuneError::NotEmpty { .. } => "give the path of a folder that is not there yet, or empty",
        TuneError::Busy { .. } => "wait until it is done, or give another folder with -o",
        TuneError::Checkpoint { .. } => "begin anew in another folder, with -o",
        TuneError::OtherSettings { .. } => "give the same settings, or another folder with -o",
        TuneError::Setting { .. } => "see bouquet help finetune",
        TuneError::Diverged { .. } => {
            "the last checkpoint is from before: look at these rows, or begin anew with a smaller --lr"
        }
        TuneError::Model(error) => return model_hint(error),
        _ => return None,
    })
}

fn data_hint(error: &DataError) -> Option<&'static str> {
    Some(match error {
        // The system's error, which is next in the chain, knows better.
        DataError::Read { .. } => return None,
        DataError::NoSuchColumn { .. } | DataError::Columns { .. } | DataError::ColumnMap { .. } => {
            "say which columns are what, with --columns anchor=premise,positive=hypothesis"
        }
        DataError::BadRow(_) => "correct the row, or leave out --strict",
        DataError::NotText { .. } => "save it in UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW",
        DataError::Changed { .. } => "wait until nobody writes to it any more",
        _ => "see bouquet help finetune for what can be read",
    })
}

fn embed_hint(error: &EmbedError) -> Option<&'static str> {
    match error {
        // The system's error, which is next in the chain, knows better.
        EmbedError::Read { .. } => None,
        EmbedError::Line { .. } => Some("correct this line, or give another file; --help says what belongs there"),
        EmbedError::File { .. } => Some("give another file, or make it again"),
        EmbedError::Whitening(_) => Some("give more and other sentences, or leave --whiten out"),
        EmbedError::Model(error) => model_hint(error),
    }
}

fn generate_hint(error: &GenerateError) -> Option<String> {
    Some(match error {
        GenerateError::Option { .. } => "see generation_config.json of the model, or give the flag yourself".into(),
        GenerateError::EmptyPrompt => "give a text to go on from".into(),
        GenerateError::PromptTooLong { prompt_tokens, limit, .. } => shorten(prompt_tokens.saturating_add(1), *limit),
        GenerateError::BeyondPositions { limit, .. } => {
            format!("stay within {}: a smaller --window or --ctx, or shorter sequences", output::tokens(*limit))
        }
        GenerateError::LogitsNotFinite { .. } => DAMAGED_WEIGHTS.into(),
        GenerateError::TooShort { .. } => "give a longer text".into(),
        GenerateError::Model(error) => return model_hint(error).map(str::to_owned),
    })
}

/// What to do about a prompt that needs room for so many tokens with a model of so many positions.
pub(crate) fn shorten(room: usize, limit: Option<usize>) -> String {
    match limit {
        Some(limit) if room > limit => {
            format!("shorten the prompt; this model is made for {}", output::counted(limit, "position"))
        }
        _ => format!("shorten the prompt, or give it room with --ctx {room} or more"),
    }
}

const DAMAGED_WEIGHTS: &str = "the weights may be damaged: fetch the model again and compare its checksums";

fn model_hint(error: &ModelError) -> Option<&'static str> {
    Some(match error {
        ModelError::Io { .. } => "check that the path is right and can be read",
        // The system's error, which is next in the chain, knows better.
        ModelError::Write { .. } => return None,
        ModelError::NotAFile { .. } => "give the path of a new file: out.safetensors",
        ModelError::NotANewFolder { .. } => "give the path of a folder that is not there yet, or empty",
        ModelError::Busy { .. } => "wait until it is done, or give another folder",
        ModelError::AlreadyEncoded { .. } => "give the folder that the floats are in",
        ModelError::NotFloats { .. } => {
            "give --adapter to the commands that compute, or fold it into the floats and quantize what comes of it"
        }
        ModelError::NotAModel { .. } => {
            "give the folder that has config.json, tokenizer.json and the safetensors files"
        }
        ModelError::Missing { .. } => "fetch the model again; all of its files belong into one folder",
        ModelError::PickleOnly { .. } => {
            "convert it to safetensors first: load it with transformers (an adapter: PEFT) and call save_pretrained(folder)"
        }
        ModelError::Damaged { .. } => "fetch the file again and compare its size and checksum",
        ModelError::Unread { .. } => {
            "give a file of the same model in one of the kinds that are read, such as Q8_0 or Q4_K_M"
        }
        ModelError::NoGguf(_) => "write a folder, with a name that does not end with .gguf",
        ModelError::Gguf(_) => "the file may be damaged, or made by a converter that is not known: fetch it again",
        ModelError::Config(_) => "compare config.json with that of the model's makers",
        ModelError::GenerationConfig(_) => "correct or remove generation_config.json; a model runs without it",
        ModelError::UnknownFamily { .. } => "give a model of a family that is known",
        ModelError::NoSuchBlock { .. } | ModelError::NoBlocks { .. } => "ask for blocks that the model has",
        ModelError::MissingTensor { folder, .. } if is_gguf(folder) => {
            "the file may be unfinished, or made by a converter that is not known: fetch it again"
        }
        ModelError::MissingTensor { .. } => {
            "the files may be of another model than config.json: fetch all of them again"
        }
        ModelError::Tensor { .. } => "the weights do not belong to this config.json, or are damaged: fetch both again",
        ModelError::StoredEncoding { .. } => {
            "give the encoding that they are stored in, or f32, or the folder of the floats"
        }
        ModelError::TooLarge { .. } => "free some memory, or give a smaller model or encoding",
        ModelError::Tokenizer(_) => "fetch tokenizer.json of exactly this model",
        ModelError::GgufTokenizer(_) => "give the folder of the model with its tokenizer.json",
        ModelError::ChatTemplate(_) => {
            "ask as the template wants it, or give --raw to go on from the text alone, or fetch the model's files again"
        }
        ModelError::EmbeddingNotFinite { .. } => DAMAGED_WEIGHTS,
        ModelError::PromptNotFinite | ModelError::Adapter { .. } => "give the folder of an adapter for this very model",
        ModelError::AdapterConfig { .. } => "give an adapter of kind LoRA or prompt tuning, as PEFT saves it",
        ModelError::Position { .. } => "give shorter sequences",
        ModelError::TokenId { .. } => "use ids of this model's own tokenizer",
        ModelError::Span(error) => return span_hint(error),
    })
}

fn span_hint(error: &SpanError) -> Option<&'static str> {
    match error {
        SpanError::NotFinite { .. } | SpanError::InputNotFinite { .. } => Some(DAMAGED_WEIGHTS),
        SpanError::PassTooLarge { .. } => Some("give a smaller --window, or shorter sequences, or free some memory"),
        SpanError::Unavailable(_) => {
            Some("try again in a while, wait longer with --wait, or host the blocks: bouquet join INVITE")
        }
        SpanError::CacheFull { .. } => Some("give a smaller --ctx or --max-tokens, or free some memory"),
        _ => None,
    }
}

/// What the blocks said, wherever it is packed.
fn span_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a SpanError> {
    match model_error(cause) {
        Some(ModelError::Span(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// What the model said, by itself or through those who asked it.
fn model_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a ModelError> {
    match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
        (Some(GenerateError::Model(error)), _, _)
        | (_, Some(EmbedError::Model(error)), _)
        | (_, _, Some(TuneError::Model(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// An error and its causes, but for those that it has named itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |sentence, cause| match sentence.contains(&cause) {
        _ if sentence.is_empty() => cause,
        true => sentence,
        false => format!("{sentence}: {cause}"),
    })
}

/// Characters of a sentence; what is longer repeats a file.
const SENTENCE_CHARS: usize = 600;

/// Errors carry names out of files: nothing of them may break the line, colour the terminal or fill it.
fn one_line(text: &str) -> String {
    let words: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SENTENCE_CHARS) {
        None => line,
        Some((end, _)) => format!("{} ...", &line[..end]),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Done {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_a_line_that_says_nothing_twice() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = anyhow::Error::from(ModelError::Io { path: "a\n\x1b[31mb".into(), source }).context("cannot begin");
        assert_eq!(one_line(&sentence(&error)), "cannot begin: cannot read a [31mb: no such file");
        assert_eq!(one_line(&"x".repeat(5000)).len(), SENTENCE_CHARS + " ...".len());
    }

    #[test]
    fn a_cancel_is_found_however_it_is_packed() {
        let span = || SpanError::Cancelled;
        let packed: [anyhow::Error; 3] =
            [span().into(), ModelError::from(span()).into(), GenerateError::from(span()).into()];
        for error in packed {
            assert_eq!(report(&error.context("while computing")), CANCELLED);
        }
    }

    #[test]
    fn codes_are_those_of_the_problem() {
        assert_eq!(report(&asked_wrongly("a flag", "no")), 2);
        assert_eq!(report(&wrong("a file", "no").context("outside")), 1);
        assert_eq!(report(&Done(130).into()), 130);
        let closed: Result<(), _> = Err(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(report(&closed.context("cannot write").unwrap_err()), 0);
    }
}
