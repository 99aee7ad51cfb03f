//! Pushes that do not go straight.

use hyper::StatusCode;
use serde_json::json;

use crate::harness::{Layer, MIB, TestRegistry, until};

#[tokio::test]
async fn an_interrupted_push_resumes_where_it_stopped() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let layer = Layer::random(3 * MIB);
    let upload = alice.begin_upload("team/app").await;
    alice.send_then_hang_up(&upload, layer.first(MIB)).await;
    let kept = alice.upload_end(&upload).await;
    alice.send(&upload, layer.from(kept)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    let restarted = registry.restart().await;
    assert_eq!(restarted.user("alice").pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn an_upload_that_nobody_finishes_is_removed() {
    let purging = json!({ "age": "1ms", "interval": "1s" });
    let registry =
        TestRegistry::with(json!({ "storage": { "maintenance": { "uploadpurging": purging } } })).await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    until(async || alice.get(&upload.location()).await.status == StatusCode::NOT_FOUND).await;
    let uploads = registry.data().join("repositories/team/app/_uploads");
    until(async || std::fs::read_dir(&uploads).map_or(0, Iterator::count) == 0).await;
}
