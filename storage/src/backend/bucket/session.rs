//! An upload in a bucket, which cannot append to an object.
//!
//! What has come lies in the parts of a multipart upload, invisible until it is completed, and in a tail that is too short for a part.
//! One object, the session, tells the parts and holds the tail and the hash state, so that one put is one checkpoint. It is put only
//! where nobody else has put it since it was read: of two writers, on whichever replicas, the second one's checkpoint is refused.
//!
//! A stage that finds no part at its checkpoint creates a multipart upload of its own, so that two of them mix nothing. Where both go on
//! from the same parts, the store tells a part that was put again from the one that was recorded, and refuses to complete with the latter.
//!
//! An upload whose beginning or removal was cut short may have no session. While `startedat` is there, it is one without bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::multipart::PartId;
use object_store::{Error, MultipartId, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Bucket, OnlyWriter, RemoteObject, absent, failed, path};
use crate::backend::{Backend, BackendError, Content, Fault, Object, Ranges, Stage, UploadStatus};
use crate::digest::{Algorithm, HashState, Hasher};
use crate::layout::{self, Key, UploadKey};

/// The part size doubles after so many parts.
const PARTS_OF_A_SIZE: usize = 1000;

/// An upload at its last checkpoint, as the bucket has it.
#[derive(Debug)]
pub(super) struct Session {
    state: HashState,
    /// Every multipart upload that was created.
    multiparts: Vec<Multipart>,
    /// The parts that the bytes before the tail lie in. `None` while there are none.
    parts: Option<Parts>,
    tail: Bytes,
    /// Of the object that was read or put last. `None` while there is none.
    version: Option<UpdateVersion>,
    touched: SystemTime,
}

/// A multipart upload, and the name of the object that it becomes.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Multipart {
    id: MultipartId,
    name: Uuid,
}

/// Parts of one multipart upload, in their order.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Parts {
    multipart: Multipart,
    ids: Vec<String>,
}

/// The first line of a session's object; the tail follows.
#[derive(Deserialize, Serialize)]
struct Head {
    state: Vec<u8>,
    multiparts: Vec<Multipart>,
    parts: Option<Parts>,
}

/// An upload that is written to.
#[derive(Debug)]
pub(super) struct BucketStage {
    bucket: Bucket,
    writer: OnlyWriter,
    resumed_from: HashState,
    session: Session,
    /// As in the session, with what was put since.
    parts: Option<Parts>,
    tail: BytesMut,
    completion: Completion,
}

/// Whether the parts are an object already.
#[derive(Debug, Eq, PartialEq)]
enum Completion {
    Open,
    Completed,
}

/// Makes a new upload.
pub(super) async fn begin(
    bucket: &Bucket,
    upload: &UploadKey,
    algorithm: Algorithm,
) -> Result<(), BackendError> {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    bucket.write(&layout::upload_started(upload), started.into()).await?;
    let session = Session::empty(algorithm, SystemTime::now());
    let put = bucket.store.put(&path(&layout::upload_session(upload)), session.encode()).await;
    put.map(drop).map_err(|error| failed("begin", upload, error))
}

impl Session {
    fn empty(algorithm: Algorithm, touched: SystemTime) -> Self {
        let state = Hasher::new(algorithm).state();
        Self { state, multiparts: Vec::new(), parts: None, tail: Bytes::new(), version: None, touched }
    }

    /// The session of an upload. `None` when there is no such upload.
    pub(super) async fn read(bucket: &Bucket, upload: &UploadKey) -> Result<Option<Self>, BackendError> {
        let read = async {
            let Some(got) = absent(bucket.store.get(&path(&layout::upload_session(upload))).await)? else {
                return Ok(None);
            };
            let meta = got.meta.clone();
            Ok(Some((meta, got.bytes().await?)))
        };
        let read = read.await.map_err(|error| failed("open", upload, error))?;
        let Some((meta, mut tail)) = read else {
            let started = bucket.look_up(&layout::upload_started(upload)).await?;
            return Ok(
                started.map(|started| Self::empty(Algorithm::Sha256, started.object.last_modified.into()))
            );
        };
        let malformed = || BackendError::of("understand the session of", upload, Fault::Unavailable);
        let line = tail.iter().position(|byte| *byte == b'\n').ok_or_else(malformed)?;
        let head: Head = serde_json::from_slice(&tail.split_to(line)).map_err(|_| malformed())?;
        Ok(Some(Self {
            state: HashState::parse(&head.state).map_err(|_| malformed())?,
            multiparts: head.multiparts,
            parts: head.parts,
            tail: tail.split_off(1),
            version: Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version }),
            touched: meta.last_modified.into(),
        }))
    }

    pub(super) fn into_status(self, busy: bool) -> UploadStatus {
        UploadStatus { checkpoint: self.state, touched: self.touched, busy }
    }

    fn encode(&self) -> PutPayload {
        let head = Head {
            state: self.state.as_bytes().to_vec(),
            multiparts: self.multiparts.clone(),
            parts: self.parts.clone(),
        };
        let mut line = serde_json::to_vec(&head).expect("text and numbers have a form in JSON");
        line.push(b'\n');
        PutPayload::from_iter([line.into(), self.tail.clone()])
    }

    /// Puts the session in place of the one that was read or put last.
    async fn put(&mut self, bucket: &Bucket, upload: &UploadKey) -> Result<(), BackendError> {
        let mode = self.version.clone().map_or(PutMode::Create, PutMode::Update);
        let session = path(&layout::upload_session(upload));
        let put = bucket.store.put_opts(&session, self.encode(), mode.into()).await;
        self.version = Some(put.map_err(|error| lost("checkpoint", upload, error))?.into());
        Ok(())
    }
}

impl BucketStage {
    /// Opens an upload at its last checkpoint. `None` when there is no such upload.
    pub(super) async fn open(bucket: Bucket, writer: OnlyWriter) -> Result<Option<Self>, BackendError> {
        let Some(session) = Session::read(&bucket, &writer.upload).await? else { return Ok(None) };
        let mut stage = Self {
            bucket,
            writer,
            resumed_from: session.state.clone(),
            parts: session.parts.clone(),
            tail: BytesMut::from(&*session.tail),
            session,
            completion: Completion::Open,
        };
        if let Some(Parts { multipart, .. }) = &stage.parts {
            let content = layout::upload_content(&stage.writer.upload, multipart.name);
            if let Some(completed) = stage.bucket.look_up(&content).await? {
                stage.begin_anew(&completed).await?;
                stage.bucket.remove(&content).await?;
            }
        }
        Ok(Some(stage))
    }

    /// Puts the bytes up to the checkpoint into parts again, out of what their multipart upload has become: somebody completed it, and
    /// then failed or died.
    async fn begin_anew(&mut self, completed: &RemoteObject) -> Result<(), BackendError> {
        let state = self.resumed_from.clone();
        (self.parts, self.tail) = (None, BytesMut::new());
        let mut bytes = completed.stream(0..state.offset());
        while let Some(chunk) = bytes.next().await {
            self.push(vec![chunk?]).await?;
        }
        self.checkpoint(&state).await
    }

    /// The size of the next part.
    fn part_bytes(&self) -> usize {
        let put = self.parts.as_ref().map_or(0, |parts| parts.ids.len());
        self.bucket.options.part_bytes.get() << (put / PARTS_OF_A_SIZE).min(9)
    }

    async fn put_part(&mut self, bytes: Bytes) -> Result<(), BackendError> {
        if self.parts.is_none() {
            self.parts = Some(Parts { multipart: self.create_multipart().await?, ids: Vec::new() });
        }
        let Self { bucket, writer, parts: Some(parts), .. } = self else { return Ok(()) };
        let Multipart { id, name } = &parts.multipart;
        let content = path(&layout::upload_content(&writer.upload, *name));
        let part = bucket.store.put_part(&content, id, parts.ids.len(), bytes.into()).await;
        parts.ids.push(part.map_err(|error| lost("write", &writer.upload, error))?.content_id);
        Ok(())
    }

    /// Creates a multipart upload, and writes down that it is there before it holds anything.
    async fn create_multipart(&mut self) -> Result<Multipart, BackendError> {
        let Self { bucket, writer, session, .. } = self;
        let name = Uuid::new_v4();
        let content = path(&layout::upload_content(&writer.upload, name));
        let id = bucket.store.create_multipart(&content).await;
        let id = id.map_err(|error| failed("create parts for", &writer.upload, error))?;
        session.multiparts.push(Multipart { id: id.clone(), name });
        if let Err(error) = session.put(bucket, &writer.upload).await {
            // Nobody else knows of it. If this fails too, the bucket's rule for incomplete uploads is left.
            if let Err(error) = bucket.store.abort_multipart(&content, &id).await {
                tracing::warn!(upload = %writer.upload, error = &error as &dyn std::error::Error, "a multipart upload is left behind");
            }
            return Err(error);
        }
        Ok(Multipart { id, name })
    }

    /// Makes the parts one object, and says where. `None` when there are none: the tail is all there is.
    async fn complete(&mut self) -> Result<Option<Key>, BackendError> {
        if self.parts.is_some() && !self.tail.is_empty() && self.completion == Completion::Open {
            let last = self.tail.split().freeze();
            self.put_part(last).await?;
        }
        let Self { bucket, writer, parts: Some(parts), completion, .. } = self else { return Ok(None) };
        let Multipart { id, name } = &parts.multipart;
        let content = layout::upload_content(&writer.upload, *name);
        if *completion == Completion::Open {
            let ids = parts.ids.iter().map(|id| PartId { content_id: id.clone() }).collect();
            let completed = bucket.store.complete_multipart(&path(&content), id, ids).await;
            completed.map_err(|error| lost("complete", &writer.upload, error))?;
            *completion = Completion::Completed;
        }
        Ok(Some(content))
    }

    /// Removes the upload. Without its session it has no bytes; `startedat` comes last in its folder, so that a purge finds what a crash
    /// leaves of the rest.
    async fn remove(self) -> Result<(), BackendError> {
        let Self { bucket, writer, session, .. } = &self;
        let upload = &writer.upload;
        for Multipart { id, name } in &session.multiparts {
            let content = path(&layout::upload_content(upload, *name));
            let aborted = absent(bucket.store.abort_multipart(&content, id).await);
            aborted.map_err(|error| failed("abort", upload, error))?;
        }
        bucket.remove(&layout::upload_session(upload)).await?;
        bucket.delete_folder(&layout::upload(upload)).await
    }
}

#[async_trait]
impl Stage for BucketStage {
    fn resumed_from(&self) -> &HashState {
        &self.resumed_from
    }

    async fn push(&mut self, chunks: Vec<Bytes>) -> Result<(), BackendError> {
        for chunk in chunks {
            self.tail.extend_from_slice(&chunk);
            while self.tail.len() >= self.part_bytes() {
                let part = self.tail.split_to(self.part_bytes()).freeze();
                self.put_part(part).await?;
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self, state: &HashState) -> Result<(), BackendError> {
        let Self { bucket, writer, session, parts, tail, .. } = self;
        session.state = state.clone();
        session.parts = parts.clone();
        session.tail = Bytes::copy_from_slice(tail);
        session.put(bucket, &writer.upload).await
    }

    async fn cut_back(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn content(&mut self) -> Result<Object, BackendError> {
        let Some(content) = self.complete().await? else {
            let tail = Tail(Bytes::copy_from_slice(&self.tail));
            return Ok(Object { size: self.tail.len() as u64, content: Content::Remote(Arc::new(tail)) });
        };
        let completed = self.bucket.open(&content).await?;
        completed.ok_or_else(|| BackendError::of("read", &self.writer.upload, Fault::Busy))
    }

    async fn publish(mut self: Box<Self>, to: &Key) -> Result<(), BackendError> {
        match self.complete().await? {
            Some(content) => {
                let copied = self.bucket.store.copy(&path(&content), &path(to)).await;
                copied.map_err(|error| lost("publish", &self.writer.upload, error))?;
            }
            None => self.bucket.write(to, self.tail.split().freeze()).await?,
        }
        self.remove().await
    }

    async fn discard(self: Box<Self>) -> Result<(), BackendError> {
        self.remove().await
    }
}

/// A content that has no part yet.
#[derive(Debug)]
struct Tail(Bytes);

impl Ranges for Tail {
    fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, BackendError>> {
        let size = self.0.len();
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(size).min(size));
        stream::iter((start < end).then(|| Ok(self.0.slice(start..end)))).boxed()
    }

    fn version(&self) -> Option<String> {
        None
    }
}

/// An error of something that only goes missing, or changes, when another writer has gone ahead.
fn lost(operation: &'static str, upload: &UploadKey, error: Error) -> BackendError {
    let fault = match error {
        Error::NotFound { .. } | Error::Precondition { .. } | Error::AlreadyExists { .. } => Fault::Busy,
        _ => return failed(operation, upload, error),
    };
    BackendError { fault, ..failed(operation, upload, error) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use futures_util::TryStreamExt;

    use super::super::faulty::{Effect, Faulty};
    use super::super::memory::Memory;
    use super::super::{BucketOptions, Store};
    use super::*;
    use crate::digest::Digest;
    use crate::layout::UploadId;

    const PART_BYTES: usize = 1000;

    /// An upload, and the store that any number of replicas share.
    struct Replicas {
        store: Arc<Memory>,
        upload: UploadKey,
    }

    /// Whoever writes to an upload: what it pushes, it hashes.
    struct Client {
        stage: Box<dyn Stage>,
        hasher: Hasher,
    }

    impl Replicas {
        fn without_uploads() -> Self {
            let upload = UploadKey { repository: "team/app".parse().unwrap(), id: UploadId::random() };
            Self { store: Arc::default(), upload }
        }

        async fn with_an_upload() -> Self {
            let replicas = Self::without_uploads();
            replicas.one().begin_upload(&replicas.upload, Algorithm::Sha256).await.unwrap();
            replicas
        }

        /// Another process that uses the same store.
        fn one(&self) -> Bucket {
            self.one_with_parts_of(PART_BYTES)
        }

        fn one_with_parts_of(&self, bytes: usize) -> Bucket {
            let store: Arc<dyn Store> = self.store.clone();
            Bucket::new(store, BucketOptions { part_bytes: NonZeroUsize::new(bytes).unwrap() })
        }

        async fn client(&self) -> Client {
            Client::of(&self.one(), &self.upload).await
        }

        async fn assert_nothing_left(&self) {
            assert!(self.one().upload(&self.upload).await.unwrap().is_none());
            let folder = layout::uploads(&layout::repository(&self.upload.repository));
            assert_eq!(self.one().children(&folder, None, 10).await.unwrap().names, [""; 0]);
            assert_eq!(self.store.uploads_under_way(), 0);
        }
    }

    impl Client {
        async fn of(bucket: &Bucket, upload: &UploadKey) -> Self {
            let stage = bucket.stage(upload).await.unwrap().expect("the upload is there");
            let hasher = Hasher::resume(stage.resumed_from());
            Self { stage, hasher }
        }

        async fn push(&mut self, bytes: &[u8]) {
            self.hasher.update(bytes);
            self.stage.push(vec![Bytes::copy_from_slice(bytes)]).await.unwrap();
        }

        async fn checkpoint(&mut self) -> Result<(), BackendError> {
            self.stage.checkpoint(&self.hasher.state()).await
        }
    }

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|at| u8::try_from((at * at + at / 7) % 251).unwrap()).collect()
    }

    fn blob(content: &[u8]) -> Key {
        layout::blob(&Digest::of(Algorithm::Sha256, content))
    }

    async fn read_all(object: Object) -> Vec<u8> {
        let Content::Remote(ranges) = object.content else { panic!("a bucket has no files") };
        ranges.stream(0..object.size).try_collect::<Vec<Bytes>>().await.unwrap().concat()
    }

    fn fault(result: Result<(), BackendError>) -> Option<Fault> {
        result.err().map(|error| error.fault)
    }

    #[tokio::test]
    async fn another_replica_goes_on_wherever_the_checkpoint_lies_in_a_part() {
        let sizes = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 1, 3 * PART_BYTES];
        for (kept, size) in sizes.iter().flat_map(|kept| sizes.map(|more| (*kept, kept + more))) {
            let replicas = Replicas::with_an_upload().await;
            let content = content(size);
            let mut first = replicas.client().await;
            first.push(&content[..kept]).await;
            first.checkpoint().await.unwrap();
            first.push(&content[kept..]).await;
            drop(first);

            let mut second = replicas.client().await;
            assert_eq!(second.hasher.bytes(), kept as u64);
            second.push(&content[kept..]).await;
            assert_eq!(read_all(second.stage.content().await.unwrap()).await, content);
            second.stage.publish(&blob(&content)).await.unwrap();

            let published = replicas.one().open(&blob(&content)).await.unwrap().unwrap();
            assert_eq!(read_all(published).await, content, "{size} bytes, of which {kept} were kept");
            assert_eq!(second.hasher.finish(), Digest::of(Algorithm::Sha256, &content));
            replicas.assert_nothing_left().await;
        }
    }

    #[tokio::test]
    async fn ten_thousand_parts_hold_a_thousand_times_as_many_bytes() {
        let replicas = Replicas::with_an_upload().await;
        let content = content(3500);
        let mut client = Client::of(&replicas.one_with_parts_of(1), &replicas.upload).await;
        client.push(&content).await;
        client.checkpoint().await.unwrap();
        let session = Session::read(&replicas.one(), &replicas.upload).await.unwrap().unwrap();
        assert_eq!(session.parts.unwrap().ids.len(), 1000 + 1000 + 500 / 4);
        client.stage.publish(&blob(&content)).await.unwrap();
        assert_eq!(*replicas.one().read(&blob(&content), 3500).await.unwrap().unwrap(), *content);
    }

    #[tokio::test]
    async fn a_second_writer_in_the_process_is_refused_at_once() {
        let replicas = Replicas::with_an_upload().await;
        let bucket = replicas.one();
        let client = Client::of(&bucket, &replicas.upload).await;
        assert_eq!(fault(bucket.clone().stage(&replicas.upload).await.map(drop)), Some(Fault::Busy));
        drop(client);
        Client::of(&bucket, &replicas.upload).await;
    }

    #[tokio::test]
    async fn of_two_writers_on_two_replicas_one_is_refused_and_nothing_is_mixed() {
        for kept in [0, PART_BYTES / 2, 2 * PART_BYTES] {
            let replicas = Replicas::with_an_upload().await;
            let content = content(5 * PART_BYTES);
            let mut before = replicas.client().await;
            before.push(&content[..kept]).await;
            before.checkpoint().await.unwrap();
            drop(before);

            let (mut one, mut other) = (replicas.client().await, replicas.client().await);
            one.push(&content[kept..4 * PART_BYTES + 1]).await;
            one.checkpoint().await.unwrap();
            // Too little for a part, so that only the checkpoint can tell.
            other.push(&[0; PART_BYTES / 3]).await;
            assert_eq!(fault(other.checkpoint().await), Some(Fault::Busy));
            one.push(&content[4 * PART_BYTES + 1..]).await;
            one.stage.publish(&blob(&content)).await.unwrap();
            assert_eq!(*replicas.one().read(&blob(&content), 1 << 20).await.unwrap().unwrap(), *content);
            drop(other);
            replicas.assert_nothing_left().await;
        }
    }

    #[tokio::test]
    async fn a_part_that_another_writer_put_again_is_not_taken_for_the_first() {
        let replicas = Replicas::with_an_upload().await;
        let content = content(3 * PART_BYTES);
        let mut before = replicas.client().await;
        before.push(&content[..PART_BYTES]).await;
        before.checkpoint().await.unwrap();
        drop(before);

        let (mut one, mut other) = (replicas.client().await, replicas.client().await);
        one.push(&content[PART_BYTES..]).await;
        other.push(&[0; PART_BYTES]).await;
        assert_eq!(fault(one.stage.publish(&blob(&content)).await), Some(Fault::Unavailable));
        assert!(replicas.one().open(&blob(&content)).await.unwrap().is_none());
        drop(other);

        let mut again = replicas.client().await;
        again.push(&content[PART_BYTES..]).await;
        again.stage.publish(&blob(&content)).await.unwrap();
        assert_eq!(*replicas.one().read(&blob(&content), 1 << 20).await.unwrap().unwrap(), *content);
        replicas.assert_nothing_left().await;
    }

    #[tokio::test]
    async fn an_upload_whose_publication_was_cut_short_goes_on_from_its_checkpoint() {
        for kept in [PART_BYTES, 2 * PART_BYTES + 1] {
            let replicas = Replicas::with_an_upload().await;
            let content = content(4 * PART_BYTES);
            let mut first = replicas.client().await;
            first.push(&content[..kept]).await;
            first.checkpoint().await.unwrap();
            first.push(&[0; PART_BYTES]).await;
            // Reading it once more completes the parts, as publishing does before it copies.
            first.stage.content().await.unwrap();
            drop(first);

            let mut second = replicas.client().await;
            assert_eq!(second.hasher.bytes(), kept as u64);
            second.push(&content[kept..]).await;
            second.stage.publish(&blob(&content)).await.unwrap();
            assert_eq!(*replicas.one().read(&blob(&content), 1 << 20).await.unwrap().unwrap(), *content);
            replicas.assert_nothing_left().await;
        }
    }

    #[tokio::test]
    async fn a_discarded_upload_leaves_no_part_behind() {
        let replicas = Replicas::with_an_upload().await;
        for _ in 0..3 {
            // Each of them dies before its checkpoint, with a multipart upload of its own.
            replicas.client().await.push(&content(2 * PART_BYTES)).await;
        }
        assert_eq!(replicas.store.uploads_under_way(), 3);
        replicas.client().await.stage.discard().await.unwrap();
        replicas.assert_nothing_left().await;
    }

    #[tokio::test]
    async fn a_writer_learns_that_another_one_has_discarded_the_upload() {
        let replicas = Replicas::with_an_upload().await;
        let mut one = replicas.client().await;
        one.push(&content(PART_BYTES)).await;
        replicas.client().await.stage.discard().await.unwrap();
        assert_eq!(fault(one.checkpoint().await), Some(Fault::Busy));
        drop(one);
        replicas.assert_nothing_left().await;
    }

    /// Pushes what is missing of `content`, with a checkpoint on the way, and publishes it. `kept` is what was acknowledged.
    async fn finish(
        bucket: &Bucket,
        upload: &UploadKey,
        content: &[u8],
        kept: &mut usize,
    ) -> Result<(), BackendError> {
        let to = blob(content);
        let Some(mut stage) = bucket.stage(upload).await? else {
            // It is over only when it was published.
            assert_eq!(*bucket.read(&to, 1 << 20).await?.expect("the blob is there"), *content);
            return Ok(());
        };
        let mut hasher = Hasher::resume(stage.resumed_from());
        let mut at = usize::try_from(hasher.bytes()).unwrap();
        if at < *kept {
            assert_eq!(*bucket.read(&to, 1 << 20).await?.expect("only then may it begin anew"), *content);
            *kept = 0;
        }
        while at < content.len() {
            let piece = &content[at..content.len().min(at + 700)];
            stage.push(vec![Bytes::copy_from_slice(piece)]).await?;
            hasher.update(piece);
            at += piece.len();
            if at < content.len() {
                stage.checkpoint(&hasher.state()).await?;
                *kept = at;
            }
        }
        stage.publish(&to).await
    }

    #[tokio::test]
    async fn whichever_call_fails_nothing_acknowledged_is_lost_and_trying_again_helps() {
        for (size, effect) in [600, 2 * 700, 5 * 700 + 1]
            .into_iter()
            .flat_map(|size| [Effect::Nothing, Effect::Done].map(|effect| (size, effect)))
        {
            let content = content(size);
            for at in 0.. {
                let replicas = Replicas::without_uploads();
                let upload = &replicas.upload;
                let faulty = Arc::new(Faulty::over(replicas.store.clone(), at, effect));
                let bucket = Bucket { store: faulty.clone(), ..replicas.one() };
                let mut kept = 0;
                let mut failures = Vec::new();
                while let Err(error) = bucket.begin_upload(upload, Algorithm::Sha256).await {
                    failures.push(error);
                }
                while let Err(error) = finish(&bucket, upload, &content, &mut kept).await {
                    failures.push(error);
                    assert!(failures.len() < 3, "call {at} {effect:?}: {failures:?}");
                }
                let published = replicas.one().read(&blob(&content), 1 << 20).await.unwrap();
                assert_eq!(published.as_deref(), Some(&*content), "call {at} {effect:?}: {failures:?}");

                // Whatever is left can be purged, but for a multipart upload whose creation was never answered.
                if let Some(stage) = replicas.one().stage(upload).await.unwrap() {
                    stage.discard().await.unwrap();
                }
                if failures.iter().any(|error| error.operation == "create parts for") {
                    replicas.store.forget_uploads();
                }
                replicas.assert_nothing_left().await;
                if !faulty.has_failed() {
                    break;
                }
            }
        }
    }
}
