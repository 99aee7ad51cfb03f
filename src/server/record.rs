//! What becomes known of a request, and where it goes: the metrics, the span around what is logged, the line in the access log.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use auth::Identity;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use tracing::{Level, Span, field};

use super::proxies::Sender;
use super::request::RequestId;
use crate::api::endpoint::Endpoint;
use crate::logging;
use crate::metrics::{KnownMethod, Metrics, UnderWay};
use crate::route::Route;
use crate::traces;

/// The target of the events that make up the access log, at level `info`.
pub const ACCESS_LOG: &str = "access";

/// What a request is about, who makes it, and from where: an extension, as `Arc<Particulars>`, of each request, told by whoever finds out.
#[derive(Debug)]
pub struct Particulars {
    id: RequestId,
    sender: Sender,
    metrics: Metrics,
    method: KnownMethod,
    route: OnceLock<Route>,
    /// For the access log: there only where somebody reads it.
    names: Option<Names>,
}

#[derive(Debug, Default)]
struct Names {
    endpoint: OnceLock<Endpoint>,
    caller: OnceLock<String>,
}

impl Particulars {
    /// To be told, within the request's span, once its path was read.
    pub fn is_about(&self, endpoint: &Endpoint) {
        self.has_route(endpoint.route());
        let span = Span::current();
        if !span.is_disabled() {
            tracing::record_all!(
                span,
                http.route = endpoint.route().as_str(),
                repository = endpoint.repository().map(field::display),
                digest = endpoint.digest().map(field::display),
            );
        }
        if let Some(names) = &self.names {
            let _ = names.endpoint.set(endpoint.clone()); // A request has one path.
        }
    }

    /// To be told, within the request's span, once it is known who asks.
    pub fn is_by(&self, caller: &Identity) {
        Span::current().record("caller.name", caller.name.as_str());
        if let Some(names) = &self.names {
            let _ = names.caller.set(caller.name.clone()); // A request has one caller.
        }
    }

    /// What names the request, in answers and in the logs.
    pub fn request_id(&self) -> &impl fmt::Display {
        &self.id
    }

    /// The address of the client, if it has one: that of the connection, or what proxies say that are believed.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.sender.address
    }

    /// Whether a proxy that is believed passed the request on, so that its headers tell how that one was called.
    pub fn by_trusted_proxy(&self) -> bool {
        self.sender.by_trusted_proxy
    }

    pub(super) fn has_route(&self, route: Route) {
        let _ = self.route.set(route); // A request has one path.
    }

    pub(super) fn received(&self, bytes: usize) {
        self.metrics.requests(self.route(), self.method).received(bytes);
    }

    fn route(&self) -> Route {
        self.route.get().copied().unwrap_or(Route::Other)
    }
}

/// Follows a request until its answer has been sent or cannot be any more; then it is counted, and its line is written.
#[derive(Debug)]
pub(super) struct Record {
    particulars: Arc<Particulars>,
    began: Instant,
    /// 499, as nginx has it, until there is an answer: the client did not wait for it.
    status: StatusCode,
    sent_bytes: u64,
    line: Option<Box<AccessLine>>,
    /// Open until now, so that the trace shows how long the answer took to be sent.
    traced: Option<Span>,
    _under_way: UnderWay,
}

impl Record {
    pub(super) fn begin(metrics: &Metrics, id: &RequestId, sender: Sender, head: &Parts) -> Self {
        let line = AccessLine::begin(head);
        let particulars = Arc::new(Particulars {
            id: id.clone(),
            sender,
            metrics: metrics.clone(),
            method: KnownMethod::of(&head.method),
            route: OnceLock::new(),
            names: line.is_some().then(Names::default),
        });
        Self {
            particulars,
            began: Instant::now(),
            status: StatusCode::from_u16(499).expect("499 has three digits"),
            sent_bytes: 0,
            line,
            traced: None,
            _under_way: metrics.request(),
        }
    }

    pub(super) fn particulars(&self) -> &Arc<Particulars> {
        &self.particulars
    }

    /// It is part of a trace.
    pub(super) fn is_traced(&mut self, span: &Span) {
        self.traced = Some(span.clone());
    }

    /// There is an answer, which is sent from now on.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        let Particulars { metrics, method, .. } = &*self.particulars;
        metrics.requests(self.particulars.route(), *method).sent(bytes);
        self.sent_bytes += bytes as u64;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Self { particulars, began, status, sent_bytes, line, traced, .. } = self;
        let duration = began.elapsed();
        let counts = particulars.metrics.requests(particulars.route(), particulars.method);
        counts.answered(*status, duration);
        if let Some(span) = traced {
            let name = format!("{} {}", particulars.method.as_str(), particulars.route().as_str());
            traces::end(span, name, *status);
        }
        let Some(line) = line else { return };
        let (endpoint, caller) = match &particulars.names {
            Some(names) => (names.endpoint.get(), names.caller.get()),
            None => (None, None),
        };
        // Not the query: it may hold what only the client and we may know.
        tracing::event!(
            target: ACCESS_LOG,
            Level::INFO,
            request.id = %particulars.id,
            client.address = particulars.sender.address.map(field::display),
            caller.name = caller.map(String::as_str),
            http.method = %line.method,
            http.path = line.uri.path(),
            http.route = particulars.route().as_str(),
            http.status = status.as_u16(),
            http.user_agent = line.user_agent.as_ref().and_then(|value| value.to_str().ok()),
            repository = endpoint.and_then(Endpoint::repository).map(field::display),
            digest = endpoint.and_then(Endpoint::digest).map(field::display),
            sent_bytes = *sent_bytes,
            duration_ms = duration.as_secs_f64() * 1000.0,
            "request",
        );
    }
}

/// What the line in the access log says beside what everybody wants to know.
#[derive(Debug)]
struct AccessLine {
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
}

impl AccessLine {
    /// Gives `None` where nobody listens.
    fn begin(head: &Parts) -> Option<Box<Self>> {
        logging::keeps_access_log().then(|| {
            Box::new(Self {
                method: head.method.clone(),
                uri: head.uri.clone(),
                user_agent: head.headers.get(header::USER_AGENT).cloned(),
            })
        })
    }
}
