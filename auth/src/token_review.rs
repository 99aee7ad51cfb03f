//! Tokens, as the API server sees them: a `TokenReview` says whose one is, if anybody's.
//!
//! Whatever the API server takes is known so: people's tokens, those of other issuers, those of webhooks. It also has the last word
//! about a service account's token that was verified here, for it knows whether the pod or Secret still exists that it is bound to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use crate::cluster::{About, Answer, Answers, Cluster, ClusterError, Contact, Lasting};
use crate::compact_token::CompactToken;
use crate::keyed_hash::{KeyedHash, Kind};
use crate::service_account::{self, Account, Accounts};
use crate::{
    Authenticated, AuthenticationError, Authenticator, AuthenticatorOptions, Clock, Credential, Identity,
    NoRandomness, Secret, ServiceAccounts, Standing, TokenError, TokenRules,
};

/// How long a token that is not good any more goes on to be known elsewhere: to the API server, which remembers its own answers for ten
/// seconds, and then to [`Authenticators`](crate::Authenticators).
const REMEMBERED_ELSEWHERE: Duration =
    Duration::from_secs(10).saturating_add(AuthenticatorOptions::KNOWN_FOR);

/// How long it is not asked again about a token that is nobody's.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// How long it is not asked again about the token of an account that has not been heard of. A new one is heard of within moments.
const UNHEARD_FOR: Duration = Duration::from_secs(5);

/// Asks the API server whose a token is, and remembers the answer for a while.
#[derive(Debug)]
pub struct TokenReviews {
    cluster: Cluster,
    accounts: Arc<dyn Accounts>,
    rules: TokenRules,
    known_for: Duration,
    clock: Clock,
    key: KeyedHash,
    answers: Answers<Verdict>,
}

/// Whose it is, or why it is nobody's.
type Verdict = Result<Arc<Identity>, Arc<str>>;

impl TokenReviews {
    /// Asks `cluster`, and again in time for a token that it does not know any more to be good nowhere after `revocation`, which
    /// takes 20 seconds at least. What it says of a service account counts until `accounts` knows that one to be gone, and while
    /// the token obeys `rules`.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new(
        cluster: Cluster,
        accounts: Arc<dyn Accounts>,
        rules: TokenRules,
        revocation: Duration,
        clock: Clock,
    ) -> Result<Self, NoRandomness> {
        let (key, answers) = (KeyedHash::new()?, Answers::new(cluster.clone(), About::Somebody));
        let known_for = revocation.saturating_sub(REMEMBERED_ELSEWHERE);
        Ok(Self { cluster, accounts, rules, known_for, clock, key, answers })
    }

    /// Has it confirmed that `token` is that of `known`, unless the API server did so lately: when this replica asked, or another, as
    /// `known` may say.
    ///
    /// # Errors
    /// As [`Authenticator::identify`].
    pub(crate) async fn confirm(
        &self,
        token: &Secret,
        known: &Authenticated,
    ) -> Result<Authenticated, AuthenticationError> {
        if service_account::is_gone(&*self.accounts, &known.identity) {
            return Err(TokenError::Gone.into());
        }
        let confirmed = self.review(token, Some(known)).await?;
        if !confirmed.identity.is_same_user_as(&known.identity) {
            return Err(AuthenticationError::Rejected(
                "the API server says that the token is another's".to_owned(),
            ));
        }
        let expires = [known.expires, confirmed.expires].into_iter().flatten().min();
        Ok(Authenticated { expires, ..confirmed })
    }

    /// Tells whose `token` is, which the registry itself found to be that of `known`, and when it ends if it says so. One that is no
    /// service account's can be for the API server alone: whoever makes those knows of no other audiences.
    async fn review(
        &self,
        token: &Secret,
        known: Option<&Authenticated>,
    ) -> Result<Authenticated, AuthenticationError> {
        let parsed = CompactToken::parse(token.expose()).ok();
        let of_account = parsed.as_ref().filter(|token| service_account::is_of_service_account(token));
        let audiences = if of_account.is_some() { self.rules.accepted_audiences() } else { Vec::new() };
        let question = [token.expose()].into_iter().chain(audiences.iter().map(String::as_str));
        let question = self.key.of_list(Kind::Question, question);
        let is_proven =
            |identity: &Identity| known.is_some() && of_account.is_some() && Account::of(identity).is_some();
        let lasting = |verdict: &Verdict| match verdict {
            Ok(identity) => match service_account::standing(&*self.accounts, identity) {
                Standing::Current if is_proven(identity) => {
                    Lasting { fresh: self.known_for, outage: self.proven_for() }
                }
                Standing::Current | Standing::Unknown => {
                    Lasting { fresh: self.known_for, outage: self.cluster.outage() }
                }
                Standing::Unheard => Lasting { fresh: UNHEARD_FOR.min(self.known_for), ..Lasting::NOT },
                Standing::Gone => Lasting::NOT,
            },
            Err(_) => Lasting { fresh: REFUSED_FOR, ..Lasting::NOT },
        };
        let told = known.and_then(|known| self.told(known));
        let ask = |about| self.ask(about, token, &audiences);
        let answer = self.answers.get(&question, told, lasting, ask).await;
        let Answer { value, asked } =
            answer.map_err(|error| AuthenticationError::Unavailable(error.into()))?;
        let identity = value.map_err(|reason| AuthenticationError::Rejected(reason.to_string()))?;
        if service_account::is_gone(&*self.accounts, &identity) {
            // The API server itself remembers tokens for some seconds.
            return Err(TokenError::Gone.into());
        }
        if of_account.is_none() && Account::of(&identity).is_some() {
            // What it is for has not been asked.
            return Err(AuthenticationError::Rejected(
                "the token of a service account has another form".to_owned(),
            ));
        }
        // The API server has verified what the token says of itself.
        let now = self.clock.now();
        let expires = match (of_account, parsed.as_ref()) {
            (Some(token), _) => self.rules.end_of(token, now)?,
            (None, Some(token)) => service_account::end_of(token),
            (None, None) => None,
        };
        let is_past = |end| now.duration_since(end).is_ok_and(|since| since > self.rules.leeway);
        if expires.is_some_and(is_past) {
            return Err(TokenError::Expired.into());
        }
        let confirmed = now.checked_sub(asked.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Authenticated { expires, confirmed: Some(confirmed), ..Authenticated::new(identity) })
    }

    /// What is said to have been confirmed. If that was in the future, or before this machine was started, it is asked again.
    fn told(&self, known: &Authenticated) -> Option<Answer<Verdict>> {
        let age = self.clock.now().duration_since(known.confirmed?).ok()?;
        let asked = Instant::now().checked_sub(age)?;
        Some(Answer { value: Ok(Arc::clone(&known.identity)), asked })
    }

    /// How old an answer may be while nobody can be asked about a token that a known key signed for an account that is there.
    /// Where nothing at all is heard of the cluster, that ends with the outage, and until then no answer that a token could still
    /// have is too old: otherwise whoever does not log in each hour would be unknown from the first minute on.
    fn proven_for(&self) -> Duration {
        let outage = self.cluster.outage();
        match self.cluster.contact() {
            Contact::Silent(_) => outage.max(self.rules.max_age),
            Contact::Current | Contact::Lost(_) => outage,
        }
    }

    fn ask(
        &self,
        about: About,
        token: &Secret,
        audiences: &[String],
    ) -> impl Future<Output = Result<Verdict, ClusterError>> + use<> {
        let (cluster, token, audiences) = (self.cluster.clone(), token.clone(), audiences.to_owned());
        async move {
            let named = (!audiences.is_empty()).then(|| audiences.clone());
            let spec = TokenReviewSpec { token: Some(token.expose().to_owned()), audiences: named };
            let review = TokenReview { spec, ..TokenReview::default() };
            let api: Api<TokenReview> = Api::all(cluster.client());
            let params = PostParams::default();
            let answer = cluster.ask(about, || api.create(&params, &review)).await;
            let answer = answer.map_err(|error| error.without(&token))?;
            Ok(verdict(answer.status.unwrap_or_default(), &audiences))
        }
    }
}

/// What the API server says of a token that has to be for one of these audiences, if for any.
fn verdict(status: TokenReviewStatus, audiences: &[String]) -> Verdict {
    // An API server that knows nothing of audiences answers with none.
    let is_for_us = audiences.is_empty()
        || status.audiences.is_some_and(|named| named.iter().any(|audience| audiences.contains(audience)));
    let user = status.user.filter(|_| status.authenticated == Some(true));
    match user.and_then(identity) {
        Some(identity) if is_for_us => Ok(Arc::new(identity)),
        Some(_) => Err("the API server says that the token is for others".into()),
        None => {
            // It may quote the token.
            tracing::debug!(has_reason = status.error.is_some(), "the API server does not know a token");
            Err("the API server does not know the token".into())
        }
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
        self.review(token, None).await.map(Some)
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
        self.reviews.confirm(token, &known).await.map(Some)
    }
}
