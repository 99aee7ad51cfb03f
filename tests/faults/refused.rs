//! A store that takes no more, and a registry that is told not to take any.

use std::process::Command;

use hyper::StatusCode;
use serde_json::json;

use crate::harness::{Image, Layer, MIB, TestRegistry, tool};

/// A small file system of its own, for as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn of(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success());
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_with_507_and_loses_nothing() {
    if !tool::root() {
        return;
    }
    let disk = SmallDisk::of(8);
    let settings = json!({ "storage": { "filesystem": { "rootdirectory": disk.0.path() } } });
    let registry = TestRegistry::with(settings).await;
    let alice = registry.user("alice");
    let kept = Image::of(vec![Layer::random(MIB)]);
    alice.push("team/app", "kept", &kept).await;

    let large = Layer::random(16 * MIB);
    let upload = alice.begin_upload("team/app").await;
    let refused = alice.finish_with(&upload, &large.digest(), large.bytes()).await;
    let refused = refused.expect(StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(refused.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains("full"));

    assert_eq!(alice.pull_manifest("team/app", "kept").await, kept.manifest);
    assert_eq!(alice.pull("team/app", kept.layers[0].digest()).await, kept.layers[0]);
    // Room again: the client gives up what filled the disk.
    alice.cancel(&upload).await.expect(StatusCode::NO_CONTENT);
    alice.push("team/app", "after", &Image::of(vec![Layer::random(MIB)])).await;
}

#[tokio::test]
async fn a_read_only_registry_serves_and_takes_nothing() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    registry.user("alice").push("team/app", "1", &image).await;
    let reading = registry
        .replica_with(json!({ "storage": { "maintenance": { "readonly": { "enabled": true } } } }))
        .await;
    let bob = reading.user("bob");
    assert_eq!(bob.pull_manifest("team/app", "1").await, image.manifest);
    let refused = bob.delete("/v2/team/app/manifests/1").await.expect(StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.json()["errors"][0]["code"], "UNSUPPORTED");
    let refused = bob.ask(hyper::Method::POST, "/v2/team/app/blobs/uploads/", &[], bytes::Bytes::new()).await;
    refused.expect(StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn deletion_that_is_off_is_unsupported() {
    let registry = TestRegistry::with(json!({ "storage": { "delete": { "enabled": false } } })).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    for path in [
        "/v2/team/app/manifests/1".to_owned(),
        format!("/v2/team/app/manifests/{}", image.digest()),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest()),
    ] {
        let refused = alice.delete(&path).await.expect(StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.json()["errors"][0]["code"], "UNSUPPORTED", "{path}");
    }
    assert_eq!(alice.pull_manifest("team/app", "1").await, image.manifest);
}
