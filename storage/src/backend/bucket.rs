//! A backend in an object store: whatever speaks the traits of `object_store`.
//!
//! A put is atomic and durable by itself, so objects need no more than that. Listing is by whole folders: a page costs as much as the
//! folder has names. Blobs of more than 5 GiB cannot be published to S3, which copies no more in one call.

#[cfg(test)]
mod faulty;
mod memory;
mod session;

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};

use self::memory::Memory;
use self::session::{BucketStage, Session};
use super::{Backend, BackendError, Content, Fault, Object, Page, Ranges, Stage, UploadStatus};
use crate::digest::Algorithm;
use crate::layout::{self, Folder, Key, UploadKey};

/// So many small objects are asked for at once.
const AT_ONCE: usize = 32;

/// What a bucket needs of an object store: that a put can be conditional, and that a part which is put again gets another id, with
/// which alone it can be completed. What is not there is [`Error::NotFound`], multipart uploads that were completed or aborted included.
pub trait Store: ObjectStore + MultipartStore {}

impl<S: ObjectStore + MultipartStore> Store for S {}

/// An object store that keeps a registry. Cheap to clone; any number of processes may share the store.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn Store>,
    options: BucketOptions,
    writers: Writers,
}

/// How a bucket is used.
#[derive(Clone, Copy, Debug)]
pub struct BucketOptions {
    /// The size of an upload's first parts. Each upload that is being written to keeps as much in memory, or twice that. Stores ask for
    /// 5 MiB at least, and for ten thousand parts at most: so that these suffice, the size doubles after each thousand.
    pub part_bytes: NonZeroUsize,
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self { part_bytes: const { NonZeroUsize::new(5 << 20).expect("five is not zero") } }
    }
}

impl Bucket {
    /// Keeps a registry in `store`.
    pub fn new(store: Arc<dyn Store>, options: BucketOptions) -> Self {
        Self { store, options, writers: Writers::default() }
    }

    /// Keeps a registry in the memory of this process, from which it vanishes with the last clone.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(Memory::default()), BucketOptions::default())
    }

    /// An object as it is now, of which nothing is read yet.
    async fn look_up(&self, key: &Key) -> Result<Option<RemoteObject>, BackendError> {
        let found =
            absent(self.store.head(&path(key)).await).map_err(|error| failed("look up", key, error))?;
        Ok(found.map(|object| RemoteObject { store: self.store.clone(), key: key.clone(), object }))
    }

    /// Removes an object that may be there.
    async fn remove(&self, key: &Key) -> Result<(), BackendError> {
        let removed = absent(self.store.delete(&path(key)).await);
        removed.map(drop).map_err(|error| failed("delete", key, error))
    }
}

#[async_trait]
impl Backend for Bucket {
    async fn open(&self, key: &Key) -> Result<Option<Object>, BackendError> {
        Ok(self.look_up(key).await?.map(Object::from))
    }

    async fn read(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, BackendError> {
        let got = absent(self.store.get(&path(key)).await);
        let Some(got) = got.map_err(|error| failed("read", key, error))? else { return Ok(None) };
        if got.meta.size > limit {
            return Err(BackendError::of("read", key, Fault::TooLarge));
        }
        got.bytes().await.map(Some).map_err(|error| failed("read", key, error))
    }

    async fn read_many(&self, keys: &[Key], limit: u64) -> Result<Vec<Option<Bytes>>, BackendError> {
        let read = keys.iter().map(|key| async move {
            match self.read(key, limit).await {
                Err(error) if error.fault == Fault::TooLarge => Ok(None),
                read => read,
            }
        });
        in_order(read.collect()).await
    }

    async fn sizes(&self, keys: &[Key]) -> Result<Vec<Option<u64>>, BackendError> {
        let sizes =
            keys.iter().map(|key| async move { Ok(self.look_up(key).await?.map(|found| found.object.size)) });
        in_order(sizes.collect()).await
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), BackendError> {
        self.store.put(&path(key), bytes.into()).await.map_err(|error| failed("write", key, error))?;
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<bool, BackendError> {
        // Not every store tells whether what was deleted had been there.
        if self.look_up(key).await?.is_none() {
            return Ok(false);
        }
        self.remove(key).await?;
        Ok(true)
    }

    async fn delete_if(&self, key: &Key, seen: &Object) -> Result<bool, BackendError> {
        let is_seen = |found: RemoteObject| match &seen.content {
            Content::Remote(seen) => seen.version().is_some_and(|version| found.version() == Some(version)),
            Content::File(_) => false,
        };
        if !self.look_up(key).await?.is_some_and(is_seen) {
            return Ok(false);
        }
        self.remove(key).await?;
        Ok(true)
    }

    async fn delete_empty(&self, _: &Folder) -> Result<(), BackendError> {
        // A bucket has no folders, but those that its objects' names seem to lie in.
        Ok(())
    }

    async fn delete_folder(&self, folder: &Folder) -> Result<(), BackendError> {
        let objects = self.store.list(Some(&Path::from(folder.as_str()))).map_ok(|object| object.location);
        let mut deleted = self.store.delete_stream(objects.boxed());
        while let Some(deleted) = deleted.next().await {
            absent(deleted).map_err(|error| failed("delete", folder, error))?;
        }
        Ok(())
    }

    async fn changed(&self, folder: &Folder) -> Result<Option<SystemTime>, BackendError> {
        let mut objects = self.store.list(Some(&Path::from(folder.as_str())));
        let mut newest = None;
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| failed("look up", folder, error))?;
            newest = newest.max(Some(object.last_modified.into()));
        }
        Ok(newest)
    }

    async fn children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        let listed = self.store.list_with_delimiter(Some(&Path::from(folder.as_str()))).await;
        let listed = listed.map_err(|error| failed("list", folder, error))?;
        let children =
            listed.common_prefixes.iter().chain(listed.objects.iter().map(|object| &object.location));
        // The store lists `v1-a/` before `v1/`.
        let mut names: Vec<&str> = children
            .filter_map(Path::filename)
            .filter(|name| after.is_none_or(|after| *name > after))
            .collect();
        names.sort_unstable();
        names.dedup();
        let more = names.len() > limit;
        Ok(Page { names: names.into_iter().take(limit).map(str::to_owned).collect(), more })
    }

    async fn begin_upload(&self, upload: &UploadKey, algorithm: Algorithm) -> Result<(), BackendError> {
        session::begin(self, upload, algorithm).await
    }

    async fn upload(&self, upload: &UploadKey) -> Result<Option<UploadStatus>, BackendError> {
        let busy = self.writers.has(upload);
        Ok(Session::read(self, upload).await?.map(|session| session.into_status(busy)))
    }

    async fn stage(&self, upload: &UploadKey) -> Result<Option<Box<dyn Stage>>, BackendError> {
        let Some(writer) = self.writers.enter(upload) else {
            return Err(BackendError::of("open", upload, Fault::Busy));
        };
        let stage = BucketStage::open(self.clone(), writer).await?;
        Ok(stage.map(|stage| Box::new(stage) as Box<dyn Stage>))
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.children(&layout::repositories(), None, 1).await.map(drop)
    }

    async fn probe_writing(&self) -> Result<(), BackendError> {
        self.write(&layout::probe(), Bytes::new()).await
    }
}

/// An object as it was when it was opened.
#[derive(Clone, Debug)]
struct RemoteObject {
    store: Arc<dyn Store>,
    key: Key,
    object: ObjectMeta,
}

impl From<RemoteObject> for Object {
    fn from(remote: RemoteObject) -> Self {
        Self { size: remote.object.size, content: Content::Remote(Arc::new(remote)) }
    }
}

impl Ranges for RemoteObject {
    fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, BackendError>> {
        if range.is_empty() {
            return stream::empty().boxed();
        }
        let Self { store, key, object } = self.clone();
        let begin = async move {
            // Other bytes that were put in its place meanwhile must not be taken for these.
            let options = GetOptions::new().with_range(Some(range.clone())).with_if_match(object.e_tag);
            let got = store.get_opts(&object.location, options).await;
            let got = got.map_err(|error| failed("read", &key, error))?;
            if got.range != range {
                return Err(BackendError::of("read", &key, Fault::Unavailable));
            }
            Ok(got.into_stream().map_err(move |error| failed("read", &key, error)))
        };
        stream::once(begin).try_flatten().boxed()
    }

    fn version(&self) -> Option<String> {
        self.object.version.clone().or_else(|| self.object.e_tag.clone())
    }
}

/// The uploads that are being written to in this process.
#[derive(Clone, Debug, Default)]
struct Writers(Arc<Mutex<HashSet<UploadKey>>>);

/// The only writer of an upload in this process, for as long as it is held.
#[derive(Debug)]
struct OnlyWriter {
    writers: Writers,
    upload: UploadKey,
}

impl Writers {
    /// `None` while there is another writer.
    fn enter(&self, upload: &UploadKey) -> Option<OnlyWriter> {
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(upload.clone());
        entered.then(|| OnlyWriter { writers: self.clone(), upload: upload.clone() })
    }

    fn has(&self, upload: &UploadKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(upload)
    }
}

impl Drop for OnlyWriter {
    fn drop(&mut self) {
        self.writers.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.upload);
    }
}

/// Asks for several things at once, and answers them in their order.
async fn in_order<T>(
    asked: Vec<impl Future<Output = Result<T, BackendError>>>,
) -> Result<Vec<T>, BackendError> {
    stream::iter(asked).buffered(AT_ONCE).try_collect().await
}

fn path(key: &Key) -> Path {
    Path::from(key.as_str())
}

/// Takes absence for an answer.
fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(operation: &'static str, place: impl fmt::Display, source: Error) -> BackendError {
    let fault = match source {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Fault::Denied,
        _ => Fault::Unavailable,
    };
    BackendError { operation, place: place.to_string(), fault, source: Some(Box::new(source)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        // Parts of the size that stores ask for, and ones so small that most uploads have some.
        for part_bytes in
            [BucketOptions::default().part_bytes, const { NonZeroUsize::new(64 << 10).unwrap() }]
        {
            conformance::check(|| {
                let store: Arc<dyn Store> = Arc::new(Memory::default());
                let replica = || Arc::new(Bucket::new(store.clone(), BucketOptions { part_bytes }));
                conformance::Replicas { here: replica(), there: replica() }
            })
            .await;
        }
    }

    fn key() -> Key {
        layout::probe()
    }

    async fn remote(bucket: &Bucket) -> Arc<dyn Ranges> {
        match bucket.open(&key()).await.unwrap().unwrap().content {
            Content::Remote(ranges) => ranges,
            Content::File(_) => panic!("a bucket has no files"),
        }
    }

    #[tokio::test]
    async fn an_object_is_read_by_ranges() {
        let bucket = Bucket::in_memory();
        bucket.write(&key(), Bytes::from_static(b"0123456789")).await.unwrap();
        for (range, expected) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9"), (4..4, ""), (10..10, "")]
        {
            let read: Vec<Bytes> = remote(&bucket).await.stream(range).try_collect().await.unwrap();
            assert_eq!(read.concat(), expected.as_bytes());
        }
        let beyond: Result<Vec<Bytes>, _> = remote(&bucket).await.stream(5..11).try_collect().await;
        assert_eq!(beyond.unwrap_err().fault, Fault::Unavailable);
    }

    #[tokio::test]
    async fn what_replaced_an_open_object_is_not_read_in_its_place() {
        let bucket = Bucket::in_memory();
        bucket.write(&key(), Bytes::from_static(b"old")).await.unwrap();
        let old = remote(&bucket).await;
        bucket.write(&key(), Bytes::from_static(b"new")).await.unwrap();
        let read: Result<Vec<Bytes>, _> = old.stream(0..3).try_collect().await;
        assert!(read.is_err());
    }
}
