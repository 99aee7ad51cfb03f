//! Who are they: from a credential to an identity.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::{Credential, EntryDigest, Identity};

/// Knows some kind of credential.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Tells who shows `credential`; `None` if it is of a kind that this one does not know, so that the next may look.
    ///
    /// # Errors
    /// [`AuthenticationError::Rejected`] if it is of this kind and not good; [`AuthenticationError::Unavailable`] if that
    /// cannot be known now, which says nothing about the credential.
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError>;
}

/// A caller who is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authenticated {
    /// Who they are.
    pub identity: Arc<Identity>,
    /// When the credential stops being good, if it does by itself.
    pub expires: Option<SystemTime>,
    /// When a cluster confirmed it, if one has to do so again and again. Whatever stands for this credential has to be, too.
    pub confirmed: Option<SystemTime>,
    /// Which entry of a [`crate::UserFile`] says so, if one does. Whatever stands for this credential is good while it is there.
    pub entry: Option<EntryDigest>,
}

impl Authenticated {
    /// Whoever is known by what neither ends by itself nor is asked about again.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { identity, expires: None, confirmed: None, entry: None }
    }
}

/// Why it is not known who shows a credential.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The credential is not good. The text says why, for the log and for the challenge; it holds nothing of the credential.
    #[error("{0}")]
    Rejected(String),
    /// Too many credentials from where this one comes were not good. Nothing was asked about it.
    #[error("too many failed attempts; try again in {} s", retry_after.as_secs().max(1))]
    TooManyFailures {
        /// When the next one is looked at.
        retry_after: Duration,
    },
    /// Whoever knows cannot be reached for now.
    #[error("the authority on identities cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
