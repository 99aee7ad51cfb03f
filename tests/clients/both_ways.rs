//! Debian's docker-registry on a folder of Wharf's, and Wharf on one of its: nobody has to stay.

use std::fs;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};

use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, TestRegistry, User, image::descriptor, tool},
};

#[tokio::test]
async fn what_wharf_keeps_docker_registry_serves() {
    let registry = TestRegistry::start().await;
    let Some(program) = tool::debian("docker-registry") else { return };
    let Some(alice) = Containers::near(&registry) else { return };
    push_every_kind(&alice, &registry).await;
    let old = registry.served_by(&program).await;
    every_kind_is_there(&registry, &old).await;
}

#[tokio::test]
async fn what_docker_registry_keeps_wharf_serves() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let old = TestRegistry::foreign(&program).await;
    let Some(alice) = Containers::near(&old) else { return };
    push_every_kind(&alice, &old).await;
    let wharf = old.replica().await;
    every_kind_is_there(&old, &wharf).await;

    // And it goes on from there: in the old repository, on the old layers.
    let Some(bob) = Containers::near(&wharf) else { return };
    bob.skopeo(format!("copy docker://{0}/team/app:oci docker://{0}/team/app:newer", wharf.host())).await;
    let image = Image::of(vec![Layer::random(1000)]);
    wharf.user("carol").push("team/app", "newest", &image).await;
    assert_eq!(old.user("carol").pull_manifest("team/app", "newest").await, image.manifest);
    let expected = ["docker", "multi", "newer", "newest", "oci"];
    let mut tags = old.user("carol").tags("team/app").await;
    tags.sort();
    assert_eq!(tags, expected);
}

#[tokio::test]
async fn a_blob_that_is_called_by_its_sha512_is_found_by_it_at_either() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let wharf = TestRegistry::start().await;
    let old = wharf.served_by(&program).await;
    for writer in [&wharf, &old] {
        let (alice, content) = (writer.user("alice"), Layer::random(1000).bytes());
        let digest = Digest::of(Algorithm::Sha512, &content);
        let upload = alice.begin_upload("team/app").await;
        alice.finish_with(&upload, &digest, content.clone()).await.expect(StatusCode::CREATED);
        for reader in [&wharf, &old] {
            let pulled = reader.user("bob").get(&format!("/v2/team/app/blobs/{digest}")).await;
            assert_eq!(pulled.expect(StatusCode::OK).body, content);
        }
    }
}

#[tokio::test]
async fn an_upload_goes_on_at_either_wherever_it_began() {
    let Some(program) = tool::debian("docker-registry") else { return };
    // Its URLs are signed, and only those who share the secret take them.
    let wharf = TestRegistry::with(json!({ "http": { "secret": "shared" } })).await;
    let old = wharf.served_by(&program).await;
    let (here, there) = (wharf.user("alice"), old.user("alice"));
    for [first, second] in [[&here, &there], [&there, &here]] {
        for last in [first, second] {
            let layer = Layer::random(300_000);
            let upload = first.begin_upload("team/app").await;
            second.send(&upload, layer.first(100_000)).await;
            first.send(&upload, layer.bytes().slice(100_000..200_000)).await;
            assert_eq!(second.upload_end(&upload).await, 200_000);
            second.send(&upload, layer.from(200_000)).await;
            last.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
            for user in [first, second] {
                assert_eq!(user.pull("team/app", layer.digest()).await, layer);
            }
        }
    }
}

#[tokio::test]
async fn what_docker_registry_tore_is_absent_and_healed_by_a_push() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let old = TestRegistry::foreign(&program).await;
    let image = Image::of(vec![Layer::random(1000)]);
    old.user("alice").push("team/app", "kept", &image).await;
    old.user("alice").push("team/app", "torn", &image).await;
    let digest = image.digest();
    let repository = old.data().join("repositories/team/app");
    let (revision, layer) = (digest.hex().to_string(), image.layers[0].digest());
    // It writes links in place: killed, it leaves none of the digest or some of it.
    for left in ["", "sha256:", &digest.to_string()[..40]] {
        let wharf = old.replica().await;
        let bob = wharf.user("bob");
        fs::write(repository.join("_manifests/tags/torn/current/link"), left).unwrap();
        bob.get("/v2/team/app/manifests/torn").await.expect(StatusCode::NOT_FOUND);
        assert_eq!(bob.pull_manifest("team/app", "kept").await, image.manifest);
        assert_eq!(bob.tags("team/app").await, ["kept"], "with {left:?}");
        fs::write(repository.join("_layers/sha256").join(layer.hex().to_string()).join("link"), left)
            .unwrap();
        bob.head(&format!("/v2/team/app/blobs/{layer}")).await.expect(StatusCode::NOT_FOUND);
        fs::write(repository.join("_manifests/revisions/sha256").join(&revision).join("link"), left).unwrap();
        bob.head(&format!("/v2/team/app/manifests/{digest}")).await.expect(StatusCode::NOT_FOUND);

        bob.push("team/app", "torn", &image).await;
        for user in [wharf.user("carol"), old.user("carol")] {
            for tag in ["kept", "torn"] {
                assert_eq!(user.pull_manifest("team/app", tag).await, image.manifest, "after {left:?}");
            }
            assert_eq!(user.pull("team/app", layer).await, image.layers[0]);
        }
    }
}

#[tokio::test]
async fn repositories_lie_within_each_other_in_either() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let wharf = TestRegistry::start().await;
    let old = wharf.served_by(&program).await;
    let names = ["team", "team-b/app", "team/app", "team/app-b", "team/app/deep/er", "team/blobs/uploads"];
    let mut images = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        let image = Image::of(vec![Layer::random(100)]);
        [&wharf, &old][n % 2].user("alice").push(name, "v1", &image).await;
        images.push(image);
    }
    for registry in [&wharf, &old] {
        let bob = registry.user("bob");
        let mut listed: Vec<String> =
            serde_json::from_value(bob.get("/v2/_catalog").await.json()["repositories"].take()).unwrap();
        // Docker-registry compares names piece by piece.
        listed.sort();
        assert_eq!(listed, names);
        for (name, image) in names.iter().zip(&images) {
            assert_eq!(bob.pull_manifest(name, "v1").await, image.manifest);
            assert_eq!(bob.pull(name, image.layers[0].digest()).await, image.layers[0]);
        }
    }
}

#[tokio::test]
async fn artifacts_stay_with_their_subject_whoever_took_them() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let wharf = TestRegistry::start().await;
    let old = wharf.served_by(&program).await;
    let image = Image::of(vec![Layer::random(100)]);
    old.user("alice").push("team/app", "v1", &image).await;
    let (here, there) = (wharf.user("alice"), old.user("alice"));
    let [signature, sbom] = ["signature", "sbom"].map(|note| artifact(&image, note));
    put(&here, &signature).await;
    // A client of a registry that knows no referrers lists them under a tag: crane with the type of their config, and without annotations.
    put(&there, &sbom).await;
    let mut shown = descriptor(Image::MEDIA_TYPE, sbom.to_string().as_bytes());
    let mut entry = shown.clone();
    entry["artifactType"] = sbom["config"]["mediaType"].clone();
    // What else is listed there is no referrer.
    let no_referrer = descriptor(Image::MEDIA_TYPE, &image.manifest);
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry, no_referrer],
    });
    let tag = image.digest().to_string().replace(':', "-");
    let kind = [("content-type", "application/vnd.oci.image.index.v1+json")];
    let path = format!("/v2/team/app/manifests/{tag}");
    there.ask(Method::PUT, &path, &kind, index.to_string().into()).await.expect(StatusCode::CREATED);

    let path = format!("/v2/team/app/referrers/{}", image.digest());
    let listed = here.get(&path).await.expect(StatusCode::OK).json()["manifests"].take();
    let mut digests: Vec<_> =
        listed.as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect();
    digests.sort_by_key(Value::to_string);
    let mut expected = [&signature, &sbom].map(digest_of);
    expected.sort_by_key(Value::to_string);
    assert_eq!(digests, expected);
    for member in ["artifactType", "annotations"] {
        shown[member] = sbom[member].clone();
    }
    let found = here.get(&format!("{path}?artifactType=application/vnd.example.sbom")).await;
    assert_eq!(found.expect(StatusCode::OK).json()["manifests"], json!([shown]));
    for user in [&here, &there] {
        for manifest in [&signature, &sbom] {
            let digest = digest_of(manifest);
            let pulled = user.pull_manifest("team/app", digest.as_str().unwrap()).await;
            assert_eq!(pulled, manifest.to_string());
        }
    }
}

/// An artifact about an image, which shares its config and layers.
fn artifact(image: &Image, note: &str) -> Value {
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["artifactType"] = json!(format!("application/vnd.example.{note}"));
    manifest["annotations"] = json!({ "note": note });
    manifest["subject"] = descriptor(Image::MEDIA_TYPE, &image.manifest);
    manifest
}

fn digest_of(manifest: &Value) -> Value {
    descriptor("", manifest.to_string().as_bytes())["digest"].clone()
}

async fn put(user: &User, manifest: &Value) {
    let path = format!("/v2/team/app/manifests/{}", digest_of(manifest).as_str().unwrap());
    let kind = [("content-type", Image::MEDIA_TYPE)];
    user.ask(Method::PUT, &path, &kind, manifest.to_string().into()).await.expect(StatusCode::CREATED);
}

/// Pushes images in both formats, and one for several platforms.
async fn push_every_kind(alice: &Containers, registry: &TestRegistry) {
    let repository = format!("{}/team/app", registry.host());
    alice.lay_out("app", &Image::saying("hello", &alice.busybox));
    alice.skopeo(format!("copy oci:app:1 docker://{repository}:oci")).await;
    alice.skopeo(format!("copy --format v2s2 oci:app:1 docker://{repository}:docker")).await;
    alice.push_for_each(&["amd64", "arm64"], &format!("{repository}:multi")).await;
}

/// Compares what two registries on one folder serve, to the last byte of every blob, and runs an image of the second.
async fn every_kind_is_there(first: &TestRegistry, second: &TestRegistry) {
    let Some(bob) = Containers::near(second) else { return };
    let (here, there) = (first.user("bob"), second.user("bob"));
    for tag in ["docker", "multi", "oci"] {
        let manifest = here.pull_manifest("team/app", tag).await;
        assert_eq!(there.pull_manifest("team/app", tag).await, manifest);
        // skopeo checks every digest on the way.
        bob.skopeo(format!("copy --all docker://{}/team/app:{tag} dir:copy-of-{tag}", second.host())).await;
    }
    for tag in ["docker", "oci"] {
        assert_eq!(bob.run(&format!("{}/team/app:{tag}", second.host())).await, "hello");
    }
}
