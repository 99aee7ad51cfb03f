//! Everything of one kind that a cluster has, kept current: read once, then watched.
//!
//! The client library's own watcher hides the bookmarks by which a quiet cluster shows that it is there, and with them when what
//! is known became old. Here each of them is heard (<https://kubernetes.io/docs/reference/using-api/api-concepts/>, "Efficient
//! detection of changes"), and each object is reduced to what counts as it is read.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use futures_util::{Stream, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Pulse, with_causes};

/// How many objects a page has.
const PAGE: u32 = 500;

/// After how many seconds a watch ends and begins again.
const WATCH_SECONDS: u32 = 120;

/// How long an open watch may say nothing, not even that it ends: the connection is dead then.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// The waiting between attempts, from the first to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The annotation of the bookmark that ends the objects which were there before a watch began.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Keeps what it hears of the objects of one kind.
pub(crate) trait Listener: Send {
    /// An object as the API server sends it.
    type Object: Clone + Debug + DeserializeOwned + Resource + Send;
    /// What counts of it.
    type Item: Send;

    /// What counts of an object.
    fn read(object: Self::Object) -> Self::Item;
    /// These exist, and no others.
    fn all(&mut self, items: Vec<Self::Item>);
    /// This one exists, and is like this now.
    fn put(&mut self, item: Self::Item);
    /// This one does not exist any more.
    fn remove(&mut self, item: Self::Item);
}

/// Tells `listener` all that `api` has, for ever.
pub(crate) async fn watch<L: Listener>(api: Api<L::Object>, listener: L, pulse: Arc<Pulse>) {
    let mut watch = Watch { api, listener, pulse, version: None, streams_lists: true };
    let mut wait = BACKOFF.0;
    loop {
        match watch.follow().await {
            Ok(()) => wait = BACKOFF.0,
            Err(error) => {
                watch.pulse.miss(&error);
                tracing::debug!(
                    kind = watch.pulse.kind(),
                    error = &error as &dyn std::error::Error,
                    ?wait,
                    "watch failed"
                );
                tokio::time::sleep(wait.mul_f64(jitter())).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
    }
}

struct Watch<L: Listener> {
    api: Api<L::Object>,
    listener: L,
    pulse: Arc<Pulse>,
    /// Up to where everything has been heard.
    version: Option<String>,
    /// Whether the server sends what is there as the beginning of a watch; one that is older, or whose etcd is, refuses to.
    streams_lists: bool,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the API server refuses: {}", .0.message)]
    Refused(Box<kube::core::Status>),
    #[error("cannot reach the API server: {0}")]
    Failed(String),
    #[error("the API server did not answer for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the API server ended its list early")]
    Incomplete,
}

impl From<kube::Error> for WatchError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Failed(with_causes(&error)),
        }
    }
}

impl<L: Listener> Watch<L> {
    /// Goes on from where everything has been heard, or from the beginning, until the connection ends.
    async fn follow(&mut self) -> Result<(), WatchError> {
        if self.version.is_none() && !self.streams_lists {
            self.list().await?;
        }
        let outcome = match self.version.clone() {
            Some(version) => self.hear(WatchParams::default(), &version).await,
            None => self.hear(WatchParams::streaming_lists(), "").await,
        };
        match &outcome {
            // What happened since has been forgotten.
            Err(WatchError::Refused(status)) if status.code == 410 => self.version = None,
            // Whoever lacks a right, or asks too often, is refused pages just as well.
            Err(WatchError::Refused(status))
                if self.version.is_none()
                    && self.streams_lists
                    && !matches!(status.code, 401 | 403 | 429) =>
            {
                self.streams_lists = false;
                return Ok(());
            }
            Ok(()) | Err(_) => {}
        }
        outcome
    }

    /// Reads everything, page by page.
    async fn list(&mut self) -> Result<(), WatchError> {
        let mut items = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let answer = timeout(SILENCE, self.api.list(&page)).await.map_err(|_| WatchError::Silent)??;
            items.extend(answer.items.into_iter().map(L::read));
            match answer.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page.continue_token = Some(next),
                None => {
                    self.listener.all(items);
                    self.version = Some(answer.metadata.resource_version.unwrap_or_default());
                    self.pulse.beat();
                    return Ok(());
                }
            }
        }
    }

    /// Hears what happens after `version` until the server ends it; without a version, what is there before that.
    async fn hear(&mut self, params: WatchParams, version: &str) -> Result<(), WatchError> {
        let params = params.timeout(WATCH_SECONDS);
        let opened = timeout(SILENCE, self.api.watch(&params, version)).await;
        let events = opened.map_err(|_| WatchError::Silent)??;
        let mut events = pin!(events);
        if self.version.is_none() {
            self.hear_all(events.as_mut()).await?;
        }
        self.pulse.beat();
        while let Some(event) =
            timeout(SILENCE, events.try_next()).await.map_err(|_| WatchError::Silent)??
        {
            self.heed(event)?;
        }
        Ok(())
    }

    /// Hears of everything that is there. Nothing of it counts before the last has been heard.
    async fn hear_all(
        &mut self,
        mut events: std::pin::Pin<&mut impl Stream<Item = kube::Result<WatchEvent<L::Object>>>>,
    ) -> Result<(), WatchError> {
        let mut items = Vec::new();
        loop {
            match timeout(SILENCE, events.try_next()).await.map_err(|_| WatchError::Silent)?? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => items.push(L::read(object)),
                Some(WatchEvent::Bookmark(mark))
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) =>
                {
                    self.listener.all(items);
                    self.version = Some(mark.metadata.resource_version);
                    return Ok(());
                }
                Some(WatchEvent::Bookmark(_) | WatchEvent::Deleted(_)) => {}
                Some(WatchEvent::Error(status)) => return Err(WatchError::Refused(status)),
                None => return Err(WatchError::Incomplete),
            }
        }
    }

    /// One thing that happened.
    fn heed(&mut self, event: WatchEvent<L::Object>) -> Result<(), WatchError> {
        let version = |object: &L::Object| object.meta().resource_version.clone();
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = version(&object);
                self.listener.put(L::read(object));
                version
            }
            WatchEvent::Deleted(object) => {
                let version = version(&object);
                self.listener.remove(L::read(object));
                version
            }
            WatchEvent::Bookmark(mark) => Some(mark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(WatchError::Refused(status)),
        };
        self.version = version.or(self.version.take());
        self.pulse.beat();
        Ok(())
    }
}

/// Between a half and one and a half, so that replicas do not come back all at once.
fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness all wait alike.
    let _ = SystemRandom::new().fill(&mut byte);
    0.5 + f64::from(byte[0]) / f64::from(u8::MAX)
}
