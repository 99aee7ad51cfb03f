//! Links: objects that hold a digest and nothing else.
//!
//! An empty link, or one that does not parse, was torn by a crash (distribution 2.8 writes links in place) and counts as absent;
//! the next push of the same thing writes it anew.

use bytes::Bytes;

use crate::backend::{Backend, BackendError, Fault};
use crate::digest::Digest;
use crate::layout::Key;

/// The longest link is that of a sha512 digest; one that is longer is no link.
pub(crate) const LIMIT_BYTES: u64 = 256;

/// Whether an object of so many bytes may be a link: one that was torn has fewer.
pub(crate) fn may_have(size: u64) -> bool {
    let lengths = [("sha256:".len() + 64) as u64, ("sha512:".len() + 128) as u64];
    lengths.contains(&size)
}

/// What the link at `key` points at.
pub(crate) async fn read(backend: &dyn Backend, key: &Key) -> Result<Option<Digest>, BackendError> {
    match backend.read(key, LIMIT_BYTES).await {
        Ok(content) => Ok(content.as_deref().and_then(parse)),
        Err(error) if error.fault == Fault::TooLarge => Ok(None),
        Err(error) => Err(error),
    }
}

/// Points the link at `key` at `digest`.
pub(crate) async fn write(backend: &dyn Backend, key: &Key, digest: &Digest) -> Result<(), BackendError> {
    backend.write(key, Bytes::from(digest.to_string())).await
}

/// What the content of a link says.
pub(crate) fn parse(content: &[u8]) -> Option<Digest> {
    std::str::from_utf8(content).ok()?.parse().ok()
}
