//! Referrers, against what was pushed and deleted.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{Algorithm, Digest, Reader, layout};

use super::{CASES, empty_registry};
use crate::harness::{Artifact, TestRegistry, cases, name, referrers, tell};

async fn digests(reader: &Reader, subject: &Digest) -> Vec<Digest> {
    referrers(reader, subject).await.iter().map(|referrer| referrer.digest).collect()
}

/// Asks the registry that did it all, and one that remembers nothing of it.
async fn assert_referrers(registry: &TestRegistry, subject: &Digest, expected: &[&Artifact]) {
    let expected: BTreeSet<Digest> = expected.iter().map(|artifact| artifact.digest).collect();
    for registry in [registry.registry.clone(), registry.another_replica()] {
        let listed = digests(&registry.reader(name("team/app")), subject).await;
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
    let [shown] = &*referrers(&registry.reader("team/app"), &subject).await else { panic!("one was pushed") };
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
    assert_eq!(digests(&reader(), &subject).await, [kept.digest]);
    registry.push("team/app", &lost, &[]).await;
    assert_eq!(digests(&reader(), &subject).await.len(), 2);
}

#[tokio::test]
async fn a_descriptor_that_is_missing_or_torn_is_read_from_its_manifest() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let artifacts = ["kept", "missing", "torn", "another's"].map(|note| Artifact::about(Some(subject), note));
    for artifact in &artifacts {
        registry.push("team/app", artifact, &[]).await;
    }
    let all = referrers(&registry.another_replica().reader(name("team/app")), &subject).await;
    let [kept, missing, torn, another] =
        artifacts.each_ref().map(|it| layout::referrer_descriptor(&name("team/app"), &subject, &it.digest));
    let kept = registry.backend.read(&kept, 1 << 20).await.unwrap().expect("it was kept when it was pushed");
    registry.backend.delete(&missing).await.unwrap();
    registry.backend.write(&torn, Bytes::from_static(b"{\"dig")).await.unwrap();
    registry.backend.write(&another, kept).await.unwrap();
    assert_eq!(referrers(&registry.another_replica().reader(name("team/app")), &subject).await, all);
}

#[tokio::test]
async fn an_entry_of_the_fallback_tag_that_is_no_descriptor_hides_no_other() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let [good, without] = ["good", "without annotations"].map(Artifact::noted);
    for artifact in [&good, &without] {
        registry.push("team/app", artifact, &[]).await;
    }
    let entry = |digest: &str| serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 2 });
    let mut null = entry(&without.digest.to_string());
    null["annotations"] = serde_json::Value::Null;
    let mut number = entry(&good.digest.to_string());
    number["annotations"] = serde_json::json!({ "note": 1 });
    let mut entries = vec![null, number, entry("blake3:abcdef"), entry("?"), serde_json::json!(7)];
    entries.push(entry(&good.digest.to_string()));
    let index = Bytes::from(
        serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries })
            .to_string(),
    );
    // Distribution takes what Wharf would refuse.
    let digest = Digest::of(Algorithm::Sha256, &index);
    let link = Bytes::from(digest.to_string());
    let repository = name("team/app");
    registry.backend.write(&layout::blob(&digest), index).await.unwrap();
    registry.backend.write(&layout::revision_link(&repository, &digest), link.clone()).await.unwrap();
    let tag = fallback_tag(&subject).parse().unwrap();
    registry.backend.write(&layout::tag_link(&repository, &tag), link).await.unwrap();
    assert_referrers(&registry, &subject, &[&good, &without]).await;
}

#[tokio::test]
async fn referrers_go_on_after_any_digest_however_they_came() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let (mut linked, mut listed) = (Vec::new(), Vec::new());
    for (n, algorithm) in Algorithm::ALL.into_iter().cycle().take(8).enumerate() {
        linked.push(Artifact::about(Some(subject), &format!("linked {n}")).by(algorithm));
        listed.push(Artifact::noted(&format!("listed {n}")).by(algorithm));
    }
    for artifact in linked.iter().chain(&listed) {
        registry.push("team/app", artifact, &[]).await;
    }
    registry.push("team/app", &Artifact::index_of(&listed), &[&fallback_tag(&subject)]).await;
    let mut all: Vec<Digest> = linked.iter().chain(&listed).map(|artifact| artifact.digest).collect();
    all.sort_unstable();
    let reader = registry.another_replica().reader(name("team/app"));
    assert_eq!(digests(&reader, &subject).await, all);
    for after in all
        .iter()
        .copied()
        .chain([Digest::of(Algorithm::Sha256, b"none"), Digest::of(Algorithm::Sha512, b"none")])
    {
        let mut list = reader.referrers(&subject, Some(&after)).await.unwrap();
        let next = list.next().await.unwrap().map(|referrer| referrer.digest);
        assert_eq!(next.as_ref(), all.iter().find(|digest| **digest > after));
    }
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
