//! Uploads: blobs on their way in, hashed as they arrive, resumed from checkpoints that hold bytes and hash state together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::backend::{BackendError, Content, Fault, Object, Stage, UploadStatus};
use crate::catalog::Walk;
use crate::computing::computed;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layout::{self, UploadId, UploadKey};
use crate::registry::{Inner, Registry, Writer};

/// Bytes are hashed and written in batches of this size, which begin at multiples of it: the page cache then keeps them in pieces larger
/// than pages, which cost less to write, and to send later.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// A batch that has waited this long for more is written as it is, so that slow clients do not sit on the common budget.
const BATCH_PATIENCE: Duration = Duration::from_millis(100);
/// A long body is checkpointed each time this many bytes have come, so that a killed server costs no more than that.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// An upload, opened for writing by this caller alone.
#[derive(Debug)]
pub struct Upload {
    writer: Writer,
    stage: Box<dyn Stage>,
    hasher: Hasher,
    checkpointed: u64,
    _open: Open,
}

/// What the uploads that are open for writing take up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UploadUse {
    /// How many are open here. Between its requests an upload is not.
    pub open: u64,
    /// Bytes that have arrived and are not yet written.
    pub buffered_bytes: u64,
}

/// Counts one upload among those that are open.
#[derive(Debug)]
struct Open(Arc<AtomicU64>);

impl Open {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why bytes were not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E> {
    /// The body ended early; what had come is kept.
    #[error("the body ended early")]
    Body(#[source] E),
    /// The store failed; the upload continues from its last checkpoint.
    #[error("cannot store the body")]
    Backend(#[source] BackendError),
}

/// Why an upload did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The bytes have another digest. The upload is gone.
    #[error("the content has the digest {actual}, not {expected}")]
    DigestMismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The store failed; the upload continues from its last checkpoint.
    #[error("cannot finish the upload")]
    Backend(#[from] BackendError),
}

/// What is done to an upload that nobody finishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purge {
    /// It is forgotten.
    Remove,
    /// It is named in the log, and stays.
    Report,
}

impl Writer {
    /// Begins an upload whose content is expected to be named by a digest of `algorithm`. Another one works too, but has its
    /// content read once more at the end.
    pub async fn begin_upload(&self, algorithm: Algorithm) -> Result<UploadId, BackendError> {
        let id = UploadId::random();
        self.0.backend().begin_upload(&self.upload_key(id), algorithm).await?;
        Ok(id)
    }

    /// How far an upload of this repository has come. `None` when there is no such upload.
    pub async fn upload(&self, id: UploadId) -> Result<Option<UploadStatus>, BackendError> {
        self.0.backend().upload(&self.upload_key(id)).await
    }

    /// Opens an upload of this repository at its last checkpoint. `None` when there is no such upload.
    ///
    /// # Errors
    /// [`Fault::Busy`] while another request writes to it.
    pub async fn resume_upload(&self, id: UploadId) -> Result<Option<Upload>, BackendError> {
        let Some(stage) = self.0.backend().stage(&self.upload_key(id)).await? else { return Ok(None) };
        let hasher = Hasher::resume(stage.resumed_from());
        let open = Open::new(&self.0.registry.open_uploads);
        Ok(Some(Upload { writer: self.clone(), checkpointed: hasher.bytes(), stage, hasher, _open: open }))
    }

    fn upload_key(&self, id: UploadId) -> UploadKey {
        UploadKey { repository: self.repository().clone(), id }
    }
}

impl Upload {
    /// How many bytes it has: where the next one goes.
    pub fn offset(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Has what comes hashed for a digest of `algorithm`, if nothing has come yet: what did come would have to be read again.
    pub fn expect(&mut self, algorithm: Algorithm) {
        if self.offset() == 0 {
            self.hasher = Hasher::new(algorithm);
        }
    }

    /// Takes in a body, hashing and writing it as it comes. It is not durable before [`Upload::keep`] or [`Upload::finish`],
    /// except when the body ends early: what had come is then kept, to be resumed.
    ///
    /// Memory is bounded by the registry's upload budget, shared with all other uploads.
    pub async fn receive<S, E>(&mut self, body: S) -> Result<(), ReceiveError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let mut source = Source::new(body, self.offset(), self.writer.0.registry.upload_budget.clone());
        let mut batch = source.batch().await;
        while !batch.chunks.is_empty() {
            // The next batch arrives while this one is hashed and written. A failure to write does not wait for the client.
            let (_, next) = tokio::try_join!(self.store(batch), async { Ok(source.batch().await) })
                .map_err(ReceiveError::Backend)?;
            batch = next;
        }
        match source.end {
            Some(Err(error)) => {
                self.keep().await.map_err(ReceiveError::Backend)?;
                Err(ReceiveError::Body(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes everything received so far durable, and answers how many bytes that is.
    pub async fn keep(&mut self) -> Result<u64, BackendError> {
        let offset = self.hasher.bytes();
        if offset != self.checkpointed {
            if let Err(failure) = self.stage.checkpoint(&self.hasher.state()).await {
                return Err(given_up(&mut *self.stage, failure).await);
            }
            self.checkpointed = offset;
        }
        Ok(offset)
    }

    /// Makes what was received the blob `digest` of this repository, durable when it answers.
    ///
    /// # Errors
    /// [`FinishError::DigestMismatch`] when it is something else; the upload is then gone, and nothing of it stays.
    pub async fn finish(mut self, digest: &Digest) -> Result<(), FinishError> {
        let actual = if digest.algorithm() == self.hasher.algorithm() {
            self.hasher.finish()
        } else {
            hash(self.stage.content().await?, digest.algorithm()).await?
        };
        if actual != *digest {
            if let Err(error) = self.stage.discard().await {
                // It is purged like any other.
                tracing::debug!(error = &error as &dyn std::error::Error, "an upload of other content stays");
            }
            return Err(FinishError::DigestMismatch { expected: *digest, actual });
        }
        // The link first: once the bytes are a blob the upload is gone, and a client that is told of a failure could not try again.
        // Until then it counts for nothing, like any link to a blob that is not there.
        if let Err(failure) = self.writer.link_blob(digest, digest).await {
            return Err(given_up(&mut *self.stage, failure).await.into());
        }
        Ok(self.stage.publish(&layout::blob(digest)).await?)
    }

    /// Forgets the upload and all its bytes.
    pub async fn cancel(self) -> Result<(), BackendError> {
        self.stage.discard().await
    }

    async fn store(&mut self, batch: Batch) -> Result<(), BackendError> {
        let Batch { chunks, length, permits } = batch;
        let mut hasher = self.hasher.clone();
        let hashed = chunks.clone();
        let update = move || {
            hashed.iter().for_each(|chunk| hasher.update(chunk));
            hasher
        };
        let hash = computed("hash", "an upload", length, update);
        let stored = tokio::try_join!(hash, self.stage.push(chunks));
        drop(permits);
        let (hasher, ()) = match stored {
            Ok(stored) => stored,
            Err(failure) => return Err(given_up(&mut *self.stage, failure).await),
        };
        self.hasher = hasher;
        if self.hasher.bytes() - self.checkpointed >= CHECKPOINT_BYTES {
            self.keep().await?;
        }
        Ok(())
    }
}

/// To be told of the failure with which an upload ends here. On a full store, bytes that nobody can resume from take no room.
async fn given_up(stage: &mut dyn Stage, failure: BackendError) -> BackendError {
    if failure.fault == Fault::Full
        && let Err(error) = stage.cut_back().await
    {
        // Whoever opens it next cuts it back.
        tracing::debug!(error = &error as &dyn std::error::Error, "an upload keeps room that it cannot use");
    }
    failure
}

impl Registry {
    /// What uploads take up now.
    pub fn upload_usage(&self) -> UploadUse {
        let Inner { open_uploads, upload_budget, upload_buffer_bytes, .. } = &*self.0;
        UploadUse {
            open: open_uploads.load(Ordering::Relaxed),
            buffered_bytes: (upload_buffer_bytes - upload_budget.available_permits()) as u64,
        }
    }

    /// Finds every upload that was last written to before `deadline`, does `what` to it, and answers how many those were. An upload that cannot be
    /// judged or removed is logged and left for the next time.
    pub async fn purge_uploads(&self, deadline: SystemTime, what: Purge) -> Result<usize, BackendError> {
        const BATCH: usize = 1000;
        let backend = &*self.0.backend;
        let mut purged = 0;
        let mut walk = Walk::new(backend, None);
        while let Some(repository) = walk.next().await? {
            let folder = layout::uploads(&layout::repository(&repository));
            let mut after: Option<String> = None;
            loop {
                let page = backend.children(&folder, after.as_deref(), BATCH).await?;
                for id in page.names.iter().filter_map(|name| name.parse::<UploadId>().ok()) {
                    let upload = UploadKey { repository: repository.clone(), id };
                    match purge(backend, &upload, deadline, what).await {
                        Ok(true) => purged += 1,
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(%upload, error = &error as &dyn std::error::Error, "upload not purged")
                        }
                    }
                }
                after = page.into_next();
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(purged)
    }
}

async fn purge(
    backend: &dyn crate::backend::Backend,
    upload: &UploadKey,
    deadline: SystemTime,
    what: Purge,
) -> Result<bool, BackendError> {
    let seen = backend.upload(upload).await?;
    let touched = match &seen {
        Some(status) => Some(status.touched),
        // What a crash left of one that was finished, cancelled or hardly begun.
        None => backend.changed(&layout::upload(upload)).await?,
    };
    if touched.is_none_or(|touched| touched >= deadline) {
        return Ok(false);
    }
    if what == Purge::Report {
        tracing::info!(%upload, "abandoned upload");
        return Ok(true);
    }
    // Opening it shows that nobody is writing to it, and whether somebody did since it was looked at: they were told that it is kept.
    match backend.stage(upload).await {
        Ok(Some(stage)) if seen.is_none_or(|seen| seen.checkpoint != *stage.resumed_from()) => {
            return Ok(false);
        }
        Ok(Some(stage)) => stage.discard().await?,
        Ok(None) => backend.delete_folder(&layout::upload(upload)).await?,
        Err(error) if error.fault == Fault::Busy => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// Bytes on their way from a body to the stage, and their share of the budget.
#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    length: usize,
    permits: Option<OwnedSemaphorePermit>,
}

/// A body, taken in batches as the common budget allows.
struct Source<S, E> {
    body: S,
    /// What the next batch may hold.
    room: usize,
    budget: Arc<Semaphore>,
    /// Arrived, but not yet allowed for, or of the next batch.
    waiting: Option<Bytes>,
    end: Option<Result<(), E>>,
}

impl<S, E> Source<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    fn new(body: S, offset: u64, budget: Arc<Semaphore>) -> Self {
        let past = usize::try_from(offset % BATCH_BYTES as u64).expect("a remainder is less than a batch");
        Self { body, room: BATCH_BYTES - past, budget, waiting: None, end: None }
    }

    /// The next bytes; none only at the end of the body.
    async fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let mut patience = None;
        while batch.length < self.room {
            let Some(mut chunk) = self.chunk(patience).await else { break };
            let taken = chunk.len().min(self.room - batch.length);
            let share = u32::try_from(taken).unwrap_or(u32::MAX);
            let permit = match self.budget.clone().try_acquire_many_owned(share) {
                Ok(permit) => permit,
                // Never wait for others while holding a share that they may be waiting for.
                Err(_) if batch.length > 0 => {
                    self.waiting = Some(chunk);
                    break;
                }
                Err(_) => match self.budget.clone().acquire_many_owned(share).await {
                    Ok(permit) => permit,
                    Err(_) => break,
                },
            };
            if taken < chunk.len() {
                self.waiting = Some(chunk.split_off(taken));
            }
            match &mut batch.permits {
                Some(permits) => permits.merge(permit),
                none => *none = Some(permit),
            }
            batch.length += chunk.len();
            batch.chunks.push(chunk);
            patience.get_or_insert_with(|| Instant::now() + BATCH_PATIENCE);
        }
        self.room = if batch.length < self.room { self.room - batch.length } else { BATCH_BYTES };
        batch
    }

    /// The next piece of the body that is not empty. `None` at its end, or when `deadline` comes first.
    async fn chunk(&mut self, deadline: Option<Instant>) -> Option<Bytes> {
        if let Some(chunk) = self.waiting.take() {
            return Some(chunk);
        }
        while self.end.is_none() {
            let next = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, self.body.next()).await.ok()?,
                None => self.body.next().await,
            };
            match next {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Some(chunk),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
        None
    }
}

/// Reads an object through once for its digest.
async fn hash(object: Object, algorithm: Algorithm) -> Result<Digest, BackendError> {
    const READ_BYTES: usize = 256 << 10;
    match object.content {
        Content::File(file) => {
            let hashed = tokio::task::spawn_blocking(move || {
                use std::os::unix::fs::FileExt;
                let mut hasher = Hasher::new(algorithm);
                let mut buffer = vec![0; READ_BYTES];
                loop {
                    let read = file.read_at(&mut buffer, hasher.bytes())?;
                    if read == 0 {
                        return Ok(hasher.finish());
                    }
                    hasher.update(&buffer[..read]);
                }
            });
            hashed
                .await
                .map_err(Into::into)
                .flatten()
                .map_err(|error| BackendError::io("read", "an upload", error))
        }
        Content::Remote(ranges) => {
            let mut hasher = Hasher::new(algorithm);
            let mut stream = ranges.stream(0..object.size);
            while let Some(chunk) = stream.next().await {
                hasher.update(&chunk?);
                // A source that always has more at hand must not keep the thread from others.
                tokio::task::consume_budget().await;
            }
            Ok(hasher.finish())
        }
    }
}
