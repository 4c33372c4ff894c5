//! Numbers that do not fit into a frame: as many frames as it takes, whose sum was said before.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::frame::{self, Frame, FrameError};

/// Bytes of a part.
const PART_BYTES: usize = 1 << 18;

/// How long a part may take that a machine waits for which could do nothing but wait.
pub const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// The header of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part;

/// Writes bytes in parts.
///
/// # Errors
/// [`FrameError::Broken`].
pub async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), FrameError> {
    for part in bytes.chunks(PART_BYTES) {
        in_time(PART_TIMEOUT, Frame::new(&Part, part).write(writer)).await?;
    }
    Ok(())
}

/// Reads `total` bytes, which the caller has found not to be too many, and waits so long for each part.
///
/// # Errors
/// [`FrameError`].
pub async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    total: usize,
    patience: Duration,
) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    while bytes.len() < total {
        let room = PART_BYTES.min(total - bytes.len());
        let (Part, part) = in_time(patience, frame::read(reader, room)).await?;
        if part.is_empty() {
            return Err(FrameError::Garbage("a part without bytes".to_owned()));
        }
        bytes.extend(part);
    }
    Ok(bytes)
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = Result<T, FrameError>>) -> Result<T, FrameError> {
    let late = || FrameError::Broken(std::io::ErrorKind::TimedOut.into());
    timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
}
