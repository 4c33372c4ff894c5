//! `bouquet completions`: a script that completes commands in a shell.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::output;

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  bouquet completions bash > ~/.local/share/bash-completion/completions/bouquet")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "bouquet", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}
