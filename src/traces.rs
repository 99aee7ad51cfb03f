//! Traces: a span for each request and each call of the store, sent to a collector by OTLP (protobuf over HTTP).
//!
//! The OpenTelemetry SDK gathers spans in a queue of limited length, which a thread of its own empties: what does not fit is dropped,
//! and no request waits. The thread has no reactor, so that what it sends goes through a task on the server's runtime.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Status, TraceContextExt, TracerProvider};
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, Protocol, SpanExporter,
    WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rustls::{ClientConfig, RootCertStore};
use storage::backend::BackendError;
use storage::backend::around::{Around, Verb};
use tokio::runtime::Handle;
use tracing::{Instrument, Level, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// How long the last spans may take to be sent when the server stops.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// The longest answer of a collector that is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// The target of the spans around the calls of the store: only traces show them.
const STORE: &str = "wharf::traces";

/// Whether there are any, so that a request need not do what nobody sees.
static ON: AtomicBool = AtomicBool::new(false);

/// Traces on their way to a collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

/// Why there can be no traces though they are wanted.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// A variable of the environment says something that Wharf cannot do.
    #[error("{name}: \"{value}\" is not supported; {remedy}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it says.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// The collector's certificate could never be verified.
    #[error(
        "cannot read the certificates of the authorities that this machine trusts, to send traces by TLS"
    )]
    Authorities(#[source] std::io::Error),
    /// The exporter does not like what it was given.
    #[error("cannot send traces")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

impl Traces {
    /// Begins to send traces to the collector at `base`, or where the variables of OpenTelemetry say. Gives `None` where nobody wants any.
    ///
    /// # Errors
    /// When they are wanted in a way that Wharf does not know.
    pub fn start(base: Option<&Uri>, runtime: &Handle) -> Result<Option<Self>, TracesError> {
        let Some(endpoint) = endpoint(base, variable)? else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Courier::new(&endpoint, runtime.clone())?)
            .with_endpoint(endpoint.to_string())
            .build()
            .map_err(TracesError::Exporter)?;
        let provider =
            SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
        ON.store(true, Ordering::Relaxed);
        Ok(Some(Self(provider)))
    }

    /// What turns the spans of the program into those of a trace.
    pub fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        let targets = Targets::new().with_target("wharf", Level::INFO).with_target(STORE, Level::TRACE);
        OpenTelemetryLayer::new(self.0.tracer("wharf"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(targets)
    }

    /// Sends what is left, for a limited time. To be called outside the runtime, which must still be there.
    pub fn finish(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!(error = &error as &dyn Error, "the last traces were not sent");
        }
    }
}

/// Whether there are any.
pub fn are_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Makes a request's span part of the trace that its client is in, if it says so.
pub fn join(span: &Span, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if context.span().span_context().is_valid() {
        let _ = span.set_parent(context); // It fails where the span is not traced.
    }
}

/// Tells the trace of a request what it was, and how it ended.
pub fn end(span: &Span, name: String, status: StatusCode) {
    let context = span.context();
    let traced = context.span();
    traced.update_name(name);
    traced.set_attribute(KeyValue::new("http.status", i64::from(status.as_u16())));
    if status.is_server_error() {
        traced.set_status(Status::error(""));
    }
}

/// Puts a span around each call of a backend.
#[derive(Debug)]
pub struct Traced;

impl Around for Traced {
    async fn around<T: Send>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let span = tracing::trace_span!(target: STORE, "store", otel.name = verb.as_str());
        call.instrument(span).await
    }
}

/// Where traces are wanted, if they are: the variables are those of OpenTelemetry's specification.
fn endpoint(
    base: Option<&Uri>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, TracesError> {
    const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
    let exporter = variable(EXPORTER);
    match exporter.as_deref() {
        Some("otlp") | None => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(unsupported(EXPORTER, other, "write \"otlp\" or \"none\"")),
    }
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let url = |name, value: &str| {
        let url = value.parse::<Uri>().ok().filter(|url| url.scheme().is_some() && url.authority().is_some());
        url.ok_or_else(|| unsupported(name, value, "try \"http://localhost:4318\""))
    };
    let endpoint =
        match (base, variable(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), variable(OTEL_EXPORTER_OTLP_ENDPOINT)) {
            (Some(base), _, _) => below(base),
            (None, Some(whole), _) => url(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, &whole)?,
            (None, None, Some(base)) => below(&url(OTEL_EXPORTER_OTLP_ENDPOINT, &base)?),
            (None, None, None) if exporter.is_some() => below(&Uri::from_static("http://localhost:4318")),
            (None, None, None) => return Ok(None),
        };
    for name in [OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL] {
        match variable(name) {
            Some(other) if other != "http/protobuf" => {
                let remedy = "write \"http/protobuf\", for which collectors listen on port 4318";
                return Err(unsupported(name, &other, remedy));
            }
            Some(_) => break,
            None => {}
        }
    }
    Ok(Some(endpoint))
}

fn unsupported(name: &'static str, value: &str, remedy: &'static str) -> TracesError {
    TracesError::Variable { name, value: value.to_owned(), remedy }
}

/// What a variable says; an empty one says nothing.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a collector takes traces.
fn below(base: &Uri) -> Uri {
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    let mut parts = base.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

/// Who sends the traces: `wharf`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say another name.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name("wharf").build() }
}

/// Carries what the SDK's thread has to send, on a task of the server's runtime.
#[derive(Debug)]
struct Courier {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    fails: AtomicBool,
}

impl Courier {
    fn new(endpoint: &Uri, runtime: Handle) -> Result<Self, TracesError> {
        let connector = HttpsConnectorBuilder::new();
        let connector = if endpoint.scheme() == Some(&Scheme::HTTPS) {
            connector.with_native_roots().map_err(TracesError::Authorities)?
        } else {
            // Where nothing is encrypted, there need not be any authorities.
            let client = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
            connector.with_tls_config(client.with_no_client_auth())
        };
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime, fails: AtomicBool::new(false) })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let answer = client.request(request.map(Full::new)).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let exchange =
            async move { tokio::time::timeout(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, exchange).await };
        self.runtime.spawn(exchange).await??
    }
}

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        let is_taken = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        match (is_taken, self.fails.swap(!is_taken, Ordering::Relaxed)) {
            (false, false) => {
                let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
                let error = answer.as_ref().err().map(|error| &**error as &dyn Error);
                tracing::warn!(http.status = status, error, "the collector does not take traces");
            }
            (true, true) => tracing::info!("the collector takes traces again"),
            (false, true) | (true, false) => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(base: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let base: Option<Uri> = base.map(|base| base.parse().unwrap());
        let variable = |name: &str| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        let endpoint = endpoint(base.as_ref(), variable).map_err(|error| error.to_string())?;
        Ok(endpoint.map(|endpoint| endpoint.to_string()))
    }

    #[test]
    fn traces_go_where_the_configuration_or_the_environment_says() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://base:4318/otlp/");
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://whole/traces");
        let on = ("OTEL_TRACES_EXPORTER", "otlp");
        let off = ("OTEL_TRACES_EXPORTER", "none");
        let disabled = ("OTEL_SDK_DISABLED", "true");
        let set = Some("http://set:4318");
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: [Case<'_>; 9] = [
            (None, &[], None),
            (set, &[], Some("http://set:4318/v1/traces")),
            (set, &[base, whole], Some("http://set:4318/v1/traces")),
            (None, &[base], Some("https://base:4318/otlp/v1/traces")),
            (None, &[base, whole], Some("http://whole/traces")),
            (None, &[on], Some("http://localhost:4318/v1/traces")),
            (set, &[off], None),
            (None, &[base, off], None),
            (set, &[disabled], None),
        ];
        for (set, variables, expected) in cases {
            assert_eq!(endpoint_of(set, variables).unwrap().as_deref(), expected, "{set:?} {variables:?}");
        }
    }

    #[test]
    fn what_wharf_cannot_do_is_refused() {
        let set = Some("http://set:4318");
        let refused = |name, value| endpoint_of(set, &[(name, value)]).unwrap_err();
        assert_eq!(
            refused("OTEL_TRACES_EXPORTER", "console"),
            "OTEL_TRACES_EXPORTER: \"console\" is not supported; write \"otlp\" or \"none\""
        );
        assert!(refused("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").contains("http/protobuf"));
        let wrong = endpoint_of(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]);
        assert!(wrong.unwrap_err().contains("http://localhost:4318"));
    }
}
