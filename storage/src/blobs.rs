//! Blobs: content that a repository holds by its digest.

use crate::backend::{BackendError, Content};
use crate::digest::Digest;
use crate::layout;
use crate::links;
use crate::registry::{AnyRepository, Deleter, Reader, Writer};

/// A blob that a repository holds, opened for reading.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes, or the way to them.
    pub content: Content,
}

impl Reader {
    /// Opens a blob of this repository. `None` when the repository does not hold it, or when its bytes are lost.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>, BackendError> {
        let Some(stored) = self.remembered_layer(digest).await? else { return Ok(None) };
        let object = self.backend().open(&layout::blob(&stored)).await?;
        Ok(object.map(|object| Blob { size: object.size, content: object.content }))
    }

    /// The size in bytes of a blob of this repository, looked up in the store each time: clients skip an upload on this answer.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, BackendError> {
        let Some(stored) = self.layer(digest).await? else { return Ok(None) };
        Ok(self.backend().sizes(&[layout::blob(&stored)]).await?.pop().flatten())
    }

    /// The digest under which the store keeps a blob of this repository: what distribution was given by a sha512 digest, it keeps by
    /// the sha256 one, and the link says so.
    async fn layer(&self, digest: &Digest) -> Result<Option<Digest>, BackendError> {
        links::read(self.backend(), &layout::layer_link(&self.repository, digest)).await
    }

    async fn remembered_layer(&self, digest: &Digest) -> Result<Option<Digest>, BackendError> {
        let layers = &self.registry.caches.layers;
        let key = (self.repository.clone(), *digest);
        if let Some(stored) = layers.get(&key) {
            return Ok(Some(stored));
        }
        let since = layers.before_reading();
        let stored = self.layer(digest).await?;
        if let Some(stored) = stored {
            layers.remember(key, stored, since);
        }
        Ok(stored)
    }
}

impl Writer {
    /// Makes a blob that `from` may read a blob of this repository too, and says whether there was such a blob.
    pub async fn mount(&self, from: &Reader, digest: &Digest) -> Result<bool, BackendError> {
        let Some(stored) = from.layer(digest).await? else { return Ok(false) };
        self.mount_stored(digest, &stored).await
    }

    /// Makes a blob of whatever repository a blob of this one too, and says whether there was such a blob.
    pub async fn mount_from_any(&self, _: &AnyRepository, digest: &Digest) -> Result<bool, BackendError> {
        self.mount_stored(digest, digest).await
    }

    async fn mount_stored(&self, digest: &Digest, stored: &Digest) -> Result<bool, BackendError> {
        let backend = self.0.backend();
        if backend.sizes(&[layout::blob(stored)]).await?[0].is_none() {
            return Ok(false);
        }
        self.link_blob(digest, stored).await?;
        Ok(true)
    }

    /// Writes the link that makes the stored blob `stored` this repository's blob `digest`.
    pub(crate) async fn link_blob(&self, digest: &Digest, stored: &Digest) -> Result<(), BackendError> {
        let repository = &self.0.repository;
        links::write(self.0.backend(), &layout::layer_link(repository, digest), stored).await?;
        self.0.registry.caches.layers.forget(&(repository.clone(), *digest));
        Ok(())
    }
}

impl Deleter {
    /// Takes a blob out of this repository, and says whether it was there. Other repositories keep it; its bytes are the collector's.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<bool, BackendError> {
        let Reader { repository, .. } = &self.0;
        let existed = self.0.backend().delete(&layout::layer_link(repository, digest)).await;
        // Also after a failure: the link may be gone.
        self.0.registry.caches.layers.forget(&(repository.clone(), *digest));
        existed
    }
}
