//! Checks of Rust sources: where `unsafe` may stand, nothing unfinished, a first line that says what a file is, length.

use super::blank::code_only;
use super::{File, Finding, rust};

/// Where `unsafe` may stand: arithmetic, and the one file that maps memory.
const UNSAFE_PLACES: [&str; 2] = ["crates/kernels/", "crates/model/src/checkpoint/mmap.rs"];

/// Files above this many lines are named, for somebody to think about.
const LONG: usize = 700;

/// Files above this many lines are refused.
const TOO_LONG: usize = 1000;

/// `unsafe` outside [`UNSAFE_PLACES`].
pub(super) fn unsafe_places(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in rust(files).filter(|file| !UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place))) {
        for (index, line) in code_only(&file.text).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "unsafe") {
                let what = "`unsafe` belongs to crates/kernels; give it a safe door there, or do without";
                findings.push(Finding::new(file, index + 1, what));
            }
        }
    }
    findings
}

/// Roots of crates that do not have the compiler refuse `unsafe`.
pub(super) fn crate_roots(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in rust(files).filter(|file| is_root(&file.path) && !file.path.starts_with("crates/kernels/")) {
        // `deny` can be lifted for one file, `forbid` cannot.
        let level = if file.path.starts_with("crates/model/") { "deny" } else { "forbid" };
        let attribute = format!("#![{level}(unsafe_code)]");
        if !code_only(&file.text).lines().any(|line| line.trim() == attribute) {
            findings.push(Finding::new(file, 1, format!("write `{attribute}` under the first comment")));
        }
    }
    findings
}

fn is_root(path: &str) -> bool {
    path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs") || path.contains("/src/bin/")
}

/// What is left behind when work is unfinished.
pub(super) fn unfinished(files: &[File]) -> Vec<Finding> {
    let marks = [
        ("todo!", "finish it, or return an error that says it is missing"),
        ("unimplemented!", "finish it, or return an error that says it is missing"),
        ("dbg!", "take it out"),
        ("#[ignore", "a test that does not run is not a test: make it quick, or take it out"),
    ];
    let mut findings = Vec::new();
    for file in rust(files) {
        for (index, line) in code_only(&file.text).lines().enumerate() {
            for (mark, remedy) in marks.iter().filter(|(mark, _)| line.contains(mark)) {
                findings.push(Finding::new(file, index + 1, format!("`{mark}`: {remedy}")));
            }
        }
    }
    findings
}

/// Sources that do not begin by saying what they are.
pub(super) fn first_lines(files: &[File]) -> Vec<Finding> {
    let silent = rust(files).filter(|file| !file.text.starts_with("//! "));
    silent.map(|file| Finding::new(file, 1, "begin with a `//!` line that says what is in the file")).collect()
}

/// Sources long enough to be named: `path: lines`.
pub(super) fn long_files(files: &[File]) -> Vec<String> {
    let with_lines = rust(files).map(|file| (file, file.text.lines().count()));
    let long = with_lines.filter(|(_, lines)| (LONG + 1..=TOO_LONG).contains(lines));
    long.map(|(file, lines)| format!("{}: {lines} lines; is it two files?", file.path)).collect()
}

/// Sources too long to stay as they are.
pub(super) fn too_long(files: &[File]) -> Vec<Finding> {
    let with_lines = rust(files).map(|file| (file, file.text.lines().count()));
    let long = with_lines.filter(|(_, lines)| *lines > TOO_LONG);
    long.map(|(file, lines)| Finding::new(file, 0, format!("{lines} lines, above {TOO_LONG}; split it"))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{file, places};
    use super::*;

    #[test]
    fn unsafe_is_found_in_code_alone_and_outside_its_places() {
        let text = "//! unsafe\nlet unsafe_code = \"unsafe\";\nunsafe { f() }\n#[unsafe(no_mangle)]\n";
        let paths = ["crates/kernels/src/a.rs", "crates/model/src/checkpoint/mmap.rs", "crates/model/src/a.rs"];
        let files = paths.map(|path| file(path, text));
        assert_eq!(places(unsafe_places(&files)), ["crates/model/src/a.rs:3", "crates/model/src/a.rs:4"]);
    }

    #[test]
    fn roots_refuse_unsafe() {
        let forbid = "//! A crate.\n\n#![forbid(unsafe_code)]\n";
        let deny = "//! A crate.\n\n#![deny(unsafe_code)]\n";
        let comment = "//! A crate.\n// #![forbid(unsafe_code)]\n";
        for (path, text, good) in [
            ("crates/span/src/lib.rs", forbid, true),
            ("crates/span/src/lib.rs", deny, false),
            ("crates/span/src/lib.rs", comment, false),
            ("crates/span/src/chain.rs", comment, true),
            ("crates/model/src/lib.rs", deny, true),
            ("crates/kernels/src/lib.rs", comment, true),
            ("crates/cli/src/main.rs", comment, false),
            ("xtask/src/bin/other.rs", comment, false),
        ] {
            assert_eq!(crate_roots(&[file(path, text)]).is_empty(), good, "{path} {text}");
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        let text =
            "//! todo!()\ntodo!();\ndbg!(1);\nunimplemented!(\"{}\", 1);\n#[ignore = \"slow\"]\nlet s = \"dbg!\";\n";
        assert_eq!(places(unfinished(&[file("a.rs", text)])), ["a.rs:2", "a.rs:3", "a.rs:4", "a.rs:5"]);
    }

    #[test]
    fn sources_begin_with_what_they_are() {
        assert_eq!(first_lines(&[file("a.rs", "//! A.\n"), file("a.md", "# A\n")]), []);
        assert_eq!(places(first_lines(&[file("a.rs", "// A.\n"), file("b.rs", "")])), ["a.rs:1", "b.rs:1"]);
    }

    #[test]
    fn long_files_are_named_and_longer_ones_refused() {
        let files = [700, 701, 1000, 1001].map(|lines| file(&format!("{lines}.rs"), &"//\n".repeat(lines)));
        assert_eq!(long_files(&files).len(), 2);
        assert_eq!(places(too_long(&files)), ["1001.rs:0"]);
    }
}
