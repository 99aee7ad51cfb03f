//! Pushes that do not go straight.

use hyper::StatusCode;

use super::settings;
use crate::harness::{Layer, MIB, TestRegistry};

#[tokio::test]
async fn an_interrupted_push_resumes_where_it_stopped() {
    let registry = TestRegistry::with(settings()).await;
    let alice = registry.user("alice");
    let layer = Layer::random(3 * MIB);
    let upload = alice.begin_upload("team/app").await;
    alice.send_then_hang_up(&upload, layer.first(MIB)).await;
    let kept = alice.upload_end(&upload).await;
    alice.send(&upload, layer.from(kept)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(registry.user("bob").pull("team/app", layer.digest()).await, layer);
}
