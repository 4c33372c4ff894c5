//! The text of a template, before it is parsed: operators that join texts are counted, and `{% generation %}`, which the
//! engine does not know, becomes a filter that it does.
//!
//! Nothing of the engine bounds memory: `x ~ x`, forty times, is a terabyte. So `a ~ b` becomes `a|_joined ~ b|_joined`,
//! and `+` likewise, with a filter that returns what it is given and adds up how long that is.

use super::Rendered;

/// The filter of what is joined.
pub(super) const JOINED: &str = "_joined";
/// The filter of what the assistant generates.
pub(super) const GENERATION: &str = "_generation";

/// Stand around what the assistant generates: code points that are no characters, and are in no text.
pub(super) const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// A template that can be limited.
pub(super) struct Guarded {
    pub(super) source: String,
    pub(super) marks_generation: bool,
    /// Bytes of the longest text outside of tags.
    pub(super) longest_text: usize,
}

/// Copies a template, tag by tag. What is no Jinja stays as it is: the parser says what is wrong with it.
pub(super) fn guard(source: &str) -> Guarded {
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
            _ => count_joins(tag, &mut guarded.source),
        }
    }
    guarded.text(rest);
    guarded
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

/// Copies a tag, with the filter behind both sides of each operator that may join texts.
fn count_joins(tag: &str, out: &mut String) {
    let bytes = tag.as_bytes();
    let mut places = Vec::new();
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = end_of_text(bytes, at, quote),
            b'~' | b'+' if joins(tag, at) => {
                places.extend([tag[..at].trim_end().len(), end_of_value(bytes, at + 1)]);
            }
            _ => {}
        }
        at += 1;
    }
    places.sort_unstable();
    places.dedup();
    let mut copied = 0;
    for place in places {
        out.push_str(&tag[copied..place]);
        out.push('|');
        out.push_str(JOINED);
        copied = place;
    }
    out.push_str(&tag[copied..]);
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
    let before = tag[2..at].trim_end();
    let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("");
    let value = before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ')' | ']' | '}' | '"' | '\''));
    let keywords = ["in", "if", "else", "elif", "and", "or", "not", "is"];
    value && !keywords.contains(&word) && !tag[at + 1..].starts_with(['%', '}'])
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
