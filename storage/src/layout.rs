//! CNCF distribution's layout, drawn once: every key that Wharf reads or writes is made here and nowhere else.
//!
//! ```text
//! docker/registry/v2/
//!   blobs/<algorithm>/<first two hex>/<hex>/data
//!   repositories/<name>/
//!     _layers/<algorithm>/<hex>/link                    this repository holds that blob
//!     _manifests/revisions/<algorithm>/<hex>/link       … that manifest
//!     _manifests/tags/<tag>/current/link                what the tag points at
//!     _manifests/tags/<tag>/index/<algorithm>/<hex>/link    what it ever pointed at
//!     _manifests/referrers/<algorithm>/<subject>/<algorithm>/<hex>/link    ours: who points at a subject
//!     _manifests/referrers/<algorithm>/<subject>/<algorithm>/<hex>/descriptor    ours: how it is listed, copied from the manifest
//!     _uploads/<uuid>/{startedat,data,hashstates/<algorithm>/<offset>}
//!     _uploads/<uuid>/{startedat,session,content/<uuid>}      the same in a bucket; the last two are ours
//! docker/registry/wharf/                                ours
//! ```
//!
//! Nothing of ours lies where distribution looks: it lists only `revisions` and `tags` below `_manifests`.

use std::fmt;

use uuid::Uuid;

use crate::digest::{Algorithm, Digest};
use crate::repository_name::RepositoryName;
use crate::tag::Tag;

const V2: &str = "docker/registry/v2";

/// The place of one object, relative to the backend's root, without a leading slash.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key(String);

/// A place below which objects and other folders lie, relative to the backend's root, without slashes at its ends.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Folder(String);

/// One upload under way: its repository and its id.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct UploadKey {
    /// The repository it was begun in; it can be used nowhere else.
    pub repository: RepositoryName,
    /// Its id.
    pub id: UploadId,
}

/// The id of an upload: a random UUID, written in lower case with dashes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct UploadId(Uuid);

/// Text that is not an upload's id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an upload's id is a UUID in lower case with dashes")]
pub struct UploadIdError;

impl Key {
    /// The key as text, segments separated by slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Folder {
    /// The folder as text, segments separated by slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object called `name` directly below this folder.
    pub(crate) fn object(&self, name: &str) -> Key {
        Key(format!("{}/{name}", self.0))
    }

    /// The folder called `name` directly below this one.
    pub(crate) fn folder(&self, name: &str) -> Folder {
        Folder(format!("{}/{name}", self.0))
    }
}

impl UploadId {
    /// A new id that nobody can guess.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl std::str::FromStr for UploadId {
    type Err = UploadIdError;

    fn from_str(text: &str) -> Result<Self, UploadIdError> {
        let id = Self(Uuid::parse_str(text).map_err(|_| UploadIdError)?);
        // `Uuid` reads several spellings; an id has one, since it names a folder.
        if id.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text {
            Ok(id)
        } else {
            Err(UploadIdError)
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UploadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(upload(self).as_str())
    }
}

/// The bytes of a blob, whichever repositories hold it.
pub fn blob(digest: &Digest) -> Key {
    let hex = digest.hex().to_string();
    Key(format!("{V2}/blobs/{}/{}/{hex}/data", digest.algorithm(), &hex[..2]))
}

/// All repositories.
pub fn repositories() -> Folder {
    Folder(format!("{V2}/repositories"))
}

/// One repository.
pub fn repository(name: &RepositoryName) -> Folder {
    Folder(format!("{V2}/repositories/{name}"))
}

/// The link that says that a repository holds a blob.
pub fn layer_link(name: &RepositoryName, digest: &Digest) -> Key {
    Key(format!("{V2}/repositories/{name}/_layers/{}/{}/link", digest.algorithm(), digest.hex()))
}

/// The blobs that a repository holds.
pub fn layers(repository: &Folder) -> Folder {
    repository.folder("_layers")
}

/// What makes a folder below [`repositories`] a repository that the catalog lists.
pub fn manifests(repository: &Folder) -> Folder {
    repository.folder("_manifests")
}

/// The link that says that a repository holds a manifest.
pub fn revision_link(name: &RepositoryName, digest: &Digest) -> Key {
    Key(format!("{V2}/repositories/{name}/_manifests/revisions/{}/{}/link", digest.algorithm(), digest.hex()))
}

/// All tags of a repository, a folder each.
pub fn tags(name: &RepositoryName) -> Folder {
    Folder(format!("{V2}/repositories/{name}/_manifests/tags"))
}

/// One tag: what it points at, and what it ever pointed at.
pub fn tag(name: &RepositoryName, tag: &Tag) -> Folder {
    Folder(format!("{V2}/repositories/{name}/_manifests/tags/{tag}"))
}

/// What a tag ever pointed at, a link each.
pub fn tag_history(name: &RepositoryName, tag: &Tag) -> Folder {
    Folder(format!("{V2}/repositories/{name}/_manifests/tags/{tag}/index"))
}

/// The link to the manifest that a tag points at.
pub fn tag_link(name: &RepositoryName, tag: &Tag) -> Key {
    Key(format!("{V2}/repositories/{name}/_manifests/tags/{tag}/current/link"))
}

/// The link that remembers that a tag pointed at a manifest.
pub fn tag_history_link(name: &RepositoryName, tag: &Tag, digest: &Digest) -> Key {
    Key(format!(
        "{V2}/repositories/{name}/_manifests/tags/{tag}/index/{}/{}/link",
        digest.algorithm(),
        digest.hex()
    ))
}

/// The manifests of one algorithm that name `subject`, a folder each.
pub fn referrers(name: &RepositoryName, subject: &Digest, algorithm: Algorithm) -> Folder {
    let (of, hex) = (subject.algorithm(), subject.hex());
    Folder(format!("{V2}/repositories/{name}/_manifests/referrers/{of}/{hex}/{algorithm}"))
}

/// A manifest that names `subject`: its link and its descriptor.
pub fn referrer(name: &RepositoryName, subject: &Digest, referrer: &Digest) -> Folder {
    referrers(name, subject, referrer.algorithm()).folder(&referrer.hex().to_string())
}

/// The link that says that a manifest names `subject`.
pub fn referrer_link(name: &RepositoryName, subject: &Digest, digest: &Digest) -> Key {
    referrer(name, subject, digest).object("link")
}

/// How a manifest that names `subject` is listed.
pub fn referrer_descriptor(name: &RepositoryName, subject: &Digest, digest: &Digest) -> Key {
    referrer(name, subject, digest).object("descriptor")
}

/// All uploads under way in a folder that may be a repository.
pub fn uploads(repository: &Folder) -> Folder {
    repository.folder("_uploads")
}

/// One upload under way.
pub fn upload(key: &UploadKey) -> Folder {
    uploads(&repository(&key.repository)).folder(&key.id.to_string())
}

/// When an upload began, in RFC 3339. An upload exists if this does.
pub fn upload_started(key: &UploadKey) -> Key {
    upload(key).object("startedat")
}

/// The bytes that an upload has so far, on a volume.
pub fn upload_data(key: &UploadKey) -> Key {
    upload(key).object("data")
}

/// The checkpoints of an upload whose hash is of `algorithm`: an object each, named by its offset in decimal.
pub fn upload_checkpoints(key: &UploadKey, algorithm: Algorithm) -> Folder {
    upload(key).folder("hashstates").folder(algorithm.as_str())
}

/// One checkpoint of an upload.
pub fn upload_checkpoint(key: &UploadKey, algorithm: Algorithm, offset: u64) -> Key {
    upload_checkpoints(key, algorithm).object(&offset.to_string())
}

/// How far an upload in a bucket has come, and how to go on: its last checkpoint.
pub fn upload_session(key: &UploadKey) -> Key {
    upload(key).object("session")
}

/// What a multipart upload of an upload in a bucket becomes when it is completed, before it is a blob.
pub fn upload_content(key: &UploadKey, name: Uuid) -> Key {
    upload(key).folder("content").object(&name.to_string())
}

/// All that is kept.
pub fn registry() -> Folder {
    Folder("docker/registry".to_owned())
}

/// What is written to see whether a bucket may be written to.
pub fn probe() -> Key {
    Key("docker/registry/wharf/probe".to_owned())
}

/// Where a volume makes a file that it then renames into its place: one folder, so that what a crash leaves is found.
pub fn staging() -> Folder {
    Folder("docker/registry/wharf/staging".to_owned())
}
