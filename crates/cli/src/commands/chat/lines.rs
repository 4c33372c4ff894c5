//! Lines from a terminal, which can be edited, of one message each; and those of earlier conversations.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{FileHistory, History};
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
        let mut editor = Editor::with_config(config().context("cannot keep a history")?)
            .context("cannot read from this terminal")?;
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
            && keep(line, &path).is_none()
        {
            output::note(&format!("(lines are not kept: {} cannot be written)", path.display()));
            self.history = None;
        }
    }
}

/// Time that another conversation may take to keep a line; what holds the lock for longer hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Adds a line to those of a file, which only its owner can read. Other conversations may have added theirs since it was
/// last read: it is read again, under a lock, and replaced.
fn keep(line: &str, path: &Path) -> Option<()> {
    let folder = path.parent()?;
    std::fs::create_dir_all(folder).ok()?;
    // Beside it, since a file that is replaced takes its lock along. It goes when this is done.
    let lock = File::create(path.with_extension("lock")).ok()?;
    let start = Instant::now();
    while lock.try_lock().is_err() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut lines = FileHistory::with_config(&config().ok()?);
    // One that cannot be read, or is not there yet, is empty.
    let _ = lines.load(path);
    if lines.add(line).ok()? {
        let file = tempfile::NamedTempFile::new_in(folder).ok()?;
        lines.save(file.path()).ok()?;
        file.persist(path).ok()?;
    }
    Some(())
}

fn config() -> rustyline::Result<Config> {
    let config = Config::builder().max_history_size(MAX_LINES)?.history_ignore_dups(true)?;
    Ok(config.bracketed_paste(true).build())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each wrote all lines that it knew of, and so took away those of the others.
    #[test]
    fn conversations_at_the_same_time_keep_the_lines_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bouquet/chat-history");
        std::thread::scope(|scope| {
            for speaker in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..10 {
                        keep(&format!("{speaker} says\n{number} \\ n"), path).unwrap();
                    }
                });
            }
        });
        let mut lines = FileHistory::with_config(&config().unwrap());
        lines.load(&path).unwrap();
        let found: std::collections::BTreeSet<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(found.len(), 40);
        assert!(found.contains("3 says\n9 \\ n"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
