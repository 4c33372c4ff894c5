//! Checks of every text file: blanks, and paths of somebody's machine.

use super::{File, Finding};

/// First folders of absolute paths that exist on one machine alone.
const MACHINE_FOLDERS: [&str; 4] = ["home", "root", "work", "Users"];

/// Tabs, blanks at the end of a line, and a last line without an end.
pub(super) fn whitespace(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (index, line) in file.text.split('\n').enumerate() {
            if line.contains('\t') {
                findings.push(Finding::new(file, index + 1, "a tab; write spaces"));
            }
            if line.ends_with(char::is_whitespace) {
                findings.push(Finding::new(file, index + 1, "blanks at the end of the line; take them out"));
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            let what = "no line end at the end of the file; add one";
            findings.push(Finding::new(file, file.text.lines().count(), what));
        }
    }
    findings
}

/// Absolute paths into [`MACHINE_FOLDERS`].
pub(super) fn machine_paths(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(folder) = MACHINE_FOLDERS.iter().find(|folder| has_absolute(line, folder)) {
                let what = format!("a path of one machine (/{folder}/…); make it relative, or an argument");
                findings.push(Finding::new(file, index + 1, what));
            }
        }
    }
    findings
}

/// Whether `line` has `/folder/` at the start of a path: not inside a longer path or an address.
fn has_absolute(line: &str, folder: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '}' | ')' | '>' | '*' | '~');
    line.match_indices(&format!("/{folder}/")).any(|(at, _)| !line[..at].ends_with(inside))
}

#[cfg(test)]
mod tests {
    use super::super::{file, places};
    use super::*;

    #[test]
    fn blanks_are_found() {
        let files = [file("good.md", "a\n\n  b\n"), file("empty", ""), file("bad.md", "a \n\tb\nc")];
        assert_eq!(places(whitespace(&files)), ["bad.md:1", "bad.md:2", "bad.md:3"]);
    }

    #[test]
    fn carriage_returns_are_blanks() {
        assert_eq!(places(whitespace(&[file("a.md", "a\r\nb\n")])), ["a.md:1"]);
    }

    #[test]
    fn absolute_paths_are_told_from_addresses_and_relative_paths() {
        for folder in MACHINE_FOLDERS {
            for line in [format!("\"/{folder}/me/x\""), format!("cd /{folder}/x"), format!("/{folder}/")] {
                assert_eq!(places(machine_paths(&[file("a.sh", &line)])), ["a.sh:1"], "{line}");
            }
            for line in [format!("https://host/{folder}/x"), format!("../{folder}/x"), format!("${{x}}/{folder}/y")] {
                assert_eq!(machine_paths(&[file("a.sh", &line)]), [], "{line}");
            }
        }
    }
}
