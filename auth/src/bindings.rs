//! Where roles and bindings are found.
//!
//! In a cluster they are watched ([`WatchedBindings`]). Without one they come from a [`Folder`] of the very YAML that `kubectl apply` takes. Such a folder knows the roles
//! that a cluster with an image registry has, so that it need hold bindings alone.

mod aggregation;
mod cluster;
mod document;
mod folder;

pub use cluster::{ReadError, WatchedBindings, is_restricted};
pub use folder::{Folder, FolderError, Loaded, Problems, Remark, load};

/// The roles that are there without anybody having written them; a folder may define them otherwise.
const BUILT_IN: [&str; 2] =
    [include_str!("../../deploy/rbac/roles.yaml"), include_str!("bindings/cluster_roles.yaml")];
