//! What a template may call, and how much of it. The engine is `minijinja`; this is what makes it transformers' Jinja, and
//! the limits: a template is a stranger's program.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Tuple, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, context, escape_formatter};

use super::guard::{GENERATION, JOINED, KEPT, KEPT_WITHIN, MARKS};
use super::{ChatTemplate, Message, jinja, json, python, wrong};
use crate::files::shown;
use crate::{ModelError, Result};

/// Instructions that a template may execute, and so many for each message besides. Usual ones execute some hundred for a
/// message.
const STEPS: u64 = 1 << 20;
const STEPS_PER_MESSAGE: u64 = 1 << 14;

/// Bytes of text that a template may write and join, and so many for each byte of the conversation besides.
const BYTES: usize = 64 << 20;
const BYTES_PER_BYTE: usize = 64;

/// Bytes of the template's own text that it may write; each time that it does takes a step.
const OWN_BYTES: u64 = 1 << 30;

/// Calls within calls; the engine needs up to 100 KB of stack for each.
const DEPTH: usize = 64;

/// How long a template may work, and the stack that it has. Usual ones work for a millisecond.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
const STACK_BYTES: usize = 128 << 20;

/// The name of the one template.
const NAME: &str = "chat_template";

/// What the limit on bytes says, to be known again.
const TOO_LONG: &str = "it writes too much";

/// When a conversation takes place: `strftime_now` of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock(NaiveDateTime);

impl Clock {
    /// The time of this machine, in its zone.
    pub fn now() -> Clock {
        Clock(Local::now().naive_local())
    }

    /// So many seconds after the beginning of 1970; the year 1970 for numbers that are no time.
    pub fn at(seconds: i64) -> Clock {
        Clock(DateTime::from_timestamp(seconds, 0).unwrap_or_default().naive_utc())
    }
}

/// An engine that has a template.
pub(super) fn environment(source: String, clock: Clock) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| said(&error))?);
    environment.set_recursion_limit(DEPTH);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(write);
    environment.set_unknown_method_callback(python::call_method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: Arc<str>| clock.format(&format));
    environment.add_filter("tojson", json::to_json);
    environment.add_filter(JOINED, joined);
    environment.add_filter(KEPT, kept);
    environment.add_filter(KEPT_WITHIN, kept_within);
    environment.add_filter(GENERATION, |text: Arc<str>| format!("{}{text}{}", MARKS[0], MARKS[1]));
    python::add_filters(&mut environment);
    jinja::add(&mut environment);
    environment
        .add_filter("string", |state: &mut State, value: Value| spend_size(state, &value).map(|()| value.to_string()));
    environment.add_filter("list", |state: &mut State, value: Value| {
        spend_size(state, &value)?;
        minijinja::filters::list(state, value)
    });
    // `pprint` has no bounds, and Jinja does not have the others.
    for filter in ["pprint", "zip", "chain", "lines", "split", "bool"] {
        environment.remove_filter(filter);
    }
    environment.remove_global("debug");
    environment.add_function("dict", |state: &mut State, of: Option<Value>, more: Kwargs| {
        let made = minijinja::functions::dict(of, more)?;
        joined(state, made)
    });
    environment.add_template_owned(NAME, source).map_err(|error| said(&error))?;
    Ok(environment)
}

/// Does what a template asks for in a thread with a stack that is deep enough for all that a template of
/// [`MAX_BYTES`](super::source::MAX_BYTES) can nest, and waits no longer than `longest`. Steps are counted, but a step may
/// look at all of a long text.
pub(super) fn apart<T: Send + 'static>(
    longest: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (result, done) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES);
    // Nobody waits for the result of one that took too long.
    let thread = thread.spawn(move || result.send(work()).unwrap_or_default());
    thread.map_err(|error| wrong(format!("needs a thread, and there is none: {error}")))?;
    done.recv_timeout(longest).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(wrong(format!("works for more than {longest:?}, and was given up"))),
        RecvTimeoutError::Disconnected => Err(wrong("asks for numbers that are too large")),
    })
}

/// The text of a conversation, with marks around what the assistant generates.
pub(super) fn render(template: &ChatTemplate, messages: &[Message], ask: bool) -> Result<String> {
    let bytes: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
    if template.marks_generation && messages.iter().any(|message| message.content.contains(MARKS)) {
        return Err(wrong("needs U+FDD0 and U+FDD1, which are no characters, and the conversation has them"));
    }
    let mut environment = template.environment.clone();
    let steps = STEPS + STEPS_PER_MESSAGE * messages.len() as u64;
    environment.set_fuel(Some(steps.min(OWN_BYTES / template.longest_text.max(1) as u64)));
    environment.add_global(BUDGET, BYTES.saturating_add(BYTES_PER_BYTE.saturating_mul(bytes)));
    for (name, token) in &template.special_tokens {
        environment.add_global(name.clone(), token.clone());
    }
    let context = context! { messages => Serde(messages), add_generation_prompt => ask, tools => (), documents => () };
    apart(LONGEST, move || {
        let compiled = environment.get_template(NAME).map_err(|error| said(&error))?;
        compiled.render(context).map_err(|error| said(&error))
    })
}

/// Where a rendering finds its budget of bytes when it begins.
const BUDGET: &str = "_bytes";

/// Bytes that are left to a rendering.
struct Left(usize);

/// Bytes that are left to this rendering.
fn left<'a>(state: &'a mut State<'_, '_>) -> &'a mut usize {
    let budget = || state.env().globals().find(|(name, _)| *name == BUDGET).and_then(|(_, value)| value.as_usize());
    let budget = if state.get_extension::<Left>().is_none() { budget() } else { None };
    &mut state.get_or_insert_extension_with(|| Left(budget.unwrap_or(BYTES))).0
}

/// Takes bytes from what is left.
pub(super) fn spend(state: &mut State, bytes: usize) -> std::result::Result<(), Error> {
    let left = left(state);
    *left = left.checked_sub(bytes).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, TOO_LONG))?;
    Ok(())
}

/// Takes as many bytes as a value has when it is printed, or more.
pub(super) fn spend_size(state: &mut State, value: &Value) -> std::result::Result<(), Error> {
    let mut bytes = 0;
    add_size(value, &mut bytes, *left(state), DEPTH);
    spend(state, bytes)
}

/// Adds up the texts in a value, and some bytes for each place of a list, up to more than a limit: lists may hold each
/// other again and again.
fn add_size(value: &Value, bytes: &mut usize, limit: usize, depth: usize) {
    *bytes = bytes.saturating_add(value.as_str().map_or(size_of::<Value>(), |text| text.len().max(1)));
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return;
    }
    let Some(depth) = depth.checked_sub(1) else {
        *bytes = usize::MAX;
        return;
    };
    for item in value.try_iter().into_iter().flatten() {
        *bytes = bytes.saturating_add(size_of::<Value>());
        add_size(&item, bytes, limit, depth);
        if value.kind() == ValueKind::Map
            && let Ok(inner) = value.get_item(&item)
        {
            add_size(&inner, bytes, limit, depth);
        }
        if *bytes > limit {
            return;
        }
    }
}

/// `{{ value }}`, as Python spells it.
fn write(output: &mut Output, state: &mut State, value: &Value) -> std::result::Result<(), Error> {
    spend_size(state, value)?;
    match value.kind() {
        ValueKind::None => Ok(output.write_str("None")?),
        ValueKind::Bool => Ok(output.write_str(if value.is_true() { "True" } else { "False" })?),
        _ => escape_formatter(output, state, value),
    }
}

fn joined(state: &mut State, value: Value) -> std::result::Result<Value, Error> {
    spend_size(state, &value)?;
    Ok(value)
}

/// What a variable is set to. What is computed when it is looked at (`x * 2`, `x|reverse`) is computed now: it would hold
/// on to what it is made of, and that to what it is made of in turn.
fn kept(state: &mut State, value: Value) -> std::result::Result<Value, Error> {
    spend_size(state, &value)?;
    match value.kind() {
        ValueKind::Iterable | ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_none() => {
            Ok(value.try_iter()?.collect())
        }
        _ => Ok(value),
    }
}

/// What a variable of a namespace is set to: no namespace, which could then be within itself, nor anything else that
/// may have one.
fn kept_within(state: &mut State, value: Value) -> std::result::Result<Value, Error> {
    let value = kept(state, value)?;
    if keeps_others(&value) {
        let problem = "a namespace holds no namespaces, loops and macros";
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(value)
}

/// Whether there is something of the engine in a value that is small enough to be walked.
fn keeps_others(value: &Value) -> bool {
    if ["Namespace", "Loop", "Macro", "Module"].iter().any(|name| jinja::is_engines(value, name)) {
        return true;
    }
    let of_map =
        |key: &Value| value.kind() == ValueKind::Map && value.get_item(key).is_ok_and(|inner| keeps_others(&inner));
    let holds = matches!(value.kind(), ValueKind::Seq | ValueKind::Map);
    holds && value.try_iter().into_iter().flatten().any(|item| keeps_others(&item) || of_map(&item))
}

/// `raise_exception(message)`: how templates refuse a conversation.
fn raise_exception(message: &str) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refusal(message.to_owned())))
}

/// What a template said when it refused a conversation.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl Clock {
    fn format(self, format: &str) -> std::result::Result<String, Error> {
        // A year has at most six digits, and the longest of all names of days and months nine.
        const LONGEST: usize = 1 << 10;
        let refuse = || Error::new(ErrorKind::InvalidOperation, format!("no date has the format {}", shown(format)));
        if format.len() > LONGEST {
            return Err(refuse());
        }
        let mut text = String::new();
        write!(text, "{}", self.0.format(format)).map_err(|_| refuse())?;
        Ok(text)
    }
}

/// An error of the engine as a sentence that goes on from "the chat template".
fn said(error: &Error) -> ModelError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(source) = cause {
        if let Some(Refusal(message)) = source.downcast_ref() {
            return wrong(format!("refuses this conversation: {}", shown(message)));
        }
        cause = source.source();
    }
    let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => wrong("works without end, and was stopped"),
        _ if detail.contains(TOO_LONG) => wrong("writes without end, and was stopped"),
        ErrorKind::SyntaxError => wrong(format!("is no Jinja{line}: {detail}")),
        kind => wrong(format!("fails{line}: {kind}{}{detail}", if detail.is_empty() { "" } else { ": " })),
    }
}
