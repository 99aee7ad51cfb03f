//! A store that fails at each call in turn: nothing that was acknowledged is lost, nothing half-made is served, and whoever tries
//! again succeeds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use storage::backend::Fault;
use storage::backend::around::Surrounded;
use storage::backend::fault::{Failure, Faults, Moment};
use storage::{
    Algorithm, DeletedTags, Digest, MissingReferences, Purge, Reference, Registry, RegistryOptions, UploadId,
    layout,
};

use super::empty_registry;
use crate::harness::{Artifact, TestRegistry, body, name, pull, referrers};

type Outcome = Result<(), Box<dyn Error>>;

/// What was there before anything failed.
struct Before {
    layer: Digest,
    config: Digest,
    kept: Artifact,
    doomed: Artifact,
    referrer: Artifact,
}

impl Before {
    async fn push(registry: &TestRegistry) -> Self {
        let config = registry.push_blob("team/app", b"{}").await;
        let layer = registry.push_blob("team/base", b"a layer").await;
        let (kept, doomed) = (Artifact::noted("kept"), Artifact::noted("doomed"));
        let referrer = Artifact::about(Some(kept.digest), "about what is kept");
        registry.push("team/app", &kept, &["stable", "v1"]).await;
        registry.push("team/app", &doomed, &["doomed", "doomed-too"]).await;
        registry.push("team/app", &referrer, &[]).await;
        Self { layer, config, kept, doomed, referrer }
    }

    /// Nothing of it is lost, and all that is listed can be pulled.
    async fn assert_whole(&self, registry: &Registry) {
        let reader = registry.reader(name("team/app"));
        let stable = reader.manifest(&Reference::Tag("stable".parse().unwrap())).await.unwrap().unwrap();
        assert_eq!(stable.bytes, self.kept.bytes);
        assert_eq!(pull(registry, "team/app", &self.config).await.unwrap(), b"{}");
        assert_eq!(pull(registry, "team/base", &self.layer).await.unwrap(), b"a layer");
        for tag in reader.tags(None, 100).await.unwrap().unwrap().tags {
            assert!(
                reader.manifest(&Reference::Tag(tag.clone())).await.unwrap().is_some(),
                "{tag} is a dead end"
            );
        }
        for referrer in referrers(&reader, &self.kept.digest).await {
            assert!(reader.manifest(&Reference::Digest(referrer.digest)).await.unwrap().is_some());
        }
    }
}

/// Does something once for each call that it takes and each way in which that may fail, and then once more.
async fn try_with_every_fault<S: Default>(
    act: impl AsyncFn(&Registry, &Before, &S) -> Outcome,
    is_done: impl AsyncFn(&Registry, &Before, &S) -> bool,
) {
    let failures = [Fault::Unavailable, Fault::Full]
        .into_iter()
        .flat_map(|fault| [Moment::Before, Moment::After].map(|moment| Failure { fault, moment }));
    for (failure, lasting) in failures.flat_map(|failure| [(failure, false), (failure, true)]) {
        for call in 0.. {
            let store = empty_registry();
            let before = Before::push(&store).await;
            let faults = Arc::new(Faults::default());
            let faulty = Surrounded::new(store.backend.clone(), faults.clone());
            let registry = Registry::new(Arc::new(faulty), RegistryOptions::default());
            let state = S::default();
            if lasting {
                faults.fail_from(call, failure);
            } else {
                faults.fail(call, failure);
            }
            let outcome = act(&registry, &before, &state).await;
            let calls = faults.heal();
            let reached = calls.len() > call;
            let story = format!("{failure:?}, call {call} of {calls:?}");

            before.assert_whole(&store.another_replica()).await;
            match outcome {
                Ok(()) => assert!(is_done(&store.another_replica(), &before, &state).await, "{story}"),
                Err(error) => assert!(reached, "{story}: {error}"),
            }
            if !reached {
                break;
            }
            if let Err(error) = act(&registry, &before, &state).await {
                panic!("again after {story}: {error}");
            }
            for registry in [&registry, &store.another_replica()] {
                assert!(is_done(registry, &before, &state).await, "{story}");
                before.assert_whole(registry).await;
            }
        }
    }
}

/// An upload as its client knows it.
#[derive(Default)]
struct Session {
    id: Cell<Option<UploadId>>,
    acknowledged: Cell<usize>,
}

const CONTENT: &[u8] = &[7; 200_000];

#[tokio::test]
async fn an_upload_is_carried_on_from_what_was_acknowledged() {
    let digest = Digest::of(Algorithm::Sha256, CONTENT);
    let push = async |registry: &Registry, _: &Before, session: &Session| {
        let writer = registry.writer(name("team/app"));
        let known = match session.id.get() {
            Some(id) => writer.upload(id).await?.map(|status| (id, status.checkpoint.offset())),
            None => None,
        };
        let (id, mut kept) = match known {
            Some((id, offset)) => (id, usize::try_from(offset)?),
            None => (writer.begin_upload(Algorithm::Sha256).await?, 0),
        };
        if session.id.replace(Some(id)) == Some(id) {
            assert!(kept >= session.acknowledged.get(), "what was acknowledged is kept");
        }
        while kept < CONTENT.len() {
            let mut upload = writer.resume_upload(id).await?.ok_or("the upload is gone")?;
            let next = (kept + 70_000).min(CONTENT.len());
            upload.receive(body([&CONTENT[kept..next]])).await?;
            kept = usize::try_from(upload.keep().await?)?;
            assert_eq!(kept, next);
            session.acknowledged.set(kept);
        }
        writer.resume_upload(id).await?.ok_or("the upload is gone")?.finish(&digest).await?;
        Ok(())
    };
    try_with_every_fault(push, async |registry, _, _| {
        pull(registry, "team/app", &digest).await.is_some_and(|pulled| pulled == CONTENT)
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_could_not_be_finished_is_finished_by_trying_the_same_again() {
    let digest = Digest::of(Algorithm::Sha256, CONTENT);
    for call in 0.. {
        let store = empty_registry();
        let faults = Arc::new(Faults::default());
        let faulty = Surrounded::new(store.backend.clone(), faults.clone());
        let writer = Registry::new(Arc::new(faulty), RegistryOptions::default()).writer(name("team/app"));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        // As a PUT with the whole body does it.
        let finish = async || -> Outcome {
            let mut upload = writer.resume_upload(id).await?.ok_or("the upload is gone")?;
            upload.receive(body([CONTENT])).await?;
            Ok(upload.finish(&digest).await?)
        };
        faults.fail(call, Failure { fault: Fault::Full, moment: Moment::Before });
        let first = finish().await;
        if faults.heal().len() <= call {
            first.unwrap();
            assert!(call > 2, "it takes some calls");
            break;
        }
        assert!(first.is_err() && pull(&store.registry, "team/app", &digest).await.is_none());
        if let Err(error) = finish().await {
            panic!("again after call {call}: {error}");
        }
        assert_eq!(pull(&store.registry, "team/app", &digest).await.unwrap(), CONTENT);
    }
}

#[tokio::test]
async fn a_blob_is_mounted_or_not() {
    try_with_every_fault(
        async |registry, before, _: &()| {
            let from = registry.reader(name("team/base"));
            let mounted = registry.writer(name("team/app")).mount(&from, &before.layer).await?;
            assert!(mounted);
            Ok(())
        },
        async |registry, before, _| pull(registry, "team/app", &before.layer).await.is_some(),
    )
    .await;
}

#[tokio::test]
async fn a_manifest_is_pushed_with_its_tags_and_found_by_its_subject() {
    let new = |before: &Before| Artifact::about(Some(before.kept.digest), "new");
    try_with_every_fault(
        async |registry, before, _: &()| {
            let writer = registry.writer(name("team/app"));
            Ok(new(before).push(&writer, &["v1", "v2"], MissingReferences::Refuse).await?)
        },
        async |registry, before, _| {
            let reader = registry.reader(name("team/app"));
            for tag in ["v1", "v2"] {
                let tagged = reader.manifest(&Reference::Tag(tag.parse().unwrap())).await.unwrap();
                if tagged.is_none_or(|tagged| tagged.digest != new(before).digest) {
                    return false;
                }
            }
            let referrers = referrers(&reader, &before.kept.digest).await;
            [&new(before), &before.referrer]
                .iter()
                .all(|it| referrers.iter().any(|found| found.digest == it.digest))
        },
    )
    .await;
}

#[tokio::test]
async fn a_tag_is_deleted_and_what_it_pointed_at_stays() {
    let tag = || "doomed".parse().unwrap();
    try_with_every_fault(
        async |registry, _, _: &()| {
            registry.deleter(name("team/app")).delete_tag(&tag()).await?;
            Ok(())
        },
        async |registry, before, _| {
            let reader = registry.reader(name("team/app"));
            let pointed_at = reader.manifest(&Reference::Digest(before.doomed.digest)).await.unwrap();
            let tagged = reader.manifest(&Reference::Tag(tag())).await.unwrap();
            pointed_at.is_some() && tagged.is_none()
        },
    )
    .await;
}

#[tokio::test]
async fn a_manifest_is_deleted_with_its_tags_and_each_is_named_when_it_goes() {
    try_with_every_fault(
        async |registry, before, named: &RefCell<BTreeSet<String>>| {
            let deleted = registry.deleter(name("team/app")).delete_manifest(&before.doomed.digest).await;
            let gone = match &deleted {
                Ok(gone) => gone.as_ref(),
                Err(error) => Some(&error.tags),
            };
            let gone = gone.map(DeletedTags::named).unwrap_or_default();
            named.borrow_mut().extend(gone.iter().map(|tag| tag.as_str().to_owned()));
            deleted?;
            Ok(())
        },
        async |registry, before, named| {
            let reader = registry.reader(name("team/app"));
            let tags = reader.tags(None, 100).await.unwrap().unwrap().tags;
            let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str()).collect();
            let named: Vec<String> = named.borrow().iter().cloned().collect();
            tags == ["stable", "v1"]
                && named == ["doomed", "doomed-too"]
                && reader.manifest(&Reference::Digest(before.doomed.digest)).await.unwrap().is_none()
        },
    )
    .await;
}

#[tokio::test]
async fn a_referrer_is_deleted_and_listed_no_more() {
    try_with_every_fault(
        async |registry, before, _: &()| {
            registry.deleter(name("team/app")).delete_manifest(&before.referrer.digest).await?;
            Ok(())
        },
        async |registry, before, _| {
            referrers(&registry.reader(name("team/app")), &before.kept.digest).await.is_empty()
        },
    )
    .await;
}

#[tokio::test]
async fn a_blob_is_deleted_from_one_repository() {
    try_with_every_fault(
        async |registry, before, _: &()| {
            let from = registry.reader(name("team/base"));
            registry.writer(name("team/app")).mount(&from, &before.layer).await?;
            registry.deleter(name("team/app")).delete_blob(&before.layer).await?;
            Ok(())
        },
        async |registry, before, _| pull(registry, "team/app", &before.layer).await.is_none(),
    )
    .await;
}

#[tokio::test]
async fn what_a_purge_leaves_the_next_one_takes() {
    let uploads = layout::uploads(&layout::repository(&name("team/app")));
    let later = || SystemTime::now() + Duration::from_secs(60 * 60);
    for call in 0.. {
        let store = empty_registry();
        let before = Before::push(&store).await;
        for _ in 0..3 {
            store.registry.writer(name("team/app")).begin_upload(Algorithm::Sha256).await.unwrap();
        }
        let faults = Arc::new(Faults::default());
        let faulty = Surrounded::new(store.backend.clone(), faults.clone());
        let registry = Registry::new(Arc::new(faulty), RegistryOptions::default());
        faults.fail(call, Failure { fault: Fault::Unavailable, moment: Moment::Before });
        let first = registry.purge_uploads(later(), Purge::Remove).await;
        let reached = faults.heal().len() > call;
        let second = registry.purge_uploads(later(), Purge::Remove).await.unwrap();
        if let Ok(first) = first {
            assert_eq!(first + second, 3);
        }
        assert!(store.backend.children(&uploads, None, 9).await.unwrap().names.is_empty());
        before.assert_whole(&store.another_replica()).await;
        if !reached {
            break;
        }
    }
}
