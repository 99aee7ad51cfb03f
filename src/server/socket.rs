//! One accepted connection's socket, TCP or Unix, behind a single type that also ends well: a client that stops
//! reading is let go, and one that is still sending when the answer is out gets to read it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::patience::Patience;

/// How long a closed connection waits for a client that sends nothing more but does not close its side.
pub(super) const LINGER_IDLE: Duration = Duration::from_secs(5);

/// How long it takes in what the client still sends, at most …
pub(super) const LINGER_TIME: Duration = Duration::from_secs(30);

/// … and how much.
pub(super) const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// A connected stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected stream that no runtime watches, on its way from the one that accepted it to the one that serves it.
#[derive(Debug)]
pub(super) enum DetachedStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connected stream whose client must keep reading, and whose closing waits for a client that is still sending.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    /// What was read from the stream to find out which protocol it speaks.
    looked_at: Bytes,
    writing: Patience,
    closing: Closing,
    unread: UnreadBody,
}

/// Whether the last request's body was left unread, known to the socket and to the one who reads bodies.
///
/// Closing a TCP connection while received bytes are unread resets it, and a reset makes the client's system throw
/// away the answer that it had received.
#[derive(Clone, Debug, Default)]
pub(super) struct UnreadBody(Arc<AtomicBool>);

impl UnreadBody {
    pub(super) fn set(&self, unread: bool) {
        self.0.store(unread, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Closing {
    No,
    Lingering { taken_bytes: usize, idle: Patience, whole: Patience },
}

impl Socket {
    /// Takes over a stream. A write that waits for the client for longer than `longest_write` fails.
    pub(super) fn new(stream: Stream, longest_write: Duration) -> Self {
        Self {
            stream,
            looked_at: Bytes::new(),
            writing: Patience::new(longest_write),
            closing: Closing::No,
            unread: UnreadBody::default(),
        }
    }

    pub(super) fn unread_body(&self) -> UnreadBody {
        self.unread.clone()
    }

    /// Tells whether the client's first bytes are `expected`. They are still there to be read afterwards.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut first = Vec::with_capacity(expected.len());
        while first.len() < expected.len() && expected.starts_with(&first) {
            let missing = expected.len() - first.len();
            if (&mut *self).take(missing as u64).read_buf(&mut first).await? == 0 {
                break;
            }
        }
        let matches = first == expected;
        self.looked_at = Bytes::from(first);
        Ok(matches)
    }

    /// Runs a non-blocking system call that writes, once the stream has room; it is repeated for as long as it
    /// answers `WouldBlock`.
    pub(super) fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.poll_write_with(context, &mut write);
        self.writing.poll(context, written)
    }
}

impl DetachedStream {
    /// Has the runtime that this is called on watch the stream from now on.
    pub(super) fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Stream {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let attempt = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(context))?;
                    stream.try_io(Interest::WRITABLE, || write(stream.as_fd()))
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(context))?;
                    stream.try_io(Interest::WRITABLE, || write(stream.as_fd()))
                }
            };
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                finished => return Poll::Ready(finished),
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.looked_at.is_empty() {
            return this.stream.poll_read(context, buffer);
        }
        let length = this.looked_at.len().min(buffer.remaining());
        buffer.put_slice(&this.looked_at[..length]);
        this.looked_at.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, writing, .. } = self.get_mut();
        let written = match stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        writing.poll(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, writing, .. } = self.get_mut();
        let written = match stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        writing.poll(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be sent, then takes in what the client is still sending: until it closes its side
    /// too, and not for ever.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, closing, unread, .. } = self.get_mut();
        if let Closing::No = closing {
            ready!(stream.poll_shutdown(context))?;
            let (idle, whole) = (Patience::new(LINGER_IDLE), Patience::new(LINGER_TIME));
            *closing = Closing::Lingering { taken_bytes: 0, idle, whole };
        }
        let Closing::Lingering { taken_bytes, idle, whole } = closing else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = stream.poll_read(context, &mut buffer);
            if read.is_pending() && *taken_bytes == 0 && !unread.0.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            if whole.poll(context, Poll::<io::Result<()>>::Pending).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let read = ready!(idle.poll(context, read));
            *taken_bytes += buffer.filled().len();
            // Whatever goes wrong now, the connection is at its end.
            if read.is_err() || buffer.filled().is_empty() || *taken_bytes > LINGER_BYTES {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
