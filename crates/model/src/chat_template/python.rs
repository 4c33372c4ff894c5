//! What templates use of Python: methods of texts, lists and dictionaries, formats, and filters with the arguments that
//! they have in Jinja; each within the budget of bytes.

use std::fmt::Write as _;
use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::engine::{spend, spend_size};

type Result<T> = std::result::Result<T, Error>;

/// Places that a list may be cut into at once, and characters that a number in a format may ask for.
const MAX_COUNT: usize = 1000;

/// Filters instead of those of the engine, which have no bounds.
pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("join", join_filter);
    environment.add_filter("replace", |state: &mut State, text: Arc<str>, from: Arc<str>, to: Arc<str>| {
        replace(state, &text, &from, &to)
    });
    environment.add_filter("indent", indent);
    environment.add_filter("batch", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        check_count(state, &value, count)?;
        filters::batch(state, value, count, fill)
    });
    environment.add_filter("slice", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        check_count(state, &value, count)?;
        filters::slice(state, value, count, fill)
    });
    environment.add_filter("format", |state: &mut State, format: Value, args: Rest<ValueOrKwargs>| {
        let values = args.iter().map(|arg| &**arg);
        check_format(state, format.as_str().unwrap_or_default(), values)?;
        filters::format(state, &format, args)
    });
}

/// Methods of Python's texts, lists and dictionaries.
pub(super) fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value> {
    if let Some(whole) = value.as_str()
        && let Some(result) = call_text_method(state, whole, method, args)?
    {
        return Ok(result);
    }
    if value.as_str().is_none() {
        spend_size(state, value)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Those of texts that the engine lacks, or has without bounds; `None` for the others, whose bytes are then spent.
fn call_text_method(state: &mut State, whole: &str, method: &str, args: &[Value]) -> Result<Option<Value>> {
    let text = |index: usize| args.get(index).and_then(Value::as_str);
    let place = |found: Option<usize>| found.map(|at| whole[..at].chars().count());
    Ok(Some(match method {
        "join" => return join(state, args.first().unwrap_or(&Value::UNDEFINED), whole, None).map(Some),
        "replace" => {
            if let (Some(from), Some(to), None) = (text(0), text(1), args.get(2)) {
                return replace(state, whole, from, to).map(Some);
            }
            let longest = whole.len().saturating_add(1).saturating_mul(text(1).map_or(1, str::len).max(1));
            spend(state, longest)?;
            return Ok(None);
        }
        "split" | "splitlines" => {
            spend_pieces(state, whole, text(0))?;
            return Ok(None);
        }
        "format" => {
            check_format(state, whole, args.iter())?;
            return Ok(None);
        }
        "rsplit" => {
            let (by, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            spend_pieces(state, whole, by)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit + 1);
            let mut pieces: Vec<&str> = match by {
                Some("") => return Err(invalid("a text is not split by an empty one")),
                Some(by) => whole.rsplitn(limit, by).collect(),
                None if limit == usize::MAX => whole.split_whitespace().rev().collect(),
                None => return Err(invalid("rsplit with a limit needs what to split by")),
            };
            pieces.reverse();
            pieces.into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            spend(state, whole.len())?;
            let forward = method == "partition";
            let found = if forward { whole.split_once(by) } else { whole.rsplit_once(by) };
            let pieces = match found {
                Some((before, behind)) => [before, by, behind],
                None if forward => [whole, "", ""],
                None => ["", "", whole],
            };
            Value::from(Tuple::from(pieces.map(Value::from)))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = place(if method == "index" { whole.find(what) } else { whole.rfind(what) });
            found.ok_or_else(|| invalid("substring not found"))?.into()
        }
        "isdecimal" => (!whole.is_empty() && whole.chars().all(|c| c.is_ascii_digit())).into(),
        "swapcase" => {
            spend(state, whole.len().saturating_mul(3))?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().to_string(),
                false => c.to_uppercase().to_string(),
            };
            whole.chars().map(swap).collect::<String>().into()
        }
        "removeprefix" | "removesuffix" => {
            let (what,): (&str,) = from_args(args)?;
            spend(state, whole.len())?;
            let short = if method == "removeprefix" { whole.strip_prefix(what) } else { whole.strip_suffix(what) };
            short.unwrap_or(whole).into()
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let missing = width.saturating_sub(whole.chars().count());
            let fill = if method == "zfill" { '0' } else { fill.unwrap_or(' ') };
            spend(state, whole.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
            let pad = |count: usize| fill.to_string().repeat(count);
            match method {
                "ljust" => format!("{whole}{}", pad(missing)),
                // An odd space goes to the left where the width is odd, too.
                "center" => {
                    let left = missing / 2 + (missing & width & 1);
                    format!("{}{whole}{}", pad(left), pad(missing - left))
                }
                "zfill" if whole.starts_with(['-', '+']) => format!("{}{}{}", &whole[..1], pad(missing), &whole[1..]),
                _ => format!("{}{whole}", pad(missing)),
            }
            .into()
        }
        _ => {
            spend(state, whole.len())?;
            return Ok(None);
        }
    }))
}

pub(super) fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

fn spend_pieces(state: &mut State, whole: &str, by: Option<&str>) -> Result<()> {
    let pieces = by.map_or_else(|| whole.split_whitespace().count(), |by| whole.matches(by).count() + 1);
    spend(state, whole.len().saturating_add(pieces.saturating_mul(size_of::<Value>())))
}

fn check_count(state: &mut State, value: &Value, count: usize) -> Result<()> {
    if count > MAX_COUNT {
        return Err(invalid("a list is not cut into so many places"));
    }
    spend_size(state, value)?;
    spend(state, count * size_of::<Value>())
}

/// Whether a format asks for no more than so many characters for each of its values, and these in turn fit.
pub(super) fn check_format<'a>(state: &mut State, format: &str, args: impl Iterator<Item = &'a Value>) -> Result<()> {
    let largest = format.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    // A width may be one of the values, and a field stand within a field.
    if largest > Some(3) || format.contains('*') || format.contains(":{") || format.contains(".{") {
        return Err(invalid("a format asks for too much"));
    }
    let fields = format.matches(['%', '{']).count();
    spend(state, format.len().saturating_add(fields.saturating_mul(MAX_COUNT)))?;
    for value in args {
        // Each field may be the same value.
        for _ in 0..fields.max(1) {
            spend_size(state, value)?;
        }
    }
    Ok(())
}

fn join_filter(
    state: &mut State,
    texts: Value,
    between: Option<Arc<str>>,
    attribute: Option<Arc<str>>,
    options: Kwargs,
) -> Result<Value> {
    let (d, by_name): (Option<Arc<str>>, Option<Arc<str>>) = (options.get("d")?, options.get("attribute")?);
    options.assert_all_used()?;
    join(state, &texts, between.or(d).as_deref().unwrap_or(""), attribute.or(by_name).as_deref())
}

fn join(state: &mut State, texts: &Value, between: &str, attribute: Option<&str>) -> Result<Value> {
    let mut all = String::new();
    for (index, text) in texts.try_iter()?.enumerate() {
        let text = attribute.map_or_else(|| Ok(text.clone()), |attribute| text.get_attr(attribute))?;
        spend_size(state, &text)?;
        spend(state, between.len())?;
        if index > 0 {
            all.push_str(between);
        }
        write!(all, "{text}")?;
    }
    Ok(all.into())
}

fn replace(state: &mut State, text: &str, from: &str, to: &str) -> Result<Value> {
    spend(state, text.len().saturating_add(text.matches(from).count().saturating_mul(to.len())))?;
    Ok(text.replace(from, to).into())
}

/// `indent(width=4, first=false, blank=false)`; a width may be the text to put before each line.
fn indent(state: &mut State, text: Arc<str>, args: Rest<ValueOrKwargs>) -> Result<String> {
    let args = args.into_values();
    let (width, first, blank, options): (Option<Value>, Option<bool>, Option<bool>, Kwargs) = from_args(&args)?;
    let width = width.or(options.get("width")?);
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let lines = text.split('\n').count();
    let before = match width.as_ref().map_or(Some(4), Value::as_usize) {
        Some(width) => {
            spend(state, text.len().saturating_add((lines + 1).saturating_mul(width)))?;
            " ".repeat(width)
        }
        None => {
            let before = width.as_ref().and_then(Value::as_str);
            let before = before.ok_or_else(|| invalid("a width is a number, or a text"))?;
            spend(state, text.len().saturating_add((lines + 1).saturating_mul(before.len())))?;
            before.to_owned()
        }
    };
    let mut indented = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            indented += &before;
        }
        indented.push_str(line);
    }
    Ok(indented)
}
