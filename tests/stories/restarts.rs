//! Servers that stop, are killed, and are several.

use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Image, Layer, MIB, TestRegistry, until, user::Upload};

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
async fn each_kind_of_memory_lasts_as_long_as_it_is_told_to() {
    let registry = TestRegistry::start().await;
    let cache = json!({ "storage": { "cache": { "tagttl": "1h", "membershipttl": "1ms" } } });
    let other = registry.replica_with(cache).await;
    let (alice, bob) = (registry.user("alice"), other.user("bob"));
    let [old, new] = [10, 20].map(|size| Image::of(vec![Layer::random(size)]));
    alice.push("team/app", "1", &old).await;
    assert_eq!(bob.pull_manifest("team/app", "1").await, old.manifest);
    assert_eq!(bob.pull("team/app", old.layers[0].digest()).await, old.layers[0]);

    alice.push("team/app", "1", &new).await;
    assert_eq!(bob.pull_manifest("team/app", "1").await, old.manifest);
    let blob = format!("/v2/team/app/blobs/{}", old.layers[0].digest());
    alice.delete(&blob).await.expect(StatusCode::ACCEPTED);
    until(async || bob.get(&blob).await.status == StatusCode::NOT_FOUND).await;
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

/// Announces all of `layer` to an upload, and sends the first `size` bytes of it.
async fn begin_to_send(registry: &TestRegistry, upload: &Upload, layer: &Layer, size: usize) -> TcpStream {
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    let words = format!(
        "PATCH {} HTTP/1.1\r\nhost: registry\r\ncontent-length: {}\r\n\r\n",
        upload.location(),
        layer.bytes().len()
    );
    connection.write_all(words.as_bytes()).await.unwrap();
    connection.write_all(&layer.first(size)).await.unwrap();
    let received =
        "wharf_http_received_bytes_total{route=\"/v2/{name}/blobs/uploads/{uuid}\",method=\"PATCH\"} ";
    let received = format!("{received}{size}\n");
    until(async || registry.user("alice").metrics().await.contains(&received)).await;
    connection
}

async fn stopping_soon(drain_timeout: &str) -> TestRegistry {
    let metrics = json!({ "prometheus": { "enabled": true } });
    TestRegistry::with(json!({ "http": { "draintimeout": drain_timeout, "debug": metrics } })).await
}

#[tokio::test]
async fn a_server_that_is_stopped_finishes_an_upload_that_is_under_way() {
    let registry = stopping_soon("60s").await;
    let layer = Layer::random(2 * MIB);
    let upload = registry.user("alice").begin_upload("team/app").await;
    let mut sending = begin_to_send(&registry, &upload, &layer, MIB).await;
    registry.ask_to_stop();
    registry.line_with("stopping").await;
    sending.write_all(&layer.from(MIB)).await.unwrap();
    let mut answer = String::new();
    sending.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");

    let registry = registry.start_again().await;
    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, 2 * MIB);
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn what_a_stopped_server_has_got_of_an_upload_is_carried_on_from() {
    let registry = stopping_soon("200ms").await;
    let layer = Layer::random(3 * MIB);
    let upload = registry.user("alice").begin_upload("team/app").await;
    let _sending = begin_to_send(&registry, &upload, &layer, MIB).await;
    let registry = registry.stop_and_start().await;
    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, MIB, "all that came before it stopped");
    alice.send(&upload, layer.from(MIB)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn a_server_that_is_told_again_to_stop_waits_for_nobody() {
    let registry = stopping_soon("1h").await;
    let layer = Layer::random(2 * MIB);
    let upload = registry.user("alice").begin_upload("team/app").await;
    let _sending = begin_to_send(&registry, &upload, &layer, MIB).await;
    registry.ask_to_stop();
    registry.line_with("stopping").await;
    registry.ask_to_stop();
    registry.line_with("told again to stop").await;
    let registry = registry.start_again().await;
    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, MIB, "all that came before it stopped");
    alice.send(&upload, layer.from(MIB)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn what_one_server_deleted_another_one_does_not_claim_to_have() {
    let first = TestRegistry::start().await;
    let second = first.replica().await;
    let image = Image::of(vec![Layer::random(1000)]);
    first.user("alice").push("team/app", "1", &image).await;
    let digest = Layer::from_bytes(image.manifest.clone()).digest();
    let manifest = format!("/v2/team/app/manifests/{digest}");
    let bob = second.user("bob");
    assert_eq!(bob.pull_manifest("team/app", &digest.to_string()).await, image.manifest);
    let there = bob.head(&manifest).await.expect(StatusCode::OK);
    assert_eq!(there.header("content-length"), Some(&*image.manifest.len().to_string()));
    first.user("alice").delete(&manifest).await.expect(StatusCode::ACCEPTED);
    // Whoever asks so before a push would skip it.
    bob.head(&manifest).await.expect(StatusCode::NOT_FOUND);
    bob.push("team/app", "1", &image).await;
    bob.head(&manifest).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_limit_that_is_lowered_is_for_manifests_to_come() {
    let before = TestRegistry::start().await;
    let layers: Vec<_> = (0..20).map(|_| Layer::random(10)).collect();
    let image = Image::of(layers);
    before.user("alice").push("team/app", "1", &image).await;
    let lower = json!({ "validation": { "manifests": { "maxbytes": "1KiB" } }, "storage": { "delete": { "enabled": true } } });
    let after = before.replica_with(lower).await;
    let bob = after.user("bob");
    assert_eq!(bob.pull_manifest("team/app", "1").await, image.manifest);
    let manifest = format!("/v2/team/app/manifests/{}", image.digest());
    let kind = [("content-type", Image::MEDIA_TYPE)];
    let refused = bob.ask(Method::PUT, &manifest, &kind, image.manifest.clone()).await;
    refused.expect(StatusCode::PAYLOAD_TOO_LARGE);
    bob.delete(&manifest).await.expect(StatusCode::ACCEPTED);
    bob.get(&manifest).await.expect(StatusCode::NOT_FOUND);
}
