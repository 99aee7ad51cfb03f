//! podman: what it pushes it pulls back and runs.

use super::settings;
use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, TestRegistry, Workstation},
};

#[tokio::test]
async fn podman_runs_what_it_pushed_and_forgot() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let image = format!("{}/team/app:1", registry.host());
    alice.build(&image, "hello from a registry", "").await;
    alice.podman(format!("push --digestfile pushed {image}")).await;
    alice.podman("rmi --all --force").await;

    assert_eq!(alice.run(&image).await, "hello from a registry");
    let pulled = alice.podman(format!("image inspect --format {{{{.Digest}}}} {image}")).await;
    assert_eq!(pulled.trim(), String::from_utf8(alice.machine.read("pushed")).unwrap().trim());
}

#[tokio::test]
async fn podman_pulls_by_digest_on_another_machine() {
    let registry = TestRegistry::with(settings()).await;
    let (Some(alice), Some(bob)) = (Containers::near(&registry), Containers::near(&registry)) else { return };
    let repository = format!("{}/team/app", registry.host());
    alice.build("app", "the very same", "").await;
    alice.podman(format!("push --digestfile pushed app docker://{repository}:1")).await;
    let digest = String::from_utf8(alice.machine.read("pushed")).unwrap();

    assert_eq!(bob.run(&format!("{repository}@{digest}")).await, "the very same");
}

#[tokio::test]
async fn layers_compressed_with_zstd_run() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let there = format!("{}/team/zstd:1", registry.host());
    alice.build("app", "small", "").await;
    alice.buildah(format!("push --compression-format zstd app docker://{there}")).await;
    alice.podman("rmi --all --force").await;

    let manifest = alice.skopeo(format!("inspect --raw docker://{there}")).await;
    assert!(manifest.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{manifest}");
    assert_eq!(alice.run(&there).await, "small");
}

#[tokio::test]
async fn podman_finds_repositories_by_name() {
    let registry = TestRegistry::with(settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let image = Image::of(vec![Layer::random(100)]);
    for repository in ["team/app", "team/other"] {
        registry.user("bob").push(repository, "1", &image).await;
    }

    let host = registry.host();
    let found = alice.podman(format!("search --format {{{{.Name}}}} {host}/app")).await;
    assert_eq!(found.trim(), format!("{host}/team/app"));
    let tags = alice.podman(format!("search --list-tags {host}/team/app")).await;
    assert_eq!(tags.split_whitespace().last(), Some("1"));
}

#[tokio::test]
async fn podman_asks_for_ranges_of_a_layer_and_runs_it() {
    let registry = TestRegistry::with(settings()).await;
    let wire = registry.wire().await;
    let Some(alice) = Containers::near(&registry) else { return };
    let Some(bob) = Containers::at(Workstation::new(&wire.host())) else { return };
    bob.machine.write(
        ".config/containers/storage.conf",
        "[storage]\ndriver = \"overlay\"\n[storage.options]\npull_options = {enable_partial_images = \"true\"}\n",
    );
    alice.build("app", "mostly the same", "").await;
    let push = "push --compression-format zstd:chunked --format oci";
    alice.podman(format!("{push} app docker://{}/team/app:1", registry.host())).await;

    assert_eq!(bob.run(&format!("{}/team/app:1", wire.host())).await, "mostly the same");
    assert!(!wire.ranges().is_empty());
}

#[tokio::test]
async fn podman_trusts_the_certificate_it_was_given() {
    let (registry, certificate) = TestRegistry::with_tls_and(settings()).await;
    let Some(alice) = Containers::at(Workstation::trusting(&registry.host(), &certificate)) else { return };
    let image = format!("{}/team/app:1", registry.host());
    alice.build(&image, "in private", "").await;
    alice.podman(format!("push {image}")).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "in private");

    let (other, another) = TestRegistry::with_tls_and(settings()).await;
    let Some(eve) = Containers::at(Workstation::trusting(&other.host(), &another)) else { return };
    let refusal = eve.skopeo_in_vain(format!("inspect docker://{image}")).await;
    assert!(refusal.contains("x509"), "{refusal}");
}
