//! Is it alive, is it ready: `/healthz` and `/readyz`.
//!
//! Alive says only that the process answers: a store that is down must not get it killed. Ready says that the store answers and that
//! it is known who may do what; both are looked at in the background, so that asking costs nothing however often it is done.
//! A cluster that is away for a while leaves it ready: if all replicas were taken out of service, no image could be pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auth::{Cluster, Contact};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use storage::Registry;

use crate::config::StorageCheck;
use crate::route::Route;

/// Whether requests can be answered.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Whether the store answered when it was last looked at.
    store: Arc<AtomicBool>,
    cluster: Option<Cluster>,
}

impl Readiness {
    /// The store is there from the beginning: whoever starts the server has opened it. What is to be known of `cluster`, if one is
    /// asked who may do what, has yet to be heard.
    pub fn new(cluster: Option<Cluster>) -> Self {
        Self { store: Arc::new(AtomicBool::new(true)), cluster }
    }

    /// Whether the store answered when it was last looked at.
    pub fn store_answers(&self) -> bool {
        self.store.load(Ordering::Relaxed)
    }

    /// The cluster, if one is asked.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Whether requests can be answered.
    pub fn is_ready(&self) -> bool {
        self.answer().0 == StatusCode::OK
    }

    /// The answer to whoever asks whether it is ready.
    fn answer(&self) -> (StatusCode, String) {
        let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        if !self.store_answers() {
            return unready("the store does not answer\n".to_owned());
        }
        match self.cluster.as_ref().map(Cluster::contact) {
            Some(Contact::Lost(lost)) => unready(format!("{lost}\n")),
            Some(Contact::Silent(silence)) => {
                let since = silence.as_secs();
                (
                    StatusCode::OK,
                    format!("ready, by what the API server told before it fell silent {since} s ago\n"),
                )
            }
            Some(Contact::Current) | None => (StatusCode::OK, "ready\n".to_owned()),
        }
    }

    /// The routes.
    pub fn router(&self) -> Router {
        let readiness = self.clone();
        let ready = move || async move { readiness.answer() };
        Router::new().route("/healthz", get(|| async { "alive\n" })).route("/readyz", get(ready))
    }

    /// Looks at the store for ever.
    pub async fn watch(self, registry: Registry, check: StorageCheck) {
        let mut failures = 0;
        let mut interval = tokio::time::interval(check.interval);
        loop {
            interval.tick().await;
            let was_ready = self.store_answers();
            match registry.probe().await {
                Ok(()) => {
                    failures = 0;
                    self.store.store(true, Ordering::Relaxed);
                    if !was_ready {
                        tracing::info!("the store answers again");
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures >= check.threshold.get() && was_ready {
                        self.store.store(false, Ordering::Relaxed);
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the store does not answer"
                        );
                    }
                }
            }
        }
    }
}

/// The route of a path that is asked by whoever watches over the server, who must be answered however busy it is.
pub fn route(path: &str) -> Option<Route> {
    match path {
        "/healthz" => Some(Route::Alive),
        "/readyz" => Some(Route::Ready),
        _ => None,
    }
}
