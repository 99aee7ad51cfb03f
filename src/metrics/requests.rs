//! Requests by route, method and status: a table with a place for each, so that counting is an addition.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::Families;
use crate::route::Route;

/// Seconds by which requests are told apart, from a manifest in memory to a layer on a slow line.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0];

/// Statuses have three digits, and ours begin with 5 at most.
const STATUSES: usize = 600;

/// A method by which requests are told apart. There are few, whatever clients send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is the method of its name, the last all others")]
pub enum KnownMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Other,
}

impl KnownMethod {
    const ALL: [Self; 7] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Other];

    /// Finds the method, or takes it for one of the others.
    pub fn of(method: &Method) -> Self {
        Self::ALL.into_iter().find(|known| known.as_str() == method.as_str()).unwrap_or(Self::Other)
    }

    /// Returns the method, or the word for all others.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Other => "other",
        }
    }
}

/// All requests. What was never asked for takes no place.
#[derive(Debug, Default)]
pub(super) struct Requests([[OnceLock<Box<RequestCounts>>; KnownMethod::ALL.len()]; Route::ALL.len()]);

/// What was counted of the requests of one route and method.
#[derive(Debug)]
pub struct RequestCounts {
    /// How many got which status.
    answers: [AtomicU64; STATUSES],
    duration: Histogram,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl RequestCounts {
    fn new() -> Self {
        Self {
            answers: [const { AtomicU64::new(0) }; STATUSES],
            duration: Histogram::new(BOUNDS),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// Counts a request that is over.
    pub fn answered(&self, status: StatusCode, duration: Duration) {
        if let Some(answers) = self.answers.get(usize::from(status.as_u16())) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
        self.duration.observe(duration.as_secs_f64());
    }

    /// Counts bytes of a request's body.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of an answer's body.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Requests {
    pub(super) fn counts(&self, route: Route, method: KnownMethod) -> &RequestCounts {
        self.0[route as usize][method as usize].get_or_init(|| Box::new(RequestCounts::new()))
    }

    pub(super) fn encode(&self, family: &mut Families<'_, '_>) -> fmt::Result {
        let counts = || {
            Route::ALL.into_iter().zip(&self.0).flat_map(|(route, methods)| {
                KnownMethod::ALL.into_iter().zip(methods).filter_map(move |(method, counts)| {
                    Some(([("route", route.as_str()), ("method", method.as_str())], &**counts.get()?))
                })
            })
        };
        let answers = counts().flat_map(|(labels, counts)| {
            let answers = counts.answers.iter().map(|answers| answers.load(Ordering::Relaxed)).enumerate();
            answers.filter(|(_, answers)| *answers > 0).map(move |(status, answers)| {
                let [route, method] = labels.map(|(name, value)| (name, value.to_owned()));
                ([route, method, ("status", status.to_string())], answers)
            })
        });
        family.counters(
            "http_requests",
            "Requests that were answered, or whose client left",
            None,
            answers,
        )?;
        let help = "How long requests took, from their head to the last byte of the answer";
        let kind = MetricType::Histogram;
        family.rows("http_request_duration", help, Some(Unit::Seconds), kind, |mut rows| {
            counts().try_for_each(|(labels, counts)| counts.duration.encode(rows.encode_family(&labels)?))
        })?;
        let received =
            counts().map(|(labels, counts)| (labels, counts.received_bytes.load(Ordering::Relaxed)));
        family.counters("http_received", "What bodies of requests brought", Some(Unit::Bytes), received)?;
        let sent = counts().map(|(labels, counts)| (labels, counts.sent_bytes.load(Ordering::Relaxed)));
        family.counters("http_sent", "What bodies of answers took", Some(Unit::Bytes), sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_place_of_its_own() {
        assert!(KnownMethod::ALL.into_iter().enumerate().all(|(at, method)| method as usize == at));
        assert_eq!(KnownMethod::of(&Method::PATCH), KnownMethod::Patch);
        assert_eq!(KnownMethod::of(&Method::TRACE), KnownMethod::Other);
    }
}
