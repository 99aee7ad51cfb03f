//! Is it alive, is it ready: `/healthz` and `/readyz`, and `/` and `/debug/health`, where probes that were written for distribution ask.
//!
//! Alive says only that the process answers: a store that is down must not get it killed. Ready says that the store can be read and that
//! it is known who may do what; both are looked at in the background, so that asking costs nothing however often it is done.
//! A cluster that is away for a while leaves it ready, and so does a store that takes nothing, because it is full or was mounted
//! read-only: if all replicas were taken out of service, no image could be pulled.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use auth::{Cluster, Contact};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;
use storage::Registry;
use storage::backend::{BackendError, Fault};
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::{FileCheck, Mode, StorageCheck};
use crate::route::Route;

/// Whether requests can be answered.
#[derive(Clone, Debug)]
pub struct Readiness {
    store: Arc<RwLock<Store>>,
    files: Arc<[WatchedFile]>,
    cluster: Option<Cluster>,
    stopping: Arc<AtomicBool>,
}

/// A file by which somebody takes the server out of service, and whether it was there when it was last looked for.
#[derive(Debug)]
struct WatchedFile {
    check: FileCheck,
    is_there: AtomicBool,
}

/// What was found when the store was last looked at.
#[derive(Clone, Copy, Debug)]
struct Store {
    answers: bool,
    writing: Writing,
}

/// Whether the store takes what is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Writing {
    /// Nobody has tried: nothing is to be written, or nothing was looked at yet.
    Untried,
    /// It does.
    Taken,
    /// It does not.
    Refused(Fault),
}

impl Readiness {
    /// The store is there from the beginning: whoever starts the server has opened it. What is to be known of `cluster`, if one is
    /// asked who may do what, has yet to be heard.
    pub fn new(cluster: Option<Cluster>, files: &[FileCheck]) -> Self {
        let watched =
            |check: &FileCheck| WatchedFile { check: check.clone(), is_there: AtomicBool::default() };
        let store = Store { answers: true, writing: Writing::Untried };
        Self {
            store: Arc::new(RwLock::new(store)),
            files: files.iter().map(watched).collect(),
            cluster,
            stopping: Arc::default(),
        }
    }

    /// From now on no new requests are wanted.
    pub fn stops(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the store took what was written when that was last tried.
    pub fn writing(&self) -> Writing {
        self.store().writing
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
        if let Some((_, why)) = self.lack() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
        }
        let mut ready = match self.cluster.as_ref().map(Cluster::contact) {
            Some(Contact::Silent(silence)) => {
                let since = silence.as_secs();
                format!("ready, by what the API server told before it fell silent {since} s ago\n")
            }
            Some(Contact::Current | Contact::Lost(_)) | None => "ready\n".to_owned(),
        };
        if let Writing::Refused(fault) = self.writing() {
            ready.push_str(&format!("nothing can be pushed: {fault}\n"));
        }
        (StatusCode::OK, ready)
    }

    /// What keeps requests from being answered: what it is called, and what is wrong with it.
    fn lack(&self) -> Option<(Cow<'_, str>, String)> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some(("server".into(), "the server is stopping".to_owned()));
        }
        if let Some(file) = self.files.iter().find(|file| file.is_there.load(Ordering::Relaxed)) {
            let path = file.check.path.to_string_lossy();
            let why = format!("{path} is there: the server is taken out of service");
            return Some((path, why));
        }
        if !self.store().answers {
            return Some(("storagedriver".into(), "the store does not answer".to_owned()));
        }
        match self.cluster.as_ref()?.contact() {
            Contact::Lost(lost) => Some(("cluster".into(), lost.to_string())),
            Contact::Silent(_) | Contact::Current => None,
        }
    }

    /// The routes.
    pub fn router(&self) -> Router {
        let readiness = self.clone();
        let ready = move || async move { readiness.answer() };
        let root = || async { [(header::CACHE_CONTROL, "no-cache")] };
        Router::new()
            .route("/", get(root))
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
    }

    /// The route that distribution has on the listener for health and metrics: readiness in its words.
    pub fn debug_router(&self) -> Router {
        let readiness = self.clone();
        let health = move || async move {
            let (status, lacks) = match readiness.lack() {
                None => (StatusCode::OK, json!({})),
                Some((what, why)) => (StatusCode::SERVICE_UNAVAILABLE, json!({ &*what: why })),
            };
            (status, [(header::CONTENT_TYPE, "application/json")], lacks.to_string())
        };
        Router::new().route("/debug/health", get(health))
    }

    /// Looks for the files for ever. One of which it cannot be told counts as there, as in distribution.
    pub async fn watch_files(self) {
        join_all(self.files.iter().map(WatchedFile::watch)).await;
    }

    /// Looks at the store for ever: whether it can be read and, where `mode` is to write, whether it takes that.
    pub async fn watch(self, registry: Registry, check: StorageCheck, mode: Mode) {
        let to_write = registry.clone();
        let mut reading = Question::new(&check, move || {
            let registry = registry.clone();
            async move { registry.probe().await }.boxed()
        });
        let mut writing = Question::new(&check, move || {
            let registry = to_write.clone();
            async move { registry.probe_writing().await }.boxed()
        });
        let mut interval = tokio::time::interval(check.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Some(answer) = reading.put().await {
                self.was_read(answer);
            }
            if mode == Mode::ReadWrite
                && self.store().answers
                && let Some(answer) = writing.put().await
            {
                self.was_written(answer);
            }
        }
    }

    fn was_read(&self, read: Result<(), Failure>) {
        let answered = std::mem::replace(&mut self.store_mut().answers, read.is_ok());
        match read {
            Ok(()) if !answered => tracing::info!("the store answers again"),
            Err(error) if answered => {
                tracing::error!(error = &error as &dyn std::error::Error, "the store does not answer");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn was_written(&self, written: Result<(), Failure>) {
        let now = match &written {
            Ok(()) => Writing::Taken,
            Err(failure) => Writing::Refused(failure.fault()),
        };
        let before = std::mem::replace(&mut self.store_mut().writing, now);
        match written {
            Ok(()) if matches!(before, Writing::Refused(_)) => {
                tracing::info!("the store takes what is pushed again")
            }
            Err(error) if before != now => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the store takes nothing: pulls go on, and pushes are refused");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn store(&self) -> Store {
        *self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_mut(&self) -> std::sync::RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchedFile {
    async fn watch(&self) {
        let Self { check: FileCheck { path, interval }, is_there } = self;
        let mut interval = tokio::time::interval(*interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let found = tokio::fs::try_exists(path).await.unwrap_or(true);
            if is_there.swap(found, Ordering::Relaxed) != found {
                let file = path.display();
                match found {
                    true => tracing::warn!(%file, "taken out of service by the file"),
                    false => tracing::info!(%file, "in service again: the file is gone"),
                }
            }
        }
    }
}

/// Something that the store is asked again and again.
struct Question<A> {
    ask: A,
    /// What it was asked and has not answered.
    open: Option<BoxFuture<'static, Result<(), BackendError>>>,
    /// How often in a row there was no good answer.
    failures: usize,
    threshold: NonZeroUsize,
    timeout: Duration,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] BackendError),
    #[error("nothing came back within {}", humantime::format_duration(*.0))]
    Late(Duration),
}

impl<A: Fn() -> BoxFuture<'static, Result<(), BackendError>>> Question<A> {
    fn new(check: &StorageCheck, ask: A) -> Self {
        Self { ask, open: None, failures: 0, threshold: check.threshold, timeout: check.timeout }
    }

    /// Asks, and gives what counts from now on: nothing new while too few answers in a row were bad. While the store hangs it is not
    /// asked a second time, which would take another thread that hangs.
    async fn put(&mut self) -> Option<Result<(), Failure>> {
        let open = self.open.get_or_insert_with(&self.ask);
        let answer = match timeout(self.timeout, open.as_mut()).await {
            Ok(answer) => {
                self.open = None;
                answer.map_err(Failure::Store)
            }
            Err(_) => Err(Failure::Late(self.timeout)),
        };
        self.failures = if answer.is_ok() { 0 } else { self.failures.saturating_add(1) };
        (answer.is_ok() || self.failures >= self.threshold.get()).then_some(answer)
    }
}

impl Failure {
    fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault,
            Self::Late(_) => Fault::Unavailable,
        }
    }
}

/// The route of a path that is asked by whoever watches over the server, who must be answered however busy it is.
pub fn route(path: &str) -> Option<Route> {
    match path {
        "/" => Some(Route::Root),
        "/healthz" => Some(Route::Alive),
        "/debug/health" => Some(Route::DebugHealth),
        "/readyz" => Some(Route::Ready),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use storage::RegistryOptions;
    use storage::backend::around::{Around, Surrounded, Verb};
    use storage::backend::bucket::Bucket;
    use tokio::sync::{Mutex, Notify, mpsc};
    use tokio::task::JoinHandle;
    use tower::ServiceExt;

    use super::*;

    /// Answers a store's probes as a test says, and lets them hang until then.
    #[derive(Debug)]
    struct Dictated {
        answers: Mutex<mpsc::Receiver<Result<(), Fault>>>,
        asked: Notify,
    }

    impl Around for Dictated {
        async fn around<T: Send>(
            &self,
            verb: Verb,
            call: impl Future<Output = Result<T, BackendError>> + Send,
        ) -> Result<T, BackendError> {
            self.asked.notify_one();
            match self.answers.lock().await.recv().await.expect("the test goes on") {
                Ok(()) => call.await,
                Err(fault) => Err(BackendError::of(verb.as_str(), "a store that is told to fail", fault)),
            }
        }
    }

    /// A store that is looked at, and what is said of it.
    struct Watched {
        readiness: Readiness,
        dictated: Arc<Dictated>,
        answers: mpsc::Sender<Result<(), Fault>>,
        watch: JoinHandle<()>,
    }

    impl Watched {
        async fn start(mode: Mode, threshold: usize, timeout: Duration) -> Self {
            let (answers, dictate) = mpsc::channel(1);
            let dictated = Arc::new(Dictated { answers: Mutex::new(dictate), asked: Notify::new() });
            let backend = Surrounded::new(Arc::new(Bucket::in_memory()), Arc::clone(&dictated));
            let registry = Registry::new(Arc::new(backend), RegistryOptions::default());
            let check = StorageCheck {
                interval: Duration::from_millis(1),
                threshold: NonZeroUsize::new(threshold).unwrap(),
                timeout,
            };
            let readiness = Readiness::new(None, &[]);
            let watch = tokio::spawn(readiness.clone().watch(registry, check, mode));
            dictated.asked.notified().await;
            Self { readiness, dictated, answers, watch }
        }

        /// Answers what the store is being asked; then it is asked the next thing.
        async fn answer(&self, answer: Result<(), Fault>) {
            self.answers.send(answer).await.unwrap();
            self.dictated.asked.notified().await;
        }

        fn says(&self) -> (u16, String) {
            let (status, text) = self.readiness.answer();
            (status.as_u16(), text)
        }

        async fn says_to_distributions_probes(&self) -> (u16, serde_json::Value) {
            let request = Request::get("/debug/health").body(Body::empty()).unwrap();
            let response = self.readiness.debug_router().oneshot(request).await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/json");
            let status = response.status().as_u16();
            (status, serde_json::from_slice(&to_bytes(response.into_body(), 1000).await.unwrap()).unwrap())
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.watch.abort();
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn so_many_failures_in_a_row_as_the_threshold_says_make_it_unready() {
        let store = Watched::start(Mode::ReadOnly, 3, LONG).await;
        for answer in [Err(Fault::Unavailable), Err(Fault::Unavailable), Ok(()), Err(Fault::Unavailable)] {
            store.answer(answer).await;
            assert_eq!(store.says(), (200, "ready\n".to_owned()));
        }
        store.answer(Err(Fault::Unavailable)).await;
        store.answer(Err(Fault::Unavailable)).await;
        assert_eq!(store.says(), (503, "the store does not answer\n".to_owned()));
        let lack = json!({ "storagedriver": "the store does not answer" });
        assert_eq!(store.says_to_distributions_probes().await, (503, lack));
        store.answer(Ok(())).await;
        assert_eq!(store.says(), (200, "ready\n".to_owned()));
        assert_eq!(store.says_to_distributions_probes().await, (200, json!({})));
    }

    #[tokio::test]
    async fn a_store_that_hangs_does_not_answer_and_is_not_asked_again_meanwhile() {
        let store = Watched::start(Mode::ReadOnly, 3, Duration::from_millis(1)).await;
        while store.readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        assert!(store.dictated.asked.notified().now_or_never().is_none());
        store.answer(Ok(())).await;
        assert!(store.readiness.is_ready());
    }

    #[tokio::test]
    async fn a_store_that_takes_nothing_can_be_pulled_from() {
        let store = Watched::start(Mode::ReadWrite, 1, LONG).await;
        assert_eq!(store.readiness.writing(), Writing::Untried);
        store.answer(Ok(())).await;
        store.answer(Err(Fault::Full)).await;
        let full = "ready\nnothing can be pushed: there is no space left\n";
        assert_eq!(store.says(), (200, full.to_owned()));
        store.answer(Ok(())).await;
        store.answer(Ok(())).await;
        assert_eq!(store.says(), (200, "ready\n".to_owned()));
        assert_eq!(store.readiness.writing(), Writing::Taken);
    }
}
