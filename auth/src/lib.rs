//! Who is asking, and may they.
//!
//! An [`Identity`] is who; [`ResourceAttributes`] are what they want, in the words of Kubernetes; an [`Authorizer`] decides. Nothing here
//! knows HTTP, images, or where they are kept.

mod attributes;
mod authorizer;
mod identity;

pub use attributes::ResourceAttributes;
pub use authorizer::{AuthError, Authorizer, Decision, Everyone};
pub use identity::Identity;
