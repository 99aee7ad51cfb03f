//! What whoever reads the log can tell of a request.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Image, Layer, TestRegistry};

#[tokio::test]
async fn a_line_of_the_access_log_names_what_was_asked_for_and_by_whom() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    let digest = image.layers[0].digest().to_string();
    let id = [("x-request-id", "pull-1")];
    let path = format!("/v2/team/app/blobs/{digest}");
    alice.ask(Method::GET, &path, &id, Bytes::new()).await.expect(StatusCode::OK);

    let line = registry.log_line(&[("target", "access"), ("request.id", "pull-1")]).await;
    assert_eq!(line["http.method"], "GET");
    assert_eq!(line["http.route"], "/v2/{name}/blobs/{digest}");
    assert_eq!(line["http.path"], path);
    assert_eq!(line["http.status"], 200);
    assert_eq!(line["repository"], "team/app");
    assert_eq!(line["digest"], digest);
    assert_eq!(line["caller.name"], "system:anonymous");
    assert_eq!(line["sent_bytes"], 1000);
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_failure_is_logged_with_the_request_it_belongs_to() {
    let registry = TestRegistry::with(json!({ "log": { "accesslog": { "disabled": true } } })).await;
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", Bytes::from_static(b"{}")).await;
    // A link to itself cannot be read, and is not the same as nothing.
    let blob = registry.blob(&digest);
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&blob, &blob).unwrap();
    let id = [("x-request-id", "pull-2")];
    let path = format!("/v2/team/app/blobs/{digest}");
    let answer = alice.ask(Method::GET, &path, &id, Bytes::new()).await;
    assert!(answer.status.is_server_error(), "{answer:?}");

    let line = registry.log_line(&[("message", "request failed")]).await;
    let span = &line["span"];
    assert_eq!(line["level"], "ERROR");
    assert_eq!(span["request.id"], "pull-2");
    assert_eq!(span["http.method"], "GET");
    assert_eq!(span["http.route"], "/v2/{name}/blobs/{digest}");
    assert_eq!(span["repository"], "team/app");
    assert_eq!(span["digest"], digest.to_string());
    assert_eq!(span["caller.name"], "system:anonymous");
}

#[tokio::test]
async fn every_line_carries_the_configured_fields() {
    let fields = json!({ "service": "registry", "environment": "test \"2\"", "replica": 3 });
    let registry = TestRegistry::with(json!({ "log": { "fields": fields } })).await;
    registry.user("alice").get("/v2/").await.expect(StatusCode::OK);
    for message in ["request", "stopping"] {
        if message == "stopping" {
            registry.ask_to_stop();
        }
        let line = registry.log_line(&[("message", message)]).await;
        assert_eq!(line["service"], "registry");
        assert_eq!(line["environment"], "test \"2\"");
        assert_eq!(line["replica"], "3");
    }

    let registry = TestRegistry::with(json!({ "log": { "formatter": "text", "fields": fields } })).await;
    let line = registry.line_with("listening on").await;
    assert!(line.ends_with(r#" environment="test \"2\"" replica="3" service="registry""#), "{line}");
}
