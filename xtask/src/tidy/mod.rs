//! `cargo xtask tidy`: what the compiler does not check, and reviewers should not have to.
//!
//! A check is a function from files to findings; it reads no disk, so its tests give it files made of strings.

mod blank;
mod links;
mod manifests;
mod sources;
mod text;

use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::Path;

/// A text file of the repository.
struct File {
    /// Relative to the root of the repository, with `/` between the parts.
    path: String,
    text: String,
}

/// Something to put right, and how.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1; 0 where it is about the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &File, line: usize, what: impl Into<String>) -> Self {
        Finding { path: file.path.clone(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Runs every check over the repository `root`; prints findings, and fails if there are any.
pub(crate) fn run(root: &Path) -> Result<()> {
    let (files, all_paths) = read_tree(root)?;
    for note in sources::long_files(&files) {
        eprintln!("note: {note}");
    }
    let findings = check(&files, &all_paths);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {} text files, nothing to put right", files.len()),
        1 => bail!("tidy: 1 finding"),
        n => bail!("tidy: {n} findings"),
    }
    Ok(())
}

/// Every finding about `files`, in order of path and line. `all_paths` also names the binary files and the folders.
fn check(files: &[File], all_paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(manifests::arrows(files));
    findings.extend(manifests::fields(files));
    findings.extend(sources::unsafe_places(files));
    findings.extend(sources::crate_roots(files));
    findings.extend(sources::unfinished(files));
    findings.extend(sources::first_lines(files));
    findings.extend(sources::too_long(files));
    findings.extend(text::whitespace(files));
    findings.extend(text::machine_paths(files));
    findings.extend(links::broken(files, all_paths));
    findings.sort();
    findings
}

/// The text files below `root` that are ours, and the paths of all files and folders.
///
/// Walks the folders rather than asking git, which may be missing or refuse a folder of another owner. Left out: what
/// the root's `.gitignore` names, `.git`, and folders that Cargo marked as caches.
fn read_tree(root: &Path) -> Result<(Vec<File>, Vec<String>)> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut files = Vec::new();
    let mut paths = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let listing = fs::read_dir(root.join(&folder)).with_context(|| format!("listing `{folder}`"))?;
        for entry in listing {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { bail!("{}: a name that is not UTF-8", entry.path().display()) };
            let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if name == ".git" || ignored.contains(&path.as_str()) || entry.path().join("CACHEDIR.TAG").exists() {
                continue;
            }
            paths.push(path.clone());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if !is_vendored(&path) {
                let bytes = fs::read(entry.path()).with_context(|| format!("reading `{path}`"))?;
                if let Ok(text) = String::from_utf8(bytes) {
                    files.push(File { path, text });
                }
            }
        }
    }
    Ok((files, paths))
}

/// Whether other programs made the file, so that its form is not ours to judge. Pages among them are ours.
fn is_vendored(path: &str) -> bool {
    let folders = ["models/", "tests/fixtures/models/", "tests/fixtures/goldens/", "tests/fixtures/data/"];
    let is_inside = folders.iter().any(|folder| path.starts_with(folder));
    path == "Cargo.lock" || (is_inside && !path.ends_with(".md"))
}

/// The Rust sources among `files`.
fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// The number of the first line of `text` that has `needle`, or 0.
fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).map_or(0, |at| at + 1)
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

/// Where `findings` are, as `path:line`, for tests to compare.
#[cfg(test)]
fn places(findings: Vec<Finding>) -> Vec<String> {
    findings.into_iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_leaves_out_what_is_not_ours() {
        let root = tempfile::tempdir().unwrap();
        for path in [".git/config", "scratch/a.rs", "built/CACHEDIR.TAG", "built/b.rs", "src/c.rs", "models/m/d.json"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(root.path().join(".gitignore"), "/scratch\n").unwrap();
        fs::write(root.path().join("src/binary"), [0xff, 0xfe]).unwrap();
        let (files, mut paths) = read_tree(root.path()).unwrap();
        let mut names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        names.sort();
        assert_eq!(names, [".gitignore", "src/c.rs"]);
        paths.sort();
        assert_eq!(paths, [".gitignore", "models", "models/m", "models/m/d.json", "src", "src/binary", "src/c.rs"]);
    }

    #[test]
    fn findings_are_sorted_by_place() {
        let files = [file("b.md", "tab\there\n[gone](gone.md)\n"), file("a.rs", "fn a() {}\n")];
        let findings = check(&files, &[]);
        assert_eq!(places(findings), ["a.rs:1", "b.md:1", "b.md:2"]);
    }
}
