//! One connection from accept to close: which protocol it speaks, and how it is brought to an end.

use std::convert::Infallible;
use std::error::Error;
use std::future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::limits::Place;
use super::request::{Connection, Peer, ResponseBody, answer};
use super::sendfile::{SendfileQueue, SendfileSocket};
use super::socket::{DetachedStream, Socket};

/// What HTTP/2 calls itself in ALPN.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// What HTTP/1.1 calls itself in ALPN.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The first bytes of HTTP/2 without TLS.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an HTTP/2 connection stays open without a request, once it has had one.
const HTTP2_IDLE: Duration = Duration::from_secs(180);

/// How long one that has had none is given to hear that the server stops, which one that does not speak yet never does.
const HTTP2_LAST_WORD: Duration = Duration::from_secs(1);

/// How much goes on on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicUsize,
    under_way: AtomicUsize,
}

impl Activity {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there has been no request yet.
    fn is_new(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == 0
    }

    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that was accepted.
pub(super) struct Accepted {
    pub(super) stream: DetachedStream,
    pub(super) address: Option<SocketAddr>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) place: Place,
}

/// Serves one client until it leaves. Once `stopping`, which is this connection's own, is cancelled only the requests under way are
/// finished.
pub(super) async fn serve(shared: Arc<Shared>, accepted: Accepted, stopping: CancellationToken) {
    let Accepted { stream, address, tls, place } = accepted;
    let stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(?address, %error, "cannot serve a connection"),
    };
    let _open = shared.metrics.connection();
    let mut socket = Socket::new(stream, shared.idle_body_timeout);
    let unread = socket.unread_body();
    let activity = Arc::new(Activity::default());
    let connection = |certificates: Vec<CertificateDer<'static>>, sendfile| {
        let peer = Arc::new(Peer { address, encrypted: tls.is_some(), certificates });
        let (activity, unread, stopping) = (Arc::clone(&activity), unread.clone(), stopping.clone());
        let (unwanted_bytes, is_spare) = (AtomicUsize::new(0), place.is_spare);
        Arc::new(Connection { peer, activity, unread, unwanted_bytes, stopping, sendfile, is_spare })
    };
    let Some(tls) = &tls else {
        let speaks_http2 = shared.h2c && {
            let preface = timeout(shared.header_timeout, socket.begins_with(HTTP2_PREFACE));
            tokio::select! {
                preface = preface => match preface {
                    Ok(Ok(speaks_http2)) => speaks_http2,
                    Ok(Err(_)) | Err(_) => return,
                },
                () = stopping.cancelled() => return,
            }
        };
        if speaks_http2 {
            return Box::pin(serve_http2(&shared, socket, connection(Vec::new(), None), &stopping)).await;
        }
        let queue = SendfileQueue::default();
        let socket = SendfileSocket::new(socket, queue.clone());
        return Box::pin(serve_http1(&shared, socket, connection(Vec::new(), Some(queue)), &stopping)).await;
    };

    let handshake = timeout(shared.header_timeout, TlsAcceptor::from(Arc::clone(tls)).accept(socket));
    let stream = tokio::select! {
        stream = Box::pin(handshake) => stream,
        () = stopping.cancelled() => return,
    };
    let stream = match stream {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return tracing::debug!(?address, error = &error as &dyn Error, "TLS handshake failed");
        }
        Err(_) => return tracing::debug!(?address, "TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default();
    let connection =
        connection(certificates.iter().map(|certificate| certificate.clone().into_owned()).collect(), None);
    if session.alpn_protocol() == Some(ALPN_HTTP2) {
        Box::pin(serve_http2(&shared, stream, connection, &stopping)).await;
    } else {
        Box::pin(serve_http1(&shared, stream, connection, &stopping)).await;
    }
}

async fn serve_http1(
    shared: &Arc<Shared>,
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
    stopping: &CancellationToken,
) {
    let http = shared.http1.serve_connection(TokioIo::new(socket), service(shared, connection));
    drive(http, None, stopping).await;
}

async fn serve_http2(
    shared: &Arc<Shared>,
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
    stopping: &CancellationToken,
) {
    let activity = Arc::clone(&connection.activity);
    let http = shared.http2.serve_connection(TokioIo::new(socket), service(shared, connection));
    drive(http, Some((&activity, shared.header_timeout)), stopping).await;
}

/// What hyper is to do with each request of a connection.
fn service(
    shared: &Arc<Shared>,
    connection: Arc<Connection>,
) -> impl Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: Send + 'static>
+ 'static {
    let shared = Arc::clone(shared);
    service_fn(move |request| answer(Arc::clone(&shared), Arc::clone(&connection), request))
}

/// Runs a connection to its end. One whose activity is `watched` is closed when it has long had no request, or does not have its first
/// within the time that stands beside it; HTTP/1.1 has its time limit for headers instead.
async fn drive<C>(http: C, watched: Option<(&Activity, Duration)>, stopping: &CancellationToken)
where
    C: GracefulConnection,
    C::Error: Error + 'static,
{
    let mut http = pin!(http);
    let mut stopped = false;
    let (activity, mut patience) = watched.unzip();
    let mut begun_before = usize::MAX;
    loop {
        let had_patience = async move {
            match activity.zip(patience) {
                Some((activity, patience)) if !stopped || activity.is_new() => {
                    tokio::time::sleep(patience).await;
                    activity
                }
                Some(_) | None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // First, so that an answer that is given after the stop says that the connection closes.
            () = stopping.cancelled(), if !stopped => {
                stopped = true;
                patience = patience.map(|patience| patience.min(HTTP2_LAST_WORD));
                http.as_mut().graceful_shutdown();
            }
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = &error as &dyn Error, "connection ended");
                }
                return;
            }
            activity = had_patience => {
                if activity.is_new() {
                    return tracing::debug!("a connection had no request in time");
                }
                patience = Some(HTTP2_IDLE);
                let begun = activity.begun.load(Ordering::Relaxed);
                if begun == begun_before && activity.under_way.load(Ordering::Relaxed) == 0 {
                    stopped = true;
                    http.as_mut().graceful_shutdown();
                }
                begun_before = begun;
            }
        }
    }
}
