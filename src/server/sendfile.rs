//! Sends file bytes from the page cache to a plain HTTP/1.1 socket without copying them through this process.
//!
//! HTTP libraries only know bodies made of bytes. So a body that comes from a file yields *placeholders*: slices of
//! one buffer of zeros that is never touched, and beside each, on its connection's queue, which part of which file it
//! stands for. The socket recognises a placeholder by its address and sends the file instead. A placeholder
//! on any other socket would be sent as the zeros it is made of; hence only connections whose socket is a
//! [`SendfileSocket`] hand out a queue, and without a queue there are no placeholders.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// The most that one placeholder stands for.
pub(super) const PLACEHOLDER_BYTES: usize = 2 * 1024 * 1024;

/// Lives in `.bss`: nobody reads it, so it takes up no memory.
static PLACEHOLDER: [u8; PLACEHOLDER_BYTES] = [0; PLACEHOLDER_BYTES];

/// What the placeholders of one connection stand for, in the order in which they are sent.
///
/// It is found among a request's extensions when, and only when, the response goes straight to the socket.
#[derive(Clone, Debug, Default)]
pub struct SendfileQueue(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    segments: VecDeque<Segment>,
    /// Whether the socket sends full packets only. Otherwise each part ends with a short one, and what the kernel does for
    /// each of those takes a tenth of a large file's time. If the next part is late, what is left of this one goes after 200 ms.
    corked: bool,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    offset: u64,
    length: usize,
    is_last: bool,
}

impl SendfileQueue {
    /// Gives the placeholder for `length` bytes of `file`; they are sent when, and in the place where, it is. Unless it is the
    /// last of its body, the next one follows.
    pub(super) fn push(&self, file: Arc<File>, offset: u64, length: usize, is_last: bool) -> Bytes {
        let placeholder = Bytes::from_static(&PLACEHOLDER[..length]);
        self.queue().segments.push_back(Segment { file, offset, length, is_last });
        placeholder
    }

    /// Sends what a placeholder of `length` bytes stands for, or as much of it as the socket takes.
    fn send_next(&self, socket: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
        let mut queue = self.queue();
        let Queue { segments, corked } = &mut *queue;
        let Some(segment) = segments.front_mut().filter(|segment| segment.length == length) else {
            return Err(io::Error::other("a placeholder is not the one that was due"));
        };
        if !segment.is_last && !*corked {
            // Both fail on a Unix socket, which has no packets.
            let _ = rustix::net::sockopt::set_tcp_cork(socket, true);
            *corked = true;
        }
        let sent = rustix::fs::sendfile(socket, &segment.file, Some(&mut segment.offset), length)?;
        if sent == 0 {
            tracing::error!(
                offset = segment.offset,
                missing_bytes = length,
                "a file shrank while it was sent"
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file shrank while it was sent"));
        }
        segment.length -= sent;
        if segment.length == 0 {
            if segment.is_last && *corked {
                let _ = rustix::net::sockopt::set_tcp_cork(socket, false);
                *corked = false;
            }
            segments.pop_front();
        }
        Ok(sent)
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that sends files where placeholders are written to it.
#[derive(Debug)]
pub(super) struct SendfileSocket {
    socket: Socket,
    queue: SendfileQueue,
}

impl SendfileSocket {
    pub(super) fn new(socket: Socket, queue: SendfileQueue) -> Self {
        Self { socket, queue }
    }
}

impl AsyncRead for SendfileSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for SendfileSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, queue } = self.get_mut();
        match slices.iter().position(|slice| is_placeholder(slice)) {
            None => Pin::new(socket).poll_write_vectored(context, slices),
            Some(index) => socket.poll_write_with(context, |descriptor| {
                send_then_file(descriptor, &slices[..index], slices[index].len(), queue)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

/// Sends `text`, and if all of it went, the file bytes that follow it: one packet holds the end of one and the
/// beginning of the other.
fn send_then_file(
    socket: BorrowedFd<'_>,
    text: &[IoSlice<'_>],
    length: usize,
    queue: &SendfileQueue,
) -> io::Result<usize> {
    let text_bytes: usize = text.iter().map(|slice| slice.len()).sum();
    if text_bytes == 0 {
        return queue.send_next(socket, length);
    }
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, text, &mut SendAncillaryBuffer::default(), flags)?;
    if sent < text_bytes {
        return Ok(sent);
    }
    match queue.send_next(socket, length) {
        Ok(file_bytes) => Ok(sent + file_bytes),
        // What did go must be counted; the file's turn comes with the next write.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(sent),
        Err(error) => Err(error),
    }
}

fn is_placeholder(slice: &[u8]) -> bool {
    !slice.is_empty() && PLACEHOLDER.as_ptr_range().contains(&slice.as_ptr())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::net::sockopt::tcp_cork;

    use super::*;

    #[test]
    fn only_full_packets_are_sent_until_the_last_part_which_does_not_wait() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first, last").unwrap();
        let file = Arc::new(file);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let queue = SendfileQueue::default();
        for _ in 0..2 {
            queue.push(Arc::clone(&file), 0, 7, false);
            queue.push(Arc::clone(&file), 7, 4, true);
            assert_eq!(queue.send_next(server.as_fd(), 7).unwrap(), 7);
            assert!(tcp_cork(&server).unwrap());
            assert_eq!(queue.send_next(server.as_fd(), 4).unwrap(), 4);
            assert!(!tcp_cork(&server).unwrap());
            let mut received = [0; 11];
            client.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"first, last");
        }
        queue.push(file, 0, 11, true);
        queue.send_next(server.as_fd(), 11).unwrap();
        assert!(!tcp_cork(&server).unwrap(), "what goes in one part needs no call more");
    }

    #[test]
    fn a_last_part_that_the_socket_takes_bit_by_bit_is_sent_in_full_packets_to_its_end() {
        const LENGTH: usize = PLACEHOLDER_BYTES;
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 + LENGTH as u64).unwrap();
        let file = Arc::new(file);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(4096).unwrap();
        server.set_nonblocking(true).unwrap();
        let queue = SendfileQueue::default();
        queue.push(Arc::clone(&file), 0, 1, false);
        queue.push(file, 1, LENGTH, true);
        queue.send_next(server.as_fd(), 1).unwrap();
        let (mut left, mut times) = (LENGTH, 0);
        client.read_exact(&mut [0]).unwrap();
        while left > 0 {
            assert!(tcp_cork(&server).unwrap());
            let sent = match queue.send_next(server.as_fd(), left) {
                Ok(sent) => sent,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    0
                }
            };
            client.read_exact(&mut vec![0; sent]).unwrap();
            (left, times) = (left - sent, times + 1);
        }
        assert!(times > 1, "the socket took all at once");
        assert!(!tcp_cork(&server).unwrap());
    }
}
