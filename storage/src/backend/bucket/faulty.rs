//! A store in memory of which one call fails.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::memory::Memory;

/// Fails its call number `at`, and no other.
#[derive(Debug)]
pub(super) struct Faulty {
    store: Arc<Memory>,
    calls: AtomicUsize,
    at: usize,
    effect: Effect,
}

/// Whether the call that fails was carried out all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    Nothing,
    Done,
}

impl Faulty {
    pub(super) fn over(store: Arc<Memory>, at: usize, effect: Effect) -> Self {
        Self { store, calls: AtomicUsize::new(0), at, effect }
    }

    /// Whether the failure has come.
    pub(super) fn has_failed(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }

    /// How the call that comes now fails, if it does.
    fn next(&self) -> Option<Effect> {
        (self.calls.fetch_add(1, Ordering::SeqCst) == self.at).then_some(self.effect)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let effect = self.next();
        if effect != Some(Effect::Nothing) {
            let done = call.await;
            if effect.is_none() {
                return done;
            }
        }
        Err(failure())
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.call(self.store.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, at: usize, data: PutPayload) -> Result<PartId> {
        self.call(self.store.put_part(path, id, at, data)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, ids: Vec<PartId>) -> Result<PutResult> {
        self.call(self.store.complete_multipart(path, id, ids)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.call(self.store.abort_multipart(path, id)).await
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.call(self.store.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(self.store.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(self.store.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next() {
            None => self.store.delete_stream(paths),
            Some(Effect::Nothing) => stream::iter([Err(failure())]).boxed(),
            Some(Effect::Done) => self.store.delete_stream(paths).map(|_| Err(failure())).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            None => self.store.list(prefix),
            Some(_) => stream::iter([Err(failure())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(self.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(self.store.copy_opts(from, to, options)).await
    }
}
