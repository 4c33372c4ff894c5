//! Chat templates: from the turns of a conversation to the text that a model was trained to answer.
//!
//! A template is a program in Jinja that comes with the tokenizer. What transformers gives one is here as well:
//! `messages`, `add_generation_prompt`, the special tokens by name, `raise_exception`, `strftime_now`, `tojson`, methods
//! of Python's texts and dictionaries, `{% break %}`, `{% generation %}`; blocks swallow the line break behind them and
//! the spaces before them. The text is cut into tokens without what the tokenizer would put around it
//! ([`Tokenizer::encode_chat`](crate::Tokenizer::encode_chat)): the template writes its own begin-of-text, and that would
//! be there twice.
//!
//! | module | job |
//! |---|---|
//! | `source` | where a folder has its template, and which special tokens it may name |
//! | `guard` | the text of a template, made ready for limits and for `{% generation %}` |
//! | `engine` | what a template may call, and how much of it |
//! | `jinja` | functions, tests and filters of Jinja that the engine lacks |
//! | `python` | methods, formats and filters, as Python and Jinja have them |
//! | `json` | `tojson` |
//!
//! # Who may write special tokens
//!
//! Special tokens in the text become their ids, wherever they come from. So somebody who writes `<|im_end|>` into a
//! message ends the turn there, and can go on as if another had spoken. transformers has it the same way, and templates
//! count on it (histories that come as one text, tools that answer in tokens of their own). Who runs a model for
//! others has to know that roles are a form and no wall.

mod engine;
mod guard;
mod jinja;
mod json;
mod python;
mod source;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;

use minijinja::Environment;
use serde::{Deserialize, Serialize};

pub use engine::Clock;
pub use source::SpecialTokens;
pub(crate) use source::template_of;

use crate::{ModelError, Result};

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What somebody says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// The chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: SpecialTokens,
    /// Whether it says itself what the assistant generates.
    marks_generation: bool,
    /// Bytes of the longest text that it writes as it stands.
    longest_text: usize,
}

/// A conversation as text, and what of it the assistant said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// All of it.
    pub text: String,
    /// Bytes of the assistant's turns, with what ends a turn, in order.
    pub assistant: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The template of a model's folder, if it has one: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json`, which is a text or a list of `name` and `template`, of which `default` is taken.
    /// `clock` is what the template is told when it asks.
    ///
    /// # Errors
    /// [`ModelError::ChatTemplate`]; a file that cannot be read.
    pub fn load(folder: &Path, clock: Clock) -> Result<Option<ChatTemplate>> {
        let Some((source, special_tokens)) = source::read(folder)? else { return Ok(None) };
        ChatTemplate::parse(&source, special_tokens, clock).map(Some)
    }

    /// A template from its text.
    ///
    /// # Errors
    /// [`ModelError::ChatTemplate`] for one that is too long, or is no Jinja.
    pub fn parse(source: &str, special_tokens: SpecialTokens, clock: Clock) -> Result<ChatTemplate> {
        if source.len() > source::MAX_BYTES {
            return Err(wrong(format!("has {} bytes, and more than {} are not read", source.len(), source::MAX_BYTES)));
        }
        let guarded = guard::guard(source).ok_or_else(|| {
            wrong(format!("has more than {} bytes between two brackets, without the texts there", guard::MAX_TAG_BYTES))
        })?;
        let (marks_generation, longest_text) = (guarded.marks_generation, guarded.longest_text);
        let environment = engine::apart(engine::LONGEST, move || engine::environment(guarded.source, clock))?;
        Ok(ChatTemplate { environment, special_tokens, marks_generation, longest_text })
    }

    /// The text of a conversation; with `ask`, up to where the assistant's next answer begins.
    ///
    /// # Errors
    /// [`ModelError::ChatTemplate`]: what the template says of a conversation that it refuses, or what is wrong with the
    /// template; one that works or writes without end is stopped.
    pub fn render(&self, messages: &[Message], ask: bool) -> Result<String> {
        let text = engine::render(self, messages, ask)?;
        // Where the template says what the assistant generates, the text has marks.
        Ok(if self.marks_generation { guard::without_marks(&text).text } else { text })
    }

    /// The text of a conversation that has answers, and which part of it they are. Where the template says so
    /// (`{% generation %}`), that; else what the text gains by an answer, compared with the text that asks for it.
    /// `None` where that cannot be told: the template writes an earlier answer in another way than the last one.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_answers(&self, messages: &[Message]) -> Result<Option<Rendered>> {
        if self.marks_generation {
            let rendered = guard::without_marks(&engine::render(self, messages, false)?);
            return Ok((!rendered.assistant.is_empty()).then_some(rendered));
        }
        let text = self.render(messages, false)?;
        let mut assistant = Vec::new();
        let answers = messages.iter().enumerate().filter(|(_, message)| message.role == "assistant");
        for (index, _) in answers {
            let asked = self.render(&messages[..index], true)?;
            let answered = match index + 1 == messages.len() {
                true => text.clone(),
                false => self.render(&messages[..=index], false)?,
            };
            if !answered.starts_with(&asked) || !text.starts_with(&answered) {
                return Ok(None);
            }
            assistant.push(asked.len()..answered.len());
        }
        Ok(Some(Rendered { text, assistant }))
    }
}

/// [`ModelError::ChatTemplate`].
fn wrong(problem: impl Into<String>) -> ModelError {
    ModelError::ChatTemplate(problem.into())
}
