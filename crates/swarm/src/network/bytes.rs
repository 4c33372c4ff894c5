//! A stream of libp2p as tokio's bytes, with ends that can be told apart.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

/// Both directions of a stream.
///
/// The end is [`Ok`] when the other machine finished or dropped its stream, an error when the connection broke: yamux
/// gives an end in both cases, but refuses to write in the latter. Dropping it finishes it.
#[derive(Debug)]
pub(super) struct Bytes {
    inner: libp2p_swarm::Stream,
    /// Whether this side has finished; then yamux does not tell the two ends apart.
    finished: bool,
    ended: bool,
    /// Who waits to write: yamux wakes only the last who asked, and looking at an end asks too.
    writer: Option<Waker>,
    /// The place among the streams of its connection, if this machine opened it.
    _place: Option<OwnedSemaphorePermit>,
}

impl Bytes {
    pub(super) fn new(inner: libp2p_swarm::Stream, place: Option<OwnedSemaphorePermit>) -> Bytes {
        Bytes { inner, finished: false, ended: false, writer: None, _place: place }
    }

    /// Polls the writing side, and remembers who waits for it.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut libp2p_swarm::Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let result = poll(Pin::new(&mut self.inner), cx);
        self.writer = result.is_pending().then(|| cx.waker().clone());
        result.map_err(|_| broken())
    }
}

/// What a reader and a writer get when there is no connection any more.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke")
}

impl AsyncRead for Bytes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf.initialize_unfilled())).map_err(|_| broken())?;
        buf.advance(read);
        if read == 0 {
            if !self.finished {
                let alive = Pin::new(&mut self.inner).poll_write(cx, &[]);
                if let Some(writer) = self.writer.take() {
                    writer.wake();
                }
                if let Poll::Ready(Err(_)) = alive {
                    return Poll::Ready(Err(broken()));
                }
            }
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |inner, cx| inner.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write(cx, |inner, cx| inner.poll_close(cx)))?;
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if !self.finished {
            // If it cannot be finished right now, yamux resets it.
            let _ = Pin::new(&mut self.inner).poll_close(&mut Context::from_waker(Waker::noop()));
        }
    }
}
