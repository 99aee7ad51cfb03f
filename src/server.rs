//! The server below the routes: listeners, connections and their limits, and how bytes get onto a socket.
//!
//! It drives hyper itself, connection by connection, for three things that need to know the socket: files that are
//! sent by the kernel, clients that must read an answer while they are still sending, and an orderly stop.

mod connection;
mod descriptors;
mod file_body;
mod limits;
mod listener;
mod page_cache;
mod patience;
mod patient_streams;
mod proxies;
mod record;
mod request;
mod sendfile;
mod socket;
mod tls;
mod workers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::{ALPN_HTTP1, ALPN_HTTP2, Accepted, Activity};
pub use self::descriptors::raise_limit;
pub use self::file_body::FileBody;
use self::limits::{ConnectionLimit, RequestLimit};
pub use self::listener::BoundAddress;
use self::listener::Listener;
use self::patient_streams::PatientStreams;
use self::proxies::Proxies;
pub use self::record::{ACCESS_LOG, Particulars};
pub use self::request::{Peer, REQUEST_ID};
pub use self::sendfile::SendfileQueue;
use self::tls::Certificates;
pub use self::tls::TlsError;
pub use self::workers::Workers;
use crate::background::Background;
use crate::config::{self, Address, Http};
use crate::health;
use crate::metrics::Metrics;
use crate::route::Route;

/// What hyper reads at once, and so what a connection holds of a request that is being received.
const READ_BYTES: usize = 64 * 1024;

/// How much of one HTTP/2 upload may be under way: enough for 250 MB/s at a millisecond of delay. It is held in memory while nobody reads
/// it, whoever sends it.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;

/// How much of all uploads on one HTTP/2 connection may be under way, and so in memory.
const HTTP2_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 128;

/// How often an HTTP/2 client must show that it is still there, and how long it may take.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// How long nothing is accepted after the system refused to: it has run out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listeners that are bound, and the limits that hold on them.
pub struct Server {
    http: Http,
    metrics: Metrics,
    workers: Workers,
    listeners: Vec<(Listener, Option<Arc<Certificates>>)>,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address as configured.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// A listener's TLS cannot be had.
    #[error("cannot serve TLS on {address}")]
    Tls {
        /// The address as configured.
        address: Address,
        /// Why.
        source: TlsError,
    },
}

impl Server {
    /// Binds all listeners and reads their certificates. Clients may connect from now on; they are served by
    /// [`Self::serve`] on the threads of `workers`, and counted in `metrics`.
    ///
    /// # Errors
    /// The first listener that cannot be had; none is left bound then.
    pub async fn bind(http: &Http, metrics: Metrics, workers: Workers) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        for config::Listener { address, tls } in &http.listeners {
            let protocols: &[&[u8]] = if http.http2 { &[ALPN_HTTP2, ALPN_HTTP1] } else { &[ALPN_HTTP1] };
            let tls = match tls {
                Some(settings) => {
                    let certificates = Certificates::load(settings, protocols);
                    let failed = |source| ServerError::Tls { address: address.clone(), source };
                    Some(Arc::new(certificates.map_err(failed)?))
                }
                None => None,
            };
            listeners.push((bind(address).await?, tls));
        }
        Ok(Self { http: http.clone(), metrics, workers, listeners })
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

    /// Serves `router` until `shutdown` is ready. Then nothing is accepted any more and idle connections are closed;
    /// what is under way may finish for as long as the configuration says, and is cut off after that.
    ///
    /// # Cancel safety
    /// If dropped, all listeners and connections are closed at once.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()>) {
        let Self { http, metrics, workers, listeners } = self;
        let stopping = CancellationToken::new();
        let mut accepting = JoinSet::new();
        let mut background = Background::new(metrics.clone());

        let connections = Arc::new(ConnectionLimit::new(http.limits.connections));
        let shared = Arc::new(Shared::new(router, metrics, workers, &http));
        for (listener, certificates) in listeners {
            if let Some(certificates) = &certificates {
                let certificates = Arc::clone(certificates);
                background.look("certificates", move || certificates.use_if_new());
            }
            let (shared, connections) = (Arc::clone(&shared), Arc::clone(&connections));
            accepting.spawn(accept(listener, certificates, shared, connections, stopping.child_token()));
        }
        shutdown.await;
        stopping.cancel();
        let drained = async { while accepting.join_next().await.is_some() {} };
        if tokio::time::timeout(http.drain_timeout, drained).await.is_err() {
            tracing::warn!(
                drain_timeout_ms = http.drain_timeout.as_millis(),
                "requests were still under way when the time to finish them was over"
            );
            accepting.shutdown().await;
        }
    }
}

async fn bind(address: &Address) -> Result<Listener, ServerError> {
    Listener::bind(address).await.map_err(|source| ServerError::Bind { address: address.clone(), source })
}

/// Accepts clients until it is time to stop, then waits for those that are there. Its connections end with it.
async fn accept(
    listener: Listener,
    certificates: Option<Arc<Certificates>>,
    shared: Arc<Shared>,
    connections: Arc<ConnectionLimit>,
    stopping: CancellationToken,
) {
    let mut clients = JoinSet::new();
    let accepting = async {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_the_clients(&error) => continue,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = connections.place().await;
            let tls = certificates.as_ref().map(|certificates| certificates.current());
            let accepted = Accepted { stream, address, tls, place };
            let served = connection::serve(Arc::clone(&shared), accepted, stopping.child_token());
            shared.workers.spawn(served, &mut clients);
            while clients.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stopping.cancelled() => {}
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

/// Whether accepting failed for one client alone.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// What all connections of a listener share.
struct Shared {
    router: Router,
    metrics: Metrics,
    workers: Workers,
    metrics_path: Option<String>,
    headers: HeaderMap,
    proxies: Proxies,
    h2c: bool,
    header_timeout: Duration,
    idle_body_timeout: Duration,
    reads: Option<RequestLimit>,
    writes: Option<RequestLimit>,
    http1: http1::Builder,
    http2: http2::Builder<PatientStreams>,
}

impl Shared {
    fn new(router: Router, metrics: Metrics, workers: Workers, http: &Http) -> Self {
        let limits = &http.limits;
        let header_bytes = limits.header_bytes.get();
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(header_bytes)
            .max_buf_size(header_bytes.max(READ_BYTES));
        let mut http2 = http2::Builder::new(PatientStreams { longest_write: limits.idle_body_timeout });
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_concurrent_streams(HTTP2_STREAMS)
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING);
        Self {
            // Once for all: it would otherwise be done for each request.
            router: router.with_state(()),
            metrics,
            workers,
            metrics_path: http.metrics.clone(),
            headers: http.headers.clone(),
            proxies: Proxies::new(http.trusted_proxies.clone()),
            h2c: http.h2c,
            header_timeout: limits.header_timeout,
            idle_body_timeout: limits.idle_body_timeout,
            reads: RequestLimit::new(&limits.reads),
            writes: RequestLimit::new(&limits.writes),
            http1,
            http2,
        }
    }

    /// The route of a path that whoever watches over the server asks for.
    fn watched(&self, path: &str) -> Option<Route> {
        let is_metrics = self.metrics_path.as_deref() == Some(path);
        health::route(path).or(is_metrics.then_some(Route::Metrics))
    }
}
