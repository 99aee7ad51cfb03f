//! HTTP/2 streams whose client must keep taking what it asked for. A socket that takes nothing more tells of a client that
//! stopped reading it all; one that stops reading a single stream is only seen here.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;

use super::patience::Patience;

tokio::task_local! {
    /// Whose turn it is in the stream that is being polled.
    static TURN: Cell<Turn>;
}

/// Who must do something before a stream's answer goes on.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The handler, or whatever yields the bytes.
    Ours,
    /// The client, which has just been given something.
    BecameTheClients,
    /// The client, which has taken nothing since.
    TheClients,
}

/// Runs the streams of HTTP/2 connections, and resets those that wait for their client for too long.
#[derive(Clone, Debug)]
pub(super) struct PatientStreams {
    pub(super) longest_write: Duration,
}

/// Notes that it is the client's turn: to take an answer's head, or a part of its body.
pub(super) fn handed_over() {
    // On HTTP/1.1 there is none: the socket itself is watched.
    let _ = TURN.try_with(|turn| turn.set(Turn::BecameTheClients));
}

/// Notes that what the client is to have next is not there yet.
pub(super) fn not_ready() {
    let _ = TURN.try_with(|turn| turn.set(Turn::Ours));
}

impl<F> Executor<F> for PatientStreams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stream = Watched { stream: Box::pin(stream), patience: Patience::new(self.longest_write) };
        tokio::spawn(TURN.scope(Cell::new(Turn::Ours), stream));
    }
}

/// A stream, with what is left of the patience with its client.
struct Watched<F> {
    stream: Pin<Box<F>>,
    patience: Patience,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { stream, patience } = self.get_mut();
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let turn = TURN.with(Cell::get);
        if let Turn::Ours | Turn::BecameTheClients = turn {
            // Something moved, so that the time begins anew.
            let _ = patience.poll(context, Poll::Ready(Ok(())));
        }
        if let Turn::Ours = turn {
            return Poll::Pending;
        }
        TURN.with(|turn| turn.set(Turn::TheClients));
        let overdue = ready!(patience.poll::<()>(context, Poll::Pending));
        tracing::debug!(?overdue, "a client does not take what it asked for; its stream is reset");
        Poll::Ready(())
    }
}
