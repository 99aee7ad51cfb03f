//! What the configuration turns off, and where it puts the API.

use storage::MissingReferences;
use wharf::api::location::Urls;
use wharf::config::{Deletion, ForeignUrls, Locations, Mode};

use super::asking::{INDEX, TestApi, descriptor, noted};

#[tokio::test]
async fn a_read_only_registry_serves_and_takes_nothing() {
    let open = TestApi::on_a_volume();
    let digest = open.push_noted("team/app", "v1", "note").await;
    let upload = open.begin_upload("team/app").await;
    let frozen = open.with(|options| options.mode = Mode::ReadOnly);
    for (question, allow) in [
        ("POST /v2/team/app/blobs/uploads/".to_owned(), ""),
        (format!("PATCH {upload}"), "GET, HEAD"),
        (format!("PUT {upload}"), "GET, HEAD"),
        (format!("DELETE {upload}"), "GET, HEAD"),
        ("PUT /v2/team/app/manifests/v2".to_owned(), "GET, HEAD"),
        ("DELETE /v2/team/app/manifests/v1".to_owned(), "GET, HEAD"),
        (format!("DELETE /v2/team/app/blobs/{digest}"), "GET, HEAD"),
    ] {
        let refused = frozen.ask(&question).await.expect_refused(405, "UNSUPPORTED");
        assert_eq!(refused.header("allow"), allow, "{question}");
    }
    frozen.ask(&format!("GET {upload}")).await.expect(204);
    frozen.ask(&format!("GET /v2/team/app/manifests/{digest}")).await.expect(200);
    frozen.ask("GET /v2/team/app/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn deletion_may_be_turned_off_and_uploads_still_cancelled() {
    let api = TestApi::on_a_volume();
    let digest = api.push_noted("team/app", "v1", "note").await;
    let keeping = api.with(|options| options.deletion = Deletion::Refused);
    for (question, allow) in [
        (format!("DELETE /v2/team/app/blobs/{digest}"), "GET, HEAD"),
        (format!("DELETE /v2/team/app/manifests/{digest}"), "GET, HEAD, PUT"),
        ("DELETE /v2/team/app/manifests/v1".to_owned(), "GET, HEAD, PUT"),
    ] {
        let refused = keeping.ask(&question).await.expect_refused(405, "UNSUPPORTED");
        assert_eq!(refused.header("allow"), allow, "{question}");
    }
    let upload = keeping.begin_upload("team/app").await;
    keeping.ask(&format!("DELETE {upload}")).await.expect(204);
}

#[tokio::test]
async fn an_api_below_a_prefix_can_be_followed_from_answer_to_answer() {
    let plain = TestApi::on_a_volume();
    for tag in ["v1", "v2"] {
        plain.push_noted("team/app", tag, "note").await;
    }
    let urls = Urls { locations: Locations::Relative, prefix: "/so/deep".to_owned() };
    let api = plain.with(|options| options.urls = urls);
    api.ask("GET /so/deep/v2/").await.expect(200);
    api.ask("GET /so/deep/v2").await.expect(200);
    api.ask("GET /v2/").await.expect(404);
    let begun = api.ask("POST /so/deep/v2/team/app/blobs/uploads/").await.expect(202);
    assert!(begun.header("location").starts_with("/so/deep/v2/team/app/blobs/uploads/"));
    api.ask(&format!("GET {}", begun.header("location"))).await.expect(204);
    let first = api.ask("GET /so/deep/v2/team/app/tags/list?n=1").await.expect(200);
    let second = api.ask(&first.next().unwrap()).await.expect(200);
    assert_eq!(second.json()["tags"][0], "v2");
}

#[tokio::test]
async fn an_upload_is_called_back_at_the_configured_host() {
    let api = TestApi::on_a_volume();
    let named = api.with(|options| {
        let locations = Locations::Below("https://registry.example".parse().unwrap());
        options.urls = Urls { locations, prefix: String::new() };
    });
    let begun = named.ask("POST /v2/team/app/blobs/uploads/").await.expect(202);
    assert!(begun.header("location").starts_with("https://registry.example/v2/team/app/blobs/uploads/"));
}

#[tokio::test]
async fn an_index_may_be_sparse_where_that_is_allowed() {
    let api = TestApi::on_a_volume();
    let child = storage::Digest::of(storage::Algorithm::Sha256, b"never pushed");
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(INDEX, &child, 12)],
    });
    let push = "PUT /v2/team/app/manifests/v1";
    let refused = api.send(push, &[("content-type", INDEX)], index.to_string()).await;
    refused.expect_refused(400, "MANIFEST_BLOB_UNKNOWN");
    let lenient = api.with(|options| options.missing_references = MissingReferences::AllowChildren);
    lenient.push("team/app", "v1", &index).await;
    let refused = lenient.send(push, &[], noted("its config is missing").to_string()).await;
    refused.expect_refused(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn content_may_only_lie_where_the_operator_wants_it() {
    let api = TestApi::on_a_volume();
    let fussy = api.with(|options| {
        options.foreign_urls = ForeignUrls {
            allow: vec!["^https://layers.example/".parse().unwrap()],
            deny: vec!["/secret/".parse().unwrap()],
        };
    });
    api.push_blob("team/app", "{}").await;
    for (url, accepted) in [
        ("https://layers.example/base", true),
        ("https://layers.example/secret/base", false),
        ("https://elsewhere.example/base", false),
    ] {
        let digest = storage::Digest::of(storage::Algorithm::Sha256, b"lies elsewhere");
        let mut layer = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &digest, 14);
        layer["urls"] = serde_json::json!([url]);
        let mut manifest = noted("note");
        manifest["layers"] = serde_json::json!([layer]);
        let pushed = fussy.send("PUT /v2/team/app/manifests/v1", &[], manifest.to_string()).await;
        if accepted {
            pushed.expect(201);
        } else {
            pushed.expect_refused(400, "MANIFEST_INVALID");
        }
    }
}

#[tokio::test]
async fn every_endpoint_says_which_methods_it_knows() {
    let api = TestApi::on_a_volume();
    let digest = storage::Digest::of(storage::Algorithm::Sha256, b"");
    let id = "123e4567-e89b-42d3-a456-426614174000";
    for (path, allow) in [
        ("/v2/".to_owned(), "GET, HEAD"),
        ("/v2/_catalog".to_owned(), "GET, HEAD"),
        ("/v2/_oci/ext/discover".to_owned(), "GET, HEAD"),
        ("/v2/team/app/_oci/ext/discover".to_owned(), "GET, HEAD"),
        ("/v2/team/app/tags/list".to_owned(), "GET, HEAD"),
        (format!("/v2/team/app/referrers/{digest}"), "GET, HEAD"),
        (format!("/v2/team/app/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/team/app/manifests/v1".to_owned(), "GET, HEAD, PUT, DELETE"),
        ("/v2/team/app/blobs/uploads/".to_owned(), "POST"),
        (format!("/v2/team/app/blobs/uploads/{id}"), "GET, HEAD, PUT, PATCH, DELETE"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let answer = api.ask(&format!("{method} {path}")).await;
            let is_known = allow.split(", ").any(|known| known == method);
            assert_eq!(answer.status != 405, is_known, "{method} {path}");
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
            if !is_known {
                assert_eq!(answer.header("allow"), allow, "{method} {path}");
            }
        }
    }
}
