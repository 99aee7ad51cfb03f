//! The server below the routes: sockets, TLS, limits, and how bytes get onto the wire.
//!
//! One task a connection. A plain HTTP/1.1 connection has a [`SendfileQueue`], by which files go from the page cache to the socket;
//! over TLS and HTTP/2 they are read. Whatever may wait for a client has a limit in time.

mod file_body;
mod limits;
mod listener;
mod page_cache;
mod request_body;
mod sendfile;
mod socket;
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::uri::Scheme;
use axum::http::{HeaderMap, Method, Request, Response, Version, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use self::file_body::FileBody;
use self::limits::{ConnectionLimit, Place, RequestLimit};
pub use self::listener::BoundAddress;
use self::listener::Listener;
use self::request_body::{AnswerBody, RequestBody};
pub use self::sendfile::SendfileQueue;
use self::sendfile::SendfileSocket;
use self::socket::{Socket, Stream, UnreadBody};
use self::tls::Certificates;
pub use self::tls::TlsError;
use crate::api::error::ApiError;
use crate::config::{self, Address, Http};
use crate::health;

/// What an HTTP/2 client without TLS begins with (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of one upload may be on its way over HTTP/2: enough for a fast network to stay busy.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for all uploads of a connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// How many requests one HTTP/2 connection may have under way.
const HTTP2_STREAMS: u32 = 128;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client is told to wait when there is no room for its request.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listeners that are bound, and what holds for their connections.
pub struct Server {
    listeners: Vec<(Listener, Option<Arc<Certificates>>)>,
    /// The files behind the certificates, to be watched.
    watched: Vec<(Arc<Certificates>, tls::Files)>,
    shared: Arc<Shared>,
    drain_timeout: Duration,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be used.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address, as configured.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// TLS cannot be had on an address.
    #[error("cannot serve TLS on {address}")]
    Tls {
        /// The address, as configured.
        address: Address,
        /// What is wrong.
        source: TlsError,
    },
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    limits: config::Limits,
    headers: HeaderMap,
    http2: bool,
    h2c: bool,
    connections: ConnectionLimit,
    reads: Option<RequestLimit>,
    writes: Option<RequestLimit>,
}

/// What one connection knows of itself.
#[derive(Clone)]
struct Connection {
    shared: Arc<Shared>,
    router: Router,
    client: Option<SocketAddr>,
    /// Whether it took one of the places that are kept for questions about health.
    is_spare: bool,
    queue: Option<SendfileQueue>,
    is_encrypted: bool,
    unread: UnreadBody,
}

impl Server {
    /// Binds every listener. Nothing is accepted before [`Server::serve`].
    ///
    /// # Errors
    /// Names the address that cannot be used.
    pub async fn bind(http: &Http) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let mut watched = Vec::new();
        for config::Listener { address, tls } in &http.listeners {
            let listener = Listener::bind(address)
                .await
                .map_err(|source| ServerError::Bind { address: address.clone(), source })?;
            let certificates = match tls {
                None => None,
                Some(tls) => {
                    let protocols: &[&[u8]] = if http.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
                    let (certificates, files) = Certificates::load(tls, protocols)
                        .map_err(|source| ServerError::Tls { address: address.clone(), source })?;
                    let certificates = Arc::new(certificates);
                    watched.push((certificates.clone(), files));
                    Some(certificates)
                }
            };
            listeners.push((listener, certificates));
        }
        let limits = http.limits.clone();
        let shared = Shared {
            connections: ConnectionLimit::new(limits.connections),
            reads: RequestLimit::new(&limits.reads),
            writes: RequestLimit::new(&limits.writes),
            limits,
            headers: http.headers.clone(),
            http2: http.http2,
            h2c: http.h2c,
        };
        Ok(Self { listeners, watched, shared: Arc::new(shared), drain_timeout: http.drain_timeout })
    }

    /// Where clients can connect, each as a URL: the ports are known even where the system chose them.
    pub fn urls(&self) -> Vec<String> {
        let url = |(listener, tls): &(Listener, Option<Arc<Certificates>>)| match listener.address() {
            BoundAddress::Tcp(address) if tls.is_some() => format!("https://{address}"),
            BoundAddress::Tcp(address) => format!("http://{address}"),
            BoundAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        self.listeners.iter().map(url).collect()
    }

    /// Serves `router` until `shutdown` is ready. Then nothing is accepted any more, what is under way gets the configured time to
    /// finish, and what is left is cut.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()>) {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let mut background = tokio::task::JoinSet::new();
        for (certificates, files) in self.watched {
            background.spawn(certificates.keep_current(files));
        }
        for (listener, certificates) in self.listeners {
            let (router, shared) = (router.clone(), self.shared.clone());
            let (stop, cut, connections) = (stop.clone(), cut.clone(), connections.clone());
            background.spawn(async move {
                loop {
                    let place = shared.connections.place().await;
                    let (stream, client) = match listener.accept().await {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "connection not accepted"
                            );
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                            continue;
                        }
                    };
                    let connection = Connection {
                        shared: shared.clone(),
                        router: router.clone(),
                        client,
                        is_spare: place.is_spare,
                        queue: None,
                        is_encrypted: certificates.is_some(),
                        unread: UnreadBody::default(),
                    };
                    let (certificates, stop, cut) = (certificates.clone(), stop.clone(), cut.clone());
                    connections.spawn(async move {
                        let served = connection.serve(stream, certificates, stop);
                        tokio::select! {
                            served = served => {
                                if let Err(error) = served {
                                    tracing::debug!(client = ?client, error = &*error, "connection ended");
                                }
                            }
                            () = cut.cancelled() => {}
                        }
                        drop::<Place>(place);
                    });
                }
            });
        }
        shutdown.await;
        // The listeners close with the tasks that hold them.
        background.shutdown().await;
        stop.cancel();
        connections.close();
        if tokio::time::timeout(self.drain_timeout, connections.wait()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "cutting connections that did not finish in time"
            );
            cut.cancel();
            connections.wait().await;
        }
    }
}

impl Connection {
    async fn serve(
        mut self,
        stream: Stream,
        certificates: Option<Arc<Certificates>>,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let limits = &self.shared.limits;
        let mut socket = Socket::new(stream, limits.idle_body_timeout);
        self.unread = socket.unread_body();
        let Some(certificates) = certificates else {
            let first = tokio::time::timeout(limits.header_timeout, async {
                Ok::<_, io::Error>(self.shared.h2c && socket.begins_with(HTTP2_PREFACE).await?)
            });
            if first.await?? {
                return self.serve_http2(socket, stop).await;
            }
            let queue = SendfileQueue::default();
            self.queue = Some(queue.clone());
            return self.serve_http1(SendfileSocket::new(socket, queue), stop).await;
        };
        let accepted = TlsAcceptor::from(certificates.current()).accept(socket);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepted).await??;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") if self.shared.http2 => self.serve_http2(stream, stop).await,
            _ => self.serve_http1(stream, stop).await,
        }
    }

    async fn serve_http1<S>(
        self,
        stream: S,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.shared.limits;
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            // Hyper wants some room for its own.
            .max_buf_size(limits.header_bytes.get().max(8 << 10))
            .writev(true);
        let service = service_fn(move |request| {
            let connection = self.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }

    async fn serve_http2<S>(
        self,
        stream: S,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let header_bytes = u32::try_from(self.shared.limits.header_bytes.get()).unwrap_or(u32::MAX);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(header_bytes)
            .keep_alive_interval(Some(self.shared.limits.idle_body_timeout));
        let service = service_fn(move |request| {
            let connection = self.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }

    /// One request: its turn, its limits, its answer, its line in the log.
    async fn answer(self, request: Request<Incoming>) -> Response<AnswerBody> {
        let begun = Instant::now();
        let asked = tracing::enabled!(target: "access", tracing::Level::INFO)
            .then(|| (request.method().clone(), request.uri().clone(), request.version()));
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_health = health::is_about_health(request.uri().path());
        let limit = if is_read { &self.shared.reads } else { &self.shared.writes };
        let turn = match limit {
            _ if self.is_spare && !is_health => {
                Err(ApiError::TooManyRequests { retry_after: BUSY_RETRY_AFTER })
            }
            Some(limit) if !is_health => match limit.turn().await {
                Ok(permit) => Ok(Some(permit)),
                Err(limits::TooMany) => Err(ApiError::TooManyRequests { retry_after: BUSY_RETRY_AFTER }),
            },
            _ => Ok(None),
        };
        let (mut response, permit) = match turn {
            Err(error) => (error.into_response(), None),
            Ok(permit) => {
                let idle = self.shared.limits.idle_body_timeout;
                let mut request =
                    request.map(|body| Body::new(RequestBody::new(body, idle, self.unread.clone())));
                if let Some(queue) = &self.queue {
                    request.extensions_mut().insert(queue.clone());
                }
                if self.is_encrypted {
                    // What HTTP/1.1 does not say, and absolute URLs in answers need to know.
                    request.extensions_mut().insert(Scheme::HTTPS);
                }
                let answered = self.router.clone().oneshot(request).await;
                (answered.unwrap_or_else(|never| match never {}), permit)
            }
        };
        for (name, value) in &self.shared.headers {
            response.headers_mut().insert(name, value.clone());
        }
        if self.is_spare {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        if let Some((method, uri, version)) = asked {
            log_access(&method, uri.path(), version, self.client, begun, &response);
        }
        response.map(|body| AnswerBody::new(body, permit))
    }
}

/// The line of one request; with the chain of causes if the registry failed.
fn log_access(
    method: &Method,
    path: &str,
    version: Version,
    client: Option<SocketAddr>,
    begun: Instant,
    response: &Response<Body>,
) {
    let status = response.status().as_u16();
    let duration_ms = begun.elapsed().as_secs_f64() * 1e3;
    let client = client.map(tracing::field::display);
    if let Some(error) = response.extensions().get::<Arc<ApiError>>().filter(|_| status >= 500) {
        let error = &**error as &dyn std::error::Error;
        tracing::error!(%method, path, status, duration_ms, client, error, "request failed");
    } else {
        tracing::info!(target: "access", %method, path, ?version, status, duration_ms, client);
    }
}
