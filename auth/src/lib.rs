//! Who is asking, and may they.
//!
//! A [`Credential`] is what is shown, an [`Identity`] who shows it, told by an [`Authenticator`]; [`ResourceAttributes`] are what they want,
//! in the words of Kubernetes; an [`Authorizer`] decides. Nothing here knows HTTP, images, or where they are kept.

mod attributes;
mod authenticator;
mod authorizer;
mod clock;
mod compact_token;
mod credential;
mod files;
mod identity;
mod keys;
mod service_account;
mod strict_json;

pub use attributes::ResourceAttributes;
pub use authenticator::{Authenticated, AuthenticationError, Authenticator};
pub use authorizer::{AuthError, Authorizer, Decision, Everyone};
pub use clock::Clock;
pub use compact_token::{MAX_TOKEN_BYTES, MalformedToken};
pub use credential::{Credential, Secret};
pub use files::{FileError, Files};
pub use identity::Identity;
pub use keys::{FetchKeys, KeySet};
pub use service_account::{
    Account, Accounts, Issuer, LEGACY_ISSUER, OtherAudiences, ServiceAccounts, Standing, TokenError,
    TokenRules,
};
