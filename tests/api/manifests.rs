//! Manifests, pushed and pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};
use tokio::time::Instant;

use super::super::asking::{INDEX, MANIFEST, MIB, descriptor, noted};
use super::start;

const TYPED: (&str, &str) = ("content-type", MANIFEST);

#[tokio::test]
async fn a_manifest_comes_back_byte_for_byte_whatever_is_asked_of_it() {
    let api = start();
    api.push_blob("team/app", "{}").await;
    let bytes = format!(" {}\n", serde_json::to_string_pretty(&noted("odd \u{1f40b} spaces")).unwrap());
    let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
    let pushed = api.send("PUT /v2/team/app/manifests/v1", &[TYPED], bytes.clone()).await.expect(201);
    assert_eq!(pushed.header("location"), format!("/v2/team/app/manifests/{digest}"));
    assert_eq!(pushed.header("docker-content-digest"), digest.to_string());
    for reference in ["v1".to_owned(), digest.to_string()] {
        for headers in [
            vec![],
            vec![("accept", INDEX)],
            vec![("accept", "text/html")],
            vec![("range", "bytes=0-0")],
            vec![("range", "bytes=99999999-")],
            vec![("if-none-match", "\"something else\"")],
        ] {
            let question = format!("/v2/team/app/manifests/{reference}");
            let pulled = api.ask_with(&format!("GET {question}"), &headers).await.expect(200);
            assert_eq!(pulled.body, bytes);
            let known = api.ask_with(&format!("HEAD {question}"), &headers).await.expect(200);
            assert!(known.body.is_empty());
            for answer in [pulled, known] {
                assert_eq!(answer.header("content-type"), MANIFEST);
                assert_eq!(answer.header("content-length"), bytes.len().to_string());
                assert_eq!(answer.header("docker-content-digest"), digest.to_string());
                assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            }
        }
        let question = format!("GET /v2/team/app/manifests/{reference}");
        let kept = api.ask_with(&question, &[("if-none-match", &format!("\"{digest}\""))]).await.expect(304);
        assert!(kept.body.is_empty());
    }
}

#[tokio::test]
async fn one_push_may_set_many_tags_but_not_too_many() {
    let api = start();
    api.push_blob("team/app", "{}").await;
    let bytes = noted("note").to_string();
    let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
    let question = |tags: &[String]| {
        let tags: Vec<_> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        format!("PUT /v2/team/app/manifests/{digest}?{}", tags.join("&"))
    };
    let tags: Vec<String> = (100..200).map(|index| format!("t{index}")).collect();
    let pushed = api.send(&question(&tags), &[TYPED], bytes.clone()).await.expect(201);
    let set: Vec<_> = pushed.headers.get_all("oci-tag").iter().map(|tag| tag.to_str().unwrap()).collect();
    assert_eq!(set, tags);
    assert_eq!(api.ask("GET /v2/team/app/manifests/t142").await.expect(200).body, bytes);

    let one_more: Vec<String> = (100..201).map(|index| format!("u{index}")).collect();
    api.send(&question(&one_more), &[TYPED], bytes.clone()).await.expect(414);
    let one_wrong = ["fine".to_owned(), "-wrong".to_owned()];
    api.send(&question(&one_wrong), &[TYPED], bytes).await.expect_refused(400, "TAG_INVALID");
    let listed = api.ask("GET /v2/team/app/tags/list").await.expect(200);
    assert_eq!(listed.json()["tags"], json!(tags));
}

#[tokio::test]
async fn a_manifest_may_be_named_by_sha512() {
    let api = start();
    api.push_blob("team/app", "{}").await;
    let bytes = noted("note").to_string();
    let digest = Digest::of(Algorithm::Sha512, bytes.as_bytes());
    for question in [
        format!("PUT /v2/team/app/manifests/{digest}?tag=v1"),
        format!("PUT /v2/team/app/manifests/v2?digest={digest}"),
    ] {
        let pushed = api.send(&question, &[TYPED], bytes.clone()).await.expect(201);
        assert_eq!(pushed.header("docker-content-digest"), digest.to_string());
        assert_eq!(pushed.header("location"), format!("/v2/team/app/manifests/{digest}"));
    }
    for reference in ["v1", "v2", &digest.to_string()] {
        let pulled = api.ask(&format!("GET /v2/team/app/manifests/{reference}")).await.expect(200);
        assert_eq!(pulled.header("docker-content-digest"), digest.to_string());
        assert_eq!(pulled.body, bytes);
    }
}

#[tokio::test]
async fn each_missing_digest_is_told_once() {
    let api = start();
    let (one, two) = (Digest::of(Algorithm::Sha256, b"one"), Digest::of(Algorithm::Sha256, b"two"));
    let layer = |digest: &Digest| descriptor("application/vnd.example.layer", digest, 3);
    let mut manifest = noted("note");
    manifest["config"] = layer(&one);
    manifest["layers"] = json!([layer(&two), layer(&one), layer(&two)]);
    let refused = api.send("PUT /v2/team/app/manifests/v1", &[TYPED], manifest.to_string()).await.expect(400);
    let mut told: Vec<Value> = refused.json()["errors"].as_array().unwrap().clone();
    told.sort_by_key(|error| error["detail"].to_string());
    let mut expected = [one, two].map(|digest| digest.to_string());
    expected.sort();
    assert_eq!(told.iter().map(|error| error["detail"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert!(told.iter().all(|error| error["code"] == "MANIFEST_BLOB_UNKNOWN"));
    api.ask("GET /v2/team/app/manifests/v1").await.expect_refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_manifest_that_is_too_large_is_refused_before_it_has_come() {
    let api = start();
    let read = Arc::new(AtomicUsize::new(0));
    let endless = || {
        let read = read.clone();
        let chunks = stream::repeat_with(move || {
            read.fetch_add(64 << 10, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 << 10]))
        });
        Body::from_stream(chunks)
    };
    let question = "PUT /v2/team/app/manifests/v1";
    api.send(question, &[TYPED], endless()).await.expect_refused(413, "SIZE_INVALID");
    assert!(read.load(Ordering::Relaxed) < 5 * MIB);
    api.send(question, &[TYPED], vec![b' '; 4 * MIB + 1]).await.expect_refused(413, "SIZE_INVALID");
    // One that is just as large as it may be comes back whole.
    api.push_blob("team/app", "{}").await;
    let text = noted("note").to_string();
    let largest = text.clone() + &" ".repeat(4 * MIB - text.len());
    api.send(question, &[TYPED], largest.clone()).await.expect(201);
    assert!(api.ask("GET /v2/team/app/manifests/v1").await.expect(200).body == largest);
}

#[tokio::test]
async fn a_list_of_docker_is_served_as_one() {
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let api = start();
    api.push_blob("team/app", "{}").await;
    let mut manifest = noted("note");
    manifest["mediaType"] = json!(DOCKER);
    let text = manifest.to_string();
    api.send("PUT /v2/team/app/manifests/amd64", &[("content-type", DOCKER)], text.clone()).await.expect(201);
    let child = descriptor(DOCKER, &Digest::of(Algorithm::Sha256, text.as_bytes()), text.len());
    let list = json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": [child] }).to_string();
    api.send("PUT /v2/team/app/manifests/v1", &[("content-type", LIST)], list.clone()).await.expect(201);
    let pulled = api.ask_with("GET /v2/team/app/manifests/v1", &[("accept", LIST)]).await.expect(200);
    assert_eq!((pulled.header("content-type"), &*pulled.body), (LIST, list.as_bytes()));
    let absent = descriptor(DOCKER, &Digest::of(Algorithm::Sha256, b"absent"), 6);
    let list = json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": [absent] }).to_string();
    let refused = api.send("PUT /v2/team/app/manifests/v2", &[("content-type", LIST)], list).await;
    refused.expect_refused(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_push_about_something_says_so_and_other_bytes_are_refused() {
    let api = start();
    api.push_blob("team/app", "{}").await;
    let subject = Digest::of(Algorithm::Sha512, b"never pushed");
    let mut manifest = noted("note");
    manifest["subject"] = descriptor("application/vnd.example", &subject, 12);
    let pushed = api.send("PUT /v2/team/app/manifests/v1", &[TYPED], manifest.to_string()).await.expect(201);
    assert_eq!(pushed.header("oci-subject"), subject.to_string());

    let other = noted("other").to_string();
    let digest = Digest::of(Algorithm::Sha256, b"not these bytes");
    for question in [
        format!("PUT /v2/team/app/manifests/{digest}"),
        format!("PUT /v2/team/app/manifests/v2?digest={digest}"),
    ] {
        api.send(&question, &[TYPED], other.clone()).await.expect_refused(400, "DIGEST_INVALID");
    }
    for reference in
        [digest.to_string(), Digest::of(Algorithm::Sha256, other.as_bytes()).to_string(), "v2".into()]
    {
        api.ask(&format!("GET /v2/team/app/manifests/{reference}")).await.expect(404);
    }
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_its_tags() {
    let api = start();
    let digest = api.push_noted("team/app", "v1", "note").await;
    api.push_noted("team/app", "v2", "note").await;
    api.push_noted("team/app", "v3", "note").await;
    api.push_noted("team/app", "other", "other").await;
    api.ask("DELETE /v2/team/app/manifests/v1").await.expect(202);
    api.ask("DELETE /v2/team/app/manifests/v1").await.expect_refused(404, "MANIFEST_UNKNOWN");
    api.ask("GET /v2/team/app/manifests/v1").await.expect_refused(404, "MANIFEST_UNKNOWN");
    api.ask("GET /v2/team/app/manifests/v2").await.expect(200);
    api.ask(&format!("DELETE /v2/team/app/manifests/{digest}")).await.expect(202);
    for reference in ["v2", "v3", &digest.to_string()] {
        api.ask(&format!("GET /v2/team/app/manifests/{reference}"))
            .await
            .expect_refused(404, "MANIFEST_UNKNOWN");
    }
    api.ask(&format!("DELETE /v2/team/app/manifests/{digest}")).await.expect_refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(api.ask("GET /v2/team/app/tags/list").await.json()["tags"], json!(["other"]));
}

#[tokio::test]
async fn whoever_pulls_a_moving_tag_gets_one_whole_manifest() {
    let api = start();
    api.push_noted("team/app", "latest", "0").await;
    let pusher = async {
        for index in 1..30 {
            api.push("team/app", "latest", &noted(&index.to_string())).await;
        }
    };
    let puller = async {
        for _ in 0..60 {
            let pulled = api.ask("GET /v2/team/app/manifests/latest").await.expect(200);
            let digest = Digest::of(Algorithm::Sha256, &pulled.body);
            assert_eq!(pulled.header("docker-content-digest"), digest.to_string());
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(pusher, puller);
}

#[tokio::test]
async fn a_change_may_depend_on_what_is_there() {
    let api = start();
    let first = api.push_noted("team/app", "v1", "first").await;
    let (first, other) = (format!("\"{first}\""), "\"something else\"");
    let second = noted("second").to_string();
    for question in ["PUT /v2/team/app/manifests/v1", "DELETE /v2/team/app/manifests/v1"] {
        for condition in [("if-none-match", "*"), ("if-none-match", &first), ("if-match", other)] {
            let refused = api.send(question, &[TYPED, condition], second.clone()).await;
            refused.expect_refused(412, "UNKNOWN");
        }
    }
    let absent = api.send("PUT /v2/team/app/manifests/v2", &[TYPED, ("if-match", "*")], second.clone()).await;
    absent.expect_refused(412, "UNKNOWN");
    assert_eq!(api.ask("GET /v2/team/app/tags/list").await.json()["tags"], json!(["v1"]));

    let new =
        api.send("PUT /v2/team/app/manifests/v2", &[TYPED, ("if-none-match", "*")], second.clone()).await;
    let second_digest = new.expect(201).header("docker-content-digest").to_owned();
    api.send("PUT /v2/team/app/manifests/v1", &[TYPED, ("if-match", &first)], second).await.expect(201);
    let of_before = format!("DELETE /v2/team/app/manifests/{second_digest}");
    api.ask_with(&of_before, &[("if-match", &first)]).await.expect_refused(412, "UNKNOWN");
    api.ask_with(&of_before, &[("if-match", &format!("\"{second_digest}\""))]).await.expect(202);
    api.ask("GET /v2/team/app/manifests/v1").await.expect(404);
}

#[tokio::test]
async fn of_those_who_depend_on_the_same_one_succeeds() {
    let api = start();
    api.push_blob("team/app", "{}").await;
    let pushes = (0..8).map(|number| {
        let (api, body) = (&api, noted(&number.to_string()).to_string());
        let headers = [TYPED, ("if-none-match", "*")];
        async move { api.send("PUT /v2/team/app/manifests/new", &headers, body).await.status }
    });
    let mut statuses = join_all(pushes).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
}

#[tokio::test]
async fn what_a_push_is_skipped_on_or_depends_on_is_what_another_replica_left_there() {
    let here = start();
    let there = here.with(|_| {});
    let first = here.push_noted("team/app", "v1", "first").await;
    for method in ["GET", "HEAD"] {
        there.ask(&format!("{method} /v2/team/app/manifests/v1")).await.expect(200);
    }
    let second = here.push_noted("team/app", "v1", "second").await;
    let held = there.ask("HEAD /v2/team/app/manifests/v1").await.expect(200);
    assert_eq!(held.header("docker-content-digest"), second.to_string());

    let third = noted("third").to_string();
    let push = async |name: &str, tag: &str| {
        let question = "PUT /v2/team/app/manifests/v1";
        there.send(question, &[TYPED, (name, tag)], third.clone()).await
    };
    there.ask("GET /v2/team/app/manifests/v1").await.expect(200);
    here.push_noted("team/app", "v1", "first").await;
    push("if-match", &format!("\"{second}\"")).await.expect_refused(412, "UNKNOWN");
    there.ask("GET /v2/team/app/manifests/v1").await.expect(200);
    here.ask("DELETE /v2/team/app/manifests/v1").await.expect(202);
    there.ask("HEAD /v2/team/app/manifests/v1").await.expect(404);
    push("if-match", &format!("\"{first}\"")).await.expect_refused(412, "UNKNOWN");
    push("if-none-match", "*").await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn large_manifests_are_held_in_memory_a_few_at_a_time() {
    const AT_ONCE: usize = 16;
    let api = start();
    api.push_blob("team/app", "{}").await;
    let standing_still = |size: usize| {
        let first: Result<_, std::convert::Infallible> = Ok(Bytes::from(vec![b' '; size]));
        Body::from_stream(stream::iter([first]).chain(stream::pending()))
    };
    let push = async |tag: usize, body: Body| {
        api.send(&format!("PUT /v2/team/app/manifests/{tag}"), &[TYPED], body).await.status
    };
    let (small, large) = (noted("small").to_string(), noted(&"large ".repeat(20_000)).to_string());
    let begun = Instant::now();
    let timed = async |tag: usize, body: Body| (push(tag, body).await, begun.elapsed().as_secs());
    let (given_up, small, whole, first_large, _) = tokio::join!(
        join_all((0..AT_ONCE).map(|tag| push(tag, standing_still(70_000)))),
        timed(100, small.into()),
        timed(
            101,
            Body::from_stream(stream::iter([Ok::<_, std::convert::Infallible>(
                noted("chunked").to_string()
            )]))
        ),
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            timed(102, large.clone().into()).await
        },
        // What has not come takes no room.
        tokio::time::timeout(
            Duration::from_secs(1),
            join_all((0..40).map(|tag| push(tag, standing_still(1))))
        ),
    );
    assert_eq!(given_up, vec![408; AT_ONCE]);
    assert_eq!((small, whole), ((201, 0), (201, 0)), "small ones wait for nobody");
    assert_eq!(first_large, (201, 60), "it had to wait");

    // Nobody waits for ever.
    let hold = async || {
        join_all((0..AT_ONCE).map(|tag| push(tag, standing_still(70_000)))).await;
        join_all((0..AT_ONCE).map(|tag| push(tag, standing_still(70_000)))).await
    };
    let begun = Instant::now();
    let more = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let waiting = join_all((0..AT_ONCE).map(|tag| push(tag, standing_still(70_000))));
        let (_, last) =
            tokio::join!(waiting, async { (push(103, large.into()).await, begun.elapsed().as_secs()) });
        last
    };
    let (_, last) = tokio::join!(hold(), more);
    assert_eq!(last, (429, 61));
}
