//! Tokens, as the API server sees them: a `TokenReview` says whose one is, if anybody's.
//!
//! Whatever the API server takes is known so: people's tokens, those of other issuers, those of webhooks. It also has the last word
//! about a service account's token that was verified here, for it knows whether the pod or Secret still exists that it is bound to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Api;
use kube::api::PostParams;

use crate::cluster::{Answers, Cluster, ClusterError};
use crate::compact_token::CompactToken;
use crate::keyed_hash::KeyedHash;
use crate::service_account::{self, Account, Accounts, Standing};
use crate::{
    Authenticated, AuthenticationError, Authenticator, Credential, Identity, NoRandomness, Secret,
    ServiceAccounts,
};

/// Asks the API server whose a token is, and remembers the answer for a while.
#[derive(Debug)]
pub struct TokenReviews {
    cluster: Cluster,
    accounts: Arc<dyn Accounts>,
    audiences: Vec<String>,
    key: KeyedHash,
    answers: Answers<Verdict>,
}

/// Whose it is, or why it is nobody's.
type Verdict = Result<Arc<Identity>, Arc<str>>;

impl TokenReviews {
    /// Asks `cluster`, and not again for `known_for`. What it says of a service account counts while `accounts` has that one,
    /// whose token must be for one of `audiences`; if there are none, for the API server itself.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new(
        cluster: Cluster,
        accounts: Arc<dyn Accounts>,
        audiences: Vec<String>,
        known_for: Duration,
    ) -> Result<Self, NoRandomness> {
        let answers = Answers::new(known_for, cluster.outage());
        Ok(Self { cluster, accounts, audiences, key: KeyedHash::new()?, answers })
    }

    /// Tells whose `token` is. One that is no service account's can be for the API server alone: whoever makes those knows of
    /// no other audiences.
    async fn review(&self, token: &Secret) -> Result<Arc<Identity>, AuthenticationError> {
        let claims = CompactToken::parse(token.expose());
        let is_of_account = claims.is_ok_and(|token| service_account::is_of_service_account(&token));
        let audiences = if is_of_account { &*self.audiences } else { &[] };
        let question = self.key.of([token.expose()].into_iter().chain(audiences.iter().map(String::as_str)));
        let counts = |verdict: &Verdict| match verdict {
            Ok(identity) => self.is_there(identity),
            Err(_) => false,
        };
        let verdict = self.answers.get(&question, counts, self.ask(token, audiences)).await;
        match verdict {
            Ok(Ok(identity)) => Ok(identity),
            Ok(Err(reason)) => Err(AuthenticationError::Rejected(reason.to_string())),
            Err(error) => Err(AuthenticationError::Unavailable(error.into())),
        }
    }

    fn is_there(&self, identity: &Identity) -> bool {
        Account::of(identity).is_none_or(|account| self.accounts.standing(&account) != Standing::Gone)
    }

    async fn ask(&self, token: &Secret, audiences: &[String]) -> Result<Verdict, ClusterError> {
        let named = (!audiences.is_empty()).then(|| audiences.to_owned());
        let spec = TokenReviewSpec { token: Some(token.expose().to_owned()), audiences: named };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.cluster.client());
        let answer = self.cluster.ask(api.create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        // An API server that knows nothing of audiences answers with none.
        let is_for_us = audiences.is_empty()
            || status
                .audiences
                .is_some_and(|named| named.iter().any(|audience| audiences.contains(audience)));
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(match user.and_then(identity) {
            Some(identity) if is_for_us => Ok(Arc::new(identity)),
            Some(_) => Err("the API server says that the token is for others".into()),
            None => {
                // It may quote the token.
                tracing::debug!(has_reason = status.error.is_some(), "the API server does not know a token");
                Err("the API server does not know the token".into())
            }
        })
    }
}

fn identity(user: UserInfo) -> Option<Identity> {
    Some(Identity {
        name: user.username.filter(|name| !name.is_empty())?,
        uid: user.uid.filter(|uid| !uid.is_empty()),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    })
}

/// Whatever is a token to the API server itself.
#[async_trait]
impl Authenticator for TokenReviews {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let Some(token) = credential.token().filter(|token| is_one_word(token)) else { return Ok(None) };
        let identity = self.review(token).await?;
        Ok(Some(Authenticated { identity, expires: None }))
    }
}

/// The API server would read the first word alone, and so take a token for good that has something else behind it.
fn is_one_word(token: &Secret) -> bool {
    token.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

/// Tokens of service accounts, verified here and then confirmed by the API server.
#[derive(Debug)]
pub struct ConfirmedAccounts {
    accounts: ServiceAccounts,
    reviews: Arc<TokenReviews>,
}

impl ConfirmedAccounts {
    /// What `accounts` knows and `reviews` confirm.
    pub fn new(accounts: ServiceAccounts, reviews: Arc<TokenReviews>) -> Self {
        Self { accounts, reviews }
    }
}

#[async_trait]
impl Authenticator for ConfirmedAccounts {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let (Some(known), Some(token)) = (self.accounts.identify(credential).await?, credential.token())
        else {
            return Ok(None);
        };
        let identity = self.reviews.review(token).await?;
        if (&identity.name, &identity.uid) != (&known.identity.name, &known.identity.uid) {
            return Err(AuthenticationError::Rejected(
                "the API server says that the token is another's".to_owned(),
            ));
        }
        Ok(Some(Authenticated { identity, ..known }))
    }
}
