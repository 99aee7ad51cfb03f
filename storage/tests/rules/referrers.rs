//! Referrers, against what was pushed and deleted.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{Algorithm, Digest, Reader, layout};

use super::{CASES, empty_registry};
use crate::harness::{Artifact, TestRegistry, cases, name, tell};

async fn referrers(reader: &Reader, subject: &Digest) -> Vec<Digest> {
    let found = reader.referrers(subject).await.unwrap();
    found.iter().map(|referrer| referrer.digest).collect()
}

/// Asks the registry that did it all, and one that remembers nothing of it.
async fn assert_referrers(registry: &TestRegistry, subject: &Digest, expected: &[&Artifact]) {
    let expected: BTreeSet<Digest> = expected.iter().map(|artifact| artifact.digest).collect();
    for registry in [registry.registry.clone(), registry.another_replica()] {
        let listed = referrers(&registry.reader(name("team/app")), subject).await;
        assert!(listed.iter().eq(&expected), "{listed:?} instead of {expected:?}");
    }
}

fn fallback_tag(subject: &Digest) -> String {
    subject.to_string().replace(':', "-")
}

#[derive(Clone, Debug)]
enum Act {
    Push(usize),
    Delete(usize),
    /// A client that knows of no referrers API lists some in the fallback tag.
    List(Vec<usize>),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..24_usize).prop_map(Act::Push),
        2 => (0..24_usize).prop_map(Act::Delete),
        1 => prop::collection::vec(0..24_usize, 0..6).prop_map(Act::List),
    ]
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn referrers_are_what_is_there_of_what_was_pushed_or_listed(
        acts in prop::collection::vec(act(), 0..60),
    ) {
        tell(async {
            let registry = empty_registry();
            let subject = Digest::of(Algorithm::Sha256, b"not pushed yet");
            // Half of them name the subject themselves; the others only count while the fallback tag lists them.
            let artifacts: Vec<Artifact> = (0..24)
                .map(|n| Artifact::about((n % 2 == 0).then_some(subject), &n.to_string()))
                .collect();
            let (mut pushed, mut listed) = (BTreeSet::new(), Vec::new());
            for act in acts {
                match act {
                    Act::Push(n) => {
                        registry.push("team/app", &artifacts[n], &[]).await;
                        pushed.insert(n);
                    }
                    Act::Delete(n) => {
                        let deleter = registry.registry.deleter(name("team/app"));
                        let existed = deleter.delete_manifest(&artifacts[n].digest).await.unwrap();
                        prop_assert_eq!(existed, pushed.remove(&n));
                    }
                    Act::List(some) => {
                        let index: Vec<Artifact> = some.iter().map(|n| artifacts[*n].clone()).collect();
                        registry.push("team/app", &Artifact::index_of(&index), &[&fallback_tag(&subject)]).await;
                        listed = some;
                    }
                }
            }
            let expected: Vec<&Artifact> = pushed
                .iter()
                .filter(|n| *n % 2 == 0 || listed.contains(n))
                .map(|n| &artifacts[*n])
                .collect();
            assert_referrers(&registry, &subject, &expected).await;
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_repository_that_does_not_exist_has_no_referrers() {
    let registry = empty_registry();
    for algorithm in Algorithm::ALL {
        assert_referrers(&registry, &Digest::of(algorithm, b"nobody"), &[]).await;
    }
}

#[tokio::test]
async fn a_referrer_may_come_before_its_subject_and_stay_after_it() {
    let registry = empty_registry();
    let subject = Artifact::noted("subject");
    let signature = Artifact::about(Some(subject.digest), "signature");
    registry.push("team/app", &signature, &[]).await;
    assert_referrers(&registry, &subject.digest, &[&signature]).await;
    registry.push("team/app", &subject, &["v1"]).await;
    assert_referrers(&registry, &subject.digest, &[&signature]).await;
    registry.registry.deleter(name("team/app")).delete_manifest(&subject.digest).await.unwrap();
    assert_referrers(&registry, &subject.digest, &[&signature]).await;
}

#[tokio::test]
async fn a_referrer_shows_what_kind_it_is_and_its_annotations() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let signature = Artifact::about(Some(subject), "signature");
    registry.push("team/app", &signature, &[]).await;
    let [shown] = &*registry.reader("team/app").referrers(&subject).await.unwrap() else {
        panic!("one was pushed")
    };
    assert_eq!(shown.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(shown.artifact_type.as_deref(), Some("application/vnd.example.note"));
    assert_eq!(shown.annotations["note"], "signature");
    assert_eq!(shown.size, signature.bytes.len() as u64);
}

#[tokio::test]
async fn referrers_belong_to_the_repository_they_were_pushed_to() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha512, b"subject");
    let [here, there] = ["here", "there"].map(|note| Artifact::about(Some(subject), note));
    registry.push("team/app", &here, &[]).await;
    registry.push("team/other", &there, &[]).await;
    assert_referrers(&registry, &subject, &[&here]).await;
}

#[tokio::test]
async fn a_referrer_whose_bytes_are_lost_is_not_listed_and_one_that_comes_back_is() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let [kept, lost] = ["kept", "lost"].map(|note| Artifact::about(Some(subject), note));
    for artifact in [&kept, &lost] {
        registry.push("team/app", artifact, &[]).await;
    }
    registry.backend.delete(&layout::blob(&lost.digest)).await.unwrap();
    let reader = || registry.another_replica().reader(name("team/app"));
    assert_eq!(referrers(&reader(), &subject).await, [kept.digest]);
    registry.push("team/app", &lost, &[]).await;
    assert_eq!(referrers(&reader(), &subject).await.len(), 2);
}

#[tokio::test]
async fn many_referrers_are_read_once_and_then_from_what_was_remembered() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let artifacts: Vec<Artifact> = (0..40).map(|n| Artifact::about(Some(subject), &n.to_string())).collect();
    for artifact in &artifacts {
        registry.push("team/app", artifact, &[]).await;
    }
    let expected: Vec<&Artifact> = artifacts.iter().collect();
    assert_referrers(&registry, &subject, &expected).await;
    let remembered = layout::referrer_descriptors(&name("team/app"), &subject);
    assert!(registry.backend.read(&remembered, 1 << 20).await.unwrap().is_some());

    // Something else in its place is no list, and does no harm.
    registry.backend.write(&remembered, Bytes::from_static(b"[{\"dig")).await.unwrap();
    assert_referrers(&registry, &subject, &expected).await;

    // What it remembers of those that went is not told.
    let deleter = registry.registry.deleter(name("team/app"));
    deleter.delete_manifest(&artifacts[7].digest).await.unwrap();
    let expected: Vec<&Artifact> = artifacts.iter().filter(|it| it.digest != artifacts[7].digest).collect();
    assert_referrers(&registry, &subject, &expected).await;
}

#[tokio::test]
async fn a_link_that_distribution_has_outlived_is_not_told() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let signature = Artifact::about(Some(subject), "signature");
    registry.push("team/app", &signature, &[]).await;
    // It knows of no referrers: deleting a manifest, it removes the revision alone.
    registry.backend.delete(&layout::revision_link(&name("team/app"), &signature.digest)).await.unwrap();
    assert_referrers(&registry, &subject, &[]).await;
}
