//! The contract of [`Backend`] and [`Stage`] as a suite that every backend passes: a function for each clause.
//!
//! What a crash leaves cannot be shown from within a process; that everything acknowledged is seen by a second replica, which shares
//! nothing but the store, can.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Backend, BackendError, Content, Fault, Object, Page, Stage};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layout::{self, Folder, Key, UploadId, UploadKey};

/// An empty store, opened twice, as two replicas of a registry share it.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// The one that most is done by.
    pub here: Arc<dyn Backend>,
    /// The other one.
    pub there: Arc<dyn Backend>,
}

type Outcome = Result<(), BackendError>;

/// Runs every clause, each in a store of its own.
///
/// # Panics
/// When a clause does not hold; the message names it.
pub async fn check(make: impl Fn() -> Replicas) {
    macro_rules! hold {
        ($($clause:ident)*) => {$(
            if let Err(error) = Box::pin($clause(&make())).await {
                panic!("{}: {error}: {:?}", stringify!($clause), error.source);
            }
        )*};
    }
    hold! {
        an_object_reads_as_it_was_written
        an_object_is_read_by_any_range
        what_is_absent_is_none
        what_one_replica_does_the_other_sees
        an_open_object_never_yields_other_bytes
        an_object_above_the_limit_is_not_read
        answers_about_many_come_in_the_order_asked
        readers_see_old_bytes_or_new_ones
        a_write_that_is_dropped_has_happened_or_not
        deleting_says_whether_there_was_something
        what_was_put_in_the_place_of_what_was_seen_stays
        a_folder_goes_with_all_below_it_and_nothing_beside_it
        only_an_empty_folder_goes_for_being_empty
        a_folder_tells_when_something_came_to_it
        names_come_in_byte_order_page_by_page
        many_names_are_paged_through_once_each
        the_store_can_be_probed_and_shows_nothing_of_it
        an_upload_begins_empty
        what_is_no_upload_is_none
        uploads_are_listed_while_they_are_under_way
        an_upload_resumes_at_its_last_checkpoint
        an_upload_resumes_on_another_replica
        a_dropped_stage_keeps_what_was_checkpointed
        a_stage_that_is_cut_back_keeps_what_was_checkpointed
        a_second_stage_is_refused_while_one_is_open
        two_writers_on_two_replicas_mix_nothing
        asking_how_far_an_upload_is_does_not_disturb_it
        a_checkpoint_touches_the_upload
        the_content_is_everything_that_was_pushed
        pieces_of_any_number_and_size_are_pushed_in_order
        what_is_staged_shows_only_when_it_is_published
        an_empty_upload_is_published
        publishing_takes_the_place_of_what_was_there
        two_uploads_of_the_same_bytes_are_both_published
        a_publication_that_is_dropped_has_happened_or_not
        a_discarded_upload_leaves_nothing
    }
}

/// Reads a part of an object, wherever it is.
pub async fn read_range(object: &Object, range: Range<u64>) -> Result<Vec<u8>, BackendError> {
    match &object.content {
        Content::File(file) => {
            use std::os::unix::fs::FileExt;
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length];
            let read = file.read_exact_at(&mut bytes, range.start);
            read.map(|()| bytes).map_err(|error| BackendError::io("read", "an open object", error))
        }
        Content::Remote(ranges) => {
            let chunks: Vec<Bytes> = ranges.stream(range).try_collect().await?;
            Ok(chunks.concat())
        }
    }
}

/// Reads an object from its beginning to its end.
pub async fn read_all(object: &Object) -> Result<Vec<u8>, BackendError> {
    read_range(object, 0..object.size).await
}

async fn an_object_reads_as_it_was_written(Replicas { here, .. }: &Replicas) -> Outcome {
    for content in [&b"some bytes"[..], b"", b"\0\xff\n", &noise(3 << 20, 1)] {
        let key = blob(content);
        here.write(&key, Bytes::copy_from_slice(content)).await?;
        // Every call may be repeated.
        here.write(&key, Bytes::copy_from_slice(content)).await?;
        let size = content.len() as u64;
        assert_eq!(here.read(&key, size).await?.as_deref(), Some(content));
        assert_eq!(here.sizes(std::slice::from_ref(&key)).await?, [Some(size)]);
        let object = here.open(&key).await?.expect("what was written can be opened");
        assert_eq!((object.size, read_all(&object).await?), (size, content.to_vec()));
    }
    Ok(())
}

async fn an_object_is_read_by_any_range(Replicas { here, .. }: &Replicas) -> Outcome {
    let content = noise(1 << 20, 2);
    let key = blob(&content);
    here.write(&key, content.clone()).await?;
    let object = here.open(&key).await?.expect("what was written can be opened");
    let size = object.size;
    for range in [0..0, 0..1, 1..2, 100_000..900_000, size - 1..size, size..size, 0..size] {
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).expect("a MiB is not much"));
        assert_eq!(read_range(&object, range).await?, content[start..end]);
    }
    Ok(())
}

async fn what_is_absent_is_none(Replicas { here, .. }: &Replicas) -> Outcome {
    let (present, absent) = (blob(b"present"), blob(b"absent"));
    for _ in ["in an empty store", "beside something"] {
        assert!(here.open(&absent).await?.is_none());
        assert!(here.read(&absent, 100).await?.is_none());
        assert_eq!(here.read_many(std::slice::from_ref(&absent), 100).await?, [None]);
        assert_eq!(here.sizes(std::slice::from_ref(&absent)).await?, [None]);
        here.write(&present, "present".into()).await?;
    }
    // A folder is no object, and what lies below an object is not there either.
    let [folder, below] = [tags().object("v1"), tags().folder("v1").folder("link").object("link")];
    here.write(&tags().folder("v1").object("link"), "x".into()).await?;
    assert!(here.open(&folder).await?.is_none());
    assert!(here.read(&folder, 100).await?.is_none());
    assert_eq!(here.sizes(&[folder, below.clone()]).await?, [None, None]);
    assert!(here.read(&below, 100).await?.is_none());
    Ok(())
}

async fn what_one_replica_does_the_other_sees(Replicas { here, there }: &Replicas) -> Outcome {
    let link = tags().folder("v1").object("link");
    for content in ["first", "second"] {
        here.write(&link, content.into()).await?;
        assert_eq!(there.read(&link, 100).await?.as_deref(), Some(content.as_bytes()));
        assert_eq!(names(&**there, &tags()).await?, ["v1"]);
    }
    assert!(there.delete(&link).await?);
    assert!(here.read(&link, 100).await?.is_none());
    there.delete_folder(&tags()).await?;
    assert_eq!(names(&**here, &tags()).await?, [""; 0]);
    Ok(())
}

async fn an_open_object_never_yields_other_bytes(Replicas { here, there }: &Replicas) -> Outcome {
    let (link, old) = (tags().folder("v1").object("link"), noise(1 << 20, 3));
    here.write(&link, old.clone()).await?;
    let object = here.open(&link).await?.expect("what was written can be opened");
    there.write(&link, noise(1 << 20, 4)).await?;
    let replaced = read_all(&object).await;
    assert!(replaced.is_err() || replaced.is_ok_and(|read| read == old));
    there.delete(&link).await?;
    let deleted = read_all(&object).await;
    assert!(deleted.is_err() || deleted.is_ok_and(|read| read == old));
    Ok(())
}

async fn an_object_above_the_limit_is_not_read(Replicas { here, .. }: &Replicas) -> Outcome {
    let key = blob(b"12345");
    here.write(&key, "12345".into()).await?;
    assert_eq!(here.read(&key, 5).await?.as_deref(), Some(&b"12345"[..]));
    assert_eq!(fault(here.read(&key, 4).await), Some(Fault::TooLarge));
    assert_eq!(here.read_many(&[key.clone(), key], 4).await?, [None, None]);
    Ok(())
}

async fn answers_about_many_come_in_the_order_asked(Replicas { here, .. }: &Replicas) -> Outcome {
    let contents: Vec<Bytes> = (0..300).map(|length| Bytes::from(vec![b'x'; length])).collect();
    let keys: Vec<Key> = contents.iter().map(|content| blob(content)).collect();
    // Every third one is not there.
    let present = |at: &usize| !at.is_multiple_of(3);
    let objects = keys.iter().cloned().zip(contents.iter().cloned()).enumerate();
    write_all(&**here, objects.filter(|(at, _)| present(at)).map(|(_, object)| object)).await?;
    let order: Vec<usize> = (0..300).rev().chain([7, 7, 0, 1]).collect();
    let asked: Vec<Key> = order.iter().map(|at| keys[*at].clone()).collect();
    let expected: Vec<Option<Bytes>> =
        order.iter().map(|at| present(at).then(|| contents[*at].clone())).collect();
    assert_eq!(here.read_many(&asked, 300).await?, expected);
    let sizes = expected.iter().map(|content| content.as_ref().map(|content| content.len() as u64));
    assert_eq!(here.sizes(&asked).await?, sizes.collect::<Vec<_>>());
    assert!(here.read_many(&[], 300).await?.is_empty() && here.sizes(&[]).await?.is_empty());
    Ok(())
}

async fn readers_see_old_bytes_or_new_ones(Replicas { here, there }: &Replicas) -> Outcome {
    let link = tags().folder("v1").object("link");
    let versions = [noise(300_000, 5), noise(10, 6), noise(100_000, 7)];
    here.write(&link, versions[0].clone()).await?;
    let write = async {
        for version in versions.iter().cycle().take(60) {
            here.write(&link, version.clone()).await?;
        }
        Outcome::Ok(())
    };
    let read = async {
        for _ in 0..200 {
            let seen = there.read(&link, 1 << 20).await?.expect("it is replaced, never away");
            assert!(versions.contains(&seen), "{} bytes that nobody wrote", seen.len());
        }
        Outcome::Ok(())
    };
    let again = async {
        for version in versions.iter().rev().cycle().take(60) {
            there.write(&link, version.clone()).await?;
        }
        Outcome::Ok(())
    };
    tokio::try_join!(write, read, again).map(drop)
}

async fn a_write_that_is_dropped_has_happened_or_not(Replicas { here, there }: &Replicas) -> Outcome {
    for polls in 0..8 {
        let content = noise(100_000, 10 + polls);
        let key = blob(&content);
        cut_short(here.write(&key, content.clone()), polls).await.transpose()?;
        let seen = there.read(&key, 1 << 20).await?;
        assert!(seen.is_none_or(|seen| seen == content));
        here.write(&key, content.clone()).await?;
        assert_eq!(there.read(&key, 1 << 20).await?, Some(content));
    }
    Ok(())
}

async fn deleting_says_whether_there_was_something(Replicas { here, there }: &Replicas) -> Outcome {
    let (gone, kept) = (blob(b"gone"), blob(b"kept"));
    assert!(!here.delete(&gone).await?);
    for key in [&gone, &kept] {
        here.write(key, "x".into()).await?;
    }
    assert!(here.delete(&gone).await?);
    assert!(!here.delete(&gone).await?);
    assert_eq!(there.sizes(&[gone.clone(), kept]).await?, [None, Some(1)]);
    here.write(&gone, "back".into()).await?;
    assert_eq!(there.read(&gone, 100).await?.as_deref(), Some(&b"back"[..]));
    Ok(())
}

async fn what_was_put_in_the_place_of_what_was_seen_stays(Replicas { here, there }: &Replicas) -> Outcome {
    let link = tags().folder("v1").object("link");
    here.write(&link, "old".into()).await?;
    for newer in ["new", "old"] {
        let seen = here.open(&link).await?.expect("what was written can be opened");
        there.write(&link, newer.into()).await?;
        assert!(!here.delete_if(&link, &seen).await?, "another one that says {newer}");
        assert_eq!(there.read(&link, 100).await?.as_deref(), Some(newer.as_bytes()));
    }
    let seen = here.open(&link).await?.expect("what was written can be opened");
    assert!(here.delete_if(&link, &seen).await?);
    assert!(there.read(&link, 100).await?.is_none());
    assert!(!here.delete_if(&link, &seen).await?);
    there.write(&link, "back".into()).await?;
    assert!(!here.delete_if(&link, &seen).await?);
    assert_eq!(here.read(&link, 100).await?.as_deref(), Some(&b"back"[..]));
    Ok(())
}

async fn only_an_empty_folder_goes_for_being_empty(Replicas { here, there }: &Replicas) -> Outcome {
    let [v1, v2] = ["v1", "v2"].map(|name| tags().folder(name));
    here.delete_empty(&v1).await?;
    for folder in [&v1, &v2] {
        here.write(&folder.folder("current").object("link"), "x".into()).await?;
    }
    here.delete_empty(&tags()).await?;
    assert_eq!(names(&**there, &tags()).await?, ["v1", "v2"]);
    here.delete(&v1.folder("current").object("link")).await?;
    here.delete_empty(&tags()).await?;
    assert_eq!(names(&**there, &tags()).await?, ["v2"]);
    assert_eq!(there.read(&v2.folder("current").object("link"), 100).await?.as_deref(), Some(&b"x"[..]));
    Ok(())
}

async fn a_folder_goes_with_all_below_it_and_nothing_beside_it(
    Replicas { here, there }: &Replicas,
) -> Outcome {
    here.delete_folder(&tags().folder("v1")).await?;
    let below = ["v1/link", "v1/index/sha256/ab/link", "v1/index/sha256/cd/link"];
    let beside = ["v1-a/link", "v1.2/link", "v10/link", "v/link"];
    for place in below.iter().chain(&beside) {
        here.write(&tags().object(place), "x".into()).await?;
    }
    here.delete_folder(&tags().folder("v1")).await?;
    here.delete_folder(&tags().folder("v1")).await?;
    let [below, beside] = [&below[..], &beside].map(|places| places.iter().map(|it| tags().object(it)));
    assert_eq!(there.sizes(&below.collect::<Vec<_>>()).await?, [None; 3]);
    assert_eq!(there.sizes(&beside.collect::<Vec<_>>()).await?, [Some(1); 4]);
    assert_eq!(names(&**there, &tags()).await?, ["v", "v1-a", "v1.2", "v10"]);
    Ok(())
}

async fn a_folder_tells_when_something_came_to_it(Replicas { here, there }: &Replicas) -> Outcome {
    assert!(here.changed(&tags()).await?.is_none());
    for name in ["first", "second"] {
        let before = SystemTime::now() - Duration::from_secs(2);
        here.write(&tags().object(name), "x".into()).await?;
        let changed = there.changed(&tags()).await?.expect("it exists");
        assert!(before < changed && changed < SystemTime::now() + Duration::from_secs(2));
    }
    Ok(())
}

async fn names_come_in_byte_order_page_by_page(Replicas { here, .. }: &Replicas) -> Outcome {
    let folders = ["a", "a-b", "a.b", "a0", "aa", "b", "v1", "v1-a", "v1.2", "v10", "v2", "_x", "B"];
    for name in folders {
        here.write(&tags().folder(name).folder("deep").object("link"), "x".into()).await?;
        here.write(&tags().folder(name).object("link"), "x".into()).await?;
    }
    here.write(&tags().object("an-object"), "x".into()).await?;
    let mut all: Vec<&str> = folders.into_iter().chain(["an-object"]).collect();
    all.sort_unstable();
    for after in all.iter().copied().chain(["", "A", "a.", "v1-", "v1/", "zzz"]).map(Some).chain([None]) {
        let follow: Vec<&str> =
            all.iter().copied().filter(|name| after.is_none_or(|it| *name > it)).collect();
        for limit in (0..=all.len() + 1).chain([usize::MAX]) {
            let names = follow.iter().take(limit).map(|name| name.to_string()).collect();
            let expected = Page { names, more: follow.len() > limit };
            assert_eq!(here.children(&tags(), after, limit).await?, expected, "after {after:?}, {limit}");
        }
    }
    assert_eq!(here.children(&tags().folder("none"), None, 10).await?, Page::default());
    assert_eq!(here.children(&tags().folder("an-object"), None, 10).await?, Page::default());
    Ok(())
}

async fn many_names_are_paged_through_once_each(Replicas { here, there }: &Replicas) -> Outcome {
    let all: Vec<String> = (0..1100).map(|number| format!("t{number:04}")).collect();
    let links = all.iter().map(|name| (tags().folder(name).object("link"), "x".into()));
    write_all(&**here, links).await?;
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = here.recent_children(&tags(), seen.last().map(String::as_str), 99).await?;
        seen.extend(page.names);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, all);
    // Whoever did something sees it at once, whatever is remembered of the folder.
    let (added, gone) = (tags().folder("t0500-a"), tags().folder("t0501"));
    here.write(&added.object("link"), "x".into()).await?;
    here.delete(&gone.object("link")).await?;
    here.delete_empty(&gone).await?;
    let expected = Page { names: vec!["t0500-a".into(), "t0502".into()], more: true };
    assert_eq!(here.recent_children(&tags(), Some("t0500"), 2).await?, expected);
    here.delete_folder(&added).await?;
    let expected = Page { names: vec!["t0502".into(), "t0503".into()], more: true };
    assert_eq!(here.recent_children(&tags(), Some("t0500"), 2).await?, expected);
    assert_eq!(there.children(&tags(), Some("t0500"), 2).await?, expected);
    Ok(())
}

async fn the_store_can_be_probed_and_shows_nothing_of_it(Replicas { here, .. }: &Replicas) -> Outcome {
    for _ in 0..2 {
        here.probe().await?;
        here.probe_writing().await?;
    }
    assert_eq!(names(&**here, &layout::repositories()).await?, [""; 0]);
    Ok(())
}

async fn an_upload_begins_empty(Replicas { here, there }: &Replicas) -> Outcome {
    for algorithm in Algorithm::ALL {
        let upload = new_upload();
        here.begin_upload(&upload, algorithm).await?;
        here.begin_upload(&upload, algorithm).await?;
        let status = there.upload(&upload).await?.expect("it has begun");
        assert_eq!(status.checkpoint, Hasher::new(algorithm).state());
        let mut stage = open(&**here, &upload).await?;
        assert_eq!(*stage.resumed_from(), Hasher::new(algorithm).state());
        assert_eq!(stage.content().await?.size, 0);
    }
    Ok(())
}

async fn what_is_no_upload_is_none(Replicas { here, .. }: &Replicas) -> Outcome {
    let begun = new_upload();
    here.begin_upload(&begun, Algorithm::Sha256).await?;
    let elsewhere = UploadKey { repository: "team/other".parse().expect("a name"), id: begun.id };
    for upload in [new_upload(), elsewhere] {
        assert!(here.upload(&upload).await?.is_none());
        assert!(here.stage(&upload).await?.is_none());
        assert!(here.upload(&upload).await?.is_none(), "asking does not begin one");
    }
    Ok(())
}

async fn uploads_are_listed_while_they_are_under_way(Replicas { here, there }: &Replicas) -> Outcome {
    let uploads = [new_upload(), new_upload()];
    let folder = layout::uploads(&layout::repository(&uploads[0].repository));
    for upload in &uploads {
        here.begin_upload(upload, Algorithm::Sha256).await?;
        push_and_checkpoint(&mut *open(&**here, upload).await?, Hasher::new(Algorithm::Sha256), b"x").await?;
    }
    let mut ids = uploads.each_ref().map(|upload| upload.id.to_string());
    ids.sort_unstable();
    assert_eq!(names(&**there, &folder).await?, ids);
    open(&**here, &uploads[0]).await?.discard().await?;
    open(&**here, &uploads[1]).await?.publish(&blob(b"x")).await?;
    assert_eq!(names(&**there, &folder).await?, [""; 0]);
    Ok(())
}

async fn an_upload_resumes_at_its_last_checkpoint(Replicas { here, .. }: &Replicas) -> Outcome {
    for algorithm in Algorithm::ALL {
        let upload = new_upload();
        here.begin_upload(&upload, algorithm).await?;
        let content = noise(700_000, 20);
        let mut hasher = Hasher::new(algorithm);
        let mut sent = 0;
        // The lengths leave tails of all kinds, none included.
        for length in [1, 63, 64, 199_872, 0, 300_000, 200_000] {
            let mut stage = open(&**here, &upload).await?;
            assert_eq!(*stage.resumed_from(), hasher.state());
            let next = &content[sent..sent + length];
            hasher = push_and_checkpoint(&mut *stage, hasher, next).await?;
            sent += length;
            stage.push(vec![noise(123_457, 21)]).await?;
            drop(stage);
            let status = here.upload(&upload).await?.expect("it is under way");
            assert_eq!(status.checkpoint, hasher.state(), "what came after it is cut off");
        }
        let to = layout::blob(&Digest::of(algorithm, &content));
        open(&**here, &upload).await?.publish(&to).await?;
        assert_eq!(here.read(&to, 1 << 20).await?, Some(content));
    }
    Ok(())
}

async fn an_upload_resumes_on_another_replica(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let content = noise(500_000, 22);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for (replica, piece) in [here, there].into_iter().cycle().zip(content.chunks(90_001)) {
        let mut stage = open(&**replica, &upload).await?;
        assert_eq!(*stage.resumed_from(), hasher.state());
        hasher = push_and_checkpoint(&mut *stage, hasher, piece).await?;
    }
    open(&**there, &upload).await?.publish(&blob(&content)).await?;
    assert_eq!(here.read(&blob(&content), 1 << 20).await?, Some(content));
    Ok(())
}

async fn a_dropped_stage_keeps_what_was_checkpointed(Replicas { here, .. }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut stage = open(&**here, &upload).await?;
    let hasher = push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), b"kept").await?;
    drop(stage);
    for polls in 0..8 {
        let mut stage = open(&**here, &upload).await?;
        assert_eq!(*stage.resumed_from(), hasher.state());
        cut_short(stage.push(vec![noise(200_000, 30)]), polls).await.transpose()?;
    }
    let mut stage = open(&**here, &upload).await?;
    stage.push(vec![" more".into()]).await?;
    stage.publish(&blob(b"kept more")).await?;
    assert_eq!(here.read(&blob(b"kept more"), 100).await?.as_deref(), Some(&b"kept more"[..]));
    Ok(())
}

async fn a_stage_that_is_cut_back_keeps_what_was_checkpointed(
    Replicas { here, there }: &Replicas,
) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for piece in ["kept ", "and more"] {
        let mut stage = open(&**here, &upload).await?;
        hasher = push_and_checkpoint(&mut *stage, hasher, piece.as_bytes()).await?;
        stage.push(vec![noise(200_000, 31)]).await?;
        // Every call may be repeated.
        stage.cut_back().await?;
        stage.cut_back().await?;
        drop(stage);
        assert_eq!(*open(&**there, &upload).await?.resumed_from(), hasher.state());
    }
    open(&**there, &upload).await?.publish(&blob(b"kept and more")).await?;
    assert_eq!(here.read(&blob(b"kept and more"), 100).await?.as_deref(), Some(&b"kept and more"[..]));
    Ok(())
}

async fn a_second_stage_is_refused_while_one_is_open(Replicas { here, .. }: &Replicas) -> Outcome {
    let (upload, other) = (new_upload(), new_upload());
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    here.begin_upload(&other, Algorithm::Sha256).await?;
    let first = open(&**here, &upload).await?;
    assert_eq!(fault(here.stage(&upload).await), Some(Fault::Busy));
    assert_eq!(fault(here.stage(&upload).await), Some(Fault::Busy), "being refused changes nothing");
    assert!(here.stage(&other).await?.is_some(), "another upload is another matter");
    drop(first);
    assert!(here.stage(&upload).await?.is_some());
    Ok(())
}

async fn two_writers_on_two_replicas_mix_nothing(Replicas { here, there }: &Replicas) -> Outcome {
    let (mine, theirs) = (noise(300_000, 40), noise(500_000, 41));
    for begun in [&b""[..], &noise(400_000, 42)] {
        let upload = new_upload();
        here.begin_upload(&upload, Algorithm::Sha256).await?;
        let mut stage = open(&**here, &upload).await?;
        let hasher = push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), begun).await?;
        let mut other = match there.stage(&upload).await {
            Err(error) if error.fault == Fault::Busy => continue,
            other => other?.expect("it is under way"),
        };
        // A store that cannot tell finds out at the latest when both rely on something.
        stage.push(vec![mine.clone()]).await.or_else(unless_busy)?;
        other.push(vec![theirs.clone()]).await.or_else(unless_busy)?;
        let first = push_and_checkpoint(&mut *stage, resumed(&hasher, &mine), b"").await;
        let second = push_and_checkpoint(&mut *other, resumed(&hasher, &theirs), b"").await;
        let kept = match (first, second) {
            (Ok(_), Err(error)) if error.fault == Fault::Busy => &mine,
            (Err(error), Ok(_)) if error.fault == Fault::Busy => &theirs,
            (first, second) => panic!("one is kept and one refused, not {first:?} and {second:?}"),
        };
        drop((stage, other));
        let content = [begun, kept].concat();
        let stage = open(&**there, &upload).await?;
        assert_eq!(stage.resumed_from().offset(), content.len() as u64);
        let published = stage.publish(&blob(&content)).await;
        let seen = here.read(&blob(&content), 1 << 20).await?;
        match published {
            Ok(()) => assert_eq!(seen, Some(content.into())),
            Err(_) => assert_eq!(seen, None),
        }
    }
    Ok(())
}

async fn asking_how_far_an_upload_is_does_not_disturb_it(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut stage = open(&**here, &upload).await?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for piece in [&b"one "[..], b"two ", b"three"] {
        let before = hasher.state();
        stage.push(vec![Bytes::copy_from_slice(piece)]).await?;
        for replica in [here, there] {
            assert_eq!(replica.upload(&upload).await?.expect("it is under way").checkpoint, before);
        }
        hasher.update(piece);
        stage.checkpoint(&hasher.state()).await?;
        for replica in [here, there] {
            assert_eq!(replica.upload(&upload).await?.expect("it is under way").checkpoint, hasher.state());
        }
    }
    stage.publish(&blob(b"one two three")).await?;
    assert_eq!(here.read(&blob(b"one two three"), 100).await?.as_deref(), Some(&b"one two three"[..]));
    Ok(())
}

async fn a_checkpoint_touches_the_upload(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut last = there.upload(&upload).await?.expect("it has begun").touched;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut stage = open(&**here, &upload).await?;
    for _ in 0..3 {
        hasher = push_and_checkpoint(&mut *stage, hasher, b"x").await?;
        let touched = there.upload(&upload).await?.expect("it is under way").touched;
        assert!(touched >= last);
        last = touched;
    }
    Ok(())
}

async fn the_content_is_everything_that_was_pushed(Replicas { here, .. }: &Replicas) -> Outcome {
    for length in [10, 400_000] {
        let upload = new_upload();
        here.begin_upload(&upload, Algorithm::Sha256).await?;
        let content = noise(length, 50);
        let (kept, rest) = content.split_at(length / 2);
        let mut stage = open(&**here, &upload).await?;
        push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), kept).await?;
        stage.push(vec![Bytes::copy_from_slice(rest)]).await?;
        for _ in ["once", "again"] {
            let object = stage.content().await?;
            assert_eq!(read_all(&object).await?, content);
        }
        stage.publish(&blob(&content)).await?;
        assert_eq!(here.read(&blob(&content), 1 << 20).await?, Some(content));
    }
    Ok(())
}

async fn pieces_of_any_number_and_size_are_pushed_in_order(Replicas { here, .. }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let content = noise(5 << 20, 60);
    let mut stage = open(&**here, &upload).await?;
    let mut sent = 0;
    // More pieces than one system call takes, empty ones, and one that is larger than any part.
    for (pieces, length) in [(0, 0), (3, 0), (3000, 1), (40, 7919), (1, 2_000_000), (5000, 33)] {
        let next = (0..pieces).map(|_| {
            sent += length;
            content.slice(sent - length..sent)
        });
        stage.push(next.collect()).await?;
    }
    stage.push(vec![content.slice(sent..)]).await?;
    stage.publish(&blob(&content)).await?;
    assert!(here.read(&blob(&content), 8 << 20).await?.is_some_and(|published| published == content));
    Ok(())
}

async fn what_is_staged_shows_only_when_it_is_published(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut stage = open(&**here, &upload).await?;
    let content = noise(400_000, 70);
    push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), &content).await?;
    assert!(there.open(&blob(&content)).await?.is_none());
    stage.publish(&blob(&content)).await?;
    assert_eq!(there.read(&blob(&content), 1 << 20).await?, Some(content));
    for replica in [here, there] {
        assert!(replica.upload(&upload).await?.is_none());
        assert!(replica.stage(&upload).await?.is_none());
    }
    Ok(())
}

async fn an_empty_upload_is_published(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    open(&**here, &upload).await?.publish(&blob(b"")).await?;
    assert_eq!(there.read(&blob(b""), 0).await?, Some(Bytes::new()));
    Ok(())
}

async fn publishing_takes_the_place_of_what_was_there(Replicas { here, there }: &Replicas) -> Outcome {
    let whole = noise(400_000, 71);
    for torn in [&b""[..], &whole[..1000]] {
        here.write(&blob(&whole), Bytes::copy_from_slice(torn)).await?;
        let upload = new_upload();
        here.begin_upload(&upload, Algorithm::Sha256).await?;
        let mut stage = open(&**here, &upload).await?;
        stage.push(vec![whole.clone()]).await?;
        stage.publish(&blob(&whole)).await?;
        assert_eq!(there.read(&blob(&whole), 1 << 20).await?.as_ref(), Some(&whole));
    }
    Ok(())
}

async fn two_uploads_of_the_same_bytes_are_both_published(Replicas { here, there }: &Replicas) -> Outcome {
    let content = noise(400_000, 72);
    let to = blob(&content);
    let push = async |replica: &Arc<dyn Backend>| {
        let upload = new_upload();
        replica.begin_upload(&upload, Algorithm::Sha256).await?;
        let mut stage = open(&**replica, &upload).await?;
        stage.push(vec![content.clone()]).await?;
        stage.publish(&to).await?;
        Outcome::Ok(())
    };
    tokio::try_join!(push(here), push(there))?;
    assert_eq!(here.read(&to, 1 << 20).await?, Some(content));
    Ok(())
}

async fn a_publication_that_is_dropped_has_happened_or_not(Replicas { here, there }: &Replicas) -> Outcome {
    for polls in 0..8 {
        let content = noise(400_000, 80 + polls);
        let upload = new_upload();
        here.begin_upload(&upload, Algorithm::Sha256).await?;
        let mut stage = open(&**here, &upload).await?;
        push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), &content).await?;
        cut_short(stage.publish(&blob(&content)), polls).await.transpose()?;
        let seen = there.read(&blob(&content), 1 << 20).await?;
        assert!(seen.is_none_or(|seen| seen == content));
        // Whoever was cut off tries again.
        until_it_succeeds(|| publish_the_rest(&**here, &upload, &content)).await?;
        assert_eq!(there.read(&blob(&content), 1 << 20).await?, Some(content));
    }
    Ok(())
}

async fn a_discarded_upload_leaves_nothing(Replicas { here, there }: &Replicas) -> Outcome {
    let upload = new_upload();
    here.begin_upload(&upload, Algorithm::Sha256).await?;
    let mut stage = open(&**here, &upload).await?;
    let content = noise(400_000, 90);
    push_and_checkpoint(&mut *stage, Hasher::new(Algorithm::Sha256), &content).await?;
    stage.push(vec![content.clone()]).await?;
    stage.discard().await?;
    for replica in [here, there] {
        assert!(replica.upload(&upload).await?.is_none());
        assert!(replica.stage(&upload).await?.is_none());
        assert_eq!(names(&**replica, &layout::upload(&upload)).await?, [""; 0]);
    }
    assert!(there.open(&blob(&content)).await?.is_none());
    Ok(())
}

fn tags() -> Folder {
    layout::tags(&"team/app".parse().expect("a name"))
}

fn blob(content: &[u8]) -> Key {
    layout::blob(&Digest::of(Algorithm::Sha256, content))
}

fn new_upload() -> UploadKey {
    UploadKey { repository: "team/app".parse().expect("a name"), id: UploadId::random() }
}

/// Bytes without a pattern, the same for the same seed.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.rotate_left(29).to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

async fn write_all(backend: &dyn Backend, objects: impl Iterator<Item = (Key, Bytes)>) -> Outcome {
    let writes = stream::iter(objects).map(|(key, bytes)| async move { backend.write(&key, bytes).await });
    writes.buffer_unordered(64).try_collect().await
}

async fn names(backend: &dyn Backend, folder: &Folder) -> Result<Vec<String>, BackendError> {
    Ok(backend.children(folder, None, usize::MAX).await?.names)
}

/// Opens an upload that is under way. What a dropped call still does may keep it busy for a moment.
async fn open(backend: &dyn Backend, upload: &UploadKey) -> Result<Box<dyn Stage>, BackendError> {
    let stage = until_it_succeeds(|| backend.stage(upload)).await?;
    Ok(stage.expect("the upload is under way"))
}

/// Repeats a call that what a dropped one still does may disturb.
async fn until_it_succeeds<T>(call: impl AsyncFn() -> Result<T, BackendError>) -> Result<T, BackendError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call().await {
            Err(_) if Instant::now() < deadline => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

async fn push_and_checkpoint(
    stage: &mut dyn Stage,
    mut hasher: Hasher,
    bytes: &[u8],
) -> Result<Hasher, BackendError> {
    stage.push(vec![Bytes::copy_from_slice(bytes)]).await?;
    hasher.update(bytes);
    stage.checkpoint(&hasher.state()).await?;
    Ok(hasher)
}

/// Brings an upload of `content` to its end, if it is still there.
async fn publish_the_rest(backend: &dyn Backend, upload: &UploadKey, content: &Bytes) -> Outcome {
    let Some(mut stage) = backend.stage(upload).await? else { return Ok(()) };
    let kept = usize::try_from(stage.resumed_from().offset()).expect("it is in memory");
    stage.push(vec![content.slice(kept..)]).await?;
    stage.publish(&blob(content)).await
}

fn resumed(hasher: &Hasher, next: &[u8]) -> Hasher {
    let mut hasher = hasher.clone();
    hasher.update(next);
    hasher
}

fn fault<T>(answer: Result<T, BackendError>) -> Option<Fault> {
    answer.err().map(|error| error.fault)
}

fn unless_busy(error: BackendError) -> Outcome {
    if error.fault == Fault::Busy { Ok(()) } else { Err(error) }
}

/// Polls a call so many times, and then drops it.
async fn cut_short<T>(call: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut call = pin!(call);
    for _ in 0..polls {
        if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            return Some(answer);
        }
        tokio::task::yield_now().await;
    }
    None
}
