//! The registry's own tokens: what the token endpoint gives for a credential. They live minutes and say who somebody is, never
//! what they may: that is judged again at each request.
//!
//! One reads `wharf.<claims>.<mac>`. It is no JSON Web Token on purpose: no header, hence nothing to be talked into, and nothing
//! in it is read before its HMAC has been verified. Its prefix tells it from every other credential.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, Files, Watched};
use crate::service_account::{Accounts, ensure_current};
use crate::{Authenticated, AuthenticationError, Authenticator, Clock, Credential, Identity, Secret};

const PREFIX: &str = "wharf.";

/// Who made a token, so that a key that also signs something else does not make tokens.
const ISSUER: &str = "wharf";

/// The largest token, in bytes: it travels in a header, and some proxies take no more than 8 KiB of those.
const MAX_BYTES: usize = 4096;

/// The shortest lifetime that can be configured: clients do not renew a token in the middle of a push.
const MIN_LIFETIME: Duration = Duration::from_secs(300);

/// The shortest line that is taken for a key, in bytes, and how many there may be.
const MIN_KEY_BYTES: usize = 32;
const MAX_KEYS: usize = 16;

/// Makes and knows the registry's own tokens.
#[derive(Debug)]
pub struct RegistryTokens {
    keys: RegistryTokenKeys,
    audience: String,
    lifetime: Duration,
    accounts: Option<Arc<dyn Accounts>>,
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
    /// The identity does not fit. A group less would be another identity, so none is left out; the token endpoint may give
    /// back the token that it was shown, as OpenShift's does.
    #[error("the identity, with all its groups, does not fit into a token of {MAX_BYTES} bytes")]
    TooLarge,
}

impl RegistryTokens {
    /// Tokens for the registry called `audience`, good for `lifetime` but for 300 s at least, or as long as the credential
    /// behind them. `accounts` ends those of service accounts that are gone.
    pub fn new(
        keys: RegistryTokenKeys,
        audience: String,
        lifetime: Duration,
        accounts: Option<Arc<dyn Accounts>>,
        clock: Clock,
    ) -> Self {
        Self { keys, audience, lifetime: lifetime.max(MIN_LIFETIME), accounts, clock }
    }

    /// Whether `text` claims to be such a token, good or not. One is never a credential that another is given for.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Makes a token that says who `known` is. It ends when the credential does, if not before.
    ///
    /// # Errors
    /// When the credential has ended, or the identity is too large.
    pub fn issue(&self, known: &Authenticated) -> Result<RegistryToken, IssueError> {
        let now = self.clock.now();
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
        // A second begun counts as one, so that nobody is told less than the least; of the credential it does not.
        let end =
            now.checked_add(self.lifetime + Duration::from_nanos(999_999_999)).ok_or(IssueError::Expired)?;
        let end = known.expires.map_or(end, |expires| expires.min(end));
        let expires = seconds(end).map_err(|_| IssueError::Expired)?;
        let lifetime =
            time(expires).and_then(|end| end.duration_since(now).ok()).filter(|left| !left.is_zero());
        let lifetime = lifetime.ok_or(IssueError::Expired)?;
        let claims = Claims::of(&known.identity, &self.audience, expires);
        let claims = serde_json::to_vec(&claims).map_err(|_| IssueError::TooLarge)?;
        let signed = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let mac = hmac::sign(&self.keys.0.current().first, signed.as_bytes());
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac));
        if token.len() > MAX_BYTES {
            return Err(IssueError::TooLarge);
        }
        Ok(RegistryToken { token: Secret::new(token), lifetime })
    }

    fn verify(&self, text: &str) -> Result<Authenticated, RegistryTokenError> {
        use RegistryTokenError::{Audience, Expired, Forged, Malformed};
        if text.len() > MAX_BYTES {
            return Err(Malformed);
        }
        let (signed, mac) = text.rsplit_once('.').ok_or(Malformed)?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).map_err(|_| Malformed)?;
        if !self.keys.0.current().verify(signed.as_bytes(), &mac) {
            return Err(Forged);
        }
        let claims = signed.strip_prefix(PREFIX).ok_or(Malformed)?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).map_err(|_| Malformed)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Malformed)?;
        if claims.iss != ISSUER || claims.aud != self.audience {
            return Err(Audience);
        }
        let expires = time(claims.exp).ok_or(Malformed)?;
        if expires <= self.clock.now() {
            return Err(Expired);
        }
        Ok(Authenticated { identity: Arc::new(claims.identity()), expires: Some(expires) })
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
        let known = self.verify(text)?;
        ensure_current(self.accounts.as_deref(), &known.identity)?;
        Ok(Some(known))
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
}

impl From<RegistryTokenError> for AuthenticationError {
    fn from(error: RegistryTokenError) -> Self {
        Self::Rejected(error.to_string())
    }
}

/// The keys that the registry's tokens are made with.
pub struct RegistryTokenKeys(Watched<Keys>);

struct Keys {
    /// Makes tokens.
    first: hmac::Key,
    /// Only verify.
    others: Vec<hmac::Key>,
}

impl RegistryTokenKeys {
    /// A key that is made now and kept nowhere. Each replica then knows the tokens that it made itself, and none of those
    /// from before it was restarted.
    pub fn random() -> Result<Self, NoRandomness> {
        let first = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        Ok(Self(Watched::fixed(Keys { first, others: Vec::new() })))
    }

    /// Keys from a file, one a line, and again when it changes: the first makes tokens, all verify. A line is 32 bytes or
    /// more, such as `openssl rand -hex 32` prints. To change keys while replicas read the file at different times, add
    /// the new one at the end, then move it to the top, then remove the old one, minutes apart. Blocks: this is for the
    /// start.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is too short.
    pub fn from_file(path: &Path, files: &Files) -> Result<Self, FileError> {
        files.watch(path, Keys::parse).map(Self)
    }
}

impl fmt::Debug for RegistryTokenKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RegistryTokenKeys([redacted])")
    }
}

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

impl Keys {
    fn parse(contents: &[u8]) -> Result<Self, String> {
        let lines = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let mut keys = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
            if line.len() < MIN_KEY_BYTES {
                let number = index + 1;
                return Err(format!(
                    "line {number} is shorter than {MIN_KEY_BYTES} bytes; try `openssl rand -hex 32`"
                ));
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, line));
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| "it has no key; try `openssl rand -hex 32`".to_owned())?;
        Ok(Self { first, others: keys.collect() })
    }

    fn verify(&self, signed: &[u8], mac: &[u8]) -> bool {
        [&self.first].into_iter().chain(&self.others).any(|key| hmac::verify(key, signed, mac).is_ok())
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
}

impl Claims {
    fn of(identity: &Identity, audience: &str, expires: u64) -> Self {
        let Identity { name, uid, groups, extra } = identity.clone();
        Self { iss: ISSUER.to_owned(), aud: audience.to_owned(), exp: expires, sub: name, uid, groups, extra }
    }

    fn identity(self) -> Identity {
        Identity { name: self.sub, uid: self.uid, groups: self.groups, extra: self.extra }
    }
}

fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{Account, Standing};

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
        Authenticated { identity: Arc::new(identity), expires: expires.and_then(time) }
    }

    /// A registry whose clock can be set.
    fn registry(keys: RegistryTokenKeys, audience: &str) -> (RegistryTokens, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(NOW));
        let shown = Arc::clone(&now);
        let clock = Clock::new(move || time(shown.load(Ordering::SeqCst)).unwrap());
        (RegistryTokens::new(keys, audience.to_owned(), Duration::from_secs(600), None, clock), now)
    }

    fn keys(lines: &str) -> RegistryTokenKeys {
        RegistryTokenKeys(Watched::fixed(Keys::parse(lines.as_bytes()).unwrap()))
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
        let issued = registry.issue(&known(alice(), None)).unwrap();
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
            let issued = registry.issue(&known(alice(), Some(NOW + left))).unwrap();
            assert_eq!(issued.lifetime, Duration::from_secs(left.min(600)), "{left}");
            let found = identify(&registry, issued.token.expose()).await.unwrap().unwrap();
            assert!(found.expires <= time(NOW + left));
        }
        for ended in [0, NOW - 1, NOW] {
            assert_eq!(registry.issue(&known(alice(), Some(ended))).unwrap_err(), IssueError::Expired);
        }
        // A credential that ends within this very second.
        let half = Authenticated {
            expires: time(NOW).map(|at| at + Duration::from_millis(500)),
            ..known(alice(), None)
        };
        assert_eq!(registry.issue(&half).unwrap_err(), IssueError::Expired);
        // And one of its own gives no more time than it had left.
        let issued = registry.issue(&known(alice(), Some(NOW + 400))).unwrap();
        let found = identify(&registry, issued.token.expose()).await.unwrap().unwrap();
        assert_eq!(registry.issue(&found).unwrap().lifetime, Duration::from_secs(400));
    }

    #[test]
    fn a_lifetime_is_five_minutes_or_more() {
        let clock = Clock::new(|| time(NOW).unwrap());
        let keys = RegistryTokenKeys::random().unwrap();
        let registry = RegistryTokens::new(keys, "r".to_owned(), Duration::from_secs(1), None, clock);
        assert_eq!(registry.issue(&known(alice(), None)).unwrap().lifetime, MIN_LIFETIME);
    }

    #[test]
    fn an_identity_that_does_not_fit_gets_no_token_instead_of_fewer_groups() {
        let (registry, _) = registry(RegistryTokenKeys::random().unwrap(), "registry.example");
        let in_groups = |count: usize| Identity {
            groups: (0..count).map(|number| format!("cn=group-{number},ou=teams,dc=example")).collect(),
            ..alice()
        };
        let issued = registry.issue(&known(in_groups(70), None)).unwrap();
        assert!(issued.token.expose().len() <= MAX_BYTES);
        assert_eq!(registry.issue(&known(in_groups(700), None)).unwrap_err(), IssueError::TooLarge);
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
            let issued = writer.issue(&known(alice(), None)).unwrap();
            identify(reader, issued.token.expose()).await.is_ok()
        };
        for (one, other) in [(&before, &added), (&added, &moved), (&moved, &after)] {
            assert!(accepts(one, other).await && accepts(other, one).await);
        }
        assert!(!accepts(&before, &after).await && !accepts(&after, &before).await);
    }

    #[test]
    fn a_file_of_keys_is_read_again_and_refused_where_it_is_weak() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, line('a')).unwrap();
        let files = Files::new();
        let (registry, _) = registry(RegistryTokenKeys::from_file(&path, &files).unwrap(), "r");
        let token = registry.issue(&known(alice(), None)).unwrap().token;
        std::fs::write(&path, line('b')).unwrap();
        files.use_what_is_new();
        assert_eq!(registry.verify(token.expose()).unwrap_err(), RegistryTokenError::Forged);

        for (contents, expected) in
            [("", "no key"), ("# none\n\n", "no key"), (&(line('a') + "\n short "), "line 3 is shorter")]
        {
            let problem = Keys::parse(contents.as_bytes()).map(|_| ()).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("short "), "{problem}");
        }
        assert!(Keys::parse(line('a').repeat(MAX_KEYS + 1).as_bytes()).is_err());
    }

    #[tokio::test]
    async fn nothing_else_is_taken_for_a_token_of_the_registry() {
        use RegistryTokenError::{Audience, Forged, Malformed};
        let (registry, _) = registry(keys(&line('k')), "registry.example");
        let good = registry.issue(&known(alice(), None)).unwrap().token;
        let (signed, mac) = good.expose().rsplit_once('.').unwrap();
        let made = |claims: &str| {
            let signed = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
            let mac = hmac::sign(&registry.keys.0.current().first, signed.as_bytes());
            format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac))
        };
        let claims =
            |iss: &str, aud: &str| format!(r#"{{"iss":"{iss}","aud":"{aud}","exp":{},"sub":"a"}}"#, NOW + 1);
        let ours = claims(ISSUER, "registry.example");
        let more = |member: &str| format!("{},{member}}}", &ours[..ours.len() - 1]);
        assert!(registry.verify(&made(&ours)).is_ok());
        let elsewhere = self::registry(RegistryTokenKeys::random().unwrap(), "registry.example").0;
        let foreign = elsewhere.issue(&known(alice(), None)).unwrap().token;
        let claimed = BASE64_URL_SAFE_NO_PAD.encode(ours.replace("\"a\"", "\"root\""));
        let cases = [
            (foreign.expose().to_owned(), Forged),
            (format!("{PREFIX}{claimed}.{mac}"), Forged),
            (format!("{signed}."), Forged),
            (format!("{signed}.{}", &mac[..mac.len() - 2]), Malformed),
            (format!("{signed}.{}", &mac[..mac.len() - 3]), Forged),
            (format!("{signed}.{mac}="), Malformed),
            (format!("{signed}.{signed}.{mac}"), Forged),
            (format!("{PREFIX}{mac}"), Forged),
            (PREFIX.to_owned(), Forged),
            (PREFIX.repeat(1000), Malformed),
            (made(&claims("kubernetes/serviceaccount", "registry.example")), Audience),
            (made(&claims(ISSUER, "other.example")), Audience),
            (made(&more(r#""scope":"pull""#)), Malformed),
            (made(&more(r#""sub":"b""#)), Malformed),
            (made(&ours.replace(&(NOW + 1).to_string(), "1e300")), Malformed),
            (made(&ours.replace(&(NOW + 1).to_string(), &u64::MAX.to_string())), Malformed),
            (made("[]"), Malformed),
        ];
        for (token, expected) in cases {
            assert_eq!(registry.verify(&token).map(|_| ()), Err(expected), "{token}");
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
    async fn a_token_ends_with_the_account_that_it_was_given_to() {
        #[derive(Debug)]
        struct Uids(&'static [&'static str]);
        impl Accounts for Uids {
            fn standing(&self, account: &Account<'_>) -> Standing {
                assert_eq!((account.namespace, account.name), ("team", "builder"));
                if self.0.contains(&account.uid) { Standing::Current } else { Standing::Gone }
            }
        }
        let builder = Identity { name: "system:serviceaccount:team:builder".to_owned(), ..alice() };
        let registry = |uids| {
            let clock = Clock::new(|| time(NOW).unwrap());
            let accounts: Arc<dyn Accounts> = Arc::new(Uids(uids));
            RegistryTokens::new(keys(&line('k')), "r".to_owned(), MIN_LIFETIME, Some(accounts), clock)
        };
        let token = registry(&[]).issue(&known(builder, None)).unwrap().token;
        assert!(identify(&registry(&["17"]), token.expose()).await.is_ok());
        assert!(identify(&registry(&["18"]), token.expose()).await.is_err());
        let users = registry(&[]).issue(&known(alice(), None)).unwrap().token;
        assert!(identify(&registry(&[]), users.expose()).await.is_ok());
    }

    #[test]
    fn no_key_shows() {
        let (registry, _) = registry(keys(&line('k')), "r");
        assert!(!format!("{registry:?}").contains("kkkk"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_verified(text in "(wharf\\.)?.{0,80}") {
            let _ = registry(keys(&line('k')), "r").0.verify(&text);
        }

        #[test]
        fn whoever_it_is_is_found_again(name: String, uid: Option<String>, groups: Vec<String>) {
            let identity = Identity { name, uid, groups, ..Identity::default() };
            let (registry, _) = registry(keys(&line('k')), "r");
            if let Ok(issued) = registry.issue(&known(identity.clone(), None)) {
                proptest::prop_assert_eq!(&*registry.verify(issued.token.expose()).unwrap().identity, &identity);
            }
        }
    }
}
