//! May they: the question that everything is asked before it is done.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Identity, ResourceAttributes};

/// Decides who may do what.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Decides about one act of one caller.
    ///
    /// # Errors
    /// When it cannot be known; that is neither a yes nor a no.
    async fn decide(&self, caller: &Identity, wanted: &ResourceAttributes<'_>)
    -> Result<Decision, AuthError>;

    /// Tells whether they may, for whoever does not want to know what says so.
    ///
    /// # Errors
    /// As [`Authorizer::decide`].
    async fn allows(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Result<bool, AuthError> {
        Ok(matches!(self.decide(caller, wanted).await?, Decision::Allowed(_)))
    }
}

/// An answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// They may, and this is what says so, such as `RoleBinding team/pullers`.
    Allowed(Arc<str>),
    /// They may not: nothing says that they may.
    Denied,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Whoever knows cannot be reached for now.
    #[error("the authority cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Allows everything to everybody: a registry on a developer's machine, or behind a proxy that asks.
#[derive(Clone, Debug)]
pub struct Everyone(Arc<str>);

impl Everyone {
    /// An authorizer that never says no.
    pub fn new() -> Self {
        Self("the configuration, which lets everybody do everything".into())
    }
}

impl Default for Everyone {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Authorizer for Everyone {
    async fn decide(&self, _: &Identity, _: &ResourceAttributes<'_>) -> Result<Decision, AuthError> {
        Ok(Decision::Allowed(self.0.clone()))
    }

    async fn allows(&self, _: &Identity, _: &ResourceAttributes<'_>) -> Result<bool, AuthError> {
        Ok(true)
    }
}

/// Allows everything to whoever is somebody: the users of an `htpasswd` that stands alone, as in CNCF distribution.
#[derive(Clone, Debug)]
pub struct AnyUser(Arc<str>);

impl AnyUser {
    /// An authorizer that says no to nobody but nobody in particular.
    pub fn new() -> Self {
        Self("the configuration, which lets every user do everything".into())
    }
}

impl Default for AnyUser {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Authorizer for AnyUser {
    async fn decide(&self, caller: &Identity, _: &ResourceAttributes<'_>) -> Result<Decision, AuthError> {
        Ok(if caller.is_anonymous() { Decision::Denied } else { Decision::Allowed(self.0.clone()) })
    }

    async fn allows(&self, caller: &Identity, _: &ResourceAttributes<'_>) -> Result<bool, AuthError> {
        Ok(!caller.is_anonymous())
    }
}
