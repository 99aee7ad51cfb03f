//! Digests, names, manifests, and where a registry keeps them.
//!
//! Three layers, from the outside in. [`Registry`] hands out permits ([`Reader`], [`Writer`], [`Deleter`]) whose methods are the rules
//! of a registry: what makes a blob, a tag, a referrer. The rules speak to a [`Backend`](backend::Backend), which keeps objects under keys
//! and uploads under way, and knows no rule. The [`layout`] says which key is which: CNCF distribution's, so that either can serve what
//! the other wrote.
//!
//! Nothing here knows HTTP, or who is asking.

pub mod backend;
mod blobs;
mod cache;
mod catalog;
mod computing;
mod digest;
pub mod kernel;
pub mod layout;
mod links;
mod manifest;
mod manifests;
mod reference;
mod referrers;
mod registry;
mod repository_name;
mod tag;
mod tags;
mod uploads;

pub use blobs::Blob;
pub use cache::CacheUse;
pub use catalog::CatalogPage;
pub use digest::{Algorithm, Digest, DigestError, HashState, HashStateError, Hasher};
pub use layout::{UploadId, UploadIdError};
pub use manifest::{Descriptor, Manifest, ManifestError, MediaType, Platform, ReferrerDescriptor};
pub use manifests::{
    DeleteManifestError, LARGEST_MANIFEST_BYTES, MissingReferences, PutManifestError, StoredManifest,
};
pub use reference::{Reference, ReferenceError};
pub use referrers::Referrers;
pub use registry::{AnyRepository, Deleter, Reader, Registry, RegistryOptions, Writer};
pub use repository_name::{RepositoryName, RepositoryNameError};
pub use tag::{Tag, TagError};
pub use tags::{DeletedTags, TagPage};
pub use uploads::{FinishError, Purge, ReceiveError, Upload, UploadUse};
