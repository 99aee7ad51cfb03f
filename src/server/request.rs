//! One request from its head to the last byte of the answer: its id, its turn, its time limits, its line in the log.

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body as RouterBody;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::Entry;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::limits::TooMany;
use super::patience::Patience;
use super::record::{Particulars, Record};
use super::sendfile::SendfileQueue;
use super::socket::{LINGER_BYTES, LINGER_IDLE, LINGER_TIME, UnreadBody};
use super::{Activity, Shared, patient_streams};
use crate::api::error::ApiError;
use crate::traces;

/// The header that names a request, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// When those who were refused are told to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The most that is handed to an HTTP/2 stream at once. Its client has the time limit of a body that stands still for each of them, so
/// that a slow one must take no more than half a KiB a second.
const HTTP2_PIECE_BYTES: usize = 32 * 1024;

/// Whom a connection is with: an extension, as `Arc<Peer>`, of each of its requests.
#[derive(Debug)]
pub struct Peer {
    /// The client's address; there is none on a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The certificates that the client showed, and that were verified, its own first.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Names one request, in logs and in answers. Its text is made only where it is needed.
#[derive(Clone, Debug)]
pub(super) struct RequestId(Id);

#[derive(Clone, Debug)]
enum Id {
    Given(HeaderValue),
    Counted(u64),
}

impl RequestId {
    /// Takes the id that the client, or a proxy, gave the request if it may stand in a log, and makes one otherwise.
    fn of(headers: &HeaderMap) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        match headers.get(REQUEST_ID).filter(|given| is_sane(given.as_bytes())) {
            Some(given) => Self(Id::Given(given.clone())),
            None => Self(Id::Counted(COUNT.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn to_header(&self) -> HeaderValue {
        match &self.0 {
            Id::Given(given) => given.clone(),
            Id::Counted(_) => {
                HeaderValue::try_from(self.to_string()).expect("hexadecimal digits are a header value")
            }
        }
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
        match &self.0 {
            Id::Given(given) => formatter.write_str(&String::from_utf8_lossy(given.as_bytes())),
            Id::Counted(count) => write!(formatter, "{:016x}{count:08x}", *PROCESS),
        }
    }
}

/// What a connection's requests have in common.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Arc<Peer>,
    pub(super) activity: Arc<Activity>,
    pub(super) unread: UnreadBody,
    /// What was taken in, by HTTP/2, of bodies that nobody wanted.
    pub(super) unwanted_bytes: AtomicUsize,
    /// Ends the connection once the requests under way are answered.
    pub(super) stopping: CancellationToken,
    /// There is one on plain HTTP/1.1.
    pub(super) sendfile: Option<SendfileQueue>,
    /// Whether only questions about health are answered, because too many connections are open.
    pub(super) is_spare: bool,
}

/// Answers one request, by the router if the limits let it through.
pub(super) async fn answer(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, incoming) = request.into_parts();
    if let Entry::Occupied(mut shown) = head.headers.entry(header::AUTHORIZATION) {
        // So that no `Debug` shows them.
        shown.iter_mut().for_each(|value| value.set_sensitive(true));
    }
    let id = RequestId::of(&head.headers);
    let under_way = UnderWay::begin(&connection.activity);
    let sender = shared.proxies.sender(connection.peer.address, &mut head.headers);
    let mut record = Record::begin(&shared.metrics, &id, sender, &head);
    let version = head.version;

    let has_body = !incoming.is_end_stream();
    connection.unread.set(has_body);
    let body = if has_body {
        let patience = Patience::new(shared.idle_body_timeout);
        let (connection, particulars) = (Arc::clone(&connection), Arc::clone(record.particulars()));
        let incoming = Some(incoming);
        RouterBody::new(RequestBody {
            incoming,
            version,
            patience,
            connection,
            particulars,
            has_ended: false,
        })
    } else {
        RouterBody::empty()
    };
    let is_head = head.method == Method::HEAD;
    let watched = shared.watched(head.uri.path());
    if let Some(route) = watched {
        record.particulars().has_route(route);
    }
    let turn = match (settle_host(&mut head), watched) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(_)) => Ok(None),
        (Ok(()), None) => turn(&shared, &connection, &head.method)
            .await
            .map_err(|TooMany| ApiError::TooManyRequests { retry_after: RETRY_AFTER }),
    };
    let (mut response, turn) = match turn {
        Ok(turn) => {
            let span = span(&id, &head.method);
            if traces::are_on() {
                traces::join(&span, &head.headers);
                record.is_traced(&span);
            }
            head.extensions.insert(Arc::clone(record.particulars()));
            head.extensions.insert(Arc::clone(&connection.peer));
            if connection.peer.encrypted {
                // What HTTP/1.1 does not say, and absolute URLs in answers need to know.
                head.extensions.insert(Scheme::HTTPS);
            }
            if let Some(queue) = &connection.sendfile {
                head.extensions.insert(queue.clone());
            }
            let request = Request::from_parts(head, body);
            let Ok(response) = shared.router.clone().oneshot(request).instrument(span.clone()).await;
            log_failure(&response, &span);
            (response, turn)
        }
        Err(error) => {
            // Dropped unread: a client that waits for 100 is told this instead.
            drop(body);
            let refusal = error.into_response();
            (if is_head { without_body(refusal) } else { refusal }, None)
        }
    };

    let status = response.status();
    let headers = response.headers_mut();
    for (name, value) in &shared.headers {
        headers.append(name, value.clone());
    }
    if matches!(id.0, Id::Given(_)) || status.is_client_error() || status.is_server_error() {
        headers.insert(REQUEST_ID, id.to_header());
    }
    // Whoever comes again may find a regular place.
    if connection.is_spare {
        if version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else {
            connection.stopping.cancel();
        }
    }
    record.answered(status);
    patient_streams::handed_over();
    let pieces = (version == Version::HTTP_2).then(Bytes::new);
    Ok(response.map(|body| ResponseBody { body, pieces, record, _turn: turn, _under_way: under_way }))
}

/// A refusal of `HEAD`, as a router would give it. Over HTTP/2 nothing else would keep the body from being sent.
fn without_body(response: Response<RouterBody>) -> Response<RouterBody> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, RouterBody::empty())
}

/// Sees to it that there is one host at most that the client called: what its request's target names counts, whatever `Host` says
/// (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
fn settle_host(head: &mut Parts) -> Result<(), ApiError> {
    let hosts = head.headers.get_all(header::HOST).iter().count();
    let needed = usize::from(head.version == Version::HTTP_11);
    if hosts > 1 || hosts < needed {
        return Err(ApiError::HostUnclear);
    }
    if let Some(authority) = head.uri.authority().filter(|_| hosts > 0)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
    Ok(())
}

/// Waits until the request may be served; the permit, where one is needed, is for as long as it is.
async fn turn(
    shared: &Shared,
    connection: &Connection,
    method: &Method,
) -> Result<Option<OwnedSemaphorePermit>, TooMany> {
    if connection.is_spare {
        return Err(TooMany);
    }
    let limit = if method.is_safe() { &shared.reads } else { &shared.writes };
    match limit {
        Some(limit) => limit.turn().await.map(Some),
        None => Ok(None),
    }
}

fn span(id: &RequestId, method: &Method) -> Span {
    tracing::info_span!(
        "request",
        request.id = %id,
        http.method = %method,
        http.route = Empty,
        repository = Empty,
        digest = Empty,
        caller.name = Empty,
        otel.kind = traces::are_on().then_some("server"),
    )
}

/// Logs why a request failed, if that is ours to mend; the client was told no more than that it did.
fn log_failure(response: &Response<RouterBody>, span: &Span) {
    if response.status().is_server_error()
        && let Some(error) = response.extensions().get::<Arc<ApiError>>()
    {
        let status = response.status().as_u16();
        let error = &**error as &dyn std::error::Error;
        span.in_scope(|| tracing::error!(http.status = status, error, "request failed"));
    }
}

/// A request's body. One that stands still for too long fails with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
struct RequestBody {
    /// There until it is dropped.
    incoming: Option<Incoming>,
    version: Version,
    patience: Patience,
    connection: Arc<Connection>,
    particulars: Arc<Particulars>,
    /// Whether its end was read. Of one in chunks nothing else tells.
    has_ended: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { incoming, patience, particulars, has_ended, .. } = self.get_mut();
        let Some(incoming) = incoming else { return Poll::Ready(None) };
        let frame =
            Pin::new(incoming).poll_frame(context).map(|frame| frame.transpose().map_err(io::Error::other));
        let frame = ready!(patience.poll(context, frame));
        match &frame {
            Ok(Some(frame)) => particulars.received(frame.data_ref().map_or(0, Bytes::len)),
            Ok(None) => *has_ended = true,
            Err(_) => {}
        }
        Poll::Ready(frame.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let is_unread = !self.has_ended && !self.is_end_stream();
        self.connection.unread.set(is_unread);
        if is_unread
            && self.version == Version::HTTP_2
            && let Some(incoming) = self.incoming.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(take_in(incoming, Arc::clone(&self.connection)));
        }
    }
}

/// Takes in what a client is still sending of a body that nobody reads, as a socket does that is closed: for a while, and so much of all
/// such bodies of a connection. It ends when the server stops.
///
/// Without it hyper resets the stream behind the answer, and a client that notices while it sends, such as curl 7.88, throws the answer
/// away.
async fn take_in(mut incoming: Incoming, connection: Arc<Connection>) {
    let taking = async {
        while let Ok(Some(Ok(frame))) = timeout(LINGER_IDLE, incoming.frame()).await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if connection.unwanted_bytes.fetch_add(bytes, Ordering::Relaxed) > LINGER_BYTES {
                return;
            }
        }
    };
    // Whether it came to its end is of no more use to anybody.
    let _ = connection.stopping.run_until_cancelled(timeout(LINGER_TIME, taking)).await;
}

/// An answer's body, and what is to be kept until it has been sent.
#[derive(Debug)]
pub(super) struct ResponseBody {
    body: RouterBody,
    /// On HTTP/2, the rest of a frame that is sent in pieces.
    pieces: Option<Bytes>,
    record: Record,
    _turn: Option<OwnedSemaphorePermit>,
    _under_way: UnderWay,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, pieces, record, .. } = self.get_mut();
        let mut frame = match pieces {
            Some(rest) if !rest.is_empty() => Some(Ok(Frame::data(std::mem::take(rest)))),
            Some(_) | None => {
                let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
                    patient_streams::not_ready();
                    return Poll::Pending;
                };
                frame
            }
        };
        if let (Some(rest), Some(Ok(frame))) = (pieces, &mut frame)
            && let Some(data) = frame.data_mut().filter(|data| data.len() > HTTP2_PIECE_BYTES)
        {
            *rest = data.split_off(HTTP2_PIECE_BYTES);
        }
        patient_streams::handed_over();
        if let Some(Ok(frame)) = &frame {
            record.sent(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.as_ref().is_none_or(Bytes::is_empty) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.pieces.as_ref().map_or(0, Bytes::len) as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// Counts a request among those under way on its connection.
#[derive(Debug)]
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.begin();
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end();
    }
}
