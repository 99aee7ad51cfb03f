//! Pulling blobs, and deleting them.

use super::super::asking::content;
use super::start;

#[tokio::test]
async fn a_pull_tells_what_it_brings() {
    let api = start();
    let blob = content(100_000);
    let digest = api.push_blob("team/app", blob.clone()).await;
    let question = format!("/v2/team/app/blobs/{digest}");
    let pulled =
        api.ask_with(&format!("GET {question}"), &[("accept-encoding", "zstd, gzip")]).await.expect(200);
    assert_eq!(pulled.body, blob);
    let known = api.ask(&format!("HEAD {question}")).await.expect(200);
    assert!(known.body.is_empty());
    for answer in [&pulled, &known] {
        assert_eq!(answer.header("content-length"), "100000");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("cache-control"), "private, max-age=31536000, immutable");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(answer.maybe_header("content-encoding"), None);
    }
}

#[tokio::test]
async fn a_part_of_a_blob_is_exactly_that_part() {
    let api = start();
    let blob = content(10_000);
    let digest = api.push_blob("team/app", blob.clone()).await;
    let question = format!("GET /v2/team/app/blobs/{digest}");
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=9000-", 9000, 9999),
        ("bytes=-500", 9500, 9999),
        ("bytes=9999-20000", 9999, 9999),
        ("bytes=0-5,3-9", 0, 9),
    ] {
        let part = api.ask_with(&question, &[("range", range)]).await.expect(206);
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/10000"), "{range}");
        assert_eq!(part.header("content-length"), (last - first + 1).to_string(), "{range}");
        assert_eq!(part.header("docker-content-digest"), digest.to_string());
        assert_eq!(part.body, blob[first..=last], "{range}");
    }
    let nothing = api.ask_with(&question, &[("range", "bytes=10000-")]).await;
    let nothing = nothing.expect_refused(416, "RANGE_INVALID");
    assert_eq!(nothing.header("content-range"), "bytes */10000");
    // A range is for GET alone.
    let known = api.ask_with(&question.replace("GET", "HEAD"), &[("range", "bytes=0-0")]).await.expect(200);
    assert_eq!(known.header("content-length"), "10000");
}

#[tokio::test]
async fn several_parts_come_in_one_answer_in_the_order_asked() {
    let api = start();
    let blob = content(10_000);
    let digest = api.push_blob("team/app", blob.clone()).await;
    let question = format!("GET /v2/team/app/blobs/{digest}");
    let answer = api.ask_with(&question, &[("range", "bytes=9000-9009,0-4,-1")]).await.expect(206);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!(answer.maybe_header("content-range"), None);
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (first, last) in [(9000, 9009), (0, 4), (9999, 9999)] {
        let head = format!("--{boundary}\r\nContent-Type: application/octet-stream\r\n");
        expected.extend(head.bytes());
        expected.extend(format!("Content-Range: bytes {first}-{last}/10000\r\n\r\n").bytes());
        expected.extend(&blob[first..=last]);
        expected.extend(b"\r\n");
    }
    expected.extend(format!("--{boundary}--\r\n").bytes());
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let api = start();
    let digest = api.push_blob("team/app", "content").await;
    let other = api.push_blob("team/app", "other").await;
    let question = format!("/v2/team/app/blobs/{digest}");
    for method in ["GET", "HEAD"] {
        let question = format!("{method} {question}");
        for tag in [format!("\"{digest}\""), format!("W/\"{other}\", W/\"{digest}\""), "*".to_owned()] {
            let answer = api.ask_with(&question, &[("if-none-match", &tag)]).await.expect(304);
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        }
        api.ask_with(&question, &[("if-none-match", &format!("\"{other}\""))]).await.expect(200);
        api.ask_with(&question, &[("if-match", &format!("\"{digest}\""))]).await.expect(200);
        let other = api.ask_with(&question, &[("if-match", &format!("\"{other}\""))]).await;
        assert_eq!(other.status, 412);
    }
    // A part of something else is of no use.
    let stale = [("range", "bytes=0-1"), ("if-range", &*format!("\"{other}\""))];
    assert_eq!(api.ask_with(&format!("GET {question}"), &stale).await.expect(200).body, "content");
    let current = [("range", "bytes=0-1"), ("if-range", &*format!("\"{digest}\""))];
    assert_eq!(api.ask_with(&format!("GET {question}"), &current).await.expect(206).body, "co");
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let api = start();
    let digest = api.push_blob("team/app", "").await;
    for range in ["", "bytes=0-", "bytes=-1"] {
        let answer = api.ask_with(&format!("GET /v2/team/app/blobs/{digest}"), &[("range", range)]).await;
        assert_eq!(answer.expect(200).header("content-length"), "0");
    }
}

#[tokio::test]
async fn a_blob_is_only_where_it_was_pushed_and_gone_where_it_was_deleted() {
    let api = start();
    let digest = api.push_blob("team/app", "content").await;
    let (here, there) = (format!("/v2/team/app/blobs/{digest}"), format!("/v2/team/other/blobs/{digest}"));
    api.ask(&format!("GET {there}")).await.expect_refused(404, "BLOB_UNKNOWN");
    let mount = format!("POST /v2/team/other/blobs/uploads/?mount={digest}&from=team/app");
    assert_eq!(api.ask(&mount).await.expect(201).header("location"), there);
    api.ask(&format!("DELETE {here}")).await.expect(202);
    api.ask(&format!("HEAD {here}")).await.expect(404);
    api.ask(&format!("GET {here}")).await.expect_refused(404, "BLOB_UNKNOWN");
    api.ask(&format!("DELETE {here}")).await.expect_refused(404, "BLOB_UNKNOWN");
    assert_eq!(api.ask(&format!("GET {there}")).await.expect(200).body, "content");
}
