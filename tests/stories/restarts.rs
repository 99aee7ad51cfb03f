//! Servers that stop, are killed, and are several.

use hyper::StatusCode;

use crate::harness::{Image, Layer, MIB, TestRegistry};

#[tokio::test]
async fn what_was_pushed_is_there_after_a_power_cut() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(MIB), Layer::random(10)]);
    registry.user("alice").push("team/app", "1", &image).await;
    let registry = registry.restart().await;

    let bob = registry.user("bob");
    assert_eq!(bob.pull_manifest("team/app", "1").await, image.manifest);
    for layer in &image.layers {
        assert_eq!(bob.pull("team/app", layer.digest()).await, *layer);
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_the_server_was_stopped() {
    let registry = TestRegistry::start().await;
    let layer = Layer::random(3 * MIB);
    let upload = registry.user("alice").begin_upload("team/app").await;
    registry.user("alice").send(&upload, layer.first(MIB)).await;
    let registry = registry.stop_and_start().await;

    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, MIB);
    alice.send(&upload, layer.from(MIB)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn two_servers_on_one_folder_are_one_registry() {
    let first = TestRegistry::start().await;
    let second = first.replica().await;
    let layer = Layer::random(2 * MIB);
    let upload = first.user("alice").begin_upload("team/app").await;
    first.user("alice").send(&upload, layer.first(MIB)).await;
    second.user("alice").send(&upload, layer.from(MIB)).await;
    first.user("alice").finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(second.user("bob").pull("team/app", layer.digest()).await, layer);

    let image = Image::of(vec![layer]);
    second.user("alice").push("team/app", "1", &image).await;
    assert_eq!(first.user("bob").pull_manifest("team/app", "1").await, image.manifest);
    let manifest = format!("/v2/team/app/manifests/{}", image.digest());
    first.user("alice").delete(&manifest).await.expect(StatusCode::ACCEPTED);
    second.user("bob").head(&manifest).await.expect(StatusCode::NOT_FOUND);
}
