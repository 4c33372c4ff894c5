//! What commands read beside models: prompts, texts, token ids. Whole, but not without end: `/dev/zero` has more bytes
//! than any machine. And not without a word, where it is a pipe that nobody writes to.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::errors::wrong;
use crate::output;

/// Bytes that are read at most.
const MAX_BYTES: u64 = 256 << 20;

/// The bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let origin = path.display().to_string();
    // A pipe opens when somebody else has opened it to write.
    patiently(&origin, || read(File::open(path).with_context(|| format!("cannot read {origin}"))?, &origin))
}

/// The bytes of what is called `origin`.
pub(crate) fn read(source: impl Read, origin: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {origin}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("{origin} has more than {}, and so much is not read", output::bytes(MAX_BYTES));
        return Err(wrong(message, "give it in parts"));
    }
    Ok(bytes)
}

/// Does what may take as long as somebody else likes, and says what it waits for when that is long.
fn patiently<T>(origin: &str, wait: impl FnOnce() -> T) -> T {
    const LONG: Duration = Duration::from_secs(2);
    thread::scope(|scope| {
        let (done, waits) = mpsc::channel::<()>();
        // Without a thread there is no word, but all the same a result.
        let _ = thread::Builder::new().spawn_scoped(scope, move || {
            if waits.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
                output::note(&format!("waiting for what is written to {origin}; Ctrl-C ends it"));
            }
        });
        let result = wait();
        drop(done);
        result
    })
}
