//! The seam between the rules of a registry and the place that holds its bytes.
//!
//! A backend keeps *objects* under [`Key`]s and *uploads* under way. It knows nothing of links, tags or manifests: those are rules,
//! written once over these few verbs. Every clause below is a function of the suite in `conformance`, which each backend passes.

pub mod around;
pub mod bucket;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod count;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod volume;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::digest::{Algorithm, HashState};
use crate::layout::{Folder, Key, UploadKey};

/// Where a registry's bytes are kept.
///
/// Every method may be repeated, and called by any number of tasks and of replicas at once. A method that is dropped before it
/// answers has either happened or not; nobody ever sees half of it.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Opens the object at `key` for reading. `None` when there is none.
    ///
    /// What was opened stays readable and unchanged for as long as the answer is held, whatever is written or deleted meanwhile
    /// (in a store that cannot promise this, reading on fails; it never yields other bytes).
    async fn open(&self, key: &Key) -> Result<Option<Object>, BackendError>;

    /// Reads the object at `key` whole. `None` when there is none. An object of more than `limit` bytes is an error of the kind
    /// [`Fault::TooLarge`], and is not read.
    async fn read(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, BackendError>;

    /// Reads many small objects at once; the answers come in the order of `keys`. An object of more than `limit` bytes is left
    /// out like one that does not exist.
    async fn read_many(&self, keys: &[Key], limit: u64) -> Result<Vec<Option<Bytes>>, BackendError>;

    /// Says of each of `keys`, in their order, how many bytes its object has, or `None` when there is no such object.
    async fn sizes(&self, keys: &[Key]) -> Result<Vec<Option<u64>>, BackendError>;

    /// Puts an object of these bytes at `key`, in place of what was there. Readers see the old bytes or the new ones, nothing
    /// between; after `Ok` the new ones survive a crash.
    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), BackendError>;

    /// Removes the object at `key`, and says whether there was one. After `Ok` it stays away after a crash.
    async fn delete(&self, key: &Key) -> Result<bool, BackendError>;

    /// Removes the object at `key` if it is still the one that was opened as `seen`, and says whether it was. One that was put in its
    /// place meanwhile stays, even if its bytes are the same. (A bucket compares and deletes in two calls: what is put between them goes.)
    async fn delete_if(&self, key: &Key, seen: &Object) -> Result<bool, BackendError>;

    /// Removes `folder` if nothing is in it but folders of which the same is true; it need not exist. What somebody puts into it
    /// meanwhile stays.
    async fn delete_empty(&self, folder: &Folder) -> Result<(), BackendError>;

    /// Removes everything below `folder`; it need not exist. Not atomic: a crash may leave some of it, and a repetition removes
    /// the rest. Uploads below it are to be discarded first: a bucket keeps their parts elsewhere.
    async fn delete_folder(&self, folder: &Folder) -> Result<(), BackendError>;

    /// When something last came to `folder` or went, by the store's clock; of a bucket, when the newest object below it was written.
    /// `None` when it does not exist.
    async fn changed(&self, folder: &Folder) -> Result<Option<SystemTime>, BackendError>;

    /// Lists the names directly below `folder`, in byte order of the bare names (`v1` before `v1-a`), strictly after the name
    /// `after` (which need not exist), at most `limit` of them. A folder that does not exist has no children.
    async fn children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError>;

    /// The same for whoever only looks, and is better off with a quick answer: what this process wrote and deleted is seen, but what others did
    /// within the last second may not be. Nothing must be decided by it.
    async fn recent_children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        self.children(folder, after, limit).await
    }

    /// Begins an upload of which no byte has arrived; its hash will be of `algorithm`.
    async fn begin_upload(&self, upload: &UploadKey, algorithm: Algorithm) -> Result<(), BackendError>;

    /// How far an upload has come, without disturbing whoever is writing to it. `None` when there is no such upload.
    async fn upload(&self, upload: &UploadKey) -> Result<Option<UploadStatus>, BackendError>;

    /// Opens an upload to continue it from its last checkpoint; what lies after that is cut off. `None` when there is no such
    /// upload; an error of the kind [`Fault::Busy`] while another [`Stage`] of it is open in this process, or, where the store can
    /// tell, in another one that shares it. Where it cannot, the two are told apart later: the checkpoint of one is refused as
    /// `Busy`, and their bytes are never mixed; the upload may then have to be begun again.
    async fn stage(&self, upload: &UploadKey) -> Result<Option<Box<dyn Stage>>, BackendError>;

    /// Makes sure that the store can be read and, as far as that shows, is the one that was opened; writes nothing.
    /// Cheap enough to be asked every few seconds.
    async fn probe(&self) -> Result<(), BackendError>;

    /// Makes sure that the store takes what is written, and leaves nothing that a registry shows. As cheap.
    async fn probe_writing(&self) -> Result<(), BackendError>;
}

/// One upload, opened for writing: the one act that files and buckets do differently.
///
/// Dropping a stage keeps the upload at its last checkpoint and lets another one be opened.
#[async_trait]
pub trait Stage: fmt::Debug + Send + Sync {
    /// The checkpoint from which this stage began.
    fn resumed_from(&self) -> &HashState;

    /// Appends these bytes after those already pushed. Not durable before [`Stage::checkpoint`] or [`Stage::publish`].
    /// After an error the stage can only be cut back and dropped.
    async fn push(&mut self, chunks: Vec<Bytes>) -> Result<(), BackendError>;

    /// Records that everything pushed so far is to be resumed from, with the hash state at that point. After `Ok` it survives a
    /// crash. `state.offset()` must equal the bytes that the upload has. After an error the stage can only be cut back
    /// and dropped.
    async fn checkpoint(&mut self, state: &HashState) -> Result<(), BackendError>;

    /// Gives back the room of what was pushed after the last checkpoint. (A bucket, which is never full, keeps it
    /// until the upload is over.) Afterwards the stage can only be dropped.
    async fn cut_back(&mut self) -> Result<(), BackendError>;

    /// Everything that was pushed, for reading it once more.
    async fn content(&mut self) -> Result<Object, BackendError>;

    /// Makes the pushed bytes the object at `to`, all or nothing, in place of whatever was there; after `Ok` they survive a crash.
    /// Takes time in proportion to nothing but what is still unwritten, except that a bucket has the store copy what is in parts.
    /// The upload is gone afterwards; a crash may leave it at its last checkpoint, or leave something that is no upload any more.
    async fn publish(self: Box<Self>, to: &Key) -> Result<(), BackendError>;

    /// Forgets the upload and all its bytes.
    async fn discard(self: Box<Self>) -> Result<(), BackendError>;
}

/// An object that was opened for reading.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes, or the way to them.
    pub content: Content,
}

/// How the bytes of an object are reached; the difference is kept as a value, so that a file can go to a socket by `sendfile`.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file on a local volume. Its cursor is shared: read it by offset only.
    File(Arc<File>),
    /// Something that is read by ranges, over a network or from memory.
    Remote(Arc<dyn Ranges>),
}

/// Bytes that are read by ranges.
pub trait Ranges: fmt::Debug + Send + Sync {
    /// Streams the bytes from `range.start` up to, not including, `range.end`. Ends early only with an error. Dropping the stream
    /// stops reading at once.
    fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, BackendError>>;

    /// What tells the object from another one at its place. `None` when nothing does.
    fn version(&self) -> Option<String>;
}

/// Some of the names below a folder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// The names, in byte order, each a whole path segment.
    pub names: Vec<String>,
    /// Whether more names follow the last of these.
    pub more: bool,
}

impl Page {
    /// The name after which the next page begins. `None` when this is the last one.
    pub fn into_next(self) -> Option<String> {
        self.names.into_iter().next_back().filter(|_| self.more)
    }
}

/// How far an upload has come.
#[derive(Clone, Debug)]
pub struct UploadStatus {
    /// The checkpoint from which it would be resumed; its offset is the number of bytes kept.
    pub checkpoint: HashState,
    /// When something was last written to it, by the store's clock.
    pub touched: SystemTime,
    /// Whether somebody is writing to it, as far as the store can tell: the checkpoint is about to move.
    pub busy: bool,
}

/// What went wrong in a backend: where, and of which kind.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {place}: {fault}")]
pub struct BackendError {
    /// What was being done, as a verb ("write").
    pub operation: &'static str,
    /// The key or folder it was done to.
    pub place: String,
    /// The kind of failure, which decides the answer to the client.
    pub fault: Fault,
    /// The failure as the operating system or the store told it.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// There is no room left, or the quota is used up.
    #[error("there is no space left")]
    Full,
    /// The store refuses to be written to.
    #[error("the store may not be written to")]
    Denied,
    /// Another writer holds the upload.
    #[error("another request is writing to it")]
    Busy,
    /// The object is larger than the caller was willing to read.
    #[error("it is larger than allowed")]
    TooLarge,
    /// Anything else; trying again later may help.
    #[error("the store failed")]
    Unavailable,
}

impl Fault {
    /// What is wrong when an input or output call gives this error.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            _ => Self::Unavailable,
        }
    }
}

impl BackendError {
    /// An error that an input or output call gave, sorted by its kind.
    pub fn io(operation: &'static str, place: impl fmt::Display, source: io::Error) -> Self {
        let fault = Fault::of(&source);
        Self { operation, place: place.to_string(), fault, source: Some(Box::new(source)) }
    }

    /// An error of a known kind that no other error caused.
    pub fn of(operation: &'static str, place: impl fmt::Display, fault: Fault) -> Self {
        Self { operation, place: place.to_string(), fault, source: None }
    }
}
