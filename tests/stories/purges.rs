//! What nobody will finish.

use hyper::StatusCode;
use serde_json::json;

use crate::harness::{TestRegistry, until};

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
