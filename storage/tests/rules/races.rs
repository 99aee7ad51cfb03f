//! Two people at once: whatever one of them does happens between two calls of the other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use storage::backend::BackendError;
use storage::backend::around::{Around, Surrounded, Verb};
use storage::{MissingReferences, Reference, Registry, RegistryOptions, Tag};

use super::empty_registry;
use crate::harness::{Artifact, TestRegistry, name, referrers};

/// Lets something happen before one of the calls of a backend.
struct Between {
    call: usize,
    calls: AtomicUsize,
    happens: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "something before call {}", self.call)
    }
}

impl Around for Between {
    async fn around<T: Send>(
        &self,
        _: Verb,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.call {
            (self.happens)().await;
        }
        call.await
    }
}

/// Lets one person do something while another replica does something else, at each call that the first takes, and looks at what comes
/// of it: `is_good` is told whether all of the second came after the first call of the first.
async fn at_each_call<F: Future<Output = ()> + Send + 'static>(
    prepare: impl AsyncFn(&TestRegistry),
    one: impl AsyncFn(&Registry),
    other: impl Fn(Registry) -> F + Clone + Send + Sync + 'static,
    is_good: impl AsyncFn(&Registry, usize),
) {
    for call in 0.. {
        let store = empty_registry();
        prepare(&store).await;
        let (replica, other) = (store.another_replica(), other.clone());
        let between = Arc::new(Between {
            call,
            calls: AtomicUsize::new(0),
            happens: Box::new(move || Box::pin(other(replica.clone()))),
        });
        let surrounded = Surrounded::new(store.backend.clone(), between.clone());
        one(&Registry::new(Arc::new(surrounded), RegistryOptions::default())).await;
        if between.calls.load(Ordering::SeqCst) <= call {
            assert!(call > 2, "it takes some calls");
            return;
        }
        is_good(&store.another_replica(), call).await;
    }
}

fn old() -> Artifact {
    Artifact::noted("old")
}

fn new() -> Artifact {
    Artifact::noted("new")
}

async fn push(registry: Registry, artifact: Artifact, tags: &'static [&'static str]) {
    let writer = registry.writer(name("team/app"));
    artifact.push(&writer, tags, MissingReferences::AllowAll).await.unwrap();
}

async fn delete_old(registry: &Registry) {
    registry.deleter(name("team/app")).delete_manifest(&old().digest).await.unwrap();
}

/// What a tag that is listed points at; a tag that is listed leads somewhere.
async fn tagged(registry: &Registry, wanted: &str) -> Option<Artifact> {
    let reader = registry.reader(name("team/app"));
    let mut found = None;
    for tag in reader.tags(None, 100).await.unwrap().map(|page| page.tags).unwrap_or_default() {
        let manifest = reader.manifest(&Reference::Tag(tag.clone())).await.unwrap();
        let manifest = manifest.unwrap_or_else(|| panic!("{tag} is a dead end"));
        if tag.as_str() == wanted {
            found = [old(), new()].into_iter().find(|artifact| artifact.digest == manifest.digest);
        }
    }
    found
}

async fn holds_old(registry: &Registry) -> bool {
    let reader = registry.reader(name("team/app"));
    reader.manifest(&Reference::Digest(old().digest)).await.unwrap().is_some()
}

#[tokio::test]
async fn a_tag_that_is_moved_while_its_manifest_is_deleted_stays() {
    at_each_call(
        async |store| store.push("team/app", &old(), &["before", "latest", "stable"]).await,
        async |registry| delete_old(registry).await,
        |replica| push(replica, new(), &["latest"]),
        async |registry, call| {
            assert_eq!(tagged(registry, "latest").await.unwrap().digest, new().digest, "call {call}");
            assert!(tagged(registry, "stable").await.is_none());
            assert!(!holds_old(registry).await);
        },
    )
    .await;
}

#[tokio::test]
async fn a_manifest_that_is_pushed_again_while_it_is_deleted_is_there_with_its_tag_or_gone_with_it() {
    for tags in [&["latest"], &["another"]] {
        at_each_call(
            async |store| store.push("team/app", &old(), &["latest", "stable"]).await,
            async |registry| delete_old(registry).await,
            move |replica| push(replica, old(), tags),
            async |registry, call| {
                let is_tagged = tagged(registry, tags[0]).await.is_some();
                assert_eq!(is_tagged, holds_old(registry).await, "call {call}");
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_manifest_that_is_deleted_while_it_is_pushed_again_is_there_with_its_tag_or_gone_with_it() {
    at_each_call(
        async |store| store.push("team/app", &old(), &["latest", "stable"]).await,
        async |registry| push(registry.clone(), old(), &["latest", "another"]).await,
        |replica| async move { delete_old(&replica).await },
        async |registry, call| {
            let is_held = holds_old(registry).await;
            for tag in ["latest", "another"] {
                assert_eq!(tagged(registry, tag).await.is_some(), is_held, "{tag}, call {call}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_referrer_that_is_deleted_while_it_is_pushed_again_is_listed_or_gone() {
    let about = || Artifact::about(Some(old().digest), "about what is old");
    at_each_call(
        async |store| store.push("team/app", &about(), &[]).await,
        async |registry| push(registry.clone(), about(), &["signed"]).await,
        move |replica| async move {
            replica.deleter(name("team/app")).delete_manifest(&about().digest).await.unwrap();
        },
        async |registry, call| {
            let reader = registry.reader(name("team/app"));
            let is_listed = !referrers(&reader, &old().digest).await.is_empty();
            let references = [Reference::Digest(about().digest), Reference::Tag("signed".parse().unwrap())];
            for reference in references {
                let is_held = reader.manifest(&reference).await.unwrap().is_some();
                assert_eq!(is_listed, is_held, "{reference}, call {call}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_tag_that_is_pushed_while_it_is_deleted_stays() {
    let latest = || "latest".parse::<Tag>().unwrap();
    for is_there in [true, false] {
        at_each_call(
            async |store| {
                let tags: &[&str] = if is_there { &["latest"] } else { &[] };
                store.push("team/app", &old(), tags).await;
            },
            async |registry| {
                registry.deleter(name("team/app")).delete_tag(&latest()).await.unwrap();
            },
            |replica| push(replica, new(), &["latest"]),
            async |registry, call| {
                let tagged = tagged(registry, "latest").await.map(|artifact| artifact.digest);
                // Before its first call, deletion has not begun.
                assert_eq!(tagged, (call > 0).then(|| new().digest), "call {call}");
            },
        )
        .await;
    }
}
