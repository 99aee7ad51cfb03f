//! Pulling: what is answered while calls fail is right, or is a refusal.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::faults::{Faults, each_in_turn};
use crate::faults::strace;
use crate::harness::{Image, Layer, TestRegistry, User, user::Answer};

/// The calls by which a pull touches its folder; `sendfile` sends blobs.
const CALLS: [&str; 6] = ["openat", "newfstatat", "statx", "read", "getdents64", "sendfile"];

/// Those that send blobs by TLS.
const CALLS_BY_TLS: [&str; 2] = ["preadv2", "pread64"];

#[tokio::test]
async fn a_pull_from_a_disk_without_room_is_right_or_refused() {
    each_call_fails_with("ENOSPC", &[507]).await;
}

#[tokio::test]
async fn a_pull_from_a_broken_disk_is_right_or_refused() {
    each_call_fails_with("EIO", &[503]).await;
}

#[tokio::test]
async fn a_pull_from_a_folder_that_vanished_is_right_or_refused() {
    // What is not there is unknown.
    each_call_fails_with("ENOENT", &[503, 404]).await;
}

/// Pulls everything while each call of a kind fails in its turn, for each kind. What fails does so with one of these answers.
async fn each_call_fails_with(error: &str, statuses: &[u16]) {
    let Some(strace) = strace() else { return };
    // Nothing is remembered: each pull reads all that it shows.
    let cache = json!({ "membershipttl": "0s", "tagttl": "0s", "manifestbytes": 0 });
    let storage = json!({ "storage": { "cache": cache, "delete": { "enabled": true } } });
    let registry = TestRegistry::with(storage.clone()).await;
    let (by_tls, certificate) = registry.tls_replica_with(storage).await;
    let questions = Question::about_what_is_pushed_by(&registry.user("alice")).await;
    let blob = &questions[..2];
    let (bob, carol) = (registry.user("bob"), by_tls.user("carol").trusting(&certificate));
    let plain = CALLS.map(|call| (call, &registry, &bob, &*questions));
    let encrypted = CALLS_BY_TLS.map(|call| (call, &by_tls, &carol, blob));
    for (call, registry, user, questions) in plain.into_iter().chain(encrypted) {
        let pull_while = async |when: &str| {
            let faults = Faults::inject(&strace, registry, call, error, when, None).await;
            for question in questions {
                question.is_answered_well(user, error, statuses, &format!("{call} {error} {when}")).await;
            }
            user.get("/healthz").await.expect(StatusCode::OK);
            let failed = faults.heal().await;
            for question in questions {
                question.is_answered_well(user, "", &[], &format!("after {call} {error} {when}")).await;
            }
            failed
        };
        each_in_turn(call, pull_while).await;
    }
}

/// Something to pull, and what comes where nothing fails.
struct Question {
    method: Method,
    path: String,
    range: Option<&'static str>,
    /// Where in the answer a list stands, if it is one.
    list: Option<&'static str>,
    right: Answer,
}

impl Question {
    /// Pushes an image, what refers to it, and to another repository; and asks for all of that, a blob first.
    async fn about_what_is_pushed_by(user: &User) -> Vec<Self> {
        let layer = Layer::random(700_000);
        let image = Image::of(vec![layer.clone()]);
        user.push("team/app", "1", &image).await;
        user.push("team/other", "1", &image).await;
        for note in ["first", "second"] {
            user.push("team/app", note, &image.about(&image, note)).await;
        }
        let digest = image.digest();
        let (blob, manifest) =
            (format!("team/app/blobs/{}", layer.digest()), format!("team/app/manifests/{digest}"));
        let mut questions = Vec::new();
        for (method, path, range, list) in [
            (Method::GET, blob.clone(), None, None),
            (Method::GET, blob.clone(), Some("bytes=600000-649999"), None),
            (Method::HEAD, blob, None, None),
            (Method::GET, "team/app/manifests/1".to_owned(), None, None),
            (Method::GET, manifest.clone(), None, None),
            (Method::HEAD, manifest, None, None),
            (Method::GET, "team/app/tags/list".to_owned(), None, Some("tags")),
            (Method::GET, format!("team/app/referrers/{digest}"), None, Some("manifests")),
            (Method::GET, "_catalog".to_owned(), None, Some("repositories")),
        ] {
            let path = format!("/v2/{path}");
            let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
            let right = user.ask(method.clone(), &path, &headers, Bytes::new()).await;
            assert!(right.status.is_success(), "{right:?}");
            if let Some(list) = list {
                assert!(entries(&right, list).len() > 1);
            }
            questions.push(Self { method, path, range, list, right });
        }
        assert_eq!(questions[0].right.body, layer.bytes());
        assert_eq!(questions[3].right.body, image.manifest);
        questions
    }

    /// Asks while calls fail with `error`, and makes sure that the answer is right, or a refusal of one of these statuses, or cut off
    /// where it is a blob.
    async fn is_answered_well(&self, user: &User, error: &str, statuses: &[u16], story: &str) {
        let Self { method, path, range, list, right } = self;
        let story = format!("{method} {path} {range:?}, {story}");
        let headers: Vec<_> = range.iter().map(|range| ("range", *range)).collect();
        let answer = match user.try_ask(method, path, &headers, Bytes::new()).await {
            Ok(answer) => answer,
            Err(cut) => {
                let is_blob = *method == Method::GET && path.contains("/blobs/");
                assert!(is_blob && !statuses.is_empty(), "{story}: {cut}");
                return;
            }
        };
        if !answer.status.is_success() {
            assert!(statuses.contains(&answer.status.as_u16()), "{story}: {answer:?}");
            if *method != Method::HEAD {
                let code = answer.json()["errors"][0]["code"].as_str().unwrap().to_owned();
                let is_unknown = answer.status == StatusCode::NOT_FOUND && code.ends_with("_UNKNOWN");
                assert!(is_unknown || code == "UNAVAILABLE", "{story}: {code}");
            }
            return;
        }
        assert_eq!(answer.status, right.status, "{story}");
        if let Some(list) = list
            && error == "ENOENT"
        {
            // What is said not to be there is not listed.
            let all = entries(right, list);
            assert!(entries(&answer, list).iter().all(|entry| all.contains(entry)), "{story}: {answer:?}");
            return;
        }
        for header in ["content-length", "content-range", "content-type", "docker-content-digest"] {
            assert_eq!(answer.header(header), right.header(header), "{story}");
        }
        assert!(answer.body == right.body, "{story}");
    }
}

fn entries(answer: &Answer, list: &str) -> Vec<Value> {
    answer.json()[list].as_array().unwrap().clone()
}
