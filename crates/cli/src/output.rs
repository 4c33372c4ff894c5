//! Results go to standard output, everything else to standard error; numbers have units, and colour is for terminals.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Colours, or nothing where nobody would see them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Style {
    /// For headings.
    pub(crate) strong: &'static str,
    /// For what is beside the point.
    pub(crate) quiet: &'static str,
    /// For errors.
    pub(crate) bad: &'static str,
    /// For hints, and what was typed.
    pub(crate) good: &'static str,
    /// Ends each of them.
    pub(crate) plain: &'static str,
}

const COLOURS: Style =
    Style { strong: "\x1b[1m", quiet: "\x1b[2m", bad: "\x1b[1;31m", good: "\x1b[32m", plain: "\x1b[0m" };

/// What went wrong where results are not taken.
pub(crate) const CANNOT_WRITE: &str = "cannot write to standard output";

/// Style of standard output.
pub(crate) fn stdout_style() -> Style {
    style(io::stdout().is_terminal())
}

/// Style of standard error.
pub(crate) fn stderr_style() -> Style {
    style(io::stderr().is_terminal())
}

fn style(is_terminal: bool) -> Style {
    // https://no-color.org: set, and not empty.
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb");
    if is_terminal && wanted && able { COLOURS } else { Style::default() }
}

/// Writes to standard output, at once.
///
/// # Errors
/// A closed pipe among others; `errors` knows that this one is no error.
pub(crate) fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    if let Some(last) = text.chars().last() {
        IN_A_LINE.store(last != '\n', Ordering::Relaxed);
    }
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.context(CANNOT_WRITE)
}

/// Whether what was written last to standard output has not ended its line.
static IN_A_LINE: AtomicBool = AtomicBool::new(false);

/// Begins a new line where standard output is in the middle of one, and both are the same terminal: what is shown and removed
/// again must not take results with it.
fn leave_the_line() {
    if IN_A_LINE.load(Ordering::Relaxed) && Progress::is_seen() && io::stdout().is_terminal() {
        let _ = write("\n");
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<()> {
    write(&format!("{text}\n"))
}

/// Writes a JSON object to standard output, on one line.
pub(crate) fn json(value: &Value) -> Result<()> {
    line(&value.to_string())
}

/// A number for JSON, which has no infinities: those, and what is no number, become texts (`"inf"`).
pub(crate) fn number(number: f64) -> Value {
    if number.is_finite() { number.into() } else { number.to_string().into() }
}

/// Writes a line to standard error. If that is gone there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A line on standard error that the next one overwrites; only on a terminal.
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Progress { shown: false }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_seen() -> bool {
        io::stderr().is_terminal()
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, text: &str) {
        if !self.shown {
            leave_the_line();
        }
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            self.shown = true;
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }

    /// Writes a line that stays, above it.
    pub(crate) fn note(&mut self, text: &str) {
        if std::mem::take(&mut self.shown) {
            clear_line();
        }
        note(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            clear_line();
        }
    }
}

/// Empties the line of a terminal that [`Progress`] may have been shown on.
pub(crate) fn clear_line() {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

/// Bytes with a unit: `512 B`, `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (bytes.max(1).ilog2() as usize / 10).min(units.len() - 1);
    let number = bytes as f64 / (1u64 << (10 * power)) as f64;
    if power == 0 { format!("{bytes} B") } else { format!("{} {}", three_digits(number), units[power]) }
}

/// Bytes of `5GB`, `500MB`, `64KB` or a plain number, in powers of ten as in transformers.
pub(crate) fn size(text: &str) -> std::result::Result<u64, String> {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1000), ("", 1u64)];
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor))).expect("any");
    match number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give a size like 5GB or 500MB".to_owned()),
    }
}

/// A bar of so many characters, filled to a share.
pub(crate) fn bar(share: f64, width: usize) -> String {
    let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    format!("{}{}", "━".repeat(filled), "─".repeat(width - filled))
}

/// Large numbers: `950`, `13.8 million`.
pub(crate) fn count(number: u64) -> String {
    match number {
        0..1_000_000 => grouped(number),
        1_000_000..1_000_000_000 => format!("{} million", three_digits(number as f64 / 1e6)),
        _ => format!("{} billion", three_digits(number as f64 / 1e9)),
    }
}

/// `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 s`, `45 ms`.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.9995 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// `345 tokens/s`, or nothing where there is no speed.
pub(crate) fn speed(tokens_per_sec: Option<f64>) -> String {
    tokens_per_sec.map_or_else(String::new, |speed| format!("{} tokens/s", three_digits(speed)))
}

/// `1 token`, `2 tokens`.
pub(crate) fn tokens(number: usize) -> String {
    counted(number, "token")
}

/// `1 file`, `1,234 files`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number as u64), if number == 1 { "" } else { "s" })
}

/// Rows of cells, columns as wide as their widest; the first `left` columns flush left, the others flush right.
pub(crate) fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column < left { write!(line, "  {cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn three_digits(number: f64) -> String {
    let decimals = match number {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let sizes = ["5GB", "500 MB", "64KB", "7", "0", "5TB", "-1", "99999999999GB"].map(|text| size(text).ok());
        assert_eq!(sizes, [Some(5_000_000_000), Some(500_000_000), Some(64_000), Some(7), None, None, None, None]);
    }

    #[test]
    fn numbers_have_units_and_three_digits() {
        assert_eq!(
            [0, 1023, 1536, 27 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.50 KiB", "27.0 MiB", "16384 PiB"]
        );
        assert_eq!(
            [999, 12_345, 13_800_000, 176_247_271_424].map(count),
            ["999", "12,345", "13.8 million", "176 billion"]
        );
        assert_eq!(seconds(Duration::from_millis(45)), "45 ms");
        assert_eq!(seconds(Duration::from_millis(12_345)), "12.3 s");
        assert_eq!((speed(Some(345.6)), speed(None)), ("346 tokens/s".to_owned(), String::new()));
        assert_eq!([1, 1234].map(tokens), ["1 token", "1,234 tokens"]);
    }

    #[test]
    fn json_has_every_number() {
        let all = [0.1 + 0.2, f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(number);
        assert_eq!(Value::from(all.to_vec()).to_string(), r#"[0.30000000000000004,"inf","-inf","NaN"]"#);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["bcd".to_owned(), "22".to_owned()]];
        assert_eq!(table(&rows, 1), "  a     1\n  bcd  22\n");
    }
}
