//! What a collector is told of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use hyper::{Method, StatusCode};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use crate::harness::{Image, Layer, TestRegistry};

/// A collector on a port of its own, and what it was sent.
struct Collector {
    address: SocketAddr,
    received: mpsc::Receiver<(HeaderMap, Bytes)>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel(100);
        let take = async |State(sender): State<Arc<mpsc::Sender<_>>>, headers: HeaderMap, body: Bytes| {
            sender.send((headers, body)).await.unwrap();
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::new(sender));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, received }
    }

    /// The spans that were sent until now, and who sent them.
    fn spans(&mut self) -> (Vec<KeyValue>, Vec<Span>) {
        let (mut resource, mut spans) = (Vec::new(), Vec::new());
        while let Ok((headers, body)) = self.received.try_recv() {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            for sent in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                resource = sent.resource.unwrap().attributes;
                spans.extend(sent.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        (resource, spans)
    }
}

fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        other => panic!("{name} is {other:?}"),
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_pull_continues_the_trace_of_its_client() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let mut collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let registry = TestRegistry::with(json!({ "tracing": { "otlp": { "endpoint": endpoint } } })).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    let digest = image.layers[0].digest().to_string();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", traceparent.as_str()), ("x-request-id", "pull-3")];
    let path = format!("/v2/team/app/blobs/{digest}");
    alice.ask(Method::GET, &path, &headers, Bytes::new()).await.expect(StatusCode::OK);
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let headers = [("traceparent", unsampled.as_str())];
    alice.ask(Method::GET, "/v2/_catalog", &headers, Bytes::new()).await.expect(StatusCode::OK);

    // What was not sent yet is sent when the server stops.
    let _registry = registry.stop_and_start().await;
    let (resource, spans) = collector.spans();
    assert_eq!(text(&resource, "service.name"), Some("wharf"));
    assert_eq!(text(&resource, "service.version"), Some(env!("CARGO_PKG_VERSION")));

    let pulls = named(&spans, "GET /v2/{name}/blobs/{digest}");
    let [pull] = pulls[..] else { panic!("{spans:#?}") };
    assert_eq!(pull.trace_id, hex(TRACE));
    assert_eq!(pull.parent_span_id, hex(PARENT));
    assert_eq!(pull.kind(), SpanKind::Server);
    assert!(pull.end_time_unix_nano > pull.start_time_unix_nano);
    for (name, expected) in [
        ("request.id", "pull-3"),
        ("http.method", "GET"),
        ("http.route", "/v2/{name}/blobs/{digest}"),
        ("repository", "team/app"),
        ("digest", &digest),
        ("caller.name", "system:anonymous"),
    ] {
        assert_eq!(text(&pull.attributes, name), Some(expected), "{name}");
    }
    let status = pull.attributes.iter().find(|attribute| attribute.key == "http.status").unwrap();
    assert_eq!(status.value.as_ref().unwrap().value, Some(Value::IntValue(200)));
    let opened = named(&spans, "open");
    assert!(opened.iter().any(|open| open.parent_span_id == pull.span_id), "{spans:#?}");

    // A commit runs on a task of its own, and belongs to its request all the same.
    let puts = named(&spans, "PUT /v2/{name}/manifests/{reference}");
    let [put] = puts[..] else { panic!("{spans:#?}") };
    assert!(put.parent_span_id.is_empty());
    assert!(named(&spans, "write").iter().any(|write| write.parent_span_id == put.span_id), "{spans:#?}");
    assert!(named(&spans, "GET /v2/_catalog").is_empty(), "its client does not sample it");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_neither_pulls_nor_the_stop() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let registry = TestRegistry::with(json!({ "tracing": { "otlp": { "endpoint": endpoint } } })).await;
    let alice = registry.user("alice");
    // More than there is room for.
    for _ in 0..3000 {
        alice.get("/v2/").await.expect(StatusCode::OK);
    }
    let began = std::time::Instant::now();
    let _registry = registry.stop_and_start().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
