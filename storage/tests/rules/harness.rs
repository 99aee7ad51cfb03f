//! A registry to tell stories about, and manifests to push to it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use proptest::test_runner::Config;
use storage::backend::around::{Surrounded, Verb};
use storage::backend::bucket::Bucket;
use storage::backend::conformance::read_all;
use storage::backend::count::Counters;
use storage::backend::volume::{Access, Durability, Volume, VolumeOptions};
use storage::backend::{Backend, Object};
use storage::{
    Algorithm, Digest, Manifest, MissingReferences, PutManifestError, Reader, ReferrerDescriptor, Registry,
    RegistryOptions, RepositoryName, Tag, Writer,
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
        let writer = self.registry.writer(name(repository));
        artifact.push(&writer, tags, MissingReferences::AllowAll).await.unwrap();
    }

    /// Pushes a blob.
    pub(crate) async fn push_blob(&self, repository: &str, content: &'static [u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let writer = self.registry.writer(name(repository));
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.receive(body([content])).await.unwrap();
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

    /// An index that says of each artifact what it runs on.
    pub(crate) fn index_for(artifacts: &[(&Artifact, serde_json::Value)]) -> Self {
        let listed = artifacts.iter().map(|(artifact, platform)| {
            serde_json::json!({
                "mediaType": artifact.manifest.media_type().as_str(),
                "digest": artifact.digest,
                "size": artifact.bytes.len(),
                "platform": platform,
            })
        });
        Self::of(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": listed.collect::<Vec<_>>(),
        }))
    }

    /// An image of these layers.
    pub(crate) fn image_of(config: Digest, layers: &[Digest]) -> Self {
        let descriptor = |digest| serde_json::json!({ "mediaType": "application/octet-stream", "digest": digest, "size": 2 });
        Self::of(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(config),
            "layers": layers.iter().copied().map(descriptor).collect::<Vec<_>>(),
        }))
    }

    /// The same bytes, by their digest of another algorithm.
    pub(crate) fn by(self, algorithm: Algorithm) -> Self {
        Self { digest: Digest::of(algorithm, &self.bytes), ..self }
    }

    /// Pushes it by its digest, and points the tags at it.
    pub(crate) async fn push(
        &self,
        writer: &Writer,
        tags: &[&str],
        missing: MissingReferences,
    ) -> Result<(), PutManifestError> {
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        writer.put_manifest(&self.manifest, self.bytes.clone(), &self.digest, &tags, missing).await
    }

    fn of(content: &serde_json::Value) -> Self {
        let bytes = Bytes::from(content.to_string());
        let manifest = Manifest::parse(None, &bytes).unwrap();
        Self { digest: Digest::of(Algorithm::Sha256, &bytes), manifest, bytes }
    }
}

/// The body of a request, in these pieces.
pub(crate) fn body<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> impl Stream<Item = Result<Bytes, HungUp>> + Unpin {
    stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>())
}

/// A client that stopped in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error("hung up")]
pub(crate) struct HungUp;

/// All referrers of a subject.
pub(crate) async fn referrers(reader: &Reader, subject: &Digest) -> Vec<Arc<ReferrerDescriptor>> {
    let mut list = reader.referrers(subject, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(referrer) = list.next().await.unwrap() {
        all.push(referrer);
    }
    all
}

/// The calls that `act` takes of a replica that remembers nothing.
pub(crate) async fn calls(registry: &TestRegistry, act: impl AsyncFnOnce(&Registry)) -> Vec<(Verb, u64)> {
    let counters = Arc::new(Counters::default());
    let counted = Surrounded::new(registry.backend.clone(), counters.clone());
    act(&Registry::new(Arc::new(counted), RegistryOptions::default())).await;
    counters.counts().map(|(verb, count)| (verb, count.total())).filter(|(_, calls)| *calls > 0).collect()
}

/// What a repository answers to a pull of a blob.
pub(crate) async fn pull(registry: &Registry, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
    let blob = registry.reader(name(repository)).blob(digest).await.unwrap()?;
    Some(read_all(&Object { size: blob.size, content: blob.content }).await.unwrap())
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
