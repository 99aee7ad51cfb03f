//! Digests, names, manifests, and where a registry keeps them.

mod digest;
mod reference;
mod repository_name;
mod tag;

pub use digest::{Algorithm, Digest, DigestError, HashState, HashStateError, Hasher};
pub use reference::{Reference, ReferenceError};
pub use repository_name::{RepositoryName, RepositoryNameError};
pub use tag::{Tag, TagError};
