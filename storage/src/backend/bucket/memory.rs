//! An object store in memory that is as strict about multipart uploads as those in the cloud are.
//!
//! The one of `object_store`, which keeps the objects here, completes with whichever part was put last and knows no absence of an upload.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use uuid::Uuid;

/// Objects and multipart uploads in the memory of this process.
#[derive(Debug, Default)]
pub(super) struct Memory {
    objects: InMemory,
    uploads: Mutex<HashMap<MultipartId, Parts>>,
}

/// The part that was put last at each index, and its id.
type Parts = BTreeMap<usize, (String, Bytes)>;

impl Memory {
    fn uploads(&self) -> MutexGuard<'_, HashMap<MultipartId, Parts>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many multipart uploads were neither completed nor aborted.
    #[cfg(test)]
    pub(super) fn uploads_under_way(&self) -> usize {
        self.uploads().len()
    }

    /// Does what a bucket's rule for incomplete uploads does in the end.
    #[cfg(test)]
    pub(super) fn forget_uploads(&self) {
        self.uploads().clear();
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl MultipartStore for Memory {
    async fn create_multipart(&self, _: &Path) -> Result<MultipartId> {
        let id = Uuid::new_v4().to_string();
        self.uploads().insert(id.clone(), Parts::new());
        Ok(id)
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let content_id = Uuid::new_v4().to_string();
        let mut uploads = self.uploads();
        let parts = uploads.get_mut(id).ok_or_else(|| gone(path))?;
        parts.insert(index, (content_id.clone(), data.into()));
        Ok(PartId { content_id })
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, ids: Vec<PartId>) -> Result<PutResult> {
        let content: PutPayload = {
            let mut uploads = self.uploads();
            let parts = uploads.get(id).ok_or_else(|| gone(path))?;
            // Parts that are not asked for are dropped, as in S3.
            let put = parts.iter().map(|(index, (id, _))| (*index, id)).take(ids.len());
            if !put.eq(ids.iter().map(|id| &id.content_id).enumerate()) {
                return Err(Error::Generic { store: "memory", source: "the parts are others".into() });
            }
            let parts = uploads.remove(id).into_iter().flatten().take(ids.len());
            parts.map(|(_, (_, bytes))| bytes).collect()
        };
        self.objects.put(path, content).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.uploads().remove(id).map(drop).ok_or_else(|| gone(path))
    }
}

fn gone(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "there is no such upload".into() }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
