//! A conversation: its turns, how answers are made, and what is cached. It knows no terminal.

use std::path::Path;

use anyhow::Result;
use bouquet_generate::{Adapted, FinishReason, GenerateOptions, Generator, SamplingOptions, Timings, chat_prompt};
use bouquet_model::Message;
use bouquet_model::chat_template::ChatTemplate;
use bouquet_model::checkpoint::new_file;
use bouquet_span::CancelToken;

use super::super::generation_flags::{Plan, between};
use super::command::Command;
use crate::errors::wrong;
use crate::{input, output};

/// Messages that a file may have.
const MAX_MESSAGES: usize = 100_000;

/// How a conversation is led.
pub(in crate::commands) struct Settings {
    /// How answers are made.
    pub(in crate::commands) plan: Plan,
    /// What the model is told before all else.
    pub(in crate::commands) system: Option<String>,
    /// Whether speed is said behind each answer.
    pub(in crate::commands) verbose: bool,
}

/// A conversation, and the cache of its text.
pub(super) struct Session<'a> {
    adapted: Adapted<'a>,
    template: &'a ChatTemplate,
    generator: Generator<'a>,
    settings: Settings,
    /// What was said, without the system prompt.
    turns: Vec<Message>,
    /// How many of them the model is not told any more.
    forgotten: usize,
    /// Answers so far: each draws other numbers.
    answers: u64,
}

/// What came of a message, besides the answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) timings: Timings,
    /// Turns that had to be forgotten for this answer.
    pub(super) forgotten: usize,
}

impl<'a> Session<'a> {
    pub(super) fn open(adapted: Adapted<'a>, template: &'a ChatTemplate, settings: Settings) -> Result<Self> {
        let generator = Generator::open(adapted, settings.plan.context)?;
        Ok(Session { adapted, template, generator, settings, turns: Vec::new(), forgotten: 0, answers: 0 })
    }

    pub(super) fn context(&self) -> usize {
        self.generator.context()
    }

    pub(super) fn verbose(&self) -> bool {
        self.settings.verbose
    }

    /// All that was said, the system prompt first.
    fn messages(&self, skip: usize) -> Vec<Message> {
        let system = self.settings.system.as_ref().map(|text| Message::new("system", text));
        system.into_iter().chain(self.turns[skip..].iter().cloned()).collect()
    }

    /// Answers a message. An answer that is stopped is one as far as it went; after an error, the conversation is as it
    /// was.
    pub(super) fn answer(
        &mut self,
        text: &str,
        cancel: &CancelToken,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Answered> {
        self.turns.push(Message::new("user", text));
        let answered = self.complete(cancel, on_text);
        match answered {
            Ok((answered, said)) if !said.is_empty() => {
                self.turns.push(Message::new("assistant", said));
                self.forgotten += answered.forgotten;
                Ok(answered)
            }
            other => {
                self.turns.pop();
                other.map(|(answered, _)| Answered { forgotten: 0, ..answered })
            }
        }
    }

    fn complete(&mut self, cancel: &CancelToken, on_text: &mut dyn FnMut(&str)) -> Result<(Answered, String)> {
        let Plan { sampling, stop, .. } = &self.settings.plan;
        let messages = self.messages(self.forgotten);
        let prompt = chat_prompt(self.adapted, self.template, &messages, self.context(), stop.max_tokens)?;
        let seed = sampling.seed.wrapping_add(self.answers);
        self.answers += 1;
        let sampling = SamplingOptions { seed, ..sampling.clone() };
        let options = GenerateOptions { sampling, stop: stop.clone(), cancel: cancel.clone() };
        let generation = self.generator.generate(&prompt.token_ids, &options, on_text)?;
        let answered = Answered { timings: generation.timings, forgotten: prompt.dropped };
        let stopped = generation.finish_reason == FinishReason::Cancelled && generation.text.trim().is_empty();
        Ok((answered, if stopped { String::new() } else { generation.text }))
    }

    /// Does what a command asks for, and says what it did.
    pub(super) fn obey(&mut self, command: Command) -> Result<String> {
        Ok(match command {
            Command::Reset => {
                self.begin(Vec::new());
                "forgotten".to_owned()
            }
            Command::System(None) => match &self.settings.system {
                Some(text) => text.clone(),
                None => "there is no system prompt".to_owned(),
            },
            Command::System(Some(text)) => {
                self.settings.system = Some(text).filter(|text| !text.is_empty());
                match self.settings.system {
                    Some(_) => "this is what the model is told from now on".to_owned(),
                    None => "the system prompt is gone".to_owned(),
                }
            }
            Command::Show => self.show(),
            Command::Set(name, value) => {
                self.set(&name, &value)?;
                self.show()
            }
            Command::Save(file) => {
                let messages = self.messages(0);
                let json = serde_json::to_string_pretty(&messages)? + "\n";
                new_file::write_whole(Path::new(&file), json.as_bytes())?;
                format!("{} written to {file}", output::counted(messages.len(), "message"))
            }
            Command::Load(file) => {
                let messages = read(Path::new(&file))?;
                let number = output::counted(messages.len(), "message");
                let system = messages.iter().find(|message| message.role == "system");
                self.settings.system = system.map(|message| message.content.clone());
                self.begin(messages.into_iter().filter(|message| message.role != "system").collect());
                format!("{number} from {file}")
            }
            Command::Say(_) | Command::Help | Command::Bye | Command::Unknown(_) | Command::Nothing => String::new(),
        })
    }

    fn begin(&mut self, turns: Vec<Message>) {
        (self.turns, self.forgotten) = (turns, 0);
    }

    fn show(&self) -> String {
        let Plan { sampling, stop, context } = &self.settings.plan;
        format!(
            "temperature {}  top_k {}  top_p {}  min_p {}  repetition_penalty {}  seed {}  max_tokens {}  verbose {}\n\
             context {context} tokens, given with --ctx",
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.seed,
            stop.max_tokens,
            if self.settings.verbose { "on" } else { "off" },
        )
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let wrong_value = |expected: &str| wrong(format!("{name} cannot be {value}"), format!("give {expected}"));
        if name == "verbose" {
            self.settings.verbose = match value {
                "on" | "true" | "1" => true,
                "off" | "false" | "0" => false,
                _ => return Err(wrong_value("on or off")),
            };
            return Ok(());
        }
        let config = &self.adapted.model.generation_config;
        let plan = &mut self.settings.plan;
        let greedy = plan.sampling.is_greedy();
        let mut sampling = plan.sampling.clone();
        let float = |min: f32, max: f32| {
            between(value, min, max).ok_or_else(|| wrong_value(&format!("a number from {min} to {max}")))
        };
        let whole = || value.parse::<u64>().map_err(|_| wrong_value("a whole number"));
        if greedy && matches!(name, "temperature" | "top_k" | "top_p" | "min_p") {
            // As with flags: what draws begins with what the model says of drawing.
            sampling = sampling.sampling(config);
        }
        match name {
            "temperature" => {
                sampling.temperature = float(0.0, 1000.0)?;
                if sampling.is_greedy() {
                    let SamplingOptions { repetition_penalty, seed, .. } = sampling;
                    sampling = SamplingOptions { repetition_penalty, seed, ..SamplingOptions::default() };
                }
            }
            "top_k" => sampling.top_k = usize::try_from(whole()?).unwrap_or(0),
            "top_p" => sampling.top_p = float(0.0, 1.0)?,
            "min_p" => sampling.min_p = float(0.0, 1.0)?,
            "repetition_penalty" => sampling.repetition_penalty = float(1e-4, 1e4)?,
            "seed" => (sampling.seed, self.answers) = (whole()?, 0),
            "max_tokens" => plan.stop.max_tokens = usize::try_from(whole()?.max(1)).unwrap_or(usize::MAX),
            _ => {
                let known = "temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, verbose";
                return Err(wrong(format!("{name} is no setting"), format!("give one of {known}")));
            }
        }
        sampling.validate()?;
        plan.sampling = sampling;
        Ok(())
    }
}

/// The messages of a file that `/save` wrote, or another program.
fn read(file: &Path) -> Result<Vec<Message>> {
    let refuse = |what: &str| {
        let message = format!("{} is no conversation: {what}", file.display());
        wrong(message, "give a JSON list of messages, each with a role and a content that are texts")
    };
    let messages: Vec<Message> =
        serde_json::from_slice(&input::read_file(file)?).map_err(|error| refuse(&error.to_string()))?;
    if messages.len() > MAX_MESSAGES {
        return Err(refuse(&format!("it has {}", output::counted(messages.len(), "message"))));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests;
