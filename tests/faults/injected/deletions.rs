//! Deleting: what is refused while calls fail is wholly there or gone, can be asked for again, and takes nothing else along.

use bytes::Bytes;
use hyper::StatusCode;

use super::faults::{Faults, each_in_turn};
use crate::faults::strace;
use crate::harness::{Image, Layer, TestRegistry, User};

/// The calls by which a deletion touches its folder.
const CALLS: [&str; 9] =
    ["openat", "newfstatat", "statx", "read", "getdents64", "rename", "unlink,unlinkat", "rmdir", "fsync"];

#[tokio::test]
async fn a_deletion_on_a_disk_without_room_is_done_or_refused() {
    each_call_fails_with("ENOSPC", &[507]).await;
}

#[tokio::test]
async fn a_deletion_on_a_broken_disk_is_done_or_refused() {
    each_call_fails_with("EIO", &[503]).await;
}

#[tokio::test]
async fn a_deletion_in_a_folder_that_vanished_is_done_or_refused() {
    // What is not there is unknown, and need not be removed.
    each_call_fails_with("ENOENT", &[503, 404]).await;
}

/// Deletes a tag, a manifest and a blob while each call of a kind fails in its turn, for each kind. What is refused, is with one of
/// these statuses.
async fn each_call_fails_with(error: &str, statuses: &[u16]) {
    let Some(strace) = strace() else { return };
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let kept = Image::of(vec![Layer::random(1000)]);
    let said = kept.about(&kept, "kept");
    alice.push("team/app", "kept", &kept).await;
    alice.push("team/app", "said", &said).await;
    for call in CALLS {
        let delete_while = async |when: &str| {
            let story = format!("{call} {error} {when}");
            let things = push_what_goes(&alice, &kept, &story).await;
            let faults = Faults::inject(&strace, &registry, call, error, when, None).await;
            let mut answers = Vec::new();
            for thing in &things {
                answers.push(alice.delete(&thing.path).await);
            }
            alice.get("/healthz").await.expect(StatusCode::OK);
            let failed = faults.heal().await;
            for (thing, answer) in things.iter().zip(answers) {
                let is_deleted = answer.status == StatusCode::ACCEPTED;
                assert!(is_deleted || statuses.contains(&answer.status.as_u16()), "{story}: {answer:?}");
                // Where the folder says that nothing is there, nothing is to be done.
                let is_there = thing.is_there(&alice, &story).await;
                assert!(!is_there || !is_deleted || error == "ENOENT", "{story}: {answer:?}");
            }
            for thing in &things {
                let again = alice.delete(&thing.path).await.status;
                assert!(matches!(again, StatusCode::ACCEPTED | StatusCode::NOT_FOUND), "{story}: {again}");
                assert!(!thing.is_there(&alice, &story).await, "{story}: {} is gone", thing.path);
            }
            if error == "ENOENT" {
                // Who is told twice that there are no tags leaves one that leads nowhere until it is deleted itself.
                alice.delete("/v2/team/app/manifests/another").await;
            }
            assert_eq!(alice.tags("team/app").await, ["kept", "said"], "{story}");
            failed
        };
        each_in_turn(call, delete_while).await;
    }

    let registry = registry.restart().await;
    let bob = registry.user("bob");
    assert_eq!(bob.tags("team/app").await, ["kept", "said"]);
    for (tag, image) in [("kept", &kept), ("said", &said)] {
        assert_eq!(bob.pull_manifest("team/app", tag).await, image.manifest);
        assert_eq!(bob.pull_manifest("team/app", &image.digest().to_string()).await, image.manifest);
        assert_eq!(bob.pull("team/app", image.layers[0].digest()).await, image.layers[0]);
    }
    let referrers = bob.get(&format!("/v2/team/app/referrers/{}", kept.digest())).await.json();
    let referrers =
        referrers["manifests"].as_array().unwrap().iter().map(|it| it["digest"].as_str().unwrap());
    assert!(referrers.eq([said.digest().to_string()]));
}

/// Something that is going to be deleted.
struct Thing {
    path: String,
    content: Bytes,
}

/// Pushes a tag of what is `kept`, a manifest that says something about it and has a tag of its own, and a blob.
async fn push_what_goes(user: &User, kept: &Image, note: &str) -> Vec<Thing> {
    let (about, blob) = (kept.about(kept, note), Layer::random(1000));
    user.push("team/app", "tag", kept).await;
    user.push("team/app", "another", &about).await;
    user.push_blob("team/app", blob.bytes()).await;
    let things = [
        ("manifests/tag".to_owned(), kept.manifest.clone()),
        (format!("manifests/{}", about.digest()), about.manifest),
        (format!("blobs/{}", blob.digest()), blob.bytes()),
    ];
    let things = things.map(|(path, content)| Thing { path: format!("/v2/team/app/{path}"), content });
    for thing in &things {
        // From now on it may be remembered.
        assert!(thing.is_there(user, "before").await);
    }
    things.into()
}

impl Thing {
    /// Whether it is there: wholly, whichever way one looks, or not at all.
    async fn is_there(&self, user: &User, story: &str) -> bool {
        let (pulled, seen) = (user.get(&self.path).await, user.head(&self.path).await);
        assert_eq!(pulled.status, seen.status, "{story}: {pulled:?}");
        if pulled.status == StatusCode::NOT_FOUND {
            return false;
        }
        assert!(pulled.expect(StatusCode::OK).body == self.content, "{story}");
        true
    }
}
