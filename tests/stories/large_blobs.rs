//! Blobs that are larger than any memory.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use hyper::StatusCode;
use storage::{Algorithm, Hasher};

use crate::harness::{Layer, MIB, TestRegistry};

#[tokio::test]
async fn a_blob_of_100_gib_is_served_by_parts() {
    const GIB: u64 = 1 << 30;
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    // A file of holes, placed where the layout has it: that the digest is another's, no pull looks at.
    let digest = alice.push_blob("team/app", "large".into()).await;
    let hex = digest.hex().to_string();
    let path = registry.data().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(100 * GIB).unwrap();
    for (words, offset) in
        [("across", 4 * GIB - 3), ("in the middle", 50 * GIB + 1), ("at the end", 100 * GIB - 10)]
    {
        file.write_all_at(words.as_bytes(), offset).unwrap();
    }

    let blob = format!("/v2/team/app/blobs/{digest}");
    let head = alice.head(&blob).await.expect(StatusCode::OK);
    assert_eq!(head.header("content-length"), Some("107374182400"));
    for (range, words, content_range) in [
        ("bytes=-10", "at the end", "bytes 107374182390-107374182399/107374182400"),
        ("bytes=107374182390-", "at the end", "bytes 107374182390-107374182399/107374182400"),
        ("bytes=53687091201-53687091213", "in the middle", "bytes 53687091201-53687091213/107374182400"),
        ("bytes=0-4", "large", "bytes 0-4/107374182400"),
        // No number on the way has 32 bits.
        ("bytes=4294967293-4294967298", "across", "bytes 4294967293-4294967298/107374182400"),
    ] {
        let part = alice.pull_range("team/app", digest, range).await.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.header("content-range"), Some(content_range));
        assert_eq!(part.body, words);
    }
    let beyond = alice.pull_range("team/app", digest, "bytes=107374182400-").await;
    beyond.expect(StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn an_upload_grows_beyond_4_gib() {
    const BEGUN: usize = 4095 * MIB;
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    alice.send(&upload, vec![0; MIB].into()).await;
    // So much has come, to whoever reads its folder: a file of holes, and the hash of as many zeros.
    let folder = registry.data().join("repositories/team/app/_uploads").join(upload.id());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let zeros = vec![0; MIB];
    (0..BEGUN / MIB).for_each(|_| hasher.update(&zeros));
    File::options().write(true).open(folder.join("data")).unwrap().set_len(BEGUN as u64).unwrap();
    let states = folder.join("hashstates/sha256");
    fs::write(states.join(BEGUN.to_string()), hasher.state().as_bytes()).unwrap();
    let registry = registry.restart().await;
    let alice = registry.user("alice");
    assert_eq!(alice.upload_end(&upload).await, BEGUN);

    let rest = Layer::random(2 * MIB);
    alice.send(&upload, rest.bytes()).await;
    assert_eq!(alice.upload_end(&upload).await, BEGUN + 2 * MIB);
    hasher.update(&rest.bytes());
    let digest = hasher.finish();
    alice.finish(&upload, digest).await.expect(StatusCode::CREATED);
    let head = alice.head(&format!("/v2/team/app/blobs/{digest}")).await.expect(StatusCode::OK);
    assert_eq!(head.header("content-length"), Some("4296015872"));
    let end = alice.pull_range("team/app", digest, "bytes=-2097152").await;
    assert_eq!(end.expect(StatusCode::PARTIAL_CONTENT).body, rest.bytes());
}
