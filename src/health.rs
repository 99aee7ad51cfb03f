//! Is it alive, is it ready: `/healthz` and `/readyz`.
//!
//! Alive says only that the process answers: a store that is down must not get it killed. Ready says that the store answers; the store
//! is looked at in the background, so that asking costs nothing however often it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use storage::Registry;

use crate::config::StorageCheck;
use crate::route::Route;

/// Whether the store answered when it was last looked at.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Ready from the beginning: whoever starts the server has opened the store.
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Whether it did.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The routes.
    pub fn router(&self) -> Router {
        let readiness = self.clone();
        let ready = move || async move {
            if readiness.is_ready() {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
            }
        };
        Router::new().route("/healthz", get(|| async { "alive\n" })).route("/readyz", get(ready))
    }

    /// Looks at the store for ever.
    pub async fn watch(self, registry: Registry, check: StorageCheck) {
        let mut failures = 0;
        let mut interval = tokio::time::interval(check.interval);
        loop {
            interval.tick().await;
            let was_ready = self.is_ready();
            match registry.probe().await {
                Ok(()) => {
                    failures = 0;
                    self.0.store(true, Ordering::Relaxed);
                    if !was_ready {
                        tracing::info!("the store answers again");
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures >= check.threshold.get() && was_ready {
                        self.0.store(false, Ordering::Relaxed);
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

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
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
