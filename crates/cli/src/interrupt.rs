//! Ctrl-C. While something is computed, the first one asks it to stop and the second ends the program; at any other
//! time the first ends it. A file that is half written is removed on the way out.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bouquet_span::CancelToken;

use crate::errors::CANCELLED;
use crate::output;

struct State {
    /// Of what is being computed.
    work: Option<CancelToken>,
    /// The file that is being written.
    half_written: Option<PathBuf>,
    /// What is said on the way out.
    last_words: Option<String>,
}

static STATE: Mutex<State> = Mutex::new(State { work: None, half_written: None, last_words: None });

/// Something that can be stopped, as long as this lives.
pub(crate) struct Work {
    /// Set by Ctrl-C.
    pub(crate) cancel: CancelToken,
}

/// A file that is removed if the program is ended, as long as this lives.
pub(crate) struct HalfWritten;

/// What is said if the program is ended, as long as this lives.
pub(crate) struct LastWords;

/// Listens for Ctrl-C, and for requests to terminate.
pub(crate) fn install() {
    // Without a handler the system's own ends the program, which is good enough.
    let _ = ctrlc::set_handler(|| {
        let state = state();
        match &state.work {
            Some(cancel) if !cancel.is_cancelled() => cancel.cancel(),
            _ => {
                if let Some(path) = &state.half_written {
                    let _ = std::fs::remove_file(path);
                }
                if let Some(words) = &state.last_words {
                    output::clear_line();
                    output::note(words);
                }
                std::process::exit(CANCELLED.into());
            }
        }
    });
}

impl Work {
    /// Begins something that can be stopped.
    pub(crate) fn begin() -> Work {
        let cancel = CancelToken::default();
        state().work = Some(cancel.clone());
        Work { cancel }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        state().work = None;
    }
}

impl HalfWritten {
    /// Begins to write a file.
    pub(crate) fn begin(path: &Path) -> HalfWritten {
        state().half_written = Some(path.to_owned());
        HalfWritten
    }
}

impl Drop for HalfWritten {
    fn drop(&mut self) {
        state().half_written = None;
    }
}

impl LastWords {
    /// Begins something that is safe to end at any time.
    pub(crate) fn begin(words: String) -> LastWords {
        state().last_words = Some(words);
        LastWords
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        state().last_words = None;
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
