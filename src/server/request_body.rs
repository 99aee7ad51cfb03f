//! Bodies with limits: a request's that must keep moving, and an answer's that holds its turn until it is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{error, io};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::limits::Patience;
use super::socket::UnreadBody;

/// A request's body, which fails with [`io::ErrorKind::TimedOut`] when nothing comes for too long.
pub(super) struct RequestBody {
    body: Incoming,
    patience: Patience,
    unread: UnreadBody,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, longest_pause: Duration, unread: UnreadBody) -> Self {
        unread.set(!http_body::Body::is_end_stream(&body));
        Self { body, patience: Patience::new(longest_pause), unread }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, patience, unread } = self.get_mut();
        let polled = Pin::new(body).poll_frame(context).map(io::Result::Ok);
        match ready!(patience.poll(context, polled)) {
            Ok(None) => {
                unread.set(false);
                Poll::Ready(None)
            }
            Ok(Some(frame)) => Poll::Ready(Some(frame.map_err(Into::into))),
            Err(timeout) => Poll::Ready(Some(Err(timeout.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, and the request's place among those that are under way.
pub(super) struct AnswerBody {
    body: Body,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AnswerBody {
    pub(super) fn new(body: Body, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { body, _permit: permit }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
