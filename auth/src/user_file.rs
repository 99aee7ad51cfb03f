//! Files that say who somebody is. A user may be taken out of one, or get another password or token, while what the registry gave
//! them is not yet at its end: so that names the entry which it was given for, and the file is asked whether that is still there.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine as _};
use serde::{Deserialize, Serialize};

use crate::{Authenticator, Identity};

/// Knows the users of a file, which is read again when it changes.
pub trait UserFile: Authenticator {
    /// Tells what the file now says of `user`, who was known by `entry`; `None` if that is no longer an entry of theirs. It is
    /// quick: nothing slow is asked again.
    fn current(&self, user: &Identity, entry: &EntryDigest) -> Option<Arc<Identity>>;
}

/// Which entry of a file somebody was known by: the SHA-256 of their token, or of the bcrypt hash of their password with its salt.
/// Neither lets anybody in, nor tells what would.
///
/// No key goes into it: it is seen only inside the registry's sealed tokens, and whoever opens those has all keys.
#[derive(Clone, Copy, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryDigest(pub(crate) [u8; 32]);

impl EntryDigest {
    pub(crate) fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }
}

impl TryFrom<String> for EntryDigest {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, DecodeError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text)?;
        bytes.try_into().map(Self).map_err(|bytes: Vec<u8>| DecodeError::InvalidLength(bytes.len()))
    }
}

impl From<EntryDigest> for String {
    fn from(entry: EntryDigest) -> Self {
        BASE64_URL_SAFE_NO_PAD.encode(entry.0)
    }
}

impl fmt::Debug for EntryDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EntryDigest")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::{
        Authenticated, AuthenticationError, Clock, Credential, Files, Htpasswd, RegistryTokenKeys,
        RegistryTokens, Secret, TokensFile,
    };

    /// The files that replicas share, each of which reads them when it is told to.
    struct Shared(tempfile::TempDir);

    struct Replica {
        files: Files,
        htpasswd: Arc<Htpasswd>,
        tokens_file: Arc<TokensFile>,
        registry: RegistryTokens,
    }

    impl Shared {
        fn new() -> Self {
            let shared = Self(tempfile::tempdir().unwrap());
            shared.write("keys", &"k".repeat(64));
            shared
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, contents: &str) {
            std::fs::write(self.path(name), contents).unwrap();
        }

        fn write_tokens(&self, entries: &[(&str, &str, &str)]) {
            let line = |(token, user, more): &(&str, &str, &str)| {
                let hash: String =
                    EntryDigest::of(token).0.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("- {{sha256: {hash}, user: {user}, {more}}}\n")
            };
            self.write("tokens", &entries.iter().map(line).collect::<String>());
        }

        fn registry(&self, files: &Files) -> RegistryTokens {
            let keys = RegistryTokenKeys::from_file(&self.path("keys"), files).unwrap();
            RegistryTokens::new(keys, "registry".to_owned(), Duration::ZERO, None, Clock::system())
        }

        fn replica(&self) -> Replica {
            let files = Files::new();
            let htpasswd = Arc::new(Htpasswd::read(&self.path("htpasswd"), &files).unwrap());
            let tokens_file = Arc::new(TokensFile::read(&self.path("tokens"), &files).unwrap());
            let user_files: Vec<Arc<dyn UserFile>> = vec![tokens_file.clone(), htpasswd.clone()];
            let registry = self.registry(&files).with_users_of(user_files);
            Replica { files, htpasswd, tokens_file, registry }
        }
    }

    impl Replica {
        /// What the registry gives for a credential.
        async fn log_in(&self, user: &str, secret: &str) -> Secret {
            let shown = Credential::Password { user: user.to_owned(), password: Secret::new(secret) };
            let known = match self.tokens_file.identify(&shown).await.unwrap() {
                Some(known) => known,
                None => self.htpasswd.identify(&shown).await.unwrap().unwrap(),
            };
            self.registry.issue(&known, Some(&Secret::new(secret))).unwrap().token
        }
    }

    /// Whose it is found to be.
    async fn used(registry: &RegistryTokens, given: &Secret) -> Option<Arc<Identity>> {
        match registry.identify(&Credential::Token(given.clone())).await {
            Ok(known) => Some(known.unwrap().identity),
            Err(AuthenticationError::Rejected(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    #[tokio::test]
    async fn what_was_given_to_a_user_of_a_file_is_good_while_their_entry_is_there() {
        let shared = Shared::new();
        let (alice, bob) = (hash("wonderland"), hash("builder"));
        shared.write("htpasswd", &format!("alice:{alice}\nbob:{bob}\n"));
        shared.write_tokens(&[("carols", "carol", "uid: a"), ("daves", "dave", "groups: [testers]")]);
        let (here, there) = (shared.replica(), shared.replica());
        let given = [
            ("alice", here.log_in("alice", "wonderland").await),
            ("bob", here.log_in("bob", "builder").await),
            ("carol", here.log_in("", "carols").await),
            ("dave", here.log_in("", "daves").await),
        ];
        let known_by = async |replica: &Replica| {
            replica.files.use_what_is_new();
            let mut names = Vec::new();
            for (name, given) in &given {
                let user = used(&replica.registry, given).await;
                assert!(user.as_ref().is_none_or(|user| user.name == *name), "{name} is {user:?}");
                names.extend(user.map(|_| *name));
            }
            names.join(" ")
        };
        let carol = ("carols", "carol", "uid: a");
        let dave = ("daves", "dave", "groups: [testers]");
        let both = format!("alice:{alice}\nbob:{bob}\n");
        let cases = [
            (both.clone(), vec![carol, dave], "alice bob carol dave"),
            // Somebody is taken out.
            (format!("bob:{bob}"), vec![carol, dave], "bob carol dave"),
            (both.clone(), vec![dave], "alice bob dave"),
            // Somebody has another password, or another token.
            (format!("alice:{}\nbob:{bob}", hash("wonderland")), vec![carol, dave], "bob carol dave"),
            (both.clone(), vec![("new", "carol", "uid: a"), dave], "alice bob dave"),
            // Somebody else has theirs.
            (format!("mallory:{alice}\nbob:{bob}"), vec![carol, dave], "bob carol dave"),
            (both.clone(), vec![("carols", "mallory", "uid: a"), dave], "alice bob dave"),
            (both.clone(), vec![("carols", "carol", "uid: b"), dave], "alice bob dave"),
            (both.clone(), vec![("carols", "carol", ""), dave], "alice bob dave"),
            // One file says nothing of those in the other.
            (String::new(), vec![carol, dave], "carol dave"),
            (both.clone(), vec![], "alice bob"),
            // What cannot be read takes nothing away.
            ("alice".to_owned(), vec![("carols", "", "")], "alice bob"),
            (both, vec![carol, dave], "alice bob carol dave"),
        ];
        for (htpasswd, tokens, expected) in cases {
            shared.write("htpasswd", &htpasswd);
            shared.write_tokens(&tokens);
            for replica in [&here, &there] {
                assert_eq!(known_by(replica).await, expected, "{tokens:?}");
            }
        }
        // Where there is no such file any more, nobody is in it.
        let without = shared.registry(&Files::new());
        for (name, given) in &given {
            assert_eq!(used(&without, given).await, None, "{name}");
        }
    }

    #[tokio::test]
    async fn a_user_of_a_file_has_the_groups_that_it_says_now_however_many() {
        let shared = Shared::new();
        shared.write("htpasswd", "");
        shared.write_tokens(&[("daves", "dave", "groups: [testers], extra: {team: [blue]}")]);
        let replica = shared.replica();
        let given = replica.log_in("", "daves").await;
        let before = used(&replica.registry, &given).await.unwrap();
        assert_eq!(
            (&*before.groups, &*before.extra["team"]),
            (&["testers".to_owned()][..], &["blue".to_owned()][..])
        );
        let many: Vec<_> = (0..1000).map(|number| format!("cn=group-{number},ou=teams,dc=example")).collect();
        let text = many.iter().map(|group| format!("'{group}'")).collect::<Vec<_>>().join(", ");
        shared.write_tokens(&[("daves", "dave", &format!("groups: [{text}]"))]);
        replica.files.use_what_is_new();
        let now = used(&replica.registry, &given).await.unwrap();
        assert_eq!((&now.groups, now.extra.len()), (&many, 0));
        let next = replica.log_in("", "daves").await;
        assert_eq!(used(&replica.registry, &next).await.unwrap().groups, many);
        assert!(next.expose().len() < 400, "{} bytes go along with each request", next.expose().len());
    }

    #[test]
    fn no_entry_shows() {
        let entry = EntryDigest::of("a token");
        let known = Authenticated { entry: Some(entry), ..Authenticated::new(Arc::default()) };
        assert!(!format!("{known:?}").contains(&format!("{:?}", entry.0)));
        let text = String::from(entry);
        assert_eq!(EntryDigest::try_from(text.clone()), Ok(entry));
        for wrong in [&text[1..], &format!("{text}A"), &format!("{text}="), ""] {
            assert!(EntryDigest::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
