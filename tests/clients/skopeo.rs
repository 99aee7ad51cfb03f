//! skopeo: copies between places, as mirrors and pipelines make them.

use std::fs;

use serde_json::Value;

use super::settings;
use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, TestRegistry, tool},
};

#[tokio::test]
async fn a_layout_comes_back_byte_by_byte() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let image = Image::saying("hello", &alice.busybox);
    alice.lay_out("app", &image);
    let there = format!("docker://{}/team/app:1", registry.host());
    alice.skopeo(format!("copy --preserve-digests oci:app:1 {there}")).await;
    alice.skopeo(format!("copy --preserve-digests {there} oci:again:1")).await;

    assert_eq!(alice.skopeo(format!("inspect --raw {there}")).await.as_bytes(), image.manifest);
    let blobs = |layout: &str| {
        let folder = fs::read_dir(alice.machine.home().join(layout).join("blobs/sha256")).unwrap();
        let mut blobs: Vec<_> = folder
            .map(|file| file.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect();
        blobs.sort();
        blobs
    };
    assert!(blobs("app") == blobs("again"));
}

#[tokio::test]
async fn every_platform_is_copied_to_another_registry() {
    let (source, target) = (TestRegistry::with(settings()).await, TestRegistry::with(settings()).await);
    let Some(alice) = Containers::near(&source) else { return };
    let from = format!("{}/team/app:1", source.host());
    alice.push_for_each(&["amd64", "arm64", "s390x"], &from).await;
    let to = format!("{}/mirror/app:1", target.host());
    alice.skopeo(format!("copy --all --dest-tls-verify=false docker://{from} docker://{to}")).await;

    let copied = alice.skopeo(format!("inspect --raw --tls-verify=false docker://{to}")).await;
    assert_eq!(copied, alice.skopeo(format!("inspect --raw docker://{from}")).await);
    let index: Value = serde_json::from_str(&copied).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    let other = alice.skopeo(format!("inspect --override-arch s390x --tls-verify=false docker://{to}")).await;
    assert_eq!(serde_json::from_str::<Value>(&other).unwrap()["Architecture"], "s390x");
}

#[tokio::test]
async fn an_image_is_converted_between_formats() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    alice.lay_out("app", &Image::saying("in every form", &alice.busybox));
    let repository = format!("{}/team/app", registry.host());
    alice.skopeo(format!("copy --format v2s2 oci:app:1 docker://{repository}:docker")).await;
    alice.skopeo(format!("copy --format oci docker://{repository}:docker docker://{repository}:oci")).await;

    for (tag, media_type) in [
        ("docker", "application/vnd.docker.distribution.manifest.v2+json"),
        ("oci", "application/vnd.oci.image.manifest.v1+json"),
    ] {
        let manifest = alice.skopeo(format!("inspect --raw docker://{repository}:{tag}")).await;
        assert_eq!(serde_json::from_str::<Value>(&manifest).unwrap()["mediaType"], media_type);
        assert_eq!(alice.run(&format!("{repository}:{tag}")).await, "in every form");
    }
    alice.skopeo(format!("copy docker://{repository}:docker docker-archive:app.tar")).await;
    alice.podman("load --input app.tar").await;
}

#[tokio::test]
async fn a_repository_is_mirrored() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let host = registry.host();
    for tag in ["1", "2"] {
        registry.user("bob").push("team/app", tag, &Image::of(vec![Layer::random(1000)])).await;
    }
    alice
        .skopeo(format!("sync --preserve-digests --src docker --dest docker {host}/team/app {host}/mirror"))
        .await;
    alice.skopeo(format!("sync --preserve-digests --src docker --dest dir {host}/team/app copies")).await;

    assert_eq!(registry.user("carol").tags("mirror/app").await, ["1", "2"]);
    for tag in ["1", "2"] {
        let original = registry.user("carol").pull_manifest("team/app", tag).await;
        assert_eq!(registry.user("carol").pull_manifest("mirror/app", tag).await, original);
        assert_eq!(alice.machine.read(format!("copies/app:{tag}/manifest.json")), original);
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_with_its_tags() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let repository = format!("docker://{}/team/app", registry.host());
    let (kept, gone) = (Image::of(vec![Layer::random(1000)]), Image::of(vec![Layer::random(1000)]));
    for (tag, image) in [("gone", &gone), ("gone-too", &gone), ("kept", &kept)] {
        registry.user("bob").push("team/app", tag, image).await;
    }
    alice.skopeo(format!("delete {repository}:gone")).await;

    let tags = alice.skopeo(format!("list-tags {repository}")).await;
    assert_eq!(serde_json::from_str::<Value>(&tags).unwrap()["Tags"], serde_json::json!(["kept"]));
    let refusal = alice.skopeo_in_vain(format!("inspect {repository}:gone-too")).await;
    assert!(refusal.contains("manifest unknown"), "{refusal}");
    alice.skopeo(format!("inspect {repository}:kept")).await;
}

#[tokio::test]
async fn a_layout_that_umoci_made_runs() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let Some(umoci) = tool::debian("umoci") else { return };
    let busybox = alice.busybox.display().to_string();
    alice.machine.write("message", "by hand");
    for line in [
        "init --layout made".to_owned(),
        "new --image made:1".to_owned(),
        format!("insert --rootless --image made:1 {busybox} /bin/busybox"),
        "insert --rootless --image made:1 message /message".to_owned(),
        "config --image made:1 --config.cmd /bin/busybox --config.cmd cat --config.cmd /message".to_owned(),
    ] {
        alice.machine.run(&umoci, line.split_whitespace()).await;
    }
    let there = format!("{}/team/made:1", registry.host());
    alice.skopeo(format!("copy oci:made:1 docker://{there}")).await;
    assert_eq!(alice.run(&there).await, "by hand");
}
