//! The text of a template, before it is parsed: what makes values larger is counted, and what the engine does not know
//! becomes a filter that it does.
//!
//! Nothing of the engine bounds memory: `x ~ x`, forty times, is a terabyte. So `a ~ b` becomes `a|_joined ~ b|_joined`,
//! and `+` likewise, with a filter that returns what it is given and adds up how large that is. Nothing bounds how deep
//! values are within each other either, and the stack ends when one that is too deep is compared or dropped. So lists,
//! tuples and dictionaries are given to the same filter as soon as there are any, `[a]|_joined`; and what a variable is
//! set to goes through another one, `{% set x = (a)|_kept %}`, or `(a)|_kept_within` for `x.y`.
//!
//! `'text' % values` becomes `'text'|_percent(values)`, and `{% generation %}` a filter too.

use super::Rendered;
use super::jinja::PERCENT;

/// The filter of what is joined, and of lists, tuples and dictionaries.
pub(super) const JOINED: &str = "_joined";
/// The filter of what a variable is set to, and of what a variable of a namespace is set to.
pub(super) const KEPT: &str = "_kept";
pub(super) const KEPT_WITHIN: &str = "_kept_within";
/// The filter of what the assistant generates.
pub(super) const GENERATION: &str = "_generation";

/// Stand around what the assistant generates: code points that are no characters, and are in no text.
pub(super) const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// Bytes that a tag may have besides texts: each operator takes some of the stack.
pub(super) const MAX_TAG_BYTES: usize = 1 << 14;

/// A template that can be limited.
pub(super) struct Guarded {
    pub(super) source: String,
    pub(super) marks_generation: bool,
    /// Bytes of the longest text outside of tags.
    pub(super) longest_text: usize,
}

/// Copies a template, tag by tag. What is no Jinja stays as it is: the parser says what is wrong with it. `None` where a
/// tag is longer than [`MAX_TAG_BYTES`].
pub(super) fn guard(source: &str) -> Option<Guarded> {
    let mut guarded = Guarded { source: String::with_capacity(source.len()), marks_generation: false, longest_text: 0 };
    let mut rest = source;
    while let Some(start) = next_tag(rest) {
        let (text, tag) = rest.split_at(start);
        guarded.text(text);
        let length = tag_length(tag);
        let (tag, behind) = tag.split_at(length);
        rest = behind;
        match keyword(tag) {
            _ if tag.starts_with("{#") => guarded.source.push_str(tag),
            "raw" => {
                guarded.source.push_str(tag);
                let end = end_of_raw(rest);
                guarded.text(&rest[..end]);
                rest = &rest[end..];
            }
            "generation" => {
                guarded.marks_generation = true;
                guarded.source.push_str(&tag.replacen("generation", &format!("filter {GENERATION}"), 1));
            }
            "endgeneration" => guarded.source.push_str(&tag.replacen("endgeneration", "endfilter", 1)),
            word => edit(tag, word, &mut guarded.source)?,
        }
    }
    guarded.text(rest);
    Some(guarded)
}

impl Guarded {
    fn text(&mut self, text: &str) {
        self.longest_text = self.longest_text.max(text.len());
        self.source.push_str(text);
    }
}

fn next_tag(source: &str) -> Option<usize> {
    let brace = |at: &usize| matches!(source.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    source.match_indices('{').map(|(at, _)| at).find(brace)
}

/// Bytes of the tag that a text begins with, up to where it closes outside of texts and brackets.
fn tag_length(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    if bytes[1] == b'#' {
        return tag.find("#}").map_or(tag.len(), |end| end + 2);
    }
    let close = if bytes[1] == b'%' { b'%' } else { b'}' };
    let (mut at, mut depth) = (2, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = end_of_text(bytes, at, quote),
            byte if depth == 0 && byte == close && bytes.get(at + 1) == Some(&b'}') => return at + 2,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    tag.len()
}

/// Where the text that begins at `start` has its closing quote.
fn end_of_text(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// The word that says what kind of block a tag is; empty for other tags.
fn keyword(tag: &str) -> &str {
    let Some(inside) = tag.strip_prefix("{%") else { return "" };
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    inside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("")
}

fn end_of_raw(source: &str) -> usize {
    let tags = source.match_indices("{%").map(|(at, _)| at);
    tags.into_iter().find(|&at| keyword(&source[at..]) == "endraw").unwrap_or(source.len())
}

/// What is put into a tag. Where several stand in one place, they follow each other in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edit {
    /// Closes the filter that `%` has become.
    EndPercent,
    Joined,
    /// Instead of `%`.
    Percent,
    /// Around what a variable is set to.
    BeginKept,
    EndKept,
    EndKeptWithin,
}

/// Copies a tag, whose first word this is, with filters behind values that may become large.
fn edit(tag: &str, word: &str, out: &mut String) -> Option<()> {
    let bytes = tag.as_bytes();
    let mut edits: Vec<(usize, Edit)> = Vec::new();
    let (mut at, mut texts) = (2, 0);
    // What is named in front of `=` and `in` is no value.
    let mut names = matches!(word, "set" | "for" | "call");
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                let start = at;
                at = end_of_text(bytes, at, quote);
                texts += at - start;
            }
            b'~' | b'+' if joins(tag, at) => {
                edits.push((tag[..at].trim_end().len(), Edit::Joined));
                edits.push((end_of_value(bytes, at + 1), Edit::Joined));
            }
            b'%' if tag[..at].trim_end().ends_with(['"', '\'']) && bytes.get(at + 1) != Some(&b'}') => {
                edits.push((at, Edit::Percent));
                edits.push((end_of_filters(bytes, end_of_value(bytes, at + 1)), Edit::EndPercent));
            }
            b'=' if names && word == "set" && depth == 0 => {
                names = false;
                let inside = tag.strip_suffix("%}").unwrap_or("").trim_end_matches(['-', '+']).trim_end();
                if inside.len() > at + 1 {
                    let within = tag[..at].contains('.');
                    let end = if within { Edit::EndKeptWithin } else { Edit::EndKept };
                    edits.extend([(at + 1, Edit::BeginKept), (inside.len(), end)]);
                }
            }
            b'i' if names && word == "for" && depth == 0 && ends_word(tag, at, "in") => names = false,
            b'(' | b'[' | b'{' => {
                if !names && !follows_value(&tag[..at]) {
                    edits.push((end_of_value(bytes, at), Edit::Joined));
                }
                depth += 1;
            }
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                names &= word != "call" || depth > 0;
            }
            _ => {}
        }
        at += 1;
    }
    if tag.len() - texts > MAX_TAG_BYTES {
        return None;
    }
    edits.sort_unstable();
    edits.dedup();
    let mut copied = 0;
    for (place, edit) in edits {
        out.push_str(&tag[copied..place]);
        copied = if edit == Edit::Percent { place + 1 } else { place };
        match edit {
            Edit::EndPercent => out.push(')'),
            Edit::BeginKept => out.push('('),
            Edit::Joined => out.extend(["|", JOINED]),
            Edit::Percent => out.extend(["|", PERCENT, "("]),
            Edit::EndKept => out.extend([")|", KEPT]),
            Edit::EndKeptWithin => out.extend([")|", KEPT_WITHIN]),
        }
    }
    out.push_str(&tag[copied..]);
    Some(())
}

/// Whether the word at `at` is this one.
fn ends_word(tag: &str, at: usize, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let behind = tag[at..].strip_prefix(word);
    behind.is_some_and(|behind| !part(behind.chars().next())) && !part(tag[..at].chars().next_back())
}

/// Where the value that begins behind `start` ends: a name, a number, a text or brackets, and what is attached to it.
fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while bytes.get(at).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'-') {
        at += 1;
    }
    loop {
        at = match bytes.get(at) {
            Some(&quote @ (b'"' | b'\'')) => (end_of_text(bytes, at, quote) + 1).min(bytes.len()),
            Some(b'(' | b'[' | b'{') => end_of_brackets(bytes, at),
            Some(byte) if byte.is_ascii_alphanumeric() || *byte >= 0x80 || matches!(byte, b'_' | b'.') => at + 1,
            _ => return at,
        };
    }
}

/// Where the filters end that follow a value.
fn end_of_filters(bytes: &[u8], end: usize) -> usize {
    let skip = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    match skip(end) {
        at if bytes.get(at) == Some(&b'|') => end_of_filters(bytes, end_of_value(bytes, skip(at + 1)).max(at + 1)),
        _ => end,
    }
}

fn end_of_brackets(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = end_of_text(bytes, at, quote),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Whether the operator at `at` stands between two values, and is no sign or part of a delimiter.
fn joins(tag: &str, at: usize) -> bool {
    follows_value(&tag[..at]) && !tag[at + 1..].starts_with(['%', '}'])
}

/// Whether the beginning of a tag ends with a value: brackets that follow are those of a call, or of an index.
fn follows_value(before: &str) -> bool {
    let before = before[2..].trim_end();
    let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("");
    let value = before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ')' | ']' | '}' | '"' | '\''));
    let keywords = ["in", "if", "else", "elif", "and", "or", "not", "is"];
    value && !keywords.contains(&word)
}

/// A text without the marks in it, and what stands between them.
pub(super) fn without_marks(marked: &str) -> Rendered {
    let mut rendered = Rendered::default();
    let mut start = 0;
    for piece in marked.split_inclusive(MARKS) {
        rendered.text.push_str(piece.trim_end_matches(MARKS));
        if piece.ends_with(MARKS[0]) {
            start = rendered.text.len();
        } else if piece.ends_with(MARKS[1]) && start < rendered.text.len() {
            rendered.assistant.push(start..rendered.text.len());
        }
    }
    rendered
}
