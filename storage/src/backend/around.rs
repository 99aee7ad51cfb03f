//! A backend with something that stands around each of its calls: counting them, or making them fail.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Backend, BackendError, Object, Page, Stage, UploadStatus};
use crate::digest::{Algorithm, HashState};
use crate::layout::{Folder, Key, UploadKey};

/// What stands around the calls of a backend and of its stages.
pub trait Around: fmt::Debug + Send + Sync + 'static {
    /// Makes the call, or does not, and answers for it.
    fn around<T: Send>(
        &self,
        verb: Verb,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> impl Future<Output = Result<T, BackendError>> + Send;
}

/// A call of a backend or of a stage.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Verb {
    Open,
    Read,
    ReadMany,
    Sizes,
    Write,
    Delete,
    DeleteIf,
    DeleteEmpty,
    DeleteFolder,
    Changed,
    Children,
    BeginUpload,
    Upload,
    Stage,
    Probe,
    ProbeWriting,
    Push,
    Checkpoint,
    CutBack,
    Content,
    Publish,
    Discard,
}

impl Verb {
    /// Every verb: those of [`Backend`], then those of [`Stage`].
    pub const ALL: [Self; 22] = [
        Self::Open,
        Self::Read,
        Self::ReadMany,
        Self::Sizes,
        Self::Write,
        Self::Delete,
        Self::DeleteIf,
        Self::DeleteEmpty,
        Self::DeleteFolder,
        Self::Changed,
        Self::Children,
        Self::BeginUpload,
        Self::Upload,
        Self::Stage,
        Self::Probe,
        Self::ProbeWriting,
        Self::Push,
        Self::Checkpoint,
        Self::CutBack,
        Self::Content,
        Self::Publish,
        Self::Discard,
    ];

    /// Returns the method's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::ReadMany => "read_many",
            Self::Sizes => "sizes",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::DeleteIf => "delete_if",
            Self::DeleteEmpty => "delete_empty",
            Self::DeleteFolder => "delete_folder",
            Self::Changed => "changed",
            Self::Children => "children",
            Self::BeginUpload => "begin_upload",
            Self::Upload => "upload",
            Self::Stage => "stage",
            Self::Probe => "probe",
            Self::ProbeWriting => "probe_writing",
            Self::Push => "push",
            Self::Checkpoint => "checkpoint",
            Self::CutBack => "cut_back",
            Self::Content => "content",
            Self::Publish => "publish",
            Self::Discard => "discard",
        }
    }
}

/// A backend, and what stands around its calls.
#[derive(Debug)]
pub struct Surrounded<A> {
    backend: Arc<dyn Backend>,
    around: Arc<A>,
}

impl<A> Surrounded<A> {
    /// Puts `around` around the calls of `backend`. Other backends may share it.
    pub fn new(backend: Arc<dyn Backend>, around: Arc<A>) -> Self {
        Self { backend, around }
    }
}

#[async_trait]
impl<A: Around> Backend for Surrounded<A> {
    async fn open(&self, key: &Key) -> Result<Option<Object>, BackendError> {
        self.around.around(Verb::Open, self.backend.open(key)).await
    }

    async fn read(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, BackendError> {
        self.around.around(Verb::Read, self.backend.read(key, limit)).await
    }

    async fn read_many(&self, keys: &[Key], limit: u64) -> Result<Vec<Option<Bytes>>, BackendError> {
        self.around.around(Verb::ReadMany, self.backend.read_many(keys, limit)).await
    }

    async fn sizes(&self, keys: &[Key]) -> Result<Vec<Option<u64>>, BackendError> {
        self.around.around(Verb::Sizes, self.backend.sizes(keys)).await
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), BackendError> {
        self.around.around(Verb::Write, self.backend.write(key, bytes)).await
    }

    async fn delete(&self, key: &Key) -> Result<bool, BackendError> {
        self.around.around(Verb::Delete, self.backend.delete(key)).await
    }

    async fn delete_if(&self, key: &Key, seen: &Object) -> Result<bool, BackendError> {
        self.around.around(Verb::DeleteIf, self.backend.delete_if(key, seen)).await
    }

    async fn delete_empty(&self, folder: &Folder) -> Result<(), BackendError> {
        self.around.around(Verb::DeleteEmpty, self.backend.delete_empty(folder)).await
    }

    async fn delete_folder(&self, folder: &Folder) -> Result<(), BackendError> {
        self.around.around(Verb::DeleteFolder, self.backend.delete_folder(folder)).await
    }

    async fn changed(&self, folder: &Folder) -> Result<Option<SystemTime>, BackendError> {
        self.around.around(Verb::Changed, self.backend.changed(folder)).await
    }

    async fn children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        self.around.around(Verb::Children, self.backend.children(folder, after, limit)).await
    }

    async fn recent_children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        self.around.around(Verb::Children, self.backend.recent_children(folder, after, limit)).await
    }

    async fn begin_upload(&self, upload: &UploadKey, algorithm: Algorithm) -> Result<(), BackendError> {
        self.around.around(Verb::BeginUpload, self.backend.begin_upload(upload, algorithm)).await
    }

    async fn upload(&self, upload: &UploadKey) -> Result<Option<UploadStatus>, BackendError> {
        self.around.around(Verb::Upload, self.backend.upload(upload)).await
    }

    async fn stage(&self, upload: &UploadKey) -> Result<Option<Box<dyn Stage>>, BackendError> {
        let stage = self.around.around(Verb::Stage, self.backend.stage(upload)).await?;
        let surround =
            |stage| -> Box<dyn Stage> { Box::new(SurroundedStage { stage, around: self.around.clone() }) };
        Ok(stage.map(surround))
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.around.around(Verb::Probe, self.backend.probe()).await
    }

    async fn probe_writing(&self) -> Result<(), BackendError> {
        self.around.around(Verb::ProbeWriting, self.backend.probe_writing()).await
    }
}

#[derive(Debug)]
struct SurroundedStage<A> {
    stage: Box<dyn Stage>,
    around: Arc<A>,
}

#[async_trait]
impl<A: Around> Stage for SurroundedStage<A> {
    fn resumed_from(&self) -> &HashState {
        self.stage.resumed_from()
    }

    async fn push(&mut self, chunks: Vec<Bytes>) -> Result<(), BackendError> {
        self.around.around(Verb::Push, self.stage.push(chunks)).await
    }

    async fn checkpoint(&mut self, state: &HashState) -> Result<(), BackendError> {
        self.around.around(Verb::Checkpoint, self.stage.checkpoint(state)).await
    }

    async fn cut_back(&mut self) -> Result<(), BackendError> {
        self.around.around(Verb::CutBack, self.stage.cut_back()).await
    }

    async fn content(&mut self) -> Result<Object, BackendError> {
        self.around.around(Verb::Content, self.stage.content()).await
    }

    async fn publish(self: Box<Self>, to: &Key) -> Result<(), BackendError> {
        self.around.around(Verb::Publish, self.stage.publish(to)).await
    }

    async fn discard(self: Box<Self>) -> Result<(), BackendError> {
        self.around.around(Verb::Discard, self.stage.discard()).await
    }
}
