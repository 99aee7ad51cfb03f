//! All authenticators, one after the other: the first who knows a credential says whose it is.
//!
//! What was found is remembered for seconds, good or not, by a keyed hash of the credential; equal ones that arrive together are
//! looked at once. A source that guesses is made to wait before anything slow is asked for it.

mod failures;
mod shown;
mod verdicts;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::failures::{Attempt, Failures};
use self::verdicts::{Entry, Looked, Past, Verdict, Verdicts};
use crate::compact_token::{CompactToken, MAX_TOKEN_BYTES};
use crate::service_account::is_gone;
use crate::{
    Accounts, Authenticated, AuthenticationError, Authenticator, Clock, Credential, Files, Identity,
    RegistryTokens, TokenError,
};

/// Tells who shows a credential.
#[derive(Debug)]
pub struct Authenticators {
    steps: Vec<(Arc<dyn Authenticator>, Attempts)>,
    verdicts: Verdicts,
    failures: Failures,
    accounts: Option<Arc<dyn Accounts>>,
}

/// Whether an authenticator is asked for sources that failed too often, and again about what it did not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempts {
    /// Always: what it knows cannot be guessed, and it answers quickly.
    Unlimited,
    /// Not then: what it knows may be guessed, or its answer is dear.
    Limited,
    /// Not then either, and about what it did not know not again until a file has changed, or ten minutes have passed: all that it
    /// knows stands in the files of [`Authenticators::as_long_as_unchanged`], so that it would say the same.
    OncePerChange,
}

/// What is remembered, and for how long; how much guessing is allowed.
#[derive(Clone, Copy, Debug)]
pub struct AuthenticatorOptions {
    /// How long a good credential is not looked at again; what changes in the meantime takes effect after it, unless it is a
    /// file's contents.
    pub known_for: Duration,
    /// How long one that is not good is not looked at again.
    pub rejected_for: Duration,
    /// How many credentials are remembered for all threads; each thread besides remembers some hundred headers.
    pub remembered: usize,
    /// How many different bad credentials a source may show at once …
    pub failures: u32,
    /// … and after how long one more each. A source is an IPv4 address or the first half of an IPv6 address. One that is shown again
    /// within ten minutes, while no file changes, counts for one `failures`th.
    pub failure_every: Duration,
}

impl AuthenticatorOptions {
    /// How long a good credential is not looked at again unless something else is said: as long as the API server itself does.
    pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(10);
}

impl Default for AuthenticatorOptions {
    /// Ten seconds for good ones; 20 failures, then one every 5 s.
    fn default() -> Self {
        Self {
            known_for: Self::KNOWN_FOR,
            rejected_for: Duration::from_secs(5),
            remembered: 10_000,
            failures: 20,
            failure_every: Duration::from_secs(5),
        }
    }
}

impl Authenticators {
    /// Nobody who knows anything yet.
    pub fn new(options: &AuthenticatorOptions, clock: Clock) -> Result<Self, crate::NoRandomness> {
        let verdicts = Verdicts::new(options, clock)?;
        Ok(Self { steps: Vec::new(), verdicts, failures: Failures::new(options), accounts: None })
    }

    /// Has what is remembered of a service account count no longer than `accounts` has that one.
    #[must_use]
    pub fn as_long_as_in(mut self, accounts: Arc<dyn Accounts>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// Has nothing of what is remembered count any longer once one of `files` says something new.
    #[must_use]
    pub fn as_long_as_unchanged(mut self, files: &Files) -> Self {
        self.verdicts.depend_on(files);
        self
    }

    /// Asks `authenticator` when all before do not know a credential.
    #[must_use]
    pub fn then(mut self, authenticator: Arc<dyn Authenticator>, attempts: Attempts) -> Self {
        self.steps.push((authenticator, attempts));
        self
    }

    /// Tells who shows `credential` from the address `source`. Whoever is known is in `system:authenticated`.
    ///
    /// # Errors
    /// [`AuthenticationError::Rejected`] when nobody knows the credential or one says that it is not good;
    /// [`AuthenticationError::TooManyFailures`] and [`AuthenticationError::Unavailable`] when that was not found out.
    ///
    /// # Cancel safety
    /// When dropped, others who wait for the same credential carry on.
    pub async fn identify(
        &self,
        credential: &Credential,
        source: IpAddr,
    ) -> Result<Authenticated, AuthenticationError> {
        self.find_out(credential, source, false).await?.verdict.into()
    }

    /// Tells who shows the text `header`, if [`Authenticators::identify_by`] found that out on this thread lately and it still
    /// counts. Most requests show what one before them showed, and this does not even take it apart.
    pub fn recall(&self, header: &[u8]) -> Option<Arc<Identity>> {
        let (identity, term) = shown::recall(&self.verdicts.hash_of_header(header))?;
        (self.verdicts.is_running(&term) && !self.is_gone(&identity)).then_some(identity)
    }

    /// As [`Authenticators::identify`], of a credential of which all there is to know stands in the text `header`. If it is good,
    /// [`Authenticators::recall`] knows that text on this thread as long as the answer counts.
    ///
    /// # Errors
    /// As [`Authenticators::identify`].
    ///
    /// # Cancel safety
    /// As [`Authenticators::identify`].
    pub async fn identify_by(
        &self,
        header: &[u8],
        credential: &Credential,
        source: IpAddr,
    ) -> Result<Authenticated, AuthenticationError> {
        let hash = self.verdicts.hash_of_header(header);
        let was_known = shown::recall(&hash).is_some();
        let Entry { verdict, term, .. } = self.find_out(credential, source, was_known).await?;
        match &verdict {
            Verdict::Known(known) => shown::remember(hash, &known.identity, term),
            Verdict::Rejected(_) => shown::forget(&hash),
            Verdict::Unavailable(_) => {}
        }
        verdict.into()
    }

    /// Finds out whose `credential` is, or who it was found to be. What is recalled is not looked for here: that it was known may be
    /// forgotten here while it is in use, so that `was_known` says so, too.
    async fn find_out(
        &self,
        credential: &Credential,
        source: IpAddr,
        was_known: bool,
    ) -> Result<Entry, AuthenticationError> {
        match self.verdicts.look(credential).await {
            Looked::Found(Entry { verdict: Verdict::Known(known), term, past })
                if self.is_gone(&known.identity) =>
            {
                let gone = Verdict::Rejected(TokenError::Gone.to_string().into());
                Ok(Entry { verdict: gone, term, past })
            }
            Looked::Found(entry) => Ok(entry),
            Looked::Missing(place) => {
                let past = match place.past() {
                    Past::Unknown if was_known => Past::Good,
                    past => past,
                };
                // In a box: what is remembered needs no room for it.
                match Box::pin(self.judge(credential, source, past)).await {
                    Ok((verdict, past)) => Ok(place.remember(verdict, past)),
                    Err(error) => {
                        place.restore();
                        Err(error)
                    }
                }
            }
        }
    }

    /// The same for the token endpoint, where a token that the registry gave is no credential: otherwise one could be
    /// exchanged for the next for ever.
    ///
    /// # Errors
    /// As [`Authenticators::identify`].
    pub async fn identify_for_token(
        &self,
        credential: &Credential,
        source: IpAddr,
    ) -> Result<Authenticated, AuthenticationError> {
        if credential.token().is_some_and(|token| RegistryTokens::is_meant_by(token.expose())) {
            return Err(rejected("a token that the registry gave is not exchanged for another"));
        }
        self.identify(credential, source).await
    }

    /// Asks one after the other, and says what is known of the credential when it has to be looked at again. Somebody whose very
    /// credential was good lately is not kept out by others at their address.
    async fn judge(
        &self,
        credential: &Credential,
        source: IpAddr,
        past: Past,
    ) -> Result<(Verdict, Past), AuthenticationError> {
        if let Some(problem) = malformation(credential) {
            let attempt = self.attempt(source, past).await?;
            return Ok((Verdict::Rejected(problem.into()), count(Some(attempt), past)));
        }
        let (mut attempt, mut was_guess) = (None, false);
        let mut verdict = Verdict::Rejected("nobody here knows the credential".into());
        // What is counted is looked for in no file again, so that none may have been left out.
        let may_be_in_a_file = |index: usize| {
            self.steps.iter().skip(index).any(|(_, attempts)| *attempts == Attempts::OncePerChange)
        };
        for (index, (authenticator, attempts)) in self.steps.iter().enumerate() {
            let is_limited = *attempts != Attempts::Unlimited;
            if is_limited && attempt.is_none() {
                attempt = Some(self.attempt(source, past).await?);
            }
            // Or whoever repeats what failed could have passwords hashed all the time, at a fraction of the price.
            let says_the_same = *attempts == Attempts::OncePerChange && matches!(past, Past::Counted(_));
            let answer = if says_the_same { Ok(None) } else { authenticator.identify(credential).await };
            match answer {
                // What is signed is guessed by nobody: while those are away who know it, it is not bad.
                Ok(None) => was_guess |= is_limited && !is_signed(credential),
                Ok(Some(mut known)) => {
                    Arc::make_mut(&mut known.identity).join_everybody();
                    attempt.into_iter().for_each(Attempt::forgive);
                    return Ok((Verdict::Known(known), Past::Good));
                }
                Err(AuthenticationError::Rejected(reason)) => {
                    verdict = Verdict::Rejected(reason.into());
                    if may_be_in_a_file(index) {
                        attempt = None;
                    }
                    break;
                }
                Err(AuthenticationError::Unavailable(error)) => {
                    let past = match past {
                        _ if !was_guess => {
                            attempt.into_iter().for_each(Attempt::forgive);
                            past
                        }
                        // Or passwords could be guessed freely while those cannot be asked who are asked next.
                        Past::Unknown if !may_be_in_a_file(index) => count(attempt, past),
                        // What was good may still be, and what was counted still is.
                        Past::Unknown | Past::Good | Past::Counted(_) => {
                            fail(attempt, past);
                            past
                        }
                    };
                    return Ok((Verdict::Unavailable(error.into()), past));
                }
                Err(error @ AuthenticationError::TooManyFailures { .. }) => return Err(error),
            }
        }
        Ok((verdict, count(attempt, past)))
    }

    /// Begins an attempt of `source`, if it did not fail too often. Until it is forgiven it has failed.
    async fn attempt(&self, source: IpAddr, past: Past) -> Result<Attempt, AuthenticationError> {
        if matches!(past, Past::Good) {
            return Ok(self.failures.attempt_again(source));
        }
        let attempt = self.failures.attempt(source).await;
        attempt.map_err(|retry_after| AuthenticationError::TooManyFailures { retry_after })
    }

    /// Whether it was an account that is gone.
    fn is_gone(&self, identity: &Identity) -> bool {
        self.accounts.as_ref().is_some_and(|accounts| is_gone(&**accounts, identity))
    }
}

/// Ends an attempt with what is not good, and says what is known of that from then on.
fn count(attempt: Option<Attempt>, past: Past) -> Past {
    let has_failed = attempt.is_some();
    fail(attempt, past);
    match past {
        Past::Counted(_) => past,
        Past::Unknown | Past::Good if has_failed => Past::Counted(Instant::now()),
        Past::Unknown | Past::Good => Past::Unknown,
    }
}

/// Ends an attempt with what is not known to be good. It is counted once, however often it is shown: a guess is one.
fn fail(attempt: Option<Attempt>, past: Past) {
    match past {
        Past::Counted(_) => attempt.into_iter().for_each(Attempt::repeat),
        Past::Unknown | Past::Good => drop(attempt),
    }
}

/// Why a credential is not good whoever looks at it: most that is thrown at a registry has not even the form of one.
fn malformation(credential: &Credential) -> Option<String> {
    let token = match credential {
        Credential::Unreadable(_) => return Some("what is shown cannot be read".to_owned()),
        Credential::Token(token) | Credential::Password { password: token, .. } => token.expose(),
        Credential::Certificate { .. } => return None,
    };
    let is_alone = matches!(credential, Credential::Token(_));
    let problem = if token.is_empty() {
        "the credential is empty"
    } else if token.len() > MAX_TOKEN_BYTES {
        "the credential is too long"
    } else if is_alone && !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "the token has spaces or other characters that no token has"
    } else if CompactToken::is_meant_by(token) {
        return CompactToken::parse(token).err().map(|malformed| malformed.to_string());
    } else {
        return None;
    };
    Some(problem.to_owned())
}

/// Whether it has the form of a token that somebody signs, which no file of users holds.
fn is_signed(credential: &Credential) -> bool {
    credential.token().is_some_and(|token| CompactToken::is_meant_by(token.expose()))
}

fn rejected(reason: &str) -> AuthenticationError {
    AuthenticationError::Rejected(reason.to_owned())
}

#[cfg(test)]
mod tests;
