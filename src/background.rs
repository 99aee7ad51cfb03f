//! What goes on beside the requests, each in a task of its own.
//!
//! Nothing that others rely on ends in silence: what panics is logged and counted, and begun anew.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// How long what panicked waits before it is begun anew, since it may do so again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether files say something new.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

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

    /// Does `look`, which blocks, every other second.
    pub fn look(&mut self, what: &'static str, look: impl Fn() + Send + Sync + 'static) {
        let look = Arc::new(look);
        self.keep(what, move || {
            let look = Arc::clone(&look);
            async move {
                loop {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    let look = Arc::clone(&look);
                    let looked = tokio::task::spawn_blocking(move || look()).await;
                    if let Some(panic) = looked.err().and_then(|error| error.try_into_panic().ok()) {
                        resume_unwind(panic);
                    }
                }
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

    #[tokio::test(start_paused = true)]
    async fn what_panics_when_it_looks_is_counted_and_looks_again() {
        let (metrics, times) = (Metrics::default(), AtomicUsize::new(0));
        let mut background = Background::new(metrics.clone());
        let (looked, mut looks) = channel(1);
        background.look("test", move || {
            let time = times.fetch_add(1, Ordering::SeqCst);
            looked.blocking_send(time).unwrap();
            assert!(time > 0, "the first time it breaks");
        });
        assert_eq!((looks.recv().await, looks.recv().await), (Some(0), Some(1)));
        assert_eq!(metrics.background_panics(), 1);
    }
}
