//! A registry to tell stories about, and manifests to push to it.

use std::sync::Arc;

use bytes::Bytes;
use proptest::test_runner::Config;
use storage::backend::Backend;
use storage::backend::bucket::Bucket;
use storage::backend::volume::{Access, Durability, Volume, VolumeOptions};
use storage::{
    Algorithm, Digest, Manifest, MissingReferences, Reader, Registry, RegistryOptions, RepositoryName, Tag,
};
use tempfile::TempDir;

/// A registry, and the store that any number of replicas of it share.
pub(crate) struct TestRegistry {
    pub(crate) registry: Registry,
    pub(crate) backend: Arc<dyn Backend>,
    _folder: Option<TempDir>,
}

impl TestRegistry {
    pub(crate) fn on_a_volume() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = VolumeOptions { durability: Durability::Buffered, access: Access::ReadWrite };
        let volume = Volume::open(folder.path(), options).unwrap();
        Self { _folder: Some(folder), ..Self::over(Arc::new(volume)) }
    }

    pub(crate) fn in_a_bucket() -> Self {
        Self::over(Arc::new(Bucket::in_memory()))
    }

    fn over(backend: Arc<dyn Backend>) -> Self {
        let registry = Registry::new(backend.clone(), RegistryOptions::default());
        Self { registry, backend, _folder: None }
    }

    /// A registry that remembers nothing of what this one did.
    pub(crate) fn another_replica(&self) -> Registry {
        Registry::new(self.backend.clone(), RegistryOptions::default())
    }

    pub(crate) fn reader(&self, repository: &str) -> Reader {
        self.registry.reader(name(repository))
    }

    /// Pushes an artifact by its digest, and points the tags at it.
    pub(crate) async fn push(&self, repository: &str, artifact: &Artifact, tags: &[&str]) {
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        self.registry
            .writer(name(repository))
            .put_manifest(
                &artifact.manifest,
                artifact.bytes.clone(),
                &artifact.digest,
                &tags,
                MissingReferences::AllowAll,
            )
            .await
            .unwrap();
    }

    /// Pushes a blob.
    pub(crate) async fn push_blob(&self, repository: &str, content: &'static [u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let writer = self.registry.writer(name(repository));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(content))]);
        upload.receive(body).await.unwrap();
        upload.finish(&digest).await.unwrap();
        digest
    }
}

/// A manifest whose blobs nobody looks for.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    manifest: Manifest,
}

impl Artifact {
    /// An artifact that differs from those with another note.
    pub(crate) fn noted(note: &str) -> Self {
        Self::about(None, note)
    }

    /// An artifact that names `subject`.
    pub(crate) fn about(subject: Option<Digest>, note: &str) -> Self {
        let descriptor = |digest: Digest| serde_json::json!({ "mediaType": "application/octet-stream", "digest": digest, "size": 2 });
        let mut content = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.example.note",
            "config": descriptor(Digest::of(Algorithm::Sha256, b"{}")),
            "layers": [],
            "annotations": { "note": note },
        });
        if let Some(subject) = subject {
            content["subject"] = descriptor(subject);
        }
        Self::of(&content)
    }

    /// An index of `artifacts`, as clients keep the referrers of a subject in registries that cannot.
    pub(crate) fn index_of(artifacts: &[Artifact]) -> Self {
        let listed: Vec<_> = artifacts
            .iter()
            .map(|artifact| artifact.manifest.as_referrer(artifact.digest, artifact.bytes.len() as u64))
            .collect();
        Self::of(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": listed,
        }))
    }

    fn of(content: &serde_json::Value) -> Self {
        let bytes = Bytes::from(content.to_string());
        let manifest = Manifest::parse(None, &bytes).unwrap();
        Self { digest: Digest::of(Algorithm::Sha256, &bytes), manifest, bytes }
    }
}

pub(crate) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// How a property is tried. What it finds is printed, not kept: each case is small enough to read.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Runs a story inside a property.
pub(crate) fn tell<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story)
}
