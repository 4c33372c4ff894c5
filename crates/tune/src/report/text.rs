//! Numbers and names as people read them, and as HTML takes them.

/// Text between tags or inside of a quoted attribute, whatever was in it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            // HTML and XML have no such characters.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The first `most` characters, with an ellipsis where there are more.
pub(super) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// A number in about four digits: `0.5231`, `12 345`, `3e-4`.
pub(super) fn number(x: f64) -> String {
    if !x.is_finite() {
        return "–".to_owned();
    }
    let magnitude = x.abs();
    if magnitude == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e7).contains(&magnitude) {
        let text = format!("{x:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", without_zeros(digits)).replace('-', "−");
    }
    if magnitude >= 1000.0 {
        return grouped(x.round() as i64);
    }
    let decimals = match magnitude {
        100.0.. => 1,
        10.0.. => 2,
        1.0.. => 3,
        _ => 4,
    };
    without_zeros(&format!("{x:.decimals$}")).replace('-', "−")
}

/// A number in two digits, for what is not known better.
pub(super) fn rough(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return number(x);
    }
    let unit = 10f64.powf(x.abs().log10().floor() - 1.0);
    number((x / unit).round() * unit)
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A whole number with a narrow space between thousands.
pub(super) fn grouped(x: i64) -> String {
    let digits = x.unsigned_abs().to_string();
    let mut text = String::from(if x < 0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `3 h 12 min`, `4 min 5 s`, `2.5 s`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", number(seconds)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Bytes in units of 1000.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.into_iter().find(|(_, size)| bytes as f64 >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_users_text_is_markup() {
        assert_eq!(
            escape("<b a=\"1\" b='2'>&\u{0}\u{1b}"),
            "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;\u{fffd}\u{fffd}"
        );
        assert_eq!(escape("ünïcödé 漢字"), "ünïcödé 漢字");
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(shorten("漢字漢字", 3), "漢字…");
        assert_eq!(shorten("漢字", 2), "漢字");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (-0.0, "0"),
            (0.52314, "0.5231"),
            (2.96594, "2.966"),
            (-0.5, "−0.5"),
            (12.5, "12.5"),
            (812.31, "812.3"),
            (12345.0, "12\u{202f}345"),
            (3e-4, "3e−4"),
            (2.5e9, "2.5e9"),
            (f64::NAN, "–"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
        assert_eq!([0.012_345, 16.67, 123_456.0].map(rough), ["0.012", "17", "120\u{202f}000"]);
        assert_eq!(grouped(-1_234_567), "−1\u{202f}234\u{202f}567");
    }

    #[test]
    fn amounts_have_their_units() {
        assert_eq!([2.5, 245.0, 11520.0, 90_000.0].map(duration), ["2.5 s", "4 min 5 s", "3 h 12 min", "1 d 1 h"]);
        assert_eq!([12, 5_200_000, 8_100_000_000].map(bytes), ["12 bytes", "5.2 MB", "8.1 GB"]);
    }
}
