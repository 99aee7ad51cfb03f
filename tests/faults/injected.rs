//! A real server whose system calls fail: `strace` gives them the errors that a full, broken or vanished disk would.
//!
//! Here people push meanwhile; below they pull and delete.

mod deletions;
mod faults;
mod pulls;

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use storage::{Algorithm, Digest};

use self::faults::{Faults, each_in_turn};
use super::strace;
use crate::harness::{Image, Layer, TestRegistry, User, process::Process, until, user::Answer, wharf};

/// The calls by which a push touches its folder: `pwritev` writes uploads, `pwrite64` links, manifests and what is
/// known of uploads, which `read` reads; connections have calls of their own.
const CALLS: [&str; 13] = [
    "mkdir",
    "openat",
    "statx",
    "read",
    "flock",
    "ftruncate",
    "pwritev",
    "pwrite64",
    "fdatasync",
    "fsync",
    "getdents64",
    "rename",
    "unlink,unlinkat",
];

#[tokio::test]
async fn a_disk_without_room_refuses_and_loses_nothing() {
    every_call_fails_with("ENOSPC", &[(507, "UNAVAILABLE")]).await;
}

#[tokio::test]
async fn a_broken_disk_refuses_and_loses_nothing() {
    every_call_fails_with("EIO", &[(503, "UNAVAILABLE")]).await;
}

#[tokio::test]
async fn a_folder_that_became_forbidden_refuses_and_loses_nothing() {
    every_call_fails_with("EACCES", &[(503, "UNAVAILABLE")]).await;
}

#[tokio::test]
async fn a_folder_that_vanished_refuses_and_loses_nothing() {
    // What is not there is unknown, and an upload whose folder is empty has received nothing.
    let answers = [
        (503, "UNAVAILABLE"),
        (404, "BLOB_UPLOAD_UNKNOWN"),
        (404, "BLOB_UNKNOWN"),
        (400, "MANIFEST_BLOB_UNKNOWN"),
        (400, "DIGEST_INVALID"),
    ];
    every_call_fails_with("ENOENT", &answers).await;
}

#[tokio::test]
async fn an_upload_whose_state_cannot_be_written_is_carried_on_from_the_one_before() {
    let Some(strace) = strace() else { return };
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let layer = Layer::random(300_000);
    let upload = alice.begin_upload("team/app").await;
    alice.send(&upload, layer.first(100_000)).await;
    let id = upload.id();
    let folder = registry.data().join("repositories/team/app/_uploads").join(id);

    let state = folder.join("hashstates/sha256/200000");
    let faults = Faults::inject(&strace, &registry, "pwrite64", "ENOSPC", "1+", Some(state)).await;
    let octets = [("content-type", "application/octet-stream")];
    let more = layer.from(100_000).slice(..100_000);
    let refused = alice.ask(Method::PATCH, &upload.location(), &octets, more).await;
    refused.expect(StatusCode::INSUFFICIENT_STORAGE);
    assert!(faults.heal().await > 0);
    assert_eq!(fs::metadata(folder.join("data")).unwrap().len(), 100_000, "what is lost takes no room");

    assert_eq!(alice.upload_end(&upload).await, 100_000);
    alice.send(&upload, layer.from(100_000)).await;
    alice.finish(&upload, layer.digest()).await.expect(StatusCode::CREATED);
    assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_a_server_from_stopping() {
    let Some(strace) = strace() else { return };
    let settings =
        json!({ "http": { "draintimeout": "1s", "debug": { "prometheus": { "enabled": true } } } });
    let registry = TestRegistry::with(settings).await;
    let alice = registry.user("alice");
    let layer = Layer::random(1000);
    let upload = alice.begin_upload("team/app").await;
    let hour = "fdatasync:delay_enter=3600000000";
    let hanging = Faults::attach(&strace, &registry, "fdatasync", hour, None).await;
    let (id, location) = (registry.process_id(), upload.location());
    let push = tokio::spawn({
        let (alice, layer) = (alice.clone(), layer.clone());
        async move {
            alice
                .try_ask(&Method::PUT, &format!("{location}?digest={}", layer.digest()), &[], layer.bytes())
                .await
        }
    });
    until(async || alice.metrics().await.contains("\nwharf_uploads_in_flight 1\n")).await;
    registry.ask_to_stop();
    registry.line_with("did not let finish").await;
    until(async || !Path::new(&format!("/proc/{id}/exe")).exists()).await;
    assert!(push.await.unwrap().is_err(), "nobody is told that it was done");
    drop(hanging);
}

#[tokio::test]
async fn an_upload_that_could_not_be_finished_is_finished_by_the_same_request() {
    let Some(strace) = strace() else { return };
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let repository = registry.data().join("repositories/team/app");
    for (sent_before, is_linked) in [(0, false), (200_000, false), (0, true), (200_000, true)] {
        let layer = Layer::random(300_000);
        let upload = alice.begin_upload("team/app").await;
        if sent_before > 0 {
            alice.send(&upload, layer.first(sent_before)).await;
        }
        let hex = layer.digest().hex().to_string();
        let folder = match is_linked {
            true => registry.blob(&layer.digest()).parent().unwrap().to_owned(),
            false => repository.join("_layers/sha256").join(hex),
        };
        let faults = Faults::inject(&strace, &registry, "mkdir", "ENOSPC", "1+", Some(folder)).await;
        let refused = alice.finish_with(&upload, &layer.digest(), layer.from(sent_before)).await;
        refused.expect(StatusCode::INSUFFICIENT_STORAGE);
        assert!(faults.heal().await > 0);
        let data = fs::metadata(repository.join("_uploads").join(upload.id()).join("data")).unwrap();
        assert_eq!(data.len(), sent_before as u64, "what is sent again takes no room");
        alice.head(&format!("/v2/team/app/blobs/{}", layer.digest())).await.expect(StatusCode::NOT_FOUND);

        let finished = alice.finish_with(&upload, &layer.digest(), layer.from(sent_before)).await;
        finished.expect(StatusCode::CREATED);
        assert_eq!(alice.pull("team/app", layer.digest()).await, layer);
    }
}

#[tokio::test]
async fn a_blob_that_is_read_again_for_its_digest_is_finished_once_it_can_be_read() {
    let Some(strace) = strace() else { return };
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let layer = Layer::random(300_000);
    let digest = Digest::of(Algorithm::Sha512, &layer.bytes());
    let finish_while = async |when: &str| {
        let upload = alice.begin_upload("team/app").await;
        alice.send(&upload, layer.bytes()).await;
        let faults = Faults::inject(&strace, &registry, "pread64", "EIO", when, None).await;
        let mut answer = alice.finish(&upload, digest).await;
        let failed = faults.heal().await;
        if failed > 0 {
            answer.expect(StatusCode::SERVICE_UNAVAILABLE);
            answer = alice.finish(&upload, digest).await;
        }
        answer.expect(StatusCode::CREATED);
        assert_eq!(alice.pull("team/app", digest).await, layer);
        failed
    };
    each_in_turn("pread64", finish_while).await;
}

#[tokio::test]
async fn a_store_that_is_found_full_when_it_is_synced_takes_nothing() {
    let Some(strace) = strace() else { return };
    let watched = json!({ "health": { "storagedriver": { "interval": "20ms" } } });
    let registry = TestRegistry::with(watched).await;
    let alice = registry.user("alice");
    let says = async |words: &str| {
        until(async || alice.get("/readyz").await.expect(StatusCode::OK).body == words).await;
    };
    let faults = Faults::inject(&strace, &registry, "fdatasync", "ENOSPC", "1+", None).await;
    says("ready\nnothing can be pushed: there is no space left\n").await;
    assert!(faults.heal().await > 0);
    says("ready\n").await;
}

#[tokio::test]
async fn a_new_folder_is_only_used_once_it_would_outlive_a_crash() {
    let Some(strace) = strace() else { return };
    for (sync, is_used) in [("true", false), ("false", true)] {
        let parent = tempfile::tempdir().unwrap();
        let mut command = Command::new(&strace);
        command.args(["--follow-forks", "--output=/dev/null", "--trace=fsync", "--inject=fsync:error=EIO"]);
        command.arg("--trace-path").arg(parent.path()).arg(wharf::path()).arg("serve");
        command.env_clear().env("REGISTRY_HTTP_ADDR", "127.0.0.1:0").current_dir("/");
        command.env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", parent.path().join("data"));
        command.env("REGISTRY_STORAGE_FILESYSTEM_SYNC", sync);
        let complaint = format!("cannot use {}: ", parent.path().display());
        let outcome = move |line: &str| match line.contains("listening on") {
            true => Some(true),
            false => line.contains(&complaint).then_some(false),
        };
        let (_, was_used) = Process::start(command, outcome).await;
        assert_eq!(was_used, is_used, "with sync: {sync}");
    }
}

/// Pushes while calls of a kind fail, for each kind: all of them, every second one, and each in its turn. A push that fails does so with
/// one of these answers.
async fn every_call_fails_with(error: &str, answers: &[(u16, &str)]) {
    let Some(strace) = strace() else { return };
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let kept = some_image();
    push(&alice, "kept", &kept).await.unwrap();
    let mut acknowledged = vec![("kept".to_owned(), kept)];
    for call in CALLS {
        let mut push_while = async |when: &str| {
            let tag = format!("{}-{when}", call.replace(',', "-")).replace('+', "x");
            let image = some_image();
            let faults = Faults::inject(&strace, &registry, call, error, when, None).await;
            let outcome = push(&alice, &tag, &image).await;
            alice.get("/healthz").await.expect(StatusCode::OK);
            let failed = faults.heal().await;

            let story = format!("{call} {error} {when}");
            if let Err(refused) = outcome {
                let code = refused.json()["errors"][0]["code"].as_str().unwrap().to_owned();
                assert!(answers.contains(&(refused.status.as_u16(), &code)), "{story}: {refused:?}");
                // Without a restart it goes on.
                if let Err(refused) = push(&alice, &tag, &image).await {
                    panic!("again after {story}: {refused:?}");
                }
            }
            acknowledged.push((tag, image));
            failed
        };
        push_while("1+").await;
        push_while("2+2").await;
        each_in_turn(call, push_while).await;
    }

    let registry = registry.restart().await;
    let bob = registry.user("bob");
    assert_eq!(bob.tags("team/app").await.len(), acknowledged.len());
    for (tag, image) in &acknowledged {
        assert_eq!(bob.pull_manifest("team/app", tag).await, image.manifest, "{tag}");
        for layer in &image.layers {
            assert_eq!(bob.pull("team/app", layer.digest()).await, *layer, "{tag}");
        }
    }
    registry.assert_blobs_whole();
}

fn some_image() -> Image {
    Image::of(vec![Layer::random(100_000)])
}

/// Pushes an image: its layer in an upload of several requests, its config in one. Gives the answer that refused it.
async fn push(user: &User, tag: &str, image: &Image) -> Result<(), Box<Answer>> {
    let octets = [("content-type", "application/octet-stream")];
    let uploads = "/v2/team/app/blobs/uploads/";
    for layer in &image.layers {
        let begun = accepted(user.ask(Method::POST, uploads, &[], Bytes::new()).await)?;
        let location = begun.header("location").unwrap();
        let sent = accepted(user.ask(Method::PATCH, location, &octets, layer.bytes()).await)?;
        let location = sent.header("location").unwrap();
        let mark = if location.contains('?') { '&' } else { '?' };
        let last = format!("{location}{mark}digest={}", layer.digest());
        accepted(user.ask(Method::PUT, &last, &[], Bytes::new()).await)?;
    }
    let config = format!("{uploads}?digest={}", Layer::from_bytes(image.config.clone()).digest());
    accepted(user.ask(Method::POST, &config, &octets, image.config.clone()).await)?;
    let manifest = format!("/v2/team/app/manifests/{tag}");
    let kind = [("content-type", Image::MEDIA_TYPE)];
    accepted(user.ask(Method::PUT, &manifest, &kind, image.manifest.clone()).await)?;
    // Whoever was told so can pull, fault or no fault, unless pulling fails too.
    let pulled = user.get(&manifest).await;
    assert!(pulled.body == image.manifest || !pulled.status.is_success());
    Ok(())
}

fn accepted(answer: Answer) -> Result<Answer, Box<Answer>> {
    if answer.status.is_success() { Ok(answer) } else { Err(Box::new(answer)) }
}
