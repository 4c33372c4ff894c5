//! `cargo xtask picture < session.txt > picture.svg`: a terminal session, captured as text, becomes a picture of a
//! terminal window, for README.
//!
//! Of the escape sequences, only colours, bold and faint are kept. A carriage return starts its line anew, as progress
//! lines do. The picture needs no fonts but a monospaced one, and follows the reader's light or dark page.

use std::fmt::Write;

/// Longer lines are wrapped, as a terminal of this width would.
const COLUMNS: usize = 100;

const CHAR_WIDTH: f32 = 8.4;
const LINE_HEIGHT: usize = 20;
const MARGIN: usize = 16;
const TITLE_HEIGHT: usize = 34;

const STYLE: &str = "
.window{fill:#fbfaf8;stroke:#d5d0c8}.dot{fill:#d5d0c8}
text{fill:#2b2a28;font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}
.bold{font-weight:bold}.faint{opacity:.6}
.c1{fill:#b3261e}.c2{fill:#2e7d32}.c3{fill:#8a6100}.c4{fill:#1e5bb3}.c5{fill:#8e3a9d}.c6{fill:#00707a}
@media(prefers-color-scheme:dark){.window{fill:#1f1e1c;stroke:#45423d}.dot{fill:#45423d}text{fill:#e8e4dc}
.c1{fill:#ff8a80}.c2{fill:#8fd694}.c3{fill:#e6c15a}.c4{fill:#8ab4f8}.c5{fill:#d7a1e0}.c6{fill:#6fd3dc}}
";

#[derive(Clone, Copy, Default, PartialEq)]
struct Look {
    bold: bool,
    faint: bool,
    /// 1 to 6, as the terminal numbers them: red, green, yellow, blue, magenta, cyan. Else 0.
    color: u8,
}

/// The picture of `session`, an SVG document.
pub(crate) fn draw(session: &str) -> String {
    let lines = screen(session);
    let height = TITLE_HEIGHT + lines.len() * LINE_HEIGHT + MARGIN;
    let width = (COLUMNS as f32 * CHAR_WIDTH) as usize + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" xml:space=\"preserve\">\n<style>{STYLE}</style>\n\
         <rect class=\"window\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        width - 1,
        height - 1
    );
    for x in [20, 38, 56] {
        writeln!(svg, "<circle class=\"dot\" cx=\"{x}\" cy=\"18\" r=\"6\"/>").expect("a string takes all");
    }
    for (row, line) in lines.iter().enumerate() {
        let mut column = 0;
        for run in line.chunk_by(|a, b| a.1 == b.1) {
            let columns: usize = run.iter().map(|&(c, _)| columns_of(c)).sum();
            if run.iter().any(|(c, _)| !c.is_whitespace()) {
                write_run(&mut svg, run, row, column, columns);
            }
            column += columns;
        }
    }
    svg + "</svg>\n"
}

/// One piece of text in one look; stretched to its columns, so that any font lines up.
fn write_run(svg: &mut String, run: &[(char, Look)], row: usize, column: usize, columns: usize) {
    let look = run[0].1;
    let mut class = String::new();
    for (name, on) in [("bold", look.bold), ("faint", look.faint), (&format!("c{}", look.color), look.color > 0)] {
        if on {
            class += if class.is_empty() { "" } else { " " };
            class += name;
        }
    }
    let class = if class.is_empty() { class } else { format!(" class=\"{class}\"") };
    let x = MARGIN as f32 + column as f32 * CHAR_WIDTH;
    let y = TITLE_HEIGHT + row * LINE_HEIGHT + 14;
    let length = columns as f32 * CHAR_WIDTH;
    let text: String = run.iter().map(|(c, _)| *c).collect();
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(svg, "<text{class} x=\"{x:.1}\" y=\"{y}\" textLength=\"{length:.1}\">{text}</text>")
        .expect("a string takes all");
}

/// The lines that a terminal would show, each a row of characters with their looks.
fn screen(session: &str) -> Vec<Vec<(char, Look)>> {
    let mut lines = vec![Vec::new()];
    let mut look = Look::default();
    let mut columns = 0;
    let mut chars = session.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        let line = lines.last_mut().expect("there is always a line");
        match c {
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                let mut codes = String::new();
                // Parameters end at the first letter, which says what the sequence does; `m` is a look.
                while let Some(c) = chars.next_if(|c| !c.is_ascii_alphabetic()) {
                    codes.push(c);
                }
                if chars.next() == Some('m') {
                    codes.split(';').for_each(|code| look = look_after(look, code));
                }
            }
            '\r' if chars.peek() != Some(&'\n') => {
                line.clear();
                columns = 0;
            }
            '\n' => {
                lines.push(Vec::new());
                columns = 0;
            }
            c if c.is_control() => {}
            c => {
                if columns + columns_of(c) > COLUMNS {
                    lines.push(Vec::new());
                    columns = 0;
                }
                columns += columns_of(c);
                lines.last_mut().expect("there is always a line").push((c, look));
            }
        }
    }
    lines
}

fn look_after(look: Look, code: &str) -> Look {
    match code {
        "" | "0" => Look::default(),
        "1" => Look { bold: true, ..look },
        "2" => Look { faint: true, ..look },
        "22" => Look { bold: false, faint: false, ..look },
        "39" => Look { color: 0, ..look },
        _ => match code.as_bytes() {
            [b'3' | b'9', digit @ b'1'..=b'6'] => Look { color: digit - b'0', ..look },
            _ => look,
        },
    }
}

/// Chinese, Japanese, Korean and emoji take two columns.
fn columns_of(c: char) -> usize {
    match c {
        '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' => 2,
        '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{1f300}'..='\u{1faff}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(session: &str) -> Vec<String> {
        screen(session).into_iter().map(|line| line.into_iter().map(|(c, _)| c).collect()).collect()
    }

    #[test]
    fn a_screen_is_what_a_terminal_would_show() {
        assert_eq!(plain("$ a\r\nb\n\nloading 1 %\rdone\n\n"), ["$ a", "b", "", "done"]);
        assert_eq!(plain("\x1b[2K\x1b[1;32mgreen\x1b[0m \x1b[?25hplain"), ["green plain"]);
        assert_eq!(plain(&"x".repeat(COLUMNS + 1)), ["x".repeat(COLUMNS), "x".to_owned()]);
        assert_eq!(plain(&"字".repeat(COLUMNS / 2 + 1)), ["字".repeat(COLUMNS / 2), "字".to_owned()]);
    }

    #[test]
    fn a_picture_has_text_and_looks() {
        let svg = draw("a < b && c\n\x1b[1;34mblue\x1b[0m");
        assert!(svg.contains(">a &lt; b &amp;&amp; c</text>"), "{svg}");
        assert!(svg.contains("<text class=\"bold c4\" x=\"16.0\" y=\"68\" textLength=\"33.6\">blue</text>"), "{svg}");
    }
}
