//! What is counted, and where Prometheus reads it. The names are API: `docs/operations.md` lists them.
//!
//! Counting a request is a few additions to numbers that were found by index: no text is looked up or made until somebody reads.

mod requests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use auth::{Contact, Files};
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use storage::backend::count::{BOUNDS, Count, Counters};

use self::requests::Requests;
pub use self::requests::{KnownMethod, RequestCounts};
use crate::health::{Readiness, Writing};
use crate::logging;
use crate::route::Route;

/// What the server counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: Requests,
    requests_in_flight: AtomicU64,
    connections: AtomicU64,
    background_panics: AtomicU64,
}

/// Counts one among those that are under way, as long as it lives.
#[derive(Debug)]
pub struct UnderWay {
    metrics: Metrics,
    count: fn(&Inner) -> &AtomicU64,
}

impl Metrics {
    /// Where the requests of this kind are counted.
    pub fn requests(&self, route: Route, method: KnownMethod) -> &RequestCounts {
        self.0.requests.counts(route, method)
    }

    /// Counts a request as under way.
    pub fn request(&self) -> UnderWay {
        self.under_way(|inner| &inner.requests_in_flight)
    }

    /// Counts a connection as open.
    pub fn connection(&self) -> UnderWay {
        self.under_way(|inner| &inner.connections)
    }

    /// Counts a panic of something that goes on beside the requests.
    pub fn background_panicked(&self) {
        self.0.background_panics.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of those there were.
    pub fn background_panics(&self) -> u64 {
        self.0.background_panics.load(Ordering::Relaxed)
    }

    fn under_way(&self, count: fn(&Inner) -> &AtomicU64) -> UnderWay {
        count(&self.0).fetch_add(1, Ordering::Relaxed);
        UnderWay { metrics: self.clone(), count }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        (self.count)(&self.metrics.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that is measured, the server's and the store's.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What the server counts.
    pub metrics: Metrics,
    /// The calls of the backend.
    pub backend: Arc<Counters>,
    /// The caches and uploads.
    pub registry: storage::Registry,
    /// Whether the store answers.
    pub readiness: Readiness,
    /// The files that logins rest on.
    pub files: Arc<Files>,
    /// How many connections may be open.
    pub connection_limit: usize,
}

impl Measured {
    /// The route by which Prometheus reads it.
    pub fn router(self, path: &str) -> Router {
        let mut registry = Registry::with_prefix("wharf");
        registry.register(
            "build",
            "Which Wharf this is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(self));
        let registry = Arc::new(registry);
        Router::new()
            .route(path, get(move |headers: HeaderMap| async move { exposition(&registry, &headers) }))
    }
}

/// What was measured until now: as OpenMetrics for those who ask for it, and in Prometheus' older format for others.
fn exposition(registry: &Registry, headers: &HeaderMap) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let mut body = String::new();
    let (content_type, encoded) = match accepted {
        Some(accepted) if accepted.contains("application/openmetrics-text") => {
            (OPEN_METRICS, text::encode(&mut body, registry))
        }
        Some(_) | None => (PROMETHEUS, prometheus_text::encode(&mut body, registry)),
    };
    match encoded {
        Ok(()) => ([(header::CONTENT_TYPE, content_type)], body).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { metrics, backend, registry, readiness, files, connection_limit } = self;
        let mut family = Families(&mut encoder);
        metrics.0.requests.encode(&mut family)?;
        let in_flight = metrics.0.requests_in_flight.load(Ordering::Relaxed);
        family.gauge("http_requests_in_flight", "Requests under way", None, in_flight)?;
        let connections = metrics.0.connections.load(Ordering::Relaxed);
        family.gauge("http_connections", "Connections that are open", None, connections)?;
        let limit = *connection_limit as u64;
        family.gauge("http_connections_limit", "Connections that may be open", None, limit)?;

        let uploads = registry.upload_usage();
        family.gauge(
            "uploads_in_flight",
            "Uploads that are being received or finished",
            None,
            uploads.open,
        )?;
        let help = "What was received of uploads and is not yet written";
        family.gauge("upload_buffer", help, Some(Unit::Bytes), uploads.buffered_bytes)?;

        let calls: Vec<(_, Count)> = backend.counts().filter(|(_, count)| count.total() > 0).collect();
        let calls = || calls.iter().map(|(verb, count)| ([("operation", verb.as_str())], count));
        let help = "How long the store took to answer";
        let kind = MetricType::Histogram;
        family.rows("backend_operation_duration", help, Some(Unit::Seconds), kind, |mut rows| {
            calls().try_for_each(|(labels, count)| histogram(rows.encode_family(&labels)?, count))
        })?;
        let errors = calls().map(|(labels, count)| (labels, count.errors));
        family.counters("backend_errors", "Operations that the store failed", None, errors)?;

        let caches = registry.cache_usage();
        let of = |number: fn(&storage::CacheUse) -> u64| {
            caches.iter().map(move |cache| ([("cache", cache.name)], number(cache)))
        };
        family.counters("cache_hits", "What was found in memory", None, of(|cache| cache.hits))?;
        family.counters(
            "cache_misses",
            "What was looked for in memory in vain",
            None,
            of(|cache| cache.misses),
        )?;
        family.gauges("cache_entries", "What is remembered", None, of(|cache| cache.entries))?;
        let bytes = caches.iter().filter_map(|cache| Some(([("cache", cache.name)], cache.bytes?)));
        family.gauges("cache_size", "The memory of what is remembered", Some(Unit::Bytes), bytes)?;

        let help = "Panics of what goes on beside the requests, each of which is begun anew";
        family.counter("background_panics", help, metrics.background_panics())?;
        let help = "Lines of the log that standard error did not take in time";
        family.counter("log_lines_lost", help, logging::lost_lines())?;

        let help = "Files of logins, and folders of bindings, whose change cannot be used";
        family.gauge("files_refused", help, None, files.refused() as u64)?;

        let ready = u64::from(readiness.is_ready());
        let help = "Whether the store answers, and it is known who may do what";
        family.gauge("ready", help, None, ready)?;
        let writable = match readiness.writing() {
            Writing::Untried => None,
            Writing::Taken => Some(1),
            Writing::Refused(_) => Some(0),
        };
        if let Some(writable) = writable {
            family.gauge("store_writable", "Whether the store takes what is pushed", None, writable)?;
        }
        let Some(cluster) = readiness.cluster() else { return Ok(()) };
        let heard = u64::from(cluster.contact() == Contact::Current);
        family.gauge("cluster_heard", "Whether the API server is heard of", None, heard)?;
        let help = "What the API server was asked about tokens, keys and permissions";
        let questions = cluster.questions();
        family.counters(
            "cluster_questions",
            help,
            None,
            questions.map(|(answer, count)| ([("answer", answer)], count)).into_iter(),
        )
    }
}

fn histogram(mut row: MetricEncoder<'_>, count: &Count) -> fmt::Result {
    let bounds = BOUNDS.iter().map(std::time::Duration::as_secs_f64).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(count.calls).collect();
    row.encode_histogram::<[(&str, &str); 0]>(count.time.as_secs_f64(), count.total(), &buckets, None)
}

/// Writes families of metrics.
struct Families<'e, 'd>(&'e mut DescriptorEncoder<'d>);

impl Families<'_, '_> {
    fn rows(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        rows: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        rows(self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let values = values.map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.numbers(name, help, unit, MetricType::Counter, values)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.rows(name, help, None, MetricType::Counter, |rows| ConstCounter::new(value).encode(rows))
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let values = values.map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.numbers(name, help, unit, MetricType::Gauge, values)
    }

    fn numbers<L: EncodeLabelSet, N: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        mut numbers: impl Iterator<Item = (L, N)>,
    ) -> fmt::Result {
        self.rows(name, help, unit, kind, |mut rows| {
            numbers.try_for_each(|(labels, number)| number.encode(rows.encode_family(&labels)?))
        })
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        self.rows(name, help, unit, MetricType::Gauge, |rows| ConstGauge::new(value).encode(rows))
    }
}
