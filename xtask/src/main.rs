//! Chores of this repository, run as `cargo xtask`. Not part of the product: no crate depends on this one, and this one
//! depends on none of them, so it works when they do not compile.

#![forbid(unsafe_code)]

mod fixtures;
mod picture;
mod tidy;

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Chores of this repository.

Usage: cargo xtask COMMAND

  tidy            check what the compiler does not: arrows between crates, where unsafe stands, links, blanks, ...
  picture         turn a captured terminal session (standard input) into an SVG picture (standard output)
  fixtures PATH   cut the test fixtures and the demo model of this repository out of the fixtures folder PATH
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["help" | "--help" | "-h"] => print!("{HELP}"),
        ["picture"] => print!("{}", picture::draw(&std::io::read_to_string(std::io::stdin())?)),
        ["tidy"] => tidy::run(&repo_root())?,
        ["fixtures", path] => fixtures::cut(Path::new(path), &repo_root())?,
        _ => bail!("`{}` is not a chore\n\n{HELP}", arguments.join(" ")),
    }
    Ok(())
}

/// The folder of the workspace, wherever the command was started.
fn repo_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a folder of the repository").to_path_buf()
}
