//! What an operator sees of a registry in Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::harness::{Image, Layer, MIB, PaperCluster, TestRegistry, User, until};

/// What was scraped: each sample's value by its name and labels, as they were written.
#[derive(Debug, Default)]
struct Metrics {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}: that is no number")))
        });
        let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let kinds = kinds.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        Self { samples: samples.collect(), kinds: kinds.collect() }
    }

    /// The value of a sample that must be there.
    #[track_caller]
    fn of(&self, sample: &str) -> f64 {
        self.get(sample).unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples))
    }

    fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }
}

/// Scrapes until what was done has been counted: a request is counted when its answer has been sent, which its client may learn first.
#[track_caller]
fn scrape(user: &User, is_counted: impl Fn(&Metrics) -> bool) -> impl Future<Output = Metrics> {
    const TIMES: usize = 2000;
    let caller = std::panic::Location::caller();
    async move {
        let mut metrics = Metrics::default();
        for _ in 0..TIMES {
            let answer = user.get("/metrics").await.expect(StatusCode::OK);
            assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
            metrics = Metrics::parse(std::str::from_utf8(&answer.body).unwrap());
            if is_counted(&metrics) {
                return metrics;
            }
        }
        panic!("{caller}: it is not counted in {:#?}", metrics.samples);
    }
}

async fn with_metrics() -> TestRegistry {
    TestRegistry::with(json!({ "http": { "debug": { "prometheus": { "enabled": true } } } })).await
}

fn requests(route: &str, method: &str, status: u16) -> String {
    format!("wharf_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}")
}

const MANIFEST: &str = "/v2/{name}/manifests/{reference}";
const BLOB: &str = "/v2/{name}/blobs/{digest}";

#[tokio::test]
async fn what_clients_do_is_counted_by_route_method_and_status() {
    let registry = with_metrics().await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(MIB)]);
    alice.push("team/app", "1", &image).await;
    let blob = format!("/v2/team/app/blobs/{}", image.layers[0].digest());
    for _ in 0..3 {
        alice.get(&blob).await.expect(StatusCode::OK);
        alice.get("/v2/team/app/manifests/1").await.expect(StatusCode::OK);
    }
    alice.get("/v2/team/app/manifests/2").await.expect(StatusCode::NOT_FOUND);
    alice.get("/no/such/thing").await.expect(StatusCode::NOT_FOUND);
    let brew = Method::from_bytes(b"BREW").unwrap();
    alice.ask(brew, "/v2/", &[], Bytes::new()).await.expect(StatusCode::METHOD_NOT_ALLOWED);
    alice.get("/healthz").await.expect(StatusCode::OK);

    let metrics = scrape(&alice, |metrics| {
        metrics.get(&requests(BLOB, "GET", 200)) == Some(3.0)
            && metrics.get(&requests("/healthz", "GET", 200)) == Some(1.0)
    })
    .await;
    assert_eq!(metrics.of(&requests(MANIFEST, "PUT", 201)), 1.0);
    assert_eq!(metrics.of(&requests(MANIFEST, "GET", 200)), 3.0);
    assert_eq!(metrics.of(&requests(MANIFEST, "GET", 404)), 1.0);
    assert_eq!(metrics.of(&requests("/v2/{name}/blobs/uploads/", "POST", 202)), 2.0);
    assert_eq!(metrics.of(&requests("/v2/{name}/blobs/uploads/{uuid}", "PUT", 201)), 2.0);
    assert_eq!(metrics.of(&requests("other", "GET", 404)), 1.0);
    assert_eq!(metrics.of(&requests("/v2/", "other", 405)), 1.0);

    let of_blobs = format!("{{route=\"{BLOB}\",method=\"GET\"}}");
    assert_eq!(metrics.of(&format!("wharf_http_request_duration_seconds_count{of_blobs}")), 3.0);
    assert!(metrics.of(&format!("wharf_http_request_duration_seconds_sum{of_blobs}")) > 0.0);
    let all =
        format!("wharf_http_request_duration_seconds_bucket{{route=\"{BLOB}\",method=\"GET\",le=\"+Inf\"}}");
    assert_eq!(metrics.of(&all), 3.0);
    assert_eq!(metrics.of(&format!("wharf_http_sent_bytes_total{of_blobs}")), 3.0 * MIB as f64);
    let received =
        "wharf_http_received_bytes_total{route=\"/v2/{name}/blobs/uploads/{uuid}\",method=\"PUT\"}";
    assert_eq!(metrics.of(received), (MIB + image.config.len()) as f64);

    assert!(metrics.of("wharf_http_requests_in_flight") >= 1.0, "the scrape itself");
    assert!(metrics.of("wharf_http_connections") >= 1.0, "the scrape's");
    assert_eq!(metrics.of("wharf_http_connections_limit"), 10_000.0);
    assert_eq!(metrics.of("wharf_uploads_in_flight"), 0.0);
    assert_eq!(metrics.of("wharf_upload_buffer_bytes"), 0.0);
    assert_eq!(metrics.of("wharf_ready"), 1.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(metrics.of(&format!("wharf_build_info{{version=\"{version}\"}}")), 1.0);

    assert_eq!(metrics.of("wharf_backend_operation_duration_seconds_count{operation=\"publish\"}"), 2.0);
    assert_eq!(metrics.of("wharf_backend_errors_total{operation=\"publish\"}"), 0.0);
    assert_eq!(metrics.of("wharf_cache_misses_total{cache=\"manifests\"}"), 1.0);
    assert_eq!(metrics.of("wharf_cache_hits_total{cache=\"manifests\"}"), 2.0);
    assert_eq!(metrics.of("wharf_cache_entries{cache=\"manifests\"}"), 1.0);
    assert!(metrics.of("wharf_cache_size_bytes{cache=\"manifests\"}") >= image.manifest.len() as f64);
}

#[tokio::test]
async fn uploads_that_are_being_received_are_counted() {
    let registry = with_metrics().await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    let words = format!(
        "PATCH {} HTTP/1.1\r\nhost: registry\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
        upload.location()
    );
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    connection.write_all(words.as_bytes()).await.unwrap();
    let mut go_on = [0; 12];
    connection.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100", "its body is asked for, so it is under way");
    scrape(&alice, |metrics| metrics.of("wharf_uploads_in_flight") == 1.0).await;
    connection.write_all(b"abc").await.unwrap();
    scrape(&alice, |metrics| metrics.of("wharf_uploads_in_flight") == 0.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_is_counted_too() {
    let registry = with_metrics().await;
    let alice = registry.user("alice");
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    let words = "PUT /v2/team/app/manifests/1 HTTP/1.1\r\nhost: registry\r\ncontent-length: 1000\r\n\r\n{";
    connection.write_all(words.as_bytes()).await.unwrap();
    let received = format!("wharf_http_received_bytes_total{{route=\"{MANIFEST}\",method=\"PUT\"}}");
    scrape(&alice, |metrics| metrics.get(&received) == Some(1.0)).await;
    drop(connection);
    // What it would have been told, had it stayed.
    scrape(&alice, |metrics| metrics.get(&requests(MANIFEST, "PUT", 400)) == Some(1.0)).await;
}

#[tokio::test]
async fn metrics_are_answered_when_nothing_else_is() {
    let settings = json!({ "http": {
        "debug": { "prometheus": { "enabled": true } },
        "limits": { "connections": 1 },
    } });
    let registry = TestRegistry::with(settings).await;
    let alice = registry.user("alice");
    let mut greedy = TcpStream::connect(registry.host()).await.unwrap();
    greedy.write_all(b"GET /v2/ HTTP/1.1\r\nhost: registry\r\nx-slow: ").await.unwrap();
    scrape(&alice, |metrics| metrics.of("wharf_http_connections") >= 2.0).await;
    alice.get("/v2/").await.expect(StatusCode::TOO_MANY_REQUESTS);
    let refused = requests("other", "GET", 429);
    scrape(&alice, |metrics| metrics.get(&refused) == Some(1.0)).await;
}

#[tokio::test]
async fn metrics_are_on_the_listener_for_health_unless_that_is_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let ask = async |socket: &std::path::Path, path: &str| {
        let mut connection = UnixStream::connect(socket).await.unwrap();
        let words = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text;version=1.0.0\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(words.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let socket = folder.path().join("a.sock");
    let debug = json!({ "addr": socket, "prometheus": { "path": "/observe" } });
    let registry = TestRegistry::with(json!({ "http": { "debug": debug } })).await;
    let answer = ask(&socket, "/observe").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    assert!(ask(&socket, "/metrics").await.starts_with("HTTP/1.1 404 "));
    registry.user("alice").get("/observe").await.expect(StatusCode::NOT_FOUND);

    let socket = folder.path().join("b.sock");
    let debug = json!({ "addr": socket, "prometheus": { "enabled": false } });
    let _registry = TestRegistry::with(json!({ "http": { "debug": debug } })).await;
    assert!(ask(&socket, "/metrics").await.starts_with("HTTP/1.1 404 "));
    assert!(ask(&socket, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn without_being_asked_for_there_are_no_metrics_beside_the_api() {
    let registry = TestRegistry::start().await;
    registry.user("alice").get("/metrics").await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_counted_until_it_can_and_leaves_the_registry_ready() {
    let cluster = PaperCluster::new();
    let mut settings = cluster.settings();
    settings["http"] = json!({ "debug": { "prometheus": { "enabled": true } } });
    let registry = TestRegistry::with(settings).await;
    let alice = registry.user("alice");
    let refused = async || Metrics::parse(&alice.metrics().await).of("wharf_files_refused");
    assert_eq!(refused().await, 0.0);
    cluster.apply("wrong", "a: [");
    until(async || refused().await == 1.0).await;
    alice.get("/readyz").await.expect(StatusCode::OK);
    cluster.delete("wrong");
    until(async || refused().await == 0.0).await;
}

#[tokio::test]
async fn the_manual_lists_every_metric() {
    let registry = with_metrics().await;
    let written = |metrics: &Metrics| metrics.get("wharf_store_writable").is_some();
    let metrics = scrape(&registry.user("alice"), written).await;
    let manual = include_str!("../../docs/operations.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `wharf_"));
    let rows = rows.filter(|row| !row.starts_with("cluster_")); // No cluster is asked here.
    let documented: BTreeSet<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next().unwrap().trim_end_matches('`');
            (format!("wharf_{name}"), cells.next().expect("a row says what kind it is").to_owned())
        })
        .collect();
    assert_eq!(documented, metrics.kinds.into_iter().collect());
}
