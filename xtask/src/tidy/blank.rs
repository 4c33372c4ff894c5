//! Rust source with its comments, strings and characters blanked out, so that a search finds code alone.

/// `source` with a space for every byte of a comment or of a string or character literal. Lines keep their numbers.
///
/// A lexer of the five things that can hide text: line comments, nested block comments, strings, raw strings, and
/// characters (told from lifetimes by their closing quote).
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + hidden_len(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(code).expect("whole literals and comments are replaced by ASCII")
}

/// The length of the comment or literal that `rest` starts with; 0 if it starts with none.
fn hidden_len(rest: &[u8], before: Option<u8>) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_len(rest),
        [b'"', ..] => quoted_len(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(|byte| byte == b'_' || is_word_but_prefix(byte)) => {
            raw_string_len(rest)
        }
        // 'x', '\n', '\u{1F490}', 'ü'; but not the lifetime 'a, whose quote is not closed after one character.
        [b'\'', b'\\', ..] => quoted_len(rest, b'\''),
        [b'\'', first, ..] => {
            let char_len = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if rest.get(1 + char_len) == Some(&b'\'') { char_len + 2 } else { 0 }
        }
        _ => 0,
    }
}

/// Whether `byte` before an `r` makes it the end of a name. `b` and `c` are prefixes of raw strings.
fn is_word_but_prefix(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() && byte != b'b' && byte != b'c'
}

fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `r"…"` or `r#"…"#`; 0 for a raw identifier such as `r#type`.
fn raw_string_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let inside = 2 + hashes;
    let len = rest[inside..].windows(close.len()).position(|window| window == close);
    len.map_or(rest.len(), |len| inside + len + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"a("b\"c") d"#, "a(      ) d"),
            (r##"a(r#"b"c"#) d"##, "a(        ) d"),
            (r#"a(br"\") d"#, "a(b    ) d"),
            ("let r#type = 1;", "let r#type = 1;"),
            ("var\"x\"", "var   "),
            ("&'a str, 'b', '\\'', '\u{fc}'", "&'a str,    ,     ,     "),
            ("\"open", "     "),
            ("ends in a backslash \"\\", "ends in a backslash   "),
        ];
        for (source, code) in cases {
            assert_eq!(code_only(source), code, "{source}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "one\n/* two\nthree */ \"four\nfive\"\nsix";
        assert_eq!(code_only(source).lines().count(), source.lines().count());
        assert!(code_only(source).ends_with("\nsix"));
    }
}
