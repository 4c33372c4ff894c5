//! Frames: `[header bytes: u32][body bytes: u32][header][body]`, little endian. Sizes are bounded before anything is
//! allocated, and a body takes memory as it arrives, so that claiming a large one costs nothing but the claim.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that a header may have.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Bytes that a body may have: 512 tokens of 14,336 channels in f32 are 28 MiB.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Bytes of a body that are made room for at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended between two frames.
    #[error("the stream ended")]
    Ended,
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Broken(#[from] std::io::Error),
    /// What came is no frame.
    #[error("{0}")]
    Garbage(String),
}

/// A frame as bytes, written at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// A frame of a header and a body. Panics when a header cannot be encoded or either is too long, which whoever makes
    /// it has to see to.
    pub fn new(header: &impl Serialize, body: &[u8]) -> Frame {
        let header = postcard::to_allocvec(header).expect("a header can be encoded");
        assert!(header.len() <= MAX_HEADER_BYTES && body.len() <= MAX_BODY_BYTES, "a frame within its bounds");
        let mut bytes = Vec::with_capacity(8 + header.len() + body.len());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(header);
        bytes.extend(body);
        Frame { bytes }
    }

    /// What goes out.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes it and all that waits.
    ///
    /// # Errors
    /// [`FrameError::Broken`].
    pub async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameError> {
        writer.write_all(&self.bytes).await?;
        Ok(writer.flush().await?)
    }
}

/// Reads the next frame: its header and its body. `max_body` is what a body of this kind of stream may have.
///
/// # Errors
/// [`FrameError`].
pub async fn read<H: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
    max_body: usize,
) -> Result<(H, Vec<u8>), FrameError> {
    let (header, bytes) = read_header(reader, max_body).await?;
    Ok((header, read_body(reader, bytes).await?))
}

/// Reads the header of the next frame, and how many bytes its body has, which come next.
///
/// # Errors
/// [`FrameError`].
pub async fn read_header<H: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
    max_body: usize,
) -> Result<(H, usize), FrameError> {
    let mut sizes = [0; 8];
    let begun = reader.read(&mut sizes).await?;
    if begun == 0 {
        return Err(FrameError::Ended);
    }
    reader.read_exact(&mut sizes[begun..]).await?;
    let [header, body] =
        [&sizes[..4], &sizes[4..]].map(|size| u32::from_le_bytes(size.try_into().expect("4")) as usize);
    if header > MAX_HEADER_BYTES || body > max_body.min(MAX_BODY_BYTES) {
        return Err(FrameError::Garbage(format!("a frame of {header} and {body} bytes is too large")));
    }
    let mut bytes = vec![0; header];
    reader.read_exact(&mut bytes).await?;
    let decoded = postcard::take_from_bytes(&bytes).ok().filter(|(_, rest)| rest.is_empty());
    let (header, _) = decoded.ok_or_else(|| FrameError::Garbage("a header that says nothing known".to_owned()))?;
    Ok((header, body))
}

/// Reads a body of so many bytes, behind its header.
///
/// # Errors
/// [`FrameError`].
pub async fn read_body(reader: &mut (impl AsyncRead + Unpin), body: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    while bytes.len() < body {
        let start = bytes.len();
        bytes.resize(body.min(start + PIECE_BYTES), 0);
        reader.read_exact(&mut bytes[start..]).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8], max_body: usize) -> Result<(Vec<u32>, Vec<u8>), FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut &bytes[..], max_body))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in proptest::collection::vec(0u32.., 0..20), body in proptest::collection::vec(0u8.., 0..600)) {
            let frame = Frame::new(&header, &body);
            prop_assert_eq!(read_all(frame.bytes(), 600).unwrap(), (header, body));
            for end in 1..frame.bytes().len() {
                prop_assert!(matches!(read_all(&frame.bytes()[..end], 600), Err(FrameError::Broken(_))));
            }
        }

        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let _ = read_all(&bytes, 64);
        }
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_read() {
        for sizes in [[u32::MAX, 0], [0, u32::MAX], [1, 101], [MAX_HEADER_BYTES as u32 + 1, 0]] {
            let bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
            assert!(matches!(read_all(&bytes, 100), Err(FrameError::Garbage(_))), "{sizes:?}");
        }
        assert!(matches!(read_all(&[], 100), Err(FrameError::Ended)));
        let mut long = Frame::new(&vec![1u32], &[]).bytes().to_vec();
        (long[0], long[4]) = (long[0] + 1, 0);
        long.push(0);
        assert!(matches!(read_all(&long, 100), Err(FrameError::Garbage(_))), "a header with more after it");
    }
}
