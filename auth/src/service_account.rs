//! Tokens of service accounts, verified without asking anybody: the signature, who made it, for whom, until when, and whom
//! it names.
//!
//! What an API server would look up besides (that the account, pod or secret still exists) is not in a token. Therefore an
//! audience of the registry's own can be demanded, the accepted age has a cap, and [`Accounts`] knows whose account is gone.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::compact_token::{CompactToken, MalformedToken};
use crate::{Authenticated, AuthenticationError, Authenticator, Clock, Credential, Identity, KeySet};

mod claims;
mod watched;

pub use self::watched::WatchedAccounts;

use self::claims::{Claims, Subject};

/// The issuer of tokens that Kubernetes kept in Secrets: without an audience, without an end.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claim that all other tokens of service accounts have, and no others.
const BOUND: &str = "kubernetes.io";

/// Who signs tokens, and the keys that are theirs alone.
#[derive(Debug)]
pub struct Issuer {
    /// What their tokens have as `iss`.
    pub name: IssuerName,
    /// Their public keys.
    pub keys: KeySet,
}

/// What tokens call who signed them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IssuerName {
    /// Exactly this.
    Exactly(String),
    /// Anything: the keys are those of a cluster, which may have had several names and is asked about each token besides.
    AnyOfCluster,
}

/// Which tokens are good.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// The audiences that are the registry's own.
    pub audiences: Vec<String>,
    /// Whether a token for the API server is good here too.
    pub api_server: ApiServerTokens,
    /// Whether a token may be for others as well. Each of its audiences could show it here.
    pub other_audiences: OtherAudiences,
    /// How far the clocks of issuer and registry may differ.
    pub leeway: Duration,
    /// How long after it was issued a token is accepted, if it does not end earlier by itself. Kubernetes makes the mounted
    /// tokens good for a year and renews them every hour: whoever reads the file anew is never refused, a copy that got
    /// away is useless after this time. [`LEGACY_ISSUER`] does not say when it issued a token.
    pub max_age: Duration,
}

/// Whether tokens for the API server are accepted. A token without an audience, as [`LEGACY_ISSUER`] makes them, is one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ApiServerTokens {
    /// They are not.
    Refused,
    /// They are, and these are its audiences.
    For(Vec<String>),
    /// They are, and it knows its audiences: it is asked about each token.
    AskedAbout,
}

/// What else may stand beside an accepted audience.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OtherAudiences {
    /// Any audience.
    Tolerated,
    /// None but accepted ones.
    Refused,
}

impl TokenRules {
    /// Tokens for these audiences alone, up to a day old, by clocks that differ by a minute.
    pub fn for_audiences(audiences: Vec<String>) -> Self {
        Self {
            audiences,
            api_server: ApiServerTokens::Refused,
            other_audiences: OtherAudiences::Tolerated,
            leeway: Duration::from_secs(60),
            max_age: Duration::from_secs(24 * 60 * 60),
        }
    }

    fn accept_audiences(&self, audiences: &[String]) -> Result<(), TokenError> {
        let of_api_server: &[String] = match &self.api_server {
            ApiServerTokens::AskedAbout => return Ok(()),
            ApiServerTokens::For(names) => names,
            ApiServerTokens::Refused => &[],
        };
        if audiences.is_empty() {
            // Kubernetes itself reads it so.
            return if of_api_server.is_empty() { Err(TokenError::Audience) } else { Ok(()) };
        }
        let is_accepted = |audience| self.audiences.contains(audience) || of_api_server.contains(audience);
        if !audiences.iter().any(is_accepted) {
            return Err(TokenError::Audience);
        }
        match self.other_audiences {
            OtherAudiences::Refused if !audiences.iter().all(is_accepted) => Err(TokenError::OtherAudience),
            OtherAudiences::Refused | OtherAudiences::Tolerated => Ok(()),
        }
    }

    /// All audiences that are accepted, as far as their names are known.
    pub(crate) fn accepted_audiences(&self) -> Vec<String> {
        let mut accepted = self.audiences.clone();
        if let ApiServerTokens::For(names) = &self.api_server {
            accepted.extend_from_slice(names);
        }
        accepted
    }

    /// When a token ends that somebody else has verified, if it is good by these rules.
    pub(crate) fn end_of(
        &self,
        token: &CompactToken<'_>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, TokenError> {
        let claims = Claims::read(&token.claims)?;
        self.accept_audiences(&claims.audiences)?;
        self.accept_times(&claims, now)
    }

    /// Checks the times as Kubernetes does, and tells when the token ends.
    fn accept_times(&self, claims: &Claims, now: SystemTime) -> Result<Option<SystemTime>, TokenError> {
        let later = |time: SystemTime, by| time.checked_add(by).unwrap_or(time);
        let is_past = |time| now > later(time, self.leeway);
        let is_ahead = |time| time > later(now, self.leeway);
        if claims.not_before.is_some_and(is_ahead) {
            return Err(TokenError::NotYetValid);
        }
        if claims.expires.is_some_and(is_past) {
            return Err(TokenError::Expired);
        }
        let Some(issued) = claims.issued else { return Ok(claims.expires) };
        if is_ahead(issued) {
            return Err(TokenError::IssuedInFuture);
        }
        let oldest = later(issued, self.max_age);
        if is_past(oldest) {
            return Err(TokenError::TooOld(self.max_age));
        }
        Ok(Some(claims.expires.map_or(oldest, |expires| expires.min(oldest))))
    }
}

/// Whether a service account still is the one that a token was made for.
pub trait Accounts: fmt::Debug + Send + Sync + 'static {
    /// Answers from memory.
    fn standing(&self, account: &Account<'_>) -> Standing;

    /// Whether that is [`Standing::Gone`].
    fn is_gone(&self, account: &Account<'_>) -> bool {
        self.standing(account) == Standing::Gone
    }
}

/// One service account. Its uid tells it from others that had its name before or will have it after.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Account<'a> {
    /// Its namespace and its name, with a colon between them as in its user name.
    pub full_name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

impl<'a> Account<'a> {
    const USER_PREFIX: &'static str = "system:serviceaccount:";

    /// The account that `identity` is, if it is one.
    pub fn of(identity: &'a Identity) -> Option<Self> {
        let full_name = identity.name.strip_prefix(Self::USER_PREFIX)?;
        let uid = identity.uid.as_deref().unwrap_or_default();
        full_name.contains(':').then_some(Self { full_name, uid })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &'a str {
        self.full_name.split(':').next().unwrap_or_default()
    }
}

/// What is known of an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It exists, with this uid.
    Current,
    /// It existed, and does not any more.
    Gone,
    /// It has not been heard of: it is newer than what has been heard, or was gone before. Whoever made its token knows.
    Unheard,
    /// It cannot be known now.
    Unknown,
}

/// Why a token of a service account is not good.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// It is no JSON Web Token, or may be read in two ways.
    #[error(transparent)]
    Malformed(#[from] MalformedToken),
    /// Its issuer has no key of the name that it gives.
    #[error("the token's `kid` is no key of its issuer; one in PEM has the `kid` that Kubernetes computes")]
    Key,
    /// No key of its issuer made its signature, by the algorithm that the key is for.
    #[error("the token's signature is not valid")]
    Signature,
    /// It lacks something that every token of a service account has, or has it in another form.
    #[error("the token's claims are not those of a service account")]
    Claims,
    /// Its subject is not the account that it says it is for.
    #[error("the token's subject is another one than its service account")]
    Subject,
    /// It ended.
    #[error("the token has expired")]
    Expired,
    /// It was issued too long ago, although it has not ended.
    #[error("the token was issued more than {} h ago, and none that old is accepted; get a new one", .0.as_secs() / 3600)]
    TooOld(Duration),
    /// It has not begun.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It was issued later than now.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// It is for others.
    #[error("the token is not for this registry: none of its audiences is accepted here")]
    Audience,
    /// It is for this registry, but for others as well.
    #[error("the token is for others as well as for this registry")]
    OtherAudience,
    /// The account is gone, or its name belongs to another now.
    #[error("the service account does not exist any more")]
    Gone,
}

/// Knows the tokens of service accounts of some issuers.
#[derive(Debug)]
pub struct ServiceAccounts {
    issuers: Vec<Issuer>,
    rules: TokenRules,
    clock: Clock,
}

impl ServiceAccounts {
    /// Accepts what `issuers` signed, by these rules, whatever has become of the account since.
    pub fn new(issuers: Vec<Issuer>, rules: TokenRules, clock: Clock) -> Self {
        Self { issuers, rules, clock }
    }

    /// One step after the other, each only once the one before has been passed: nothing but the issuer is read from a token
    /// whose signature has not been verified.
    async fn verify(
        &self,
        token: &CompactToken<'_>,
        issuer: &Issuer,
    ) -> Result<Option<Authenticated>, AuthenticationError> {
        let keys = match (issuer.keys.named(token.key_id.as_deref()).await, &issuer.name) {
            (Ok(keys), _) if !keys.is_empty() => keys,
            // A cluster may keep some of its keys to itself, or all.
            (Ok(_) | Err(_), IssuerName::AnyOfCluster) => return Ok(None),
            (Ok(_), IssuerName::Exactly(_)) => return Err(TokenError::Key.into()),
            (Err(error), IssuerName::Exactly(_)) => return Err(error),
        };
        if !keys.iter().any(|key| key.verifies(&token.algorithm, token.signed, &token.signature)) {
            return Err(TokenError::Signature.into());
        }
        let claims = Claims::read(&token.claims)?;
        let expires = self.rules.accept_times(&claims, self.clock.now())?;
        self.rules.accept_audiences(&claims.audiences)?;
        let identity = Arc::new(Subject::read(&token.claims, &claims)?.identity());
        Ok(Some(Authenticated { expires, ..Authenticated::new(identity) }))
    }
}

#[async_trait]
impl Authenticator for ServiceAccounts {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let Some(text) = credential.token().map(|token| token.expose()) else { return Ok(None) };
        if !CompactToken::is_meant_by(text) {
            return Ok(None);
        }
        let token = CompactToken::parse(text).map_err(TokenError::from)?;
        let signed_it = |issuer: &&Issuer| match &issuer.name {
            IssuerName::Exactly(name) => Some(name.as_str()) == token.issuer(),
            IssuerName::AnyOfCluster => is_of_service_account(&token),
        };
        match self.issuers.iter().find(signed_it) {
            Some(issuer) => self.verify(&token, issuer).await,
            None => Ok(None),
        }
    }
}

/// Whether `token` claims to be a service account's, whoever made it.
pub(crate) fn is_of_service_account(token: &CompactToken<'_>) -> bool {
    token.claims.contains_key(BOUND) || token.issuer() == Some(LEGACY_ISSUER)
}

/// When a token ends, as it says itself.
pub(crate) fn end_of(token: &CompactToken<'_>) -> Option<SystemTime> {
    let seconds = token.claims.get("exp")?.as_f64()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// What `accounts` knows of `identity`. Whoever is no service account is none that could go.
pub(crate) fn standing(accounts: &dyn Accounts, identity: &Identity) -> Standing {
    Account::of(identity).map_or(Standing::Current, |account| accounts.standing(&account))
}

/// Whether `identity` was one of `accounts` that is gone.
pub(crate) fn is_gone(accounts: &dyn Accounts, identity: &Identity) -> bool {
    Account::of(identity).is_some_and(|account| accounts.is_gone(&account))
}

impl From<TokenError> for AuthenticationError {
    fn from(error: TokenError) -> Self {
        Self::Rejected(error.to_string())
    }
}

#[cfg(test)]
mod tests;
