//! Functions, tests and filters that Jinja has and the engine has not, or has in another way; each within the budget of
//! bytes.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::engine::{spend, spend_size};
use super::python::{self, check_format, invalid};

type Result<T> = std::result::Result<T, Error>;

/// The filter that `'text' % values` becomes.
pub(super) const PERCENT: &str = "_percent";

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", joiner);
    environment.add_test("callable", is_callable);
    environment.add_filter(PERCENT, percent);
    environment.add_filter("attr", attr);
    environment.add_filter("center", |state: &mut State, text: Value, width: Option<usize>| {
        let text = printed(state, &text)?;
        python::call_method(state, &text.into(), "center", &[width.unwrap_or(80).into()])
    });
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("wordcount", |state: &mut State, text: Value| {
        let text = printed(state, &text)?;
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        Ok(words.filter(|word| !word.is_empty()).count())
    });
}

/// `text % values`: a tuple has the values in order, a dictionary by name, and anything else is the only one.
fn percent(state: &mut State, text: Value, values: Value) -> Result<Value> {
    let several = values.downcast_object_ref::<Tuple>().map(|values| values.to_vec());
    let values = match several {
        Some(values) => values,
        None if values.kind() == ValueKind::Map => {
            let named = values.try_iter()?.map(|name| Ok((name.to_string(), values.get_item(&name)?)));
            vec![Kwargs::from_iter(named.collect::<Result<Vec<_>>>()?).into()]
        }
        None => vec![values],
    };
    check_format(state, text.as_str().unwrap_or_default(), values.iter())?;
    filters::format(state, &text, Rest(values.into_iter().map(ValueOrKwargs::from).collect()))
}

/// An attribute, which what a dictionary holds is not.
fn attr(value: &Value, name: &Value) -> Result<Value> {
    let dictionary = value.kind() == ValueKind::Map && !is_engines(value, "Namespace") && !is_engines(value, "Loop");
    if dictionary { Ok(Value::UNDEFINED) } else { filters::attr(value, name) }
}

/// Whether a value is of a type of the engine that has no public name.
pub(super) fn is_engines(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name().rsplit("::").next() == Some(name))
}

/// Functions, macros and joiners; and for Jinja what is undefined too, which then says so.
fn is_callable(value: &Value) -> bool {
    let plain = value.kind() == ValueKind::Plain && value.downcast_object_ref::<Cycler>().is_none();
    plain || value.is_undefined() || is_engines(value, "Macro")
}

/// A value as text.
fn printed(state: &mut State, value: &Value) -> Result<Arc<str>> {
    spend_size(state, value)?;
    Ok(value.to_string().into())
}

/// `truncate(length=255, killwords=false, end='...', leeway=5)`, in characters.
fn truncate(state: &mut State, text: Value, args: Rest<ValueOrKwargs>) -> Result<Value> {
    type Args = (Option<usize>, Option<bool>, Option<Arc<str>>, Option<usize>, Kwargs);
    let args = args.into_values();
    let (length, kill_words, end, leeway, options): Args = from_args(&args)?;
    let length = length.or(options.get("length")?).unwrap_or(255);
    let kill_words = kill_words.or(options.get("killwords")?).unwrap_or(false);
    let end = end.or(options.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = leeway.or(options.get("leeway")?).unwrap_or(5);
    options.assert_all_used()?;
    let text = printed(state, &text)?;
    spend(state, end.len())?;
    let keep = length.checked_sub(end.chars().count());
    let keep = keep.ok_or_else(|| invalid("what a text is cut to is shorter than its end"))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept = text.char_indices().nth(keep).map_or(&*text, |(at, _)| &text[..at]);
    let kept = if kill_words { kept } else { kept.rsplit_once(' ').map_or(kept, |(words, _)| words) };
    Ok(format!("{kept}{end}").into())
}

/// A text in the form that it has in an address; a dictionary as a query.
fn urlencode(state: &mut State, value: Value) -> Result<String> {
    spend_size(state, &value)?;
    let mut encoded = String::new();
    if value.kind() != ValueKind::Map {
        encode(&value.to_string(), false, &mut encoded);
    } else {
        for (index, name) in value.try_iter()?.enumerate() {
            encoded.push_str(if index > 0 { "&" } else { "" });
            encode(&name.to_string(), true, &mut encoded);
            encoded.push('=');
            encode(&value.get_item(&name)?.to_string(), true, &mut encoded);
        }
    }
    spend(state, encoded.len())?;
    Ok(encoded)
}

fn encode(text: &str, query: bool, encoded: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            b'/' if !query => encoded.push('/'),
            b' ' if query => encoded.push('+'),
            _ if byte.is_ascii_alphanumeric() => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a text can be written to"),
        }
    }
}

/// `cycler(a, b)`: one after the other, again and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    next: AtomicUsize,
}

fn cycler(items: Rest<Value>) -> Result<Value> {
    if items.is_empty() {
        return Err(invalid("a cycler needs something to cycle through"));
    }
    items.iter().try_for_each(check_simple)?;
    Ok(Value::from_object(Cycler { items: items.0, next: AtomicUsize::new(0) }))
}

/// What lasts as long as a template holds no lists: these could hold each other without end.
fn check_simple(value: &Value) -> Result<()> {
    if value.as_object().is_some() { Err(invalid("cyclers and joiners take texts and numbers")) } else { Ok(()) }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, name: &Value) -> Option<Value> {
        (name.as_str() == Some("current")).then(|| self.items[self.next.load(Ordering::Relaxed)].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value> {
        let () = from_args(args)?;
        let now = self.next.load(Ordering::Relaxed);
        match method {
            "next" => {
                self.next.store((now + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[now].clone())
            }
            "reset" => {
                self.next.store(0, Ordering::Relaxed);
                Ok(().into())
            }
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("<cycler>")
    }
}

/// `joiner(', ')`: nothing when it is called first, then what to put between.
#[derive(Debug)]
struct Joiner {
    between: Value,
    called: AtomicBool,
}

fn joiner(between: Option<Value>) -> Result<Value> {
    let between = between.unwrap_or_else(|| ", ".into());
    check_simple(&between)?;
    Ok(Value::from_object(Joiner { between, called: AtomicBool::new(false) }))
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, args: &[Value]) -> Result<Value> {
        let () = from_args(args)?;
        Ok(if self.called.swap(true, Ordering::Relaxed) { self.between.clone() } else { "".into() })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("<joiner>")
    }
}
