//! Lines from a terminal, which can be edited, of one message each; and those of earlier conversations.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

use super::command::goes_on;
use crate::output;

const PROMPT: &str = ">>> ";

/// Lines that are remembered.
const MAX_LINES: usize = 1000;

/// What was typed.
pub(super) enum Line {
    /// A message or a command, maybe of several lines.
    Text(String),
    /// Somebody left.
    End,
}

/// An editor of lines.
pub(super) struct Lines {
    editor: Editor<WholeMessages, FileHistory>,
    /// The file of earlier lines.
    history: Option<PathBuf>,
}

impl Lines {
    /// An editor, with the lines of earlier conversations unless they are not wanted.
    pub(super) fn open(history: bool) -> Result<Lines> {
        let config = Config::builder().max_history_size(MAX_LINES).and_then(|config| config.history_ignore_dups(true));
        let config = config.context("cannot keep a history")?.bracketed_paste(true).build();
        let mut editor = Editor::with_config(config).context("cannot read from this terminal")?;
        editor.set_helper(Some(WholeMessages));
        let history = history.then(|| data_folder()?.join("bouquet/chat-history").into()).flatten();
        if let Some(path) = &history {
            // One that cannot be read, or is not there yet, is empty.
            let _ = editor.load_history(path);
        }
        Ok(Lines { editor, history })
    }

    /// The next message or command. Ctrl-C empties the line; on one that is empty, the second in a row leaves, as Ctrl-D
    /// does at once.
    pub(super) fn next(&mut self) -> Result<Line> {
        let mut asked = false;
        loop {
            match self.editor.readline(PROMPT) {
                Ok(line) => {
                    self.remember(&line);
                    return Ok(Line::Text(line));
                }
                Err(ReadlineError::Interrupted) if asked => return Ok(Line::End),
                Err(ReadlineError::Interrupted) => {
                    asked = true;
                    output::note("Ctrl-C once more, Ctrl-D or /bye leaves");
                }
                Err(ReadlineError::Eof) => return Ok(Line::End),
                Err(error) => return Err(error).context("cannot read from this terminal"),
            }
        }
    }

    /// Keeps a line, here and for later conversations. One that cannot be kept is still answered.
    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() || !self.editor.add_history_entry(line).unwrap_or(false) {
            return;
        }
        if let Some(path) = self.history.clone()
            && self.write(&path).is_none()
        {
            output::note(&format!("(lines are not kept: {} cannot be written)", path.display()));
            self.history = None;
        }
    }

    /// Replaces the file of lines, which only its owner can read.
    fn write(&mut self, path: &Path) -> Option<()> {
        let folder = path.parent()?;
        std::fs::create_dir_all(folder).ok()?;
        let file = tempfile::NamedTempFile::new_in(folder).ok()?;
        self.editor.save_history(file.path()).ok()?;
        file.persist(path).ok()?;
        Some(())
    }
}

/// Where programs of this system keep what their users made.
fn data_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = variable("XDG_DATA_HOME") {
        return Some(folder);
    }
    if cfg!(windows) {
        return variable("LOCALAPPDATA");
    }
    let within = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    Some(std::env::home_dir()?.join(within))
}

/// Says whether what was typed is whole.
struct WholeMessages;

impl Validator for WholeMessages {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if goes_on(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for WholeMessages {
    type Candidate = String;
}

impl Hinter for WholeMessages {
    type Hint = String;
}

impl Highlighter for WholeMessages {}

impl Helper for WholeMessages {}
