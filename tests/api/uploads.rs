//! Pushing blobs: every way there is, and what goes wrong on the way.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use storage::backend::Fault;
use storage::backend::fault::{Failure, Moment};
use storage::{Algorithm, Digest};
use tokio::sync::mpsc;
use wharf::api::uploads::state::StateKey;

use super::super::asking::{Answer, MIB, TestApi, content};
use super::start;

/// A body that is sent piece by piece, without telling its length.
fn pieces(content: &Bytes, size: usize) -> Body {
    let pieces: Vec<_> =
        content.chunks(size).map(|piece| Ok::<_, io::Error>(content.slice_ref(piece))).collect();
    Body::from_stream(stream::iter(pieces))
}

/// A body that breaks off after `content`.
fn cut_off(content: &Bytes) -> Body {
    let rest = stream::iter([Ok(content.clone()), Err(io::Error::from(io::ErrorKind::ConnectionReset))]);
    Body::from_stream(rest)
}

fn finish_at(location: &str, digest: &Digest) -> String {
    format!("PUT {location}?digest={digest}")
}

async fn assert_holds(api: &TestApi, digest: &Digest, content: &Bytes) {
    assert_eq!(api.ask(&format!("GET /v2/team/app/blobs/{digest}")).await.expect(200).body, content);
}

#[tokio::test]
async fn there_are_many_ways_to_push_a_blob() {
    for algorithm in Algorithm::ALL {
        for size in [0, 1, 100, 3 * MIB + 1] {
            let content = content(size);
            let digest = Digest::of(algorithm, &content);
            let half = size / 2;
            for way in 0..7 {
                let api = start();
                let whole = format!("POST /v2/team/app/blobs/uploads/?digest={digest}");
                let begin = format!("POST /v2/team/app/blobs/uploads/?digest-algorithm={algorithm}");
                let location = match way {
                    0 | 1 => String::new(),
                    2 => api.ask(&begin).await.expect(202).header("location").to_owned(),
                    _ => api.begin_upload("team/app").await,
                };
                let finish = finish_at(&location, &digest);
                let range = |from: usize, to: usize| format!("{from}-{}", to.saturating_sub(1));
                let pushed = match way {
                    0 => api.send(&whole, &[], content.clone()).await,
                    1 => api.send(&whole, &[], pieces(&content, 70_000)).await,
                    2 => {
                        api.send(&format!("PATCH {location}"), &[], pieces(&content, 10_000))
                            .await
                            .expect(202);
                        api.ask(&finish).await
                    }
                    3 => api.send(&finish, &[], content.clone()).await,
                    4 => api.send(&finish, &[], pieces(&content, 100_000)).await,
                    5 if half > 0 => {
                        for (from, to) in [(0, half), (half, size)] {
                            let headers = [("content-range", &*range(from, to))];
                            let chunk = content.slice(from..to);
                            let kept =
                                api.send(&format!("PATCH {location}"), &headers, chunk).await.expect(202);
                            assert_eq!(kept.header("range"), range(0, to));
                            assert_eq!(kept.header("location"), location);
                        }
                        api.ask(&finish).await
                    }
                    _ => {
                        api.send(&format!("PATCH {location}"), &[], content.slice(..half)).await.expect(202);
                        let headers: &[(&str, &str)] =
                            if size > half { &[("content-range", &range(half, size))] } else { &[] };
                        api.send(&finish, headers, content.slice(half..)).await
                    }
                };
                let pushed = pushed.expect(201);
                assert_eq!(pushed.header("location"), format!("/v2/team/app/blobs/{digest}"));
                assert_eq!(pushed.header("docker-content-digest"), digest.to_string());
                assert_holds(&api, &digest, &content).await;
            }
        }
    }
}

#[tokio::test]
async fn an_upload_says_how_far_it_has_come() {
    let api = start();
    let begun = api.ask("POST /v2/team/app/blobs/uploads/").await.expect(202);
    let location = begun.header("location").to_owned();
    assert_eq!(location, format!("/v2/team/app/blobs/uploads/{}", begun.header("docker-upload-uuid")));
    assert_eq!(begun.header("range"), "0-0");
    for (chunk, range) in [("", "0-0"), ("hello ", "0-5"), ("", "0-5"), ("world", "0-10")] {
        let kept = api.send(&format!("PATCH {location}"), &[], chunk).await.expect(202);
        for method in ["GET", "HEAD"] {
            let status = api.ask(&format!("{method} {location}")).await.expect(204);
            for answer in [&kept, &status] {
                assert_eq!(answer.header("range"), range);
                assert_eq!(answer.header("location"), location);
                assert_eq!(answer.header("docker-upload-uuid"), begun.header("docker-upload-uuid"));
            }
        }
    }
}

#[tokio::test]
async fn a_chunk_that_does_not_follow_is_told_where_to_go_on() {
    let api = start();
    let content = Bytes::from("0123456789");
    let digest = Digest::of(Algorithm::Sha256, &content);
    let location = api.begin_upload("team/app").await;
    let patch = format!("PATCH {location}");
    api.send(&patch, &[("content-range", "0-4")], "01234").await.expect(202);
    for (range, chunk) in [("0-4", "01234"), ("6-9", "6789"), ("3-7", "34567"), ("9-5", "56789")] {
        for question in [&patch, &finish_at(&location, &digest)] {
            let refused = api.send(question, &[("content-range", range)], chunk).await;
            let refused = refused.expect_refused(416, "RANGE_INVALID");
            assert_eq!((refused.header("location"), refused.header("range")), (&*location, "0-4"), "{range}");
        }
    }
    for (range, code) in [
        ("5-8", "SIZE_INVALID"),
        ("5-10", "SIZE_INVALID"),
        ("bytes 5-9/10", "RANGE_INVALID"),
        ("bytes=5-9", "RANGE_INVALID"),
        ("5-", "RANGE_INVALID"),
        ("5", "RANGE_INVALID"),
        ("", "RANGE_INVALID"),
        ("5-99999999999999999999999", "RANGE_INVALID"),
    ] {
        api.send(&patch, &[("content-range", range)], "56789").await.expect_refused(400, code);
    }
    // Nor does it help not to tell the length.
    let undeclared = pieces(&Bytes::from("567"), 1);
    api.send(&patch, &[("content-range", "5-9")], undeclared).await.expect_refused(400, "SIZE_INVALID");
    assert_eq!(api.ask(&format!("GET {location}")).await.expect(204).header("range"), "0-4");
    let finish = finish_at(&location, &digest);
    api.send(&finish, &[("content-range", "5-9")], "56789").await.expect(201);
    assert_holds(&api, &digest, &content).await;
}

#[tokio::test]
async fn what_came_before_the_connection_broke_is_kept() {
    let api = start();
    let content = content(2 * MIB);
    let digest = Digest::of(Algorithm::Sha256, &content);
    let location = api.begin_upload("team/app").await;
    let patch = format!("PATCH {location}");
    api.send(&patch, &[], cut_off(&content.slice(..MIB + 17))).await.expect_refused(400, "SIZE_INVALID");
    let another_replica = api.with(|_| {});
    let status = another_replica.ask(&format!("GET {location}")).await.expect(204);
    assert_eq!(status.header("range"), format!("0-{}", MIB + 16));
    another_replica.send(&patch, &[], content.slice(MIB + 17..)).await.expect(202);
    api.ask(&finish_at(&location, &digest)).await.expect(201);
    assert_holds(&api, &digest, &content).await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let api = start();
    let location = api.begin_upload("team/app").await;
    let late = stream::iter([Ok("hello"), Err(io::Error::from(io::ErrorKind::TimedOut))]);
    api.send(&format!("PATCH {location}"), &[], Body::from_stream(late)).await.expect(408);
    assert_eq!(api.ask(&format!("GET {location}")).await.expect(204).header("range"), "0-4");
}

#[tokio::test]
async fn a_push_whose_client_hung_up_is_finished_or_can_be_resumed() {
    let content = content(300_000);
    let digest = Digest::of(Algorithm::Sha256, &content);
    for patience in 0..40 {
        let api = start();
        let location = api.begin_upload("team/app").await;
        api.send(&format!("PATCH {location}"), &[], content.slice(..MIB / 5)).await.expect(202);
        {
            let finish = finish_at(&location, &digest);
            let mut push = pin!(api.send(&finish, &[], content.slice(MIB / 5..)));
            let mut polls = 0;
            let hang_up = poll_fn(|context| {
                polls += 1;
                if polls > patience {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                push.as_mut().poll(context).map(|_| ())
            });
            hang_up.await;
        }
        api.finish().await;
        if api.ask(&format!("HEAD /v2/team/app/blobs/{digest}")).await.status != 200 {
            let status = api.ask(&format!("GET {location}")).await.expect(204);
            let last: usize = status.header("range").strip_prefix("0-").unwrap().parse().unwrap();
            let rest = content.slice(last + 1..);
            api.send(&finish_at(&location, &digest), &[], rest).await.expect(201);
        }
        assert_holds(&api, &digest, &content).await;
    }
}

#[tokio::test]
async fn only_one_writes_to_an_upload_at_a_time() {
    let api = start();
    let location = api.begin_upload("team/app").await;
    let patch = format!("PATCH {location}");
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(1);
    let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }));
    let first = api.send(&patch, &[], body);
    let second = async {
        sender.send(Ok(Bytes::from("hello "))).await.unwrap();
        // When this one is taken too, the first writer has opened the upload.
        sender.send(Ok(Bytes::from("wor"))).await.unwrap();
        sender.reserve().await.unwrap().send(Ok(Bytes::from("ld")));
        let refused = api.send(&patch, &[], "intruder").await.expect_refused(416, "RANGE_INVALID");
        assert_eq!(refused.header("location"), location);
        api.ask(&format!("DELETE {location}")).await.expect_refused(409, "BLOB_UPLOAD_INVALID");
        drop(sender);
    };
    let (kept, ()) = tokio::join!(first, second);
    assert_eq!(kept.expect(202).header("range"), "0-10");
    let content = Bytes::from("hello world");
    let digest = Digest::of(Algorithm::Sha256, &content);
    api.ask(&finish_at(&location, &digest)).await.expect(201);
    assert_holds(&api, &digest, &content).await;
}

#[tokio::test]
async fn two_may_push_the_same_blob_at_once() {
    let api = start();
    let content = content(MIB);
    let digest = Digest::of(Algorithm::Sha256, &content);
    let pushes = (0..8).map(|index| {
        let repository = if index % 2 == 0 { "team/app" } else { "team/other" };
        let question = format!("POST /v2/{repository}/blobs/uploads/?digest={digest}");
        let (api, content) = (&api, content.clone());
        async move { api.send(&question, &[], pieces(&content, 10_000)).await.expect(201) }
    });
    futures_util::future::join_all(pushes).await;
    assert_holds(&api, &digest, &content).await;
    api.ask(&format!("HEAD /v2/team/other/blobs/{digest}")).await.expect(200);
}

#[tokio::test]
async fn content_with_another_digest_is_no_blob_and_its_upload_is_gone() {
    for algorithm in Algorithm::ALL {
        let api = start();
        let digest = Digest::of(algorithm, b"promised");
        let location = api.begin_upload("team/app").await;
        api.send(&finish_at(&location, &digest), &[], "sent").await.expect_refused(400, "DIGEST_INVALID");
        api.ask(&format!("GET {location}")).await.expect_refused(404, "BLOB_UPLOAD_UNKNOWN");
        let whole = format!("POST /v2/team/app/blobs/uploads/?digest={digest}");
        api.send(&whole, &[], "sent").await.expect_refused(400, "DIGEST_INVALID");
        for digest in [digest, Digest::of(algorithm, b"sent")] {
            api.ask(&format!("GET /v2/team/app/blobs/{digest}")).await.expect_refused(404, "BLOB_UNKNOWN");
        }
        api.send(&whole, &[], "promised").await.expect(201);
    }
}

#[tokio::test]
async fn an_upload_survives_a_finish_that_names_no_digest() {
    let api = start();
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let location = api.begin_upload("team/app").await;
    api.send(&format!("PATCH {location}"), &[], "hello").await.expect(202);
    for query in ["", "?digest=", "?digest=sha256:short", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"] {
        api.send(&format!("PUT {location}{query}"), &[], "x").await.expect_refused(400, "DIGEST_INVALID");
    }
    api.ask(&finish_at(&location, &digest)).await.expect(201);
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository_and_ends_when_it_is_cancelled() {
    let api = start();
    let location = api.begin_upload("team/app").await;
    let elsewhere = location.replace("team/app", "team/other");
    let digest = Digest::of(Algorithm::Sha256, b"");
    for question in [
        format!("GET {elsewhere}"),
        format!("PATCH {elsewhere}"),
        finish_at(&elsewhere, &digest),
        format!("DELETE {elsewhere}"),
    ] {
        api.ask(&question).await.expect_refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    api.ask(&format!("DELETE {location}")).await.expect(204);
    for question in [
        format!("GET {location}"),
        format!("PATCH {location}"),
        finish_at(&location, &digest),
        format!("DELETE {location}"),
    ] {
        api.ask(&question).await.expect_refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[tokio::test]
async fn an_upload_goes_on_when_the_secret_is_taken_away_and_when_another_comes() {
    let unsigned = start();
    let signing =
        |secret: &'static [u8]| unsigned.with(|options| options.state_key = Some(StateKey::new(secret)));
    let (old, new) = (signing(b"old"), signing(b"new"));
    let digest = Digest::of(Algorithm::Sha256, b"hello world");
    let location = old.begin_upload("team/app").await;
    let sent = unsigned.send(&format!("PATCH {location}"), &[], "hello ").await.expect(202);
    // While servers of both kinds run, the next request may come to either.
    let location = sent.header("location");
    for server in [&old, &new] {
        server.ask(&format!("GET {location}")).await.expect(204);
    }
    let sent = new.send(&format!("PATCH {location}"), &[], "world").await.expect(202);
    unsigned.ask(&format!("PUT {}&digest={digest}", sent.header("location"))).await.expect(201);
}

#[tokio::test]
async fn a_signed_location_serves_its_own_upload_where_it_stands() {
    let api = start();
    let signing = |secret: &'static [u8]| api.with(|options| options.state_key = Some(StateKey::new(secret)));
    let (ours, theirs) = (signing(b"ours"), signing(b"theirs"));
    let digest = Digest::of(Algorithm::Sha256, b"hello world");
    let first = ours.begin_upload("team/app").await;
    assert!(first.contains("?_state="), "{first}");
    let patched = ours.send(&format!("PATCH {first}"), &[], "hello ").await.expect(202);
    let second = patched.header("location").to_owned();
    assert_ne!(second, first);

    // What was given out for the beginning does not continue where the upload stands now, but it can be asked about.
    let stale =
        ours.send(&format!("PATCH {first}"), &[], "hello ").await.expect_refused(416, "RANGE_INVALID");
    assert_eq!(stale.header("location"), second);
    assert_eq!(ours.ask(&format!("GET {first}")).await.expect(204).header("location"), second);
    theirs.ask(&format!("GET {second}")).await.expect_refused(404, "BLOB_UPLOAD_INVALID");
    let (path, state) = second.split_once('?').unwrap();
    let other = ours.begin_upload("team/app").await;
    let mixed = format!("PATCH {}?{state}", other.split_once('?').unwrap().0);
    ours.ask(&mixed).await.expect_refused(404, "BLOB_UPLOAD_INVALID");

    // An upload that began behind a server that signs goes on behind one that does not.
    api.send(&format!("PATCH {second}"), &[], "world").await.expect(202);
    ours.ask(&finish_at(path, &digest)).await.expect(201);
}

#[tokio::test]
async fn what_cannot_be_mounted_is_uploaded() {
    let api = start();
    let digest = api.push_blob("team/app", "content").await;
    let missing = Digest::of(Algorithm::Sha256, b"missing");
    let target = |repository: &str, query: &str| format!("POST /v2/{repository}/blobs/uploads/?{query}");
    for query in [
        format!("mount={digest}&from=team/empty"),
        format!("mount={digest}&from=Not%20a%20name"),
        format!("mount={missing}&from=team/app"),
        format!("mount={missing}"),
        "mount=sha256:short&from=team/app".to_owned(),
        "mount=&from=team/app".to_owned(),
        "from=team/app".to_owned(),
    ] {
        let begun = api.ask(&target("team/other", &query)).await.expect(202);
        let location = begun.header("location").to_owned();
        assert!(location.starts_with("/v2/team/other/blobs/uploads/"), "{location}");
        let missing = Digest::of(Algorithm::Sha256, query.as_bytes());
        api.send(&finish_at(&location, &missing), &[], query).await.expect(201);
    }
    for (repository, query) in [
        ("team/a", format!("mount={digest}&from=team/app")),
        ("team/b", format!("mount={digest}")),
        ("team/app", format!("mount={digest}&from=team/app")),
        ("team/c", format!("mount={}&from=team%2Fapp", digest.to_string().replace(':', "%3A"))),
    ] {
        let mounted = api.ask(&target(repository, &query)).await.expect(201);
        assert_eq!(mounted.header("location"), format!("/v2/{repository}/blobs/{digest}"));
        api.ask(&format!("HEAD /v2/{repository}/blobs/{digest}")).await.expect(200);
    }
}

#[tokio::test]
async fn whatever_the_store_fails_at_the_push_can_be_done_again() {
    let content = content(2_500_000);
    let digest = Digest::of(Algorithm::Sha256, &content);
    for (fault, status, code) in [(Fault::Full, 507, "UNAVAILABLE"), (Fault::Unavailable, 503, "UNAVAILABLE")]
    {
        for moment in [Moment::Before, Moment::After] {
            for call in 0.. {
                let api = start();
                api.faults.fail(call, Failure { fault, moment });
                let pushed = push_in_two(&api, &content, &digest).await;
                api.faults.heal();
                if pushed.status == 201 && call > 5 {
                    break;
                }
                if pushed.status != 201 {
                    let refused = pushed.expect_refused(status, code);
                    assert!(refused.maybe_header("retry-after").is_some());
                    push_in_two(&api, &content, &digest).await.expect(201);
                }
                assert_holds(&api, &digest, &content).await;
            }
        }
    }
}

/// Pushes a blob by a `PATCH` and a `PUT`, and gives the last answer, or the first that refuses.
async fn push_in_two(api: &TestApi, content: &Bytes, digest: &Digest) -> Answer {
    let begun = api.ask("POST /v2/team/app/blobs/uploads/").await;
    if begun.status != 202 {
        return begun;
    }
    let location = begun.header("location");
    let (first, second) = (content.slice(..1_500_000), content.slice(1_500_000..));
    let kept = api.send(&format!("PATCH {location}"), &[], pieces(&first, 400_000)).await;
    if kept.status != 202 {
        return kept;
    }
    api.send(&finish_at(location, digest), &[], second).await
}

#[tokio::test]
async fn the_bytes_of_one_push_never_reach_another() {
    let api = start();
    let contents: Vec<Bytes> =
        (0..12_u8).map(|index| content(200_000).iter().map(|byte| byte ^ index).collect()).collect();
    let pushes = stream::iter(&contents).map(|content| async {
        let digest = Digest::of(Algorithm::Sha256, content);
        let location = api.begin_upload("team/app").await;
        api.send(&format!("PATCH {location}"), &[], pieces(content, 7_000)).await.expect(202);
        api.ask(&finish_at(&location, &digest)).await.expect(201);
        digest
    });
    let digests: Vec<Digest> = pushes.buffered(6).collect().await;
    for (digest, content) in digests.iter().zip(&contents) {
        assert_holds(&api, digest, content).await;
    }
}
