//! Referrers, against what was pushed and deleted.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
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

pub(super) fn fallback_tag(subject: &Digest) -> String {
    subject.to_string().replace(':', "-")
}

/// Keeps an artifact as distribution does, which takes what Wharf would refuse and knows of no referrers.
pub(super) async fn keep(registry: &TestRegistry, digest: &Digest, bytes: &Bytes) {
    registry.backend.write(&layout::blob(digest), bytes.clone()).await.unwrap();
    let link = layout::revision_link(&name("team/app"), digest);
    registry.backend.write(&link, Bytes::from(digest.to_string())).await.unwrap();
}

/// Has the fallback tag list these entries, as distribution keeps it.
async fn list(registry: &TestRegistry, subject: &Digest, entries: Vec<Value>) {
    let index = Bytes::from(
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries })
            .to_string(),
    );
    let digest = Digest::of(Algorithm::Sha256, &index);
    keep(registry, &digest, &index).await;
    let link = layout::tag_link(&name("team/app"), &fallback_tag(subject).parse().unwrap());
    registry.backend.write(&link, Bytes::from(digest.to_string())).await.unwrap();
}

/// How a client that does not look closely lists an artifact.
fn careless_entry(artifact: &Artifact) -> Value {
    json!({
        "mediaType": "application/octet-stream",
        "digest": artifact.digest,
        "size": 2,
        "artifactType": "application/octet-stream",
        "annotations": null,
    })
}

#[derive(Clone, Debug)]
enum Act {
    /// By one who links referrers, or one who does not; it depends on the artifact.
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
            let another = Digest::of(Algorithm::Sha256, b"another");
            // Those that are linked, those that count only while the fallback tag lists them, and those that never do.
            let named = [Some(subject), Some(subject), Some(another), None];
            let artifacts: Vec<Artifact> =
                (0..24).map(|n| Artifact::about(named[n % 4], &n.to_string())).collect();
            let (mut pushed, mut listed) = (BTreeSet::new(), Vec::new());
            for act in acts {
                match act {
                    Act::Push(n) => {
                        if n % 4 == 1 {
                            keep(&registry, &artifacts[n].digest, &artifacts[n].bytes).await;
                        } else {
                            registry.push("team/app", &artifacts[n], &[]).await;
                        }
                        pushed.insert(n);
                    }
                    Act::Delete(n) => {
                        let deleter = registry.registry.deleter(name("team/app"));
                        let existed = deleter.delete_manifest(&artifacts[n].digest).await.unwrap();
                        prop_assert_eq!(existed.is_some(), pushed.remove(&n));
                    }
                    Act::List(some) => {
                        let index: Vec<Artifact> = some.iter().map(|n| artifacts[*n].clone()).collect();
                        registry.push("team/app", &Artifact::index_of(&index), &[&fallback_tag(&subject)]).await;
                        listed = some;
                    }
                }
            }
            let pushed_of = |kind: usize| pushed.iter().copied().filter(move |n| n % 4 == kind);
            // What is remembered of these is nothing to the subject.
            let of_another: Vec<&Artifact> = pushed_of(2).map(|n| &artifacts[n]).collect();
            assert_referrers(&registry, &another, &of_another).await;
            let expected: Vec<&Artifact> = pushed_of(0)
                .chain(pushed_of(1).filter(|n| listed.contains(n)))
                .map(|n| &artifacts[n])
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
    let [good, odd] = ["good", "odd"].map(|note| Artifact::about(Some(subject), note));
    for artifact in [&good, &odd] {
        keep(&registry, &artifact.digest, &artifact.bytes).await;
    }
    let mut entry = careless_entry(&odd);
    entry["annotations"] = json!({ "note": 1 });
    let nothing = ["blake3:abcdef", "?"].map(|digest| json!({ "digest": digest, "size": 2 }));
    let entries = [json!(7), Value::Null, json!({ "size": 2 })].into_iter().chain(nothing);
    list(&registry, &subject, entries.chain([entry, careless_entry(&good)]).collect()).await;
    assert_referrers(&registry, &subject, &[&good, &odd]).await;
}

#[tokio::test]
async fn a_referrer_is_shown_as_its_manifest_has_it_whatever_the_fallback_tag_says() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let signature = Artifact::about(Some(subject), "signature");
    keep(&registry, &signature.digest, &signature.bytes).await;
    list(&registry, &subject, vec![careless_entry(&signature)]).await;
    // Read, and then remembered.
    for _ in 0..2 {
        let all = referrers(&registry.reader("team/app"), &subject).await;
        let [shown] = &*all else { panic!("{all:?}") };
        assert_eq!(shown.media_type, "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(shown.artifact_type.as_deref(), Some("application/vnd.example.note"));
        assert_eq!(shown.annotations["note"], "signature");
        assert_eq!(shown.size, signature.bytes.len() as u64);
    }
}

#[tokio::test]
async fn the_fallback_tag_makes_no_referrer_of_what_does_not_name_the_subject() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let another = Digest::of(Algorithm::Sha256, b"another");
    let signature = Artifact::about(Some(subject), "signature");
    let of_another = Artifact::about(Some(another), "of another");
    let of_nothing = Artifact::noted("of nothing");
    let torn = Artifact::about(Some(subject), "torn");
    for artifact in [&signature, &of_another, &of_nothing] {
        keep(&registry, &artifact.digest, &artifact.bytes).await;
    }
    keep(&registry, &torn.digest, &torn.bytes.slice(..100)).await;
    let missing = Artifact::about(Some(subject), "missing");
    let all = [&signature, &of_another, &of_nothing, &torn, &missing];
    for subject in [&another, &subject] {
        list(&registry, subject, all.map(careless_entry).to_vec()).await;
    }
    // What is remembered of the one is nothing to the other.
    assert_referrers(&registry, &another, &[&of_another]).await;
    assert_referrers(&registry, &subject, &[&signature]).await;
    assert_referrers(&registry, &another, &[&of_another]).await;
}

#[tokio::test]
async fn referrers_go_on_after_any_digest_however_they_came() {
    let registry = empty_registry();
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let (mut linked, mut listed) = (Vec::new(), Vec::new());
    for (n, algorithm) in Algorithm::ALL.into_iter().cycle().take(8).enumerate() {
        linked.push(Artifact::about(Some(subject), &format!("linked {n}")).by(algorithm));
        listed.push(Artifact::about(Some(subject), &format!("listed {n}")).by(algorithm));
    }
    for artifact in &linked {
        registry.push("team/app", artifact, &[]).await;
    }
    for artifact in &listed {
        keep(&registry, &artifact.digest, &artifact.bytes).await;
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
