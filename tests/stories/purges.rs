//! What nobody will finish.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use hyper::StatusCode;
use serde_json::json;

use crate::harness::{TestRegistry, until, user::Upload};

#[tokio::test]
async fn an_upload_that_nobody_finishes_is_removed() {
    let purging = json!({ "age": "1h", "interval": "1s" });
    let registry =
        TestRegistry::with(json!({ "storage": { "maintenance": { "uploadpurging": purging } } })).await;
    let alice = registry.user("alice");
    let mut uploads = [alice.begin_upload("team/app").await, alice.begin_upload("team/app").await];
    // They are looked at in this order: once the old one is gone, the young one has been judged.
    uploads.sort_by_key(Upload::id);
    let [young, old] = uploads;
    let folder = registry.data().join("repositories/team/app/_uploads").join(old.id());
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    for name in ["startedat", "data"] {
        File::open(folder.join(name)).unwrap().set_modified(long_ago).unwrap();
    }
    until(async || alice.get(&old.location()).await.status == StatusCode::NOT_FOUND).await;
    until(async || !folder.exists()).await;
    assert_eq!(alice.upload_end(&young).await, 0);
}
