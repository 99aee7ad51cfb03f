//! What goes on beside the requests, each in a task of its own.
//!
//! Nothing that others rely on ends in silence: what panics is logged and counted, and begun anew.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// How long what panicked waits before it is begun anew, since it may do so again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Tasks that end when this is stopped or dropped.
#[derive(Debug)]
pub struct Background {
    tasks: JoinSet<()>,
    metrics: Metrics,
    pause: Duration,
}

impl Background {
    /// Nothing goes on yet. Panics are counted in `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self { tasks: JoinSet::new(), metrics, pause: PAUSE }
    }

    /// Runs what `begin` begins, and begins it anew whenever it panics.
    pub fn keep<F>(&mut self, what: &'static str, begin: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (metrics, pause) = (self.metrics.clone(), self.pause);
        self.tasks.spawn(async move {
            while is_broken(what, &metrics, begin()).await {
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Runs what cannot be begun anew.
    pub fn run(&mut self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let metrics = self.metrics.clone();
        self.tasks.spawn(async move {
            is_broken(what, &metrics, task).await;
        });
    }

    /// Ends all of it.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Runs a task to its end, and tells whether that was a panic, which has then been logged and counted.
async fn is_broken(what: &'static str, metrics: &Metrics, task: impl Future<Output = ()>) -> bool {
    // It is not touched again, and what it shares with others lies behind locks that survive a panic.
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    if ended.is_err() {
        metrics.background_panicked();
        tracing::error!(what, "something in the background panicked");
    }
    ended.is_err()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn what_panics_is_counted_and_begun_anew() {
        let (metrics, times) = (Metrics::default(), AtomicUsize::new(0));
        let mut background = Background { pause: Duration::ZERO, ..Background::new(metrics.clone()) };
        let (begun, mut beginnings) = channel(2);
        background.keep("test", move || {
            let (begun, time) = (begun.clone(), times.fetch_add(1, Ordering::SeqCst));
            async move {
                begun.try_send(time).unwrap();
                assert!(time > 0, "the first time it breaks");
                std::future::pending().await
            }
        });
        assert_eq!((beginnings.recv().await, beginnings.recv().await), (Some(0), Some(1)));
        assert_eq!(metrics.background_panics(), 1);
        background.stop().await;
        assert_eq!(beginnings.recv().await, None, "it has ended");
    }
}
