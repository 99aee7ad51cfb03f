//! Uploads: cut, resumed, refused, forgotten.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use proptest::prelude::*;
use storage::backend::around::Verb;
use storage::backend::{BackendError, Fault};
use storage::{Algorithm, Digest, FinishError, Purge, ReceiveError, Registry, RegistryOptions, layout};

use super::{CASES, empty_registry};
use crate::harness::{HungUp, body, calls, cases, name, pull, tell};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn however_a_body_is_cut_the_blob_is_what_was_sent(
        // Some end within a batch, some go on into the next.
        requests in prop::collection::vec((prop::collection::vec(0..400_000_usize, 0..6), any::<bool>()), 1..6),
        hint in prop::sample::select(Algorithm::ALL.to_vec()),
        algorithm in prop::sample::select(Algorithm::ALL.to_vec()),
    ) {
        tell(async {
            let registry = empty_registry();
            let all = content(requests.iter().flat_map(|(pieces, _)| pieces).sum());
            let writer = registry.registry.writer(name("team/app"));
            let id = writer.begin_upload(hint).await.unwrap();
            let mut sent = 0;
            for (pieces, cut) in requests {
                // Each request may meet another replica.
                let writer = registry.another_replica().writer(name("team/app"));
                let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
                prop_assert_eq!(upload.offset(), sent as u64);
                let pieces = pieces.into_iter().map(|length| {
                    sent += length;
                    &all[sent - length..sent]
                });
                let whole = body(pieces);
                if cut {
                    let received = upload.receive(whole.chain(stream::iter([Err(HungUp)]))).await;
                    prop_assert!(matches!(received, Err(ReceiveError::Body(HungUp))));
                } else {
                    upload.receive(whole).await.unwrap();
                    prop_assert_eq!(upload.keep().await.unwrap(), sent as u64);
                }
                drop(upload);
                let status = writer.upload(id).await.unwrap().unwrap();
                prop_assert_eq!(status.checkpoint.offset(), sent as u64);
            }
            let digest = Digest::of(algorithm, &all);
            writer.resume_upload(id).await.unwrap().unwrap().finish(&digest).await.unwrap();
            prop_assert!(writer.upload(id).await.unwrap().is_none());
            prop_assert_eq!(pull(&registry.another_replica(), "team/app", &digest).await, Some(all));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_has_another_digest_leaves_nothing_behind() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    for algorithm in Algorithm::ALL {
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.receive(body([&b"sent"[..]])).await.unwrap();
        let promised = Digest::of(algorithm, b"promised");
        let refused = upload.finish(&promised).await.unwrap_err();
        let FinishError::DigestMismatch { expected, actual } = refused else { panic!("{refused:?}") };
        assert_eq!((expected, actual), (promised, Digest::of(algorithm, b"sent")));
        assert!(writer.upload(id).await.unwrap().is_none());
        for digest in [expected, actual] {
            assert!(pull(&registry.registry, "team/app", &digest).await.is_none());
            assert_eq!(registry.backend.sizes(&[layout::blob(&digest)]).await.unwrap(), [None]);
        }
    }
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository() {
    let registry = empty_registry();
    let id = registry.registry.writer(name("team/app")).begin_upload(Algorithm::Sha256).await.unwrap();
    let other = registry.registry.writer(name("team/other"));
    assert!(other.upload(id).await.unwrap().is_none());
    assert!(other.resume_upload(id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_second_writer_is_refused_and_spoils_nothing() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
    let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
    upload.receive(body([&b"first "[..]])).await.unwrap();
    let second = registry.another_replica().writer(name("team/app"));
    assert_eq!(second.resume_upload(id).await.unwrap_err().fault, Fault::Busy);
    upload.receive(body([&b"writer"[..]])).await.unwrap();
    upload.finish(&sha256(b"first writer")).await.unwrap();
    let pulled = pull(&registry.registry, "team/app", &sha256(b"first writer")).await;
    assert_eq!(pulled.unwrap(), b"first writer");
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    let registry = empty_registry();
    let writer = registry.registry.writer(name("team/app"));
    let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
    let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
    upload.receive(body([&b"changed my mind"[..]])).await.unwrap();
    upload.cancel().await.unwrap();
    assert!(writer.upload(id).await.unwrap().is_none());
    assert!(writer.resume_upload(id).await.unwrap().is_none());
}

#[tokio::test]
async fn old_uploads_are_purged_unless_somebody_writes_to_them() {
    let registry = empty_registry();
    let mut begun = Vec::new();
    for repository in ["team/app", "team/app/nested", "team"] {
        let writer = registry.registry.writer(name(repository));
        begun.push((writer.clone(), writer.begin_upload(Algorithm::Sha256).await.unwrap()));
    }
    let (writer, id) = begun[0].clone();
    let written_to = writer.resume_upload(id).await.unwrap().unwrap();

    let hour = Duration::from_secs(60 * 60);
    assert_eq!(registry.registry.purge_uploads(SystemTime::now() - hour, Purge::Remove).await.unwrap(), 0);
    assert_eq!(registry.registry.purge_uploads(SystemTime::now() + hour, Purge::Remove).await.unwrap(), 2);
    for (writer, id) in &begun[1..] {
        assert!(writer.upload(*id).await.unwrap().is_none());
    }
    assert!(writer.upload(id).await.unwrap().is_some());
    drop(written_to);
    assert_eq!(registry.registry.purge_uploads(SystemTime::now() + hour, Purge::Report).await.unwrap(), 1);
    assert!(writer.upload(id).await.unwrap().is_some(), "it was only reported");
    assert_eq!(registry.registry.purge_uploads(SystemTime::now() + hour, Purge::Remove).await.unwrap(), 1);
}

#[tokio::test]
async fn what_a_crash_left_of_an_upload_is_purged_when_it_is_old() {
    let registry = empty_registry();
    let repository = name("team/app");
    let writer = registry.registry.writer(repository.clone());
    let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
    let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
    upload.receive(body([&b"cancelled"[..]])).await.unwrap();
    upload.keep().await.unwrap();
    drop(upload);
    let key = storage::layout::UploadKey { repository: repository.clone(), id };
    registry.backend.delete(&layout::upload_started(&key)).await.unwrap();

    let uploads = layout::uploads(&layout::repository(&repository));
    let hour = Duration::from_secs(60 * 60);
    for (deadline, left) in [(SystemTime::now() - hour, 1), (SystemTime::now() + hour, 0)] {
        let purged = registry.registry.purge_uploads(deadline, Purge::Remove).await.unwrap();
        assert_eq!(purged, 1 - left);
        assert_eq!(registry.backend.children(&uploads, None, 9).await.unwrap().names.len(), left);
    }
}

#[tokio::test]
async fn a_blob_that_is_pushed_by_its_sha256_is_not_read_again() {
    let registry = empty_registry();
    let all = content(300_000);
    let digest = sha256(&all);
    let pushed = calls(&registry, async |registry| {
        let writer = registry.writer(name("team/app"));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        for half in all.chunks(150_000) {
            let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
            upload.receive(body([half])).await.unwrap();
            upload.keep().await.unwrap();
        }
        writer.resume_upload(id).await.unwrap().unwrap().finish(&digest).await.unwrap();
    });
    let pushed = pushed.await;
    let count = |verb| pushed.iter().find(|(it, _)| *it == verb).map_or(0, |(_, calls)| *calls);
    assert_eq!([Verb::Content, Verb::Open, Verb::Read, Verb::ReadMany].map(count), [0; 4]);
    assert_eq!([Verb::Publish, Verb::Write].map(count), [1, 1], "the blob and its link");

    // Nor is one whose other algorithm is known before its first byte has come.
    let by_sha512 = calls(&registry, async |registry| {
        let writer = registry.writer(name("team/app"));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.expect(Algorithm::Sha512);
        upload.receive(body([&all[..200_000]])).await.unwrap();
        upload.keep().await.unwrap();
        drop(upload);
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.expect(Algorithm::Sha256);
        upload.receive(body([&all[200_000..]])).await.unwrap();
        upload.finish(&Digest::of(Algorithm::Sha512, &all)).await.unwrap();
    });
    assert!(!by_sha512.await.iter().any(|(verb, _)| *verb == Verb::Content));

    // Another algorithm than the one that was announced is the exception.
    let read_again = calls(&registry, async |registry| {
        let writer = registry.writer(name("team/app"));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.receive(body([&*all])).await.unwrap();
        upload.finish(&Digest::of(Algorithm::Sha512, &all)).await.unwrap();
    });
    assert!(read_again.await.contains(&(Verb::Content, 1)));
}

#[tokio::test]
async fn uploads_that_share_a_small_budget_all_finish() {
    let registry = empty_registry();
    // It becomes what one batch takes, which is less than one piece has.
    let options = RegistryOptions { upload_buffer_bytes: 1, ..RegistryOptions::default() };
    let registry = Registry::new(registry.backend.clone(), options);
    let contents: Vec<Vec<u8>> = (0..8).map(|extra| content(3_000_000 + extra)).collect();
    let push = async |content: &Vec<u8>| {
        let writer = registry.writer(name("team/app"));
        let id = writer.begin_upload(Algorithm::Sha256).await?;
        let mut upload = writer.resume_upload(id).await?.unwrap();
        upload.receive(body(content.chunks(1_200_000))).await.unwrap();
        upload.finish(&sha256(content)).await.unwrap();
        Ok::<_, BackendError>(())
    };
    let pushes = futures_util::future::try_join_all(contents.iter().map(push));
    tokio::time::timeout(Duration::from_secs(60), pushes).await.unwrap().unwrap();
    for content in contents {
        assert!(pull(&registry, "team/app", &sha256(&content)).await == Some(content));
    }
}

#[tokio::test]
async fn a_blob_whose_bytes_are_lost_is_healed_by_the_next_push() {
    let registry = empty_registry();
    let digest = registry.push_blob("team/app", b"some bytes").await;
    registry.backend.delete(&layout::blob(&digest)).await.unwrap();
    let reader = registry.registry.reader(name("team/app"));
    assert!(reader.blob_size(&digest).await.unwrap().is_none(), "so the client pushes it again");
    assert!(pull(&registry.registry, "team/app", &digest).await.is_none());
    registry.push_blob("team/app", b"some bytes").await;
    assert_eq!(pull(&registry.registry, "team/app", &digest).await.unwrap(), b"some bytes");
}

#[tokio::test]
async fn a_blob_is_held_by_those_repositories_that_it_was_pushed_or_mounted_to() {
    let registry = empty_registry();
    let digest = registry.push_blob("team/app", b"some bytes").await;
    let (from, to) = (name("team/app"), name("team/other"));
    let (source, writer) = (registry.registry.reader(from.clone()), registry.registry.writer(to));
    assert!(pull(&registry.registry, "team/other", &digest).await.is_none());
    assert!(!writer.mount(&source, &sha256(b"other bytes")).await.unwrap());
    assert!(writer.mount(&source, &digest).await.unwrap());
    assert!(registry.registry.deleter(from.clone()).delete_blob(&digest).await.unwrap());
    assert!(!registry.registry.deleter(from).delete_blob(&digest).await.unwrap());
    assert!(!writer.mount(&source, &digest).await.unwrap(), "it may only be taken from where it is");
    for registry in [registry.registry.clone(), registry.another_replica()] {
        assert!(pull(&registry, "team/app", &digest).await.is_none());
        assert_eq!(pull(&registry, "team/other", &digest).await.unwrap(), b"some bytes");
    }
}
