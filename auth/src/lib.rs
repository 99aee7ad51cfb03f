//! Who is asking, and may they.
//!
//! A [`Credential`] is what is shown, an [`Identity`] who shows it, told by an [`Authenticator`]; [`ResourceAttributes`] are what they want,
//! in the words of Kubernetes; an [`Authorizer`] decides. [`rbac`] is the one that knows roles and bindings, which [`bindings`] finds. Nothing here knows HTTP, images, or where they are kept.

mod access_review;
mod attributes;
mod authenticator;
mod authenticators;
mod authorizer;
pub mod bindings;
mod certificate;
mod clock;
mod cluster;
mod compact_token;
mod credential;
mod files;
mod htpasswd;
mod identity;
mod keyed_hash;
mod keys;
pub mod rbac;
mod registry_token;
mod rules;
mod service_account;
mod strict_json;
mod token_review;
mod tokens_file;
mod upkeep;
mod user_file;

pub use access_review::AccessReviews;
pub use attributes::ResourceAttributes;
pub use authenticator::{Authenticated, AuthenticationError, Authenticator};
pub use authenticators::{Attempts, AuthenticatorOptions, Authenticators};
pub use authorizer::{AnyUser, AuthError, Authorizer, Decision, Everyone};
pub use certificate::Certificates;
pub use clock::Clock;
pub use cluster::{Cluster, ClusterError, ConnectError, Contact, Lost};
pub use compact_token::{MAX_TOKEN_BYTES, MalformedToken};
pub use credential::{Credential, Secret};
pub use files::{FileError, Files};
pub use htpasswd::Htpasswd;
pub use identity::Identity;
pub use keyed_hash::NoRandomness;
pub use keys::{FetchKeys, KeySet, PublishedKeys, PublishedKeysError};
pub use registry_token::{IssueError, RegistryToken, RegistryTokenKeys, RegistryTokens};
pub use rules::PolicyRule;
pub use service_account::{
    Account, Accounts, ApiServerTokens, Issuer, IssuerName, LEGACY_ISSUER, OtherAudiences, ServiceAccounts,
    Standing, TokenError, TokenRules, WatchedAccounts,
};
pub use token_review::{ConfirmedAccounts, TokenReviews};
pub use tokens_file::TokensFile;
pub use upkeep::Upkeep;
pub use user_file::{EntryDigest, UserFile};
