//! Everything of one kind that a cluster has, kept current: read once, then watched.
//!
//! The client library's own watcher hides the bookmarks by which a quiet cluster shows that it is there, and with them when what
//! is known became old. Here each of them is heard (<https://kubernetes.io/docs/reference/using-api/api-concepts/>, "Efficient
//! detection of changes"), and each object is reduced to what counts as it is read.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use futures_util::{Stream, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::contact::Pulse;

/// How many objects a page has.
const PAGE: u32 = 500;

/// After how many seconds a watch ends and begins again. A server says by a bookmark up to where it told everything about each
/// minute, and shortly before the end.
const WATCH_SECONDS: u32 = 60;

/// A watch that ends sooner than this was none.
const SHORTEST: Duration = Duration::from_secs(1);

/// After how long a silence everything is read again, instead of waiting for what happened meanwhile to be told.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// How long an open watch may say nothing, not even that it ends: the connection is dead then.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// How long it may take to go on with a watch: an API server begins its answer before there is anything to tell.
const OPENING: Duration = Duration::from_secs(10);

/// The waiting between attempts, from the first to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The status of a watch from where the server has forgotten what happened since.
const GONE: u16 = 410;

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
pub(super) async fn watch<L: Listener>(api: Api<L::Object>, listener: L, pulse: Arc<Pulse>) {
    let _alarm = Alarm(Arc::clone(&pulse));
    let mut watch = Watch { api, listener, pulse, version: None };
    let mut wait = BACKOFF.0;
    loop {
        match watch.follow().await {
            Ok(()) => {
                wait = BACKOFF.0;
                continue;
            }
            // It happens to the best, and to all who watch at once: what is known counts, and is read again.
            Err(WatchError::Refused(status)) if status.code == GONE && watch.version.is_some() => {
                watch.version = None;
            }
            Err(error) => {
                watch.pulse.miss(&error);
                if watch.pulse.silence().is_none_or(|silence| silence > READ_AGAIN_AFTER) {
                    watch.version = None;
                }
                tracing::debug!(
                    kind = watch.pulse.kind(),
                    error = &error as &dyn std::error::Error,
                    ?wait,
                    "watch failed"
                );
            }
        }
        tokio::time::sleep(wait.mul_f64(jitter())).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// Notes it when a watch breaks off: until it begins anew, nothing is heard.
struct Alarm(Arc<Pulse>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.miss(&WatchError::BrokeOff);
        }
    }
}

struct Watch<L: Listener> {
    api: Api<L::Object>,
    listener: L,
    pulse: Arc<Pulse>,
    /// Up to where everything has been heard.
    version: Option<String>,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the API server refuses: {}", .0.message)]
    Refused(Box<kube::core::Status>),
    #[error("cannot reach the API server")]
    Failed(#[source] Box<kube::Error>),
    #[error("the API server says nothing")]
    Silent,
    #[error("the API server ended its list early")]
    Incomplete,
    #[error("the API server ended a watch at once")]
    Short,
    #[error("the watch broke off by a fault of its own")]
    BrokeOff,
}

impl From<kube::Error> for WatchError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl<L: Listener> Watch<L> {
    /// Goes on from where everything has been heard, or from the beginning, until the connection ends.
    async fn follow(&mut self) -> Result<(), WatchError> {
        if self.version.is_none() {
            match self.hear(WatchParams::streaming_lists(), "").await {
                // A server that is older, or whose etcd is, does not send what is there as the beginning of a watch. Whoever lacks a
                // right, or asks too often, is refused pages just as well.
                Err(WatchError::Refused(status))
                    if self.version.is_none() && !matches!(status.code, 401 | 403 | 429) =>
                {
                    self.list().await?;
                }
                outcome => return outcome,
            }
        }
        let version = self.version.clone().unwrap_or_default();
        self.hear(WatchParams::default(), &version).await
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
        // From the beginning it takes longer: everything may have to be read first.
        let opening = if self.version.is_none() { SILENCE } else { OPENING };
        let opened = timeout(opening, self.api.watch(&params, version)).await;
        let events = opened.map_err(|_| WatchError::Silent)??;
        let mut events = pin!(events);
        let began = Instant::now();
        if self.version.is_none() {
            self.hear_all(events.as_mut()).await?;
        }
        self.pulse.answer();
        while let Some(event) =
            timeout(SILENCE, events.try_next()).await.map_err(|_| WatchError::Silent)??
        {
            self.heed(event)?;
        }
        if began.elapsed() < SHORTEST { Err(WatchError::Short) } else { Ok(()) }
    }

    /// Hears of everything that is there. Nothing of it counts before the last has been heard.
    async fn hear_all(
        &mut self,
        mut events: std::pin::Pin<&mut impl Stream<Item = kube::Result<WatchEvent<L::Object>>>>,
    ) -> Result<(), WatchError> {
        let (mut items, mut since) = (Vec::new(), Vec::new());
        loop {
            match timeout(SILENCE, events.try_next()).await.map_err(|_| WatchError::Silent)?? {
                Some(WatchEvent::Bookmark(mark))
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) =>
                {
                    self.listener.all(items);
                    self.version = Some(mark.metadata.resource_version);
                    self.pulse.beat();
                    return since.into_iter().try_for_each(|event| self.heed(event));
                }
                Some(WatchEvent::Added(object)) if since.is_empty() => items.push(L::read(object)),
                Some(WatchEvent::Error(status)) => return Err(WatchError::Refused(status)),
                // What happens before the end has been told changes what was told before it.
                Some(event) => since.push(event),
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
