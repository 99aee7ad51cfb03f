//! Who is asking, and may they.
//!
//! A [`Credential`] is what is shown, an [`Identity`] who shows it, told by an [`Authenticator`]; [`ResourceAttributes`] are what they want,
//! in the words of Kubernetes; an [`Authorizer`] decides. [`rbac`] is the one that knows roles and bindings, which [`bindings`] finds. Nothing here knows HTTP, images, or where they are kept.

mod attributes;
mod authenticator;
mod authorizer;
pub mod bindings;
mod credential;
mod identity;
pub mod rbac;
mod rules;

pub use attributes::ResourceAttributes;
pub use authenticator::{Authenticated, AuthenticationError, Authenticator};
pub use authorizer::{AuthError, Authorizer, Decision, Everyone};
pub use credential::{Credential, Secret};
pub use identity::Identity;
pub use rules::PolicyRule;
