//! crane: pipelines that put images together without a container engine.

use serde_json::Value;

use super::settings;
use crate::harness::{Image, Layer, MIB, TestRegistry, Workstation, tool};

/// Runs crane with the words of `line`.
async fn crane(machine: &Workstation, line: String) -> Option<String> {
    Some(machine.run(&tool::go("crane")?, line.split_whitespace()).await)
}

#[tokio::test]
async fn an_image_is_put_together_from_archives() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    let layer = Layer::of_files([("data", &*Layer::random(3 * MIB).bytes())]);
    machine.write("layer.tar", layer.bytes());
    let image = format!("{}/team/app:1", registry.host());
    let Some(pushed) = crane(&machine, format!("append --oci-empty-base -f layer.tar -t {image}")).await
    else {
        return;
    };
    crane(&machine, format!("validate --remote {image}")).await;
    assert!(pushed.trim().ends_with(crane(&machine, format!("digest {image}")).await.unwrap().trim()));

    // A second layer on what is there, which is not sent again.
    machine.write("more.tar", Layer::of_files([("more", b"more".as_slice())]).bytes());
    crane(&machine, format!("append -b {image} -f more.tar -t {image}-more")).await;
    crane(&machine, format!("validate --remote {image}-more")).await;
    crane(&machine, format!("mutate {image} --label purpose=test -t {image}-labelled")).await;
    let config = crane(&machine, format!("config {image}-labelled")).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap()["config"]["Labels"]["purpose"], "test");
    crane(&machine, format!("export {image}-more files.tar")).await;
    let files = machine.read("files.tar");
    assert!(files.windows(4).any(|bytes| bytes == b"more"));
}

#[tokio::test]
async fn an_image_goes_to_a_file_and_back_unchanged() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    let image = Image::of(vec![Layer::of_files([("data", b"data".as_slice())])]);
    registry.user("alice").push("team/app", "1", &image).await;
    let host = registry.host();
    if crane(&machine, format!("pull --format oci {host}/team/app:1 layout")).await.is_none() {
        return;
    }
    crane(&machine, format!("push layout {host}/team/again:1")).await;
    let again = crane(&machine, format!("digest {host}/team/again:1")).await.unwrap();
    assert_eq!(again.trim(), image.digest().to_string());
}

#[tokio::test]
async fn a_repository_is_copied_listed_and_deleted() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    let host = registry.host();
    let images: Vec<_> = (0..3).map(|_| Image::of(vec![Layer::random(1000)])).collect();
    for (tag, image) in ["1", "2", "3"].iter().zip(&images) {
        registry.user("alice").push("team/app", tag, image).await;
    }
    if crane(&machine, format!("copy --all-tags {host}/team/app {host}/team/copy")).await.is_none() {
        return;
    }
    assert_eq!(crane(&machine, format!("catalog {host}")).await.unwrap(), "team/app\nteam/copy\n");
    assert_eq!(crane(&machine, format!("ls {host}/team/copy")).await.unwrap(), "1\n2\n3\n");
    crane(
        &machine,
        format!("index append -m {host}/team/copy:1 -m {host}/team/copy:2 -t {host}/team/copy:all"),
    )
    .await;
    crane(&machine, format!("validate --remote {host}/team/copy:all --fast")).await;

    crane(&machine, format!("delete {host}/team/copy:3")).await;
    crane(&machine, format!("delete {host}/team/copy@{}", images[1].digest())).await;
    assert_eq!(crane(&machine, format!("ls {host}/team/copy")).await.unwrap(), "1\nall\n");
    let original = crane(&machine, format!("manifest {host}/team/app:3")).await.unwrap();
    assert_eq!(original.as_bytes(), images[2].manifest);
}

#[tokio::test]
async fn an_image_goes_over_tls_and_http_2() {
    let (registry, certificate) = TestRegistry::with_tls_and(settings()).await;
    let machine = Workstation::trusting(&registry.host(), &certificate);
    let layers = (0..4).map(|_| Layer::of_files([("data", &*Layer::random(8 * MIB).bytes())])).collect();
    let image = Image::of(layers);
    image.write_layout(&machine.home().join("layout"), "1");
    let there = format!("{}/team/app:1", registry.host());
    if crane(&machine, format!("push layout {there}")).await.is_none() {
        return;
    }
    crane(&machine, format!("pull --format oci {there} back")).await;
    for layer in &image.layers {
        assert_eq!(machine.read(format!("back/blobs/sha256/{}", layer.digest().hex())), layer.bytes());
    }
}
