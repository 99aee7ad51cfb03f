//! Whoever watches over a registry, and asks how it is.

use std::path::Path;

use hyper::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::harness::{TestRegistry, until};

/// Asks on the listener for health, and returns the whole answer.
async fn ask(socket: &Path, path: &str) -> String {
    let mut connection = UnixStream::connect(socket).await.unwrap();
    let words = format!("GET {path} HTTP/1.1\r\nhost: health\r\nconnection: close\r\n\r\n");
    connection.write_all(words.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_that_were_written_for_distribution_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("health.sock");
    let registry = TestRegistry::with(json!({ "http": { "debug": { "addr": socket } } })).await;
    let kubelet = registry.user("kubelet");
    let root = kubelet.get("/").await.expect(StatusCode::OK);
    assert_eq!((root.header("cache-control"), root.body.len()), (Some("no-cache"), 0));
    kubelet.head("/").await.expect(StatusCode::OK);
    let health = ask(&socket, "/debug/health").await;
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\n{}"), "{health}");
    assert!(ask(&socket, "/").await.starts_with("HTTP/1.1 200 "));
    kubelet.get("/debug/health").await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn health_has_a_listener_of_its_own_where_one_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("health.sock");
    let registry = TestRegistry::with(json!({ "http": { "debug": { "addr": socket } } })).await;
    registry.user("alice").get("/readyz").await.expect(StatusCode::OK);
    let answer = ask(&socket, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive\n"), "{answer}");
}

#[tokio::test]
async fn a_file_takes_a_server_out_of_service_and_its_removal_brings_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let [socket, drain] = ["health.sock", "drain"].map(|name| folder.path().join(name));
    let health = json!({ "file": [{ "file": drain, "interval": "10ms" }] });
    let registry =
        TestRegistry::with(json!({ "http": { "debug": { "addr": socket } }, "health": health })).await;
    let kubelet = registry.user("kubelet");
    kubelet.get("/readyz").await.expect(StatusCode::OK);
    std::fs::write(&drain, "").unwrap();
    until(async || kubelet.get("/readyz").await.status == StatusCode::SERVICE_UNAVAILABLE).await;
    let told = ask(&socket, "/debug/health").await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains(drain.to_str().unwrap()), "{told}");
    // Whoever is still sent here is served.
    kubelet.get("/healthz").await.expect(StatusCode::OK);
    kubelet.push_blob("team/app", "content".into()).await;
    std::fs::remove_file(&drain).unwrap();
    until(async || kubelet.get("/readyz").await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_server_that_stops_says_so_before_it_turns_anybody_away() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("health.sock");
    let settings = json!({ "http": { "debug": { "addr": socket }, "draindelay": "1h" } });
    let registry = TestRegistry::with(settings).await;
    let alice = registry.user("alice");
    registry.ask_to_stop();
    until(async || alice.get("/readyz").await.status == StatusCode::SERVICE_UNAVAILABLE).await;
    let unready = ask(&socket, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503 ") && unready.ends_with("is stopping\n"), "{unready}");
    // Whoever has not heard of it yet is served.
    alice.get("/healthz").await.expect(StatusCode::OK);
    alice.push_blob("team/app", "content".into()).await;
    // Who asks a second time does not want to wait.
    registry.stop_and_start().await;
}
