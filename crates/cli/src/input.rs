//! What commands read beside models: prompts, texts, token ids. Whole, but not without end: `/dev/zero` has more bytes
//! than any machine.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

use crate::errors::wrong;
use crate::output;

/// Bytes that are read at most.
const MAX_BYTES: u64 = 256 << 20;

/// The bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let origin = path.display().to_string();
    read(File::open(path).with_context(|| format!("cannot read {origin}"))?, &origin)
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
