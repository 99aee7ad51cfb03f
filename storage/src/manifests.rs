//! Manifests: what a repository holds by tag or digest, checked before it is kept and served byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::backend::{BackendError, Fault};
use crate::computing::computed;
use crate::digest::Digest;
use crate::layout;
use crate::links;
use crate::manifest::{Descriptor, Manifest, MediaType, Platform};
use crate::reference::Reference;
use crate::registry::{Deleter, Reader, Writer};
use crate::repository_name::RepositoryName;
use crate::tag::Tag;
use crate::tags::{DeletedTags, TagsOf};

/// No manifest is larger: whatever limit there was when one was pushed, one that is stored can be read.
pub const LARGEST_MANIFEST_BYTES: usize = 64 << 20;

/// A manifest as it is kept.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// The digest by which it is kept.
    pub digest: Digest,
    /// Its media type, told from its content.
    pub media_type: MediaType,
    /// Its bytes, exactly as they were pushed.
    pub bytes: Bytes,
}

/// What a manifest refers to must be there; how strictly.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum MissingReferences {
    /// Every blob and every child must be there. The subject never need.
    #[default]
    Refuse,
    /// The children of an index may be missing, except those for these platforms.
    AllowOtherPlatforms(Arc<[Platform]>),
    /// The children of an index may be missing: a sparse index.
    AllowChildren,
    /// Nothing is looked up.
    AllowAll,
}

/// Why a manifest was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    /// These digests, which it refers to, are not in the repository.
    #[error("the repository lacks {} of the blobs and manifests that it refers to", .0.len())]
    Missing(Vec<Digest>),
    /// The store failed.
    #[error("cannot keep the manifest")]
    Backend(#[from] BackendError),
}

/// The store failed at a deletion: all, some or nothing of it may have been done.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete the manifest and its tags")]
pub struct DeleteManifestError {
    /// The tags that are gone. The last of them may still be there.
    pub tags: DeletedTags,
    /// The failure.
    pub source: BackendError,
}

impl Reader {
    /// A manifest of this repository. `None` when the tag or digest is not there, or when the bytes are lost.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<Arc<StoredManifest>>, BackendError> {
        let digest = match reference {
            Reference::Tag(tag) => match self.tagged(tag).await? {
                Some(digest) => digest,
                None => return Ok(None),
            },
            Reference::Digest(digest) => *digest,
        };
        match self.remembered_revision(&digest).await? {
            Some(stored) => self.stored_manifest(&stored).await,
            None => Ok(None),
        }
    }

    /// The same, looked up in the store each time: clients skip a push on this answer, or make one depend on it.
    pub async fn held_manifest(
        &self,
        reference: &Reference,
    ) -> Result<Option<Arc<StoredManifest>>, BackendError> {
        let digest = match reference {
            Reference::Tag(tag) => self.tagged_now(tag).await?,
            Reference::Digest(digest) => Some(*digest),
        };
        let Some(digest) = digest else { return Ok(None) };
        let Some(stored) = self.revision(&digest).await? else { return Ok(None) };
        if self.backend().sizes(&[layout::blob(&stored)]).await? == [None] {
            return Ok(None);
        }
        self.stored_manifest(&stored).await
    }

    async fn remembered_revision(&self, digest: &Digest) -> Result<Option<Digest>, BackendError> {
        let revisions = &self.registry.caches.revisions;
        let key = (self.repository.clone(), *digest);
        if let Some(stored) = revisions.get(&key) {
            return Ok(Some(stored));
        }
        let since = revisions.before_reading();
        // In a box: what is remembered needs no room for it. So are the manifests below.
        let stored = Box::pin(self.revision(digest)).await?;
        if let Some(stored) = stored {
            revisions.remember(key, stored, since);
        }
        Ok(stored)
    }

    /// The digest under which the store keeps a manifest of this repository.
    pub(crate) async fn revision(&self, digest: &Digest) -> Result<Option<Digest>, BackendError> {
        links::read(self.backend(), &layout::revision_link(&self.repository, digest)).await
    }

    async fn stored_manifest(&self, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, BackendError> {
        match self.registry.caches.manifests.get(digest) {
            Some(manifest) => Ok(Some(manifest)),
            None => Box::pin(self.read_manifest(digest)).await,
        }
    }

    async fn read_manifest(&self, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, BackendError> {
        let bytes = match self.backend().read(&layout::blob(digest), LARGEST_MANIFEST_BYTES as u64).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.fault == Fault::TooLarge => {
                tracing::warn!(repository = %self.repository, %digest, "the stored manifest is too large to be one");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (name, content) = (*digest, bytes.clone());
        let checked = computed("check", name, bytes.len(), move || {
            (Digest::of(name.algorithm(), &content) == name, Manifest::stored(&content))
        });
        let media_type = match checked.await? {
            // Distribution writes manifests in place: a crash may have left half of one. It counts as lost, and a push heals it.
            (false, _) => {
                tracing::warn!(repository = %self.repository, %digest, "the stored manifest does not match its digest");
                return Ok(None);
            }
            (true, Err(_)) => {
                tracing::warn!(repository = %self.repository, %digest, "the stored manifest is of no type that is served");
                return Ok(None);
            }
            (true, Ok(media_type)) => media_type,
        };
        let manifest = Arc::new(StoredManifest { digest: *digest, media_type, bytes });
        self.registry.caches.manifests.insert(*digest, manifest.clone());
        Ok(Some(manifest))
    }

    /// Which of the things that `manifest` refers to this repository lacks.
    async fn missing(
        &self,
        manifest: &Manifest,
        allowed: MissingReferences,
    ) -> Result<Vec<Digest>, BackendError> {
        let is_required = |child: &&Descriptor| match &allowed {
            MissingReferences::Refuse => true,
            MissingReferences::AllowOtherPlatforms(required) => {
                child.platform.as_ref().is_some_and(|platform| required.contains(platform))
            }
            MissingReferences::AllowChildren | MissingReferences::AllowAll => false,
        };
        if allowed == MissingReferences::AllowAll {
            return Ok(Vec::new());
        }
        let blobs = manifest.required_blobs().map(|blob| blob.digest).collect();
        let mut missing = self.lacking(blobs, layout::layer_link).await?;
        let children = manifest.children().iter().filter(is_required).map(|child| child.digest).collect();
        let no_manifests = self.lacking(children, layout::revision_link).await?;
        // What buildkit writes as a cache is an index of layers.
        missing.extend(self.lacking(no_manifests, layout::layer_link).await?);
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }

    /// Those of `digests` of which this repository lacks the link, or the store the bytes.
    async fn lacking(
        &self,
        mut digests: Vec<Digest>,
        link: fn(&RepositoryName, &Digest) -> layout::Key,
    ) -> Result<Vec<Digest>, BackendError> {
        let keys: Vec<_> = digests.iter().map(|digest| link(&self.repository, digest)).collect();
        let contents = self.backend().read_many(&keys, links::LIMIT_BYTES).await?;
        let stored: Vec<_> =
            contents.iter().map(|content| content.as_deref().and_then(links::parse)).collect();
        let blobs: Vec<_> = stored.iter().flatten().map(layout::blob).collect();
        let mut sizes = self.backend().sizes(&blobs).await?.into_iter();
        let mut held = stored.iter().map(|stored| stored.is_some() && sizes.next().flatten().is_some());
        digests.retain(|_| held.next() != Some(true));
        Ok(digests)
    }
}

impl Writer {
    /// Keeps `bytes`, which are `manifest` and have `digest`, and points `tags` at it.
    ///
    /// First the bytes; then the revision, its referrer after it, and beside them the tags' memories of it; the tags last. Each is durable before
    /// what comes after it begins, and nothing goes on after the answer. A crash or a failure leaves what came before it, and the push may be
    /// repeated.
    ///
    /// # Errors
    /// [`PutManifestError::Missing`] when something it refers to is not in the repository and `allowed` asks for it.
    pub async fn put_manifest(
        &self,
        manifest: &Manifest,
        bytes: Bytes,
        digest: &Digest,
        tags: &[Tag],
        allowed: MissingReferences,
    ) -> Result<(), PutManifestError> {
        let missing = self.0.missing(manifest, allowed).await?;
        if !missing.is_empty() {
            return Err(PutManifestError::Missing(missing));
        }
        let Reader { repository, registry } = &self.0;
        let backend = self.0.backend();
        // Also where it is there already: it may be torn, or of somebody who has not made it durable yet. And before any link, even one that
        // counts for nothing without it: distribution's garbage collection gives up at a revision whose manifest it cannot read.
        backend.write(&layout::blob(digest), bytes.clone()).await?;
        loop {
            let revision = async {
                links::write(backend, &layout::revision_link(repository, digest), digest).await?;
                registry.caches.revisions.forget(&(repository.clone(), *digest));
                // Who deletes it at the same time takes the referrer first: where this revision stays, so does what is written after it.
                self.link_referrer(manifest, digest, bytes.len() as u64).await
            };
            let memory = each(tags.get(..1).unwrap_or_default(), |tag| self.remember_tag(tag, digest));
            let (revision, memory) = tokio::join!(revision, memory);
            revision.and(memory)?;
            // Those folders that all tags share have been synced now, and are not once more for each.
            each(tags.get(1..).unwrap_or_default(), |tag| self.remember_tag(tag, digest)).await?;
            each(tags, |tag| self.point_tag(tag, digest)).await?;
            // Who deletes this manifest at the same time has either seen the tags, or removed the revision before this look.
            if tags.is_empty() || self.0.revision(digest).await?.is_some() {
                return Ok(());
            }
        }
    }
}

/// Does something to each of `tags`, to several at once. After a failure it answers when those that were begun have ended.
async fn each<'a, F: Future<Output = Result<(), BackendError>>>(
    tags: &'a [Tag],
    act: impl Fn(&'a Tag) -> F,
) -> Result<(), BackendError> {
    const AT_ONCE: usize = 8;
    for some in tags.chunks(AT_ONCE) {
        join_all(some.iter().map(&act)).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

impl Deleter {
    /// Removes a manifest and every tag that points at it, and says which tags those were. `None` when it was not there. Its referrers
    /// stay.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<Option<DeletedTags>, DeleteManifestError> {
        let mut tags = DeletedTags::default();
        match self.delete_with_tags(digest, &mut tags).await {
            Ok(existed) => Ok(existed.then_some(tags)),
            Err(source) => Err(DeleteManifestError { tags, source }),
        }
    }

    async fn delete_with_tags(&self, digest: &Digest, gone: &mut DeletedTags) -> Result<bool, BackendError> {
        let reader = &self.0;
        let backend = reader.backend();
        let link = layout::revision_link(&reader.repository, digest);
        let Some(stored) = reader.revision(digest).await? else { return Ok(false) };
        // The revision goes after its tags, so that none of them leads nowhere and a deletion cut short can be repeated.
        self.delete_tags_of(digest, TagsOf::Any, gone).await?;
        if let Some(manifest) = reader.stored_manifest(&stored).await? {
            let parsed = computed("read", *digest, manifest.bytes.len(), move || {
                Manifest::parse(None, &manifest.bytes)
                    .ok()
                    .and_then(|manifest| Some(manifest.subject()?.digest))
            });
            if let Some(subject) = parsed.await? {
                backend.delete_folder(&layout::referrer(&reader.repository, &subject, digest)).await?;
            }
        }
        let deleted = backend.delete(&link).await;
        // Also after a failure: the link may be gone.
        reader.registry.caches.revisions.forget(&(reader.repository.clone(), *digest));
        deleted?;
        // Those that were pushed in between. Who pushes looks for the revision after the tags: one of the two sees the other.
        self.delete_tags_of(digest, TagsOf::NoManifest, gone).await?;
        Ok(true)
    }
}
