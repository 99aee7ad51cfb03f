//! The registry's own tokens: what the token endpoint gives for a credential. They live minutes and say who somebody is, never
//! what they may: that is judged again at each request.
//!
//! One reads `wharf.<sealed claims>`. It is no JSON Web Token on purpose: no header, hence nothing to be talked into, and nothing
//! in it is read before it has been opened by a key of the registry's own. Its prefix tells it from every other credential.
//!
//! A pod or Secret may go long before such a token ends. Whoever was confirmed by a cluster therefore has in it the token that they
//! showed, sealed, and when that was confirmed: so each replica can have it confirmed again, and need not before it is time to.
//!
//! A user of a file may be taken out of it. Theirs names the entry that it was given for, and what else the file says of them is
//! looked up there at each use.

mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub use self::keys::RegistryTokenKeys;

use crate::{
    Account, Authenticated, AuthenticationError, Authenticator, Clock, Credential, EntryDigest, Identity,
    NoRandomness, Secret, TokenReviews, UserFile,
};

const PREFIX: &str = "wharf.";

/// Who made a token.
const ISSUER: &str = "wharf";

/// The largest token, in bytes: it travels in a header, and some proxies take no more than 8 KiB of those.
const MAX_BYTES: usize = 4096;

/// The shortest lifetime that can be configured: clients do not renew a token in the middle of a push.
const MIN_LIFETIME: Duration = Duration::from_secs(300);

/// Makes and knows the registry's own tokens.
#[derive(Debug)]
pub struct RegistryTokens {
    keys: RegistryTokenKeys,
    audience: String,
    lifetime: Duration,
    reviews: Option<Arc<TokenReviews>>,
    user_files: Vec<Arc<dyn UserFile>>,
    clock: Clock,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub struct RegistryToken {
    /// The token.
    pub token: Secret,
    /// How long it is good.
    pub lifetime: Duration,
}

/// Why no token was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// The credential has ended, or is about to.
    #[error("the credential has expired")]
    Expired,
    /// The identity, or the token that it rests on, does not fit. A group less would be another identity, so none is left out; the
    /// token endpoint may give back the token that it was shown, as OpenShift's does.
    #[error("who it is, and the token that says so, do not fit into a token of {MAX_BYTES} bytes")]
    TooLarge,
    /// It would have to be confirmed again, and is no token.
    #[error("the credential cannot be confirmed again")]
    Unconfirmable,
    /// It could not be sealed.
    #[error("the token cannot be sealed")]
    Unsealed(#[from] NoRandomness),
}

impl RegistryTokens {
    /// Tokens for the registry called `audience`, good for `lifetime` but for 300 s at least, or as long as the credential
    /// behind them. Those of whom a cluster confirmed are good while `reviews` find them so.
    pub fn new(
        keys: RegistryTokenKeys,
        audience: String,
        lifetime: Duration,
        reviews: Option<Arc<TokenReviews>>,
        clock: Clock,
    ) -> Self {
        Self { keys, audience, lifetime: lifetime.max(MIN_LIFETIME), reviews, user_files: Vec::new(), clock }
    }

    /// Those of the users of these files, too, who are known by no others.
    #[must_use]
    pub fn with_users_of(mut self, files: Vec<Arc<dyn UserFile>>) -> Self {
        self.user_files = files;
        self
    }

    /// Whether `text` claims to be such a token, good or not. One is never a credential that another is given for.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Makes a token that says who `known` is, who showed the token `shown`, if they did show one. It ends when the credential
    /// does, if not before.
    ///
    /// # Errors
    /// When the credential has ended, or it does not fit.
    pub fn issue(&self, known: &Authenticated, shown: Option<&Secret>) -> Result<RegistryToken, IssueError> {
        let now = self.clock.now();
        // A second begun counts as one, so that nobody is told less than the least; of the credential it does not.
        let end =
            now.checked_add(self.lifetime + Duration::from_nanos(999_999_999)).ok_or(IssueError::Expired)?;
        let end = known.expires.map_or(end, |expires| expires.min(end));
        let expires = seconds(end).ok_or(IssueError::Expired)?;
        let lifetime =
            time(expires).and_then(|end| end.duration_since(now).ok()).filter(|left| !left.is_zero());
        let lifetime = lifetime.ok_or(IssueError::Expired)?;
        let confirmed = match (known.confirmed, shown) {
            (None, _) => None,
            (Some(at), Some(token)) => Some(Confirmed {
                at: seconds(at).ok_or(IssueError::Unconfirmable)?,
                token: token.expose().to_owned(),
            }),
            (Some(_), None) => return Err(IssueError::Unconfirmable),
        };
        let claims = Claims::of(known, &self.audience, expires, confirmed);
        let claims = serde_json::to_vec(&claims).map_err(|_| IssueError::TooLarge)?;
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(self.keys.seal(claims)?));
        if token.len() > MAX_BYTES {
            return Err(IssueError::TooLarge);
        }
        Ok(RegistryToken { token: Secret::new(token), lifetime })
    }

    /// Who a token says somebody is, and which token it rests on if that has to be confirmed.
    fn open(&self, text: &str) -> Result<(Authenticated, Option<Secret>), RegistryTokenError> {
        use RegistryTokenError::{Audience, Expired, Forged, Malformed};
        if text.len() > MAX_BYTES {
            return Err(Malformed);
        }
        let sealed = text.strip_prefix(PREFIX).ok_or(Malformed)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(sealed).map_err(|_| Malformed)?;
        let claims = self.keys.open(&sealed).ok_or(Forged)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Malformed)?;
        if claims.iss != ISSUER || claims.aud != self.audience {
            return Err(Audience);
        }
        let expires = time(claims.exp).ok_or(Malformed)?;
        if expires <= self.clock.now() {
            return Err(Expired);
        }
        let (confirmed, token) = match claims.confirmed {
            Some(Confirmed { at, token }) => (Some(time(at).ok_or(Malformed)?), Some(Secret::new(token))),
            None => (None, None),
        };
        let Claims { sub, uid, groups, extra, entry, .. } = claims;
        let identity = Arc::new(Identity { name: sub, uid, groups, extra });
        Ok((Authenticated { identity, expires: Some(expires), confirmed, entry }, token))
    }

    /// What the files now say of `user`, who was known by `entry`.
    fn current(&self, user: &Identity, entry: &EntryDigest) -> Result<Arc<Identity>, RegistryTokenError> {
        let found = self.user_files.iter().find_map(|file| file.current(user, entry));
        found.ok_or(RegistryTokenError::Removed)
    }
}

#[async_trait]
impl Authenticator for RegistryTokens {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let text = match credential {
            Credential::Token(token) if Self::is_meant_by(token.expose()) => token.expose(),
            Credential::Password { password, .. } if Self::is_meant_by(password.expose()) => {
                return Err(RegistryTokenError::Password.into());
            }
            Credential::Token(_)
            | Credential::Password { .. }
            | Credential::Certificate { .. }
            | Credential::Unreadable(_) => return Ok(None),
        };
        let (mut known, token) = self.open(text)?;
        if let Some(entry) = &known.entry {
            known.identity = self.current(&known.identity, entry)?;
        }
        match (token, &self.reviews) {
            (Some(token), Some(reviews)) => reviews.confirm(&token, &known).await.map(Some),
            (None, Some(_)) if Account::of(&known.identity).is_none() => Ok(Some(known)),
            (None, None) => Ok(Some(known)),
            (Some(_), None) | (None, Some(_)) => Err(RegistryTokenError::Elsewhere.into()),
        }
    }
}

/// Why a token of the registry is not good.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
enum RegistryTokenError {
    #[error("the registry's token is not whole")]
    Malformed,
    #[error("the registry's token was made with a key that is not in use here")]
    Forged,
    #[error("the registry's token is for another registry")]
    Audience,
    #[error("the registry's token has expired")]
    Expired,
    #[error("a token that the registry gave is no password: log in with what it was given for")]
    Password,
    #[error("the registry's token was given where it is asked of others who somebody is")]
    Elsewhere,
    #[error("whom the registry gave its token is not in the file any more, or has another password or token")]
    Removed,
}

impl From<RegistryTokenError> for AuthenticationError {
    fn from(error: RegistryTokenError) -> Self {
        Self::Rejected(error.to_string())
    }
}

/// What a token says. A member that is not known here may restrict it, so such a token is refused.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    /// Seconds since 1970.
    exp: u64,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmed: Option<Confirmed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<EntryDigest>,
}

/// What a cluster confirmed.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    /// When it did last, in seconds since 1970.
    at: u64,
    /// The token that was shown.
    token: String,
}

impl Claims {
    fn of(known: &Authenticated, audience: &str, expires: u64, confirmed: Option<Confirmed>) -> Self {
        let Identity { name, uid, mut groups, mut extra } = Identity::clone(&known.identity);
        if known.entry.is_some() {
            // The file says it.
            groups.clear();
            extra.clear();
        }
        let (iss, aud) = (ISSUER.to_owned(), audience.to_owned());
        Self { iss, aud, exp: expires, sub: name, uid, groups, extra, confirmed, entry: known.entry }
    }
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::keys::MIN_KEY_BYTES;
    use super::*;
    use crate::Files;

    const NOW: u64 = 1_800_000_000;

    fn alice() -> Identity {
        Identity {
            name: "alice".to_owned(),
            uid: Some("17".to_owned()),
            groups: vec!["developers".to_owned(), "system:authenticated".to_owned()],
            extra: [("scopes.authorization.openshift.io".to_owned(), vec!["user:full".to_owned()])].into(),
        }
    }

    fn known(identity: Identity, expires: Option<u64>) -> Authenticated {
        Authenticated { expires: expires.and_then(time), ..Authenticated::new(Arc::new(identity)) }
    }

    /// A registry whose clock can be set.
    fn registry(keys: RegistryTokenKeys, audience: &str) -> (RegistryTokens, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(NOW));
        let shown = Arc::clone(&now);
        let clock = Clock::new(move || time(shown.load(Ordering::SeqCst)).unwrap());
        (RegistryTokens::new(keys, audience.to_owned(), Duration::from_secs(600), None, clock), now)
    }

    fn keys(lines: &str) -> RegistryTokenKeys {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, lines).unwrap();
        RegistryTokenKeys::from_file(file.path(), &Files::new()).unwrap()
    }

    fn line(letter: char) -> String {
        letter.to_string().repeat(MIN_KEY_BYTES) + "\n"
    }

    async fn identify(
        registry: &RegistryTokens,
        token: &str,
    ) -> Result<Option<Authenticated>, AuthenticationError> {
        registry.identify(&Credential::Token(Secret::new(token))).await
    }

    #[tokio::test]
    async fn a_token_says_who_somebody_is_until_it_ends() {
        let (registry, now) = registry(RegistryTokenKeys::random().unwrap(), "registry.example");
        let issued = registry.issue(&known(alice(), None), None).unwrap();
        assert_eq!(issued.lifetime, Duration::from_secs(600));
        let found = identify(&registry, issued.token.expose()).await.unwrap().unwrap();
        assert_eq!(found, known(alice(), Some(NOW + 600)));
        now.store(NOW + 599, Ordering::SeqCst);
        assert!(identify(&registry, issued.token.expose()).await.is_ok());
        now.store(NOW + 600, Ordering::SeqCst);
        assert!(identify(&registry, issued.token.expose()).await.is_err());
    }

    #[tokio::test]
    async fn a_token_never_outlives_its_credential() {
        let (registry, _) = registry(RegistryTokenKeys::random().unwrap(), "registry.example");
        for left in [1, 60, 300, 599, 600, 10_000] {
            let issued = registry.issue(&known(alice(), Some(NOW + left)), None).unwrap();
            assert_eq!(issued.lifetime, Duration::from_secs(left.min(600)), "{left}");
            let found = identify(&registry, issued.token.expose()).await.unwrap().unwrap();
            assert!(found.expires <= time(NOW + left));
        }
        for ended in [0, NOW - 1, NOW] {
            assert_eq!(registry.issue(&known(alice(), Some(ended)), None).unwrap_err(), IssueError::Expired);
        }
        // A credential that ends within this very second.
        let half = Authenticated {
            expires: time(NOW).map(|at| at + Duration::from_millis(500)),
            ..known(alice(), None)
        };
        assert_eq!(registry.issue(&half, None).unwrap_err(), IssueError::Expired);
        // And one of its own gives no more time than it had left.
        let issued = registry.issue(&known(alice(), Some(NOW + 400)), None).unwrap();
        let found = identify(&registry, issued.token.expose()).await.unwrap().unwrap();
        assert_eq!(registry.issue(&found, None).unwrap().lifetime, Duration::from_secs(400));
    }

    #[test]
    fn a_lifetime_is_five_minutes_or_more() {
        let clock = Clock::new(|| time(NOW).unwrap());
        let keys = RegistryTokenKeys::random().unwrap();
        let registry = RegistryTokens::new(keys, "r".to_owned(), Duration::from_secs(1), None, clock);
        assert_eq!(registry.issue(&known(alice(), None), None).unwrap().lifetime, MIN_LIFETIME);
    }

    #[test]
    fn an_identity_that_does_not_fit_gets_no_token_instead_of_fewer_groups() {
        let (registry, _) = registry(RegistryTokenKeys::random().unwrap(), "registry.example");
        let in_groups = |count: usize| Identity {
            groups: (0..count).map(|number| format!("cn=group-{number},ou=teams,dc=example")).collect(),
            ..alice()
        };
        let issued = registry.issue(&known(in_groups(70), None), None).unwrap();
        assert!(issued.token.expose().len() <= MAX_BYTES);
        assert_eq!(registry.issue(&known(in_groups(700), None), None).unwrap_err(), IssueError::TooLarge);
    }

    #[tokio::test]
    async fn keys_change_without_a_moment_in_which_a_good_token_is_refused() {
        let (old, new) = (line('o'), line('n'));
        let replica = |lines: &str| registry(keys(lines), "registry.example").0;
        let before = replica(&old);
        let added = replica(&format!("{old}{new}"));
        let moved = replica(&format!("# the new one\n\n{new}{old}"));
        let after = replica(&new);
        let accepts = async |reader: &RegistryTokens, writer: &RegistryTokens| {
            let issued = writer.issue(&known(alice(), None), None).unwrap();
            identify(reader, issued.token.expose()).await.is_ok()
        };
        for (one, other) in [(&before, &added), (&added, &moved), (&moved, &after)] {
            assert!(accepts(one, other).await && accepts(other, one).await);
        }
        assert!(!accepts(&before, &after).await && !accepts(&after, &before).await);
    }

    #[tokio::test]
    async fn nothing_else_is_taken_for_a_token_of_the_registry() {
        use RegistryTokenError::{Audience, Forged, Malformed};
        let (registry, _) = registry(keys(&line('k')), "registry.example");
        let good = registry.issue(&known(alice(), None), None).unwrap().token;
        let sealed = good.expose().strip_prefix(PREFIX).unwrap();
        let made = |claims: &str| {
            let sealed = registry.keys.seal(claims.as_bytes().to_vec()).unwrap();
            format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(sealed))
        };
        let claims =
            |iss: &str, aud: &str| format!(r#"{{"iss":"{iss}","aud":"{aud}","exp":{},"sub":"a"}}"#, NOW + 1);
        let ours = claims(ISSUER, "registry.example");
        let more = |member: &str| format!("{},{member}}}", &ours[..ours.len() - 1]);
        assert!(registry.open(&made(&ours)).is_ok());
        let elsewhere = self::registry(RegistryTokenKeys::random().unwrap(), "registry.example").0;
        let foreign = elsewhere.issue(&known(alice(), None), None).unwrap().token;
        let claimed = BASE64_URL_SAFE_NO_PAD.encode(ours.replace("\"a\"", "\"root\""));
        let (first, rest) = sealed.split_at(1);
        let other = if first == "A" { "B" } else { "A" };
        let cases = [
            (foreign.expose().to_owned(), Forged),
            (format!("{PREFIX}{claimed}"), Forged),
            (format!("{PREFIX}{other}{rest}"), Forged),
            (format!("{PREFIX}{}", &sealed[..sealed.len() / 8 * 4]), Forged),
            (format!("{PREFIX}{sealed}="), Malformed),
            (format!("{PREFIX}{sealed}."), Malformed),
            (format!("{PREFIX}{claimed}.{sealed}"), Malformed),
            (format!("{PREFIX}AAAA"), Forged),
            (PREFIX.to_owned(), Forged),
            (PREFIX.repeat(1000), Malformed),
            (made(&claims("kubernetes/serviceaccount", "registry.example")), Audience),
            (made(&claims(ISSUER, "other.example")), Audience),
            (made(&more(r#""scope":"pull""#)), Malformed),
            (made(&more(r#""confirmed":{"at":1}"#)), Malformed),
            (made(&more(r#""confirmed":{"at":1,"token":"a","for":"b"}"#)), Malformed),
            (made(&more(r#""sub":"b""#)), Malformed),
            (made(&more(r#""entry":"AAAA""#)), Malformed),
            (made(&more(r#""entry":"not base64""#)), Malformed),
            (made(&ours.replace(&(NOW + 1).to_string(), "1e300")), Malformed),
            (made(&ours.replace(&(NOW + 1).to_string(), &u64::MAX.to_string())), Malformed),
            (made("[]"), Malformed),
        ];
        for (token, expected) in cases {
            assert_eq!(registry.open(&token).map(|_| ()), Err(expected), "{token}");
            assert!(RegistryTokens::is_meant_by(&token));
            let rejected = identify(&registry, &token).await;
            assert!(matches!(rejected, Err(AuthenticationError::Rejected(_))), "{token}");
        }
        for other in ["", "wharf", "WHARF.a.b", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA", "sha256~abc"] {
            assert_eq!(identify(&registry, other).await.unwrap(), None);
        }

        // It is shown by itself, never as somebody's password.
        let password = Credential::Password { user: "alice".to_owned(), password: good.clone() };
        assert!(matches!(registry.identify(&password).await, Err(AuthenticationError::Rejected(_))));
    }

    #[tokio::test]
    async fn whoever_was_confirmed_is_known_by_what_can_be_confirmed_again_alone() {
        let (registry, _) = registry(RegistryTokenKeys::random().unwrap(), "registry.example");
        let confirmed = Authenticated { confirmed: time(NOW), ..known(alice(), None) };
        assert_eq!(registry.issue(&confirmed, None).unwrap_err(), IssueError::Unconfirmable);
        let shown = Secret::new("what alice showed");
        let issued = registry.issue(&confirmed, Some(&shown)).unwrap();
        let (opened, token) = registry.open(issued.token.expose()).unwrap();
        let expires = time(NOW + 600);
        assert_eq!((opened, token), (Authenticated { expires, ..confirmed.clone() }, Some(shown.clone())));
        // Nobody can be asked here.
        assert!(identify(&registry, issued.token.expose()).await.is_err());
        // What does not fit is not left out.
        let long = Secret::new("a".repeat(MAX_BYTES));
        assert_eq!(registry.issue(&confirmed, Some(&long)).unwrap_err(), IssueError::TooLarge);
        // What nobody confirmed is kept nowhere.
        let issued = registry.issue(&known(alice(), None), Some(&shown)).unwrap();
        assert_eq!(registry.open(issued.token.expose()).unwrap().1, None);
    }

    #[test]
    fn no_key_shows() {
        let (registry, _) = registry(keys(&line('k')), "r");
        assert!(!format!("{registry:?}").contains("kkkk"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_verified(text in "(wharf\\.)?.{0,80}") {
            let _ = registry(keys(&line('k')), "r").0.open(&text);
        }

        #[test]
        fn whoever_it_is_is_found_again(name: String, uid: Option<String>, groups: Vec<String>) {
            let identity = Identity { name, uid, groups, ..Identity::default() };
            let (registry, _) = registry(keys(&line('k')), "r");
            if let Ok(issued) = registry.issue(&known(identity.clone(), None), None) {
                proptest::prop_assert_eq!(&*registry.open(issued.token.expose()).unwrap().0.identity, &identity);
            }
        }
    }
}
