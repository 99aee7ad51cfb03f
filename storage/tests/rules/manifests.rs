//! Manifests: what is refused, what is served, and what a push heals.

use bytes::Bytes;
use serde_json::json;
use storage::{
    Algorithm, Digest, MissingReferences, Platform, PutManifestError, Reference, Registry, StoredManifest,
    layout,
};

use super::empty_registry;
use crate::harness::{Artifact, name};

async fn pull(registry: &Registry, digest: &Digest) -> Option<StoredManifest> {
    let reader = registry.reader(name("team/app"));
    reader.manifest(&Reference::Digest(*digest)).await.unwrap().map(|manifest| (*manifest).clone())
}

#[tokio::test]
async fn what_is_missing_is_named_once() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let config = registry.push_blob("team/app", b"{}").await;
    let elsewhere = registry.push_blob("team/other", b"another repository's").await;
    let nowhere = Digest::of(Algorithm::Sha512, b"nobody's");
    let image = Artifact::image_of(config, &[elsewhere, nowhere, elsewhere]);

    let refused = image.push(&writer, &["v1"], MissingReferences::Refuse).await.unwrap_err();
    let PutManifestError::Missing(mut missing) = refused else { panic!("{refused:?}") };
    missing.sort_unstable();
    let mut expected = [elsewhere, nowhere];
    expected.sort_unstable();
    assert_eq!(missing, expected);
    assert!(pull(&registry.registry, &image.digest).await.is_none());
    let reader = registry.registry.reader(name("team/app"));
    assert!(reader.manifest(&Reference::Tag("v1".parse().unwrap())).await.unwrap().is_none());

    assert!(
        image.push(&writer, &[], MissingReferences::AllowChildren).await.is_err(),
        "layers are no children"
    );
    image.push(&writer, &["v1"], MissingReferences::AllowAll).await.unwrap();
    assert_eq!(pull(&registry.registry, &image.digest).await.unwrap().bytes, image.bytes);
}

#[tokio::test]
async fn a_layer_whose_bytes_are_lost_is_missing() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let config = registry.push_blob("team/app", b"{}").await;
    let layer = registry.push_blob("team/app", b"a layer").await;
    let image = Artifact::image_of(config, &[layer]);
    registry.backend.delete(&layout::blob(&layer)).await.unwrap();
    let refused = image.push(&writer, &[], MissingReferences::Refuse).await.unwrap_err();
    assert!(matches!(refused, PutManifestError::Missing(missing) if missing == [layer]));
    registry.push_blob("team/app", b"a layer").await;
    image.push(&writer, &[], MissingReferences::Refuse).await.unwrap();
}

#[tokio::test]
async fn the_children_of_an_index_must_be_there_unless_it_may_be_sparse() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let (here, absent) = (Artifact::noted("here"), Artifact::noted("absent"));
    registry.push("team/app", &here, &[]).await;
    let index = Artifact::index_of(&[here, absent.clone()]);
    let refused = index.push(&writer, &[], MissingReferences::Refuse).await.unwrap_err();
    assert!(matches!(refused, PutManifestError::Missing(missing) if missing == [absent.digest]));
    index.push(&writer, &[], MissingReferences::AllowChildren).await.unwrap();
}

#[tokio::test]
async fn only_the_children_for_some_platforms_need_be_there_where_those_are_listed() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let on =
        |os: &str, architecture: &str| Platform { os: os.to_owned(), architecture: architecture.to_owned() };
    let listed = MissingReferences::AllowOtherPlatforms([on("linux", "amd64"), on("linux", "arm64")].into());
    let absent = Artifact::noted("absent");
    for (platform, is_required) in [
        (json!({ "os": "linux", "architecture": "arm64", "variant": "v8" }), true),
        (json!({ "os": "windows", "architecture": "amd64" }), false),
        (json!({ "os": "linux" }), false),
        (json!("linux/amd64"), false),
        (json!(null), false),
    ] {
        let index = Artifact::index_for(&[(&absent, platform.clone())]);
        match index.push(&writer, &[], listed.clone()).await {
            Err(PutManifestError::Missing(missing)) => {
                assert!(is_required && missing == [absent.digest], "{platform}")
            }
            outcome => assert!(outcome.is_ok() && !is_required, "{platform}"),
        }
    }
}

#[tokio::test]
async fn an_index_may_list_blobs_as_buildkit_does() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let cached = Artifact::noted("pushed as a blob");
    let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
    let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
    upload.receive(crate::harness::body([&*cached.bytes])).await.unwrap();
    upload.finish(&cached.digest).await.unwrap();
    Artifact::index_of(&[cached]).push(&writer, &[], MissingReferences::Refuse).await.unwrap();
}

#[tokio::test]
async fn a_manifest_is_served_byte_for_byte_by_either_digest() {
    let registry = empty_registry();
    for algorithm in Algorithm::ALL {
        let artifact = Artifact::noted("any").by(algorithm);
        registry.push("team/app", &artifact, &["v1"]).await;
        for registry in [registry.registry.clone(), registry.another_replica()] {
            let pulled = pull(&registry, &artifact.digest).await.unwrap();
            assert_eq!((pulled.digest, &pulled.bytes), (artifact.digest, &artifact.bytes));
            assert!(
                registry
                    .reader(name("team/other"))
                    .manifest(&Reference::Digest(artifact.digest))
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    }
}

#[tokio::test]
async fn what_a_crash_tore_counts_as_absent_and_is_healed_by_the_next_push() {
    for torn in ["bytes", "revision"] {
        let registry = empty_registry();
        let artifact = Artifact::noted("any");
        registry.push("team/app", &artifact, &["v1"]).await;
        let (key, rest) = match torn {
            "bytes" => (layout::blob(&artifact.digest), artifact.bytes.slice(..20)),
            _ => (layout::revision_link(&name("team/app"), &artifact.digest), Bytes::new()),
        };
        registry.backend.write(&key, rest).await.unwrap();

        let after_the_crash = registry.another_replica();
        assert!(pull(&after_the_crash, &artifact.digest).await.is_none());
        let writer = after_the_crash.writer(name("team/app"));
        artifact.push(&writer, &["v1"], MissingReferences::AllowAll).await.unwrap();
        for registry in [after_the_crash, registry.another_replica()] {
            assert_eq!(pull(&registry, &artifact.digest).await.unwrap().bytes, artifact.bytes);
        }
    }
}
