//! Users and passwords as CNCF distribution keeps them: `htpasswd -B`, that is bcrypt and nothing else.
//!
//! bcrypt is slow on purpose. It runs on the blocking pool, in few places at once, and equally long for a user who does not
//! exist, so that names cannot be found out. Whoever asks through [`crate::Authenticators`] is remembered for a while and
//! does not pay again.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bcrypt::HashParts;
use tokio::sync::Semaphore;

use crate::compact_token::CompactToken;
use crate::files::{FileError, Files, Watched};
use crate::identity::is_reserved;
use crate::{
    Authenticated, AuthenticationError, Authenticator, Credential, EntryDigest, Identity, Secret, UserFile,
};

/// The longest password that is looked at, in bytes. bcrypt reads the first 72.
const MAX_PASSWORD_BYTES: usize = 1024;

/// The highest cost of a hash that is used: one more takes ten seconds and longer.
const MAX_COST: u32 = 16;

/// Knows the users of an htpasswd file.
#[derive(Debug)]
pub struct Htpasswd {
    users: Watched<Users>,
    turns: Arc<Semaphore>,
}

struct Users {
    hashes: HashMap<String, Secret>,
    /// What a user who does not exist is compared with.
    of_nobody: Secret,
}

impl Htpasswd {
    /// Reads the file, and again when it changes. Blocks: this is for the start.
    ///
    /// # Errors
    /// When it cannot be read, or a line has no colon.
    pub fn read(path: &Path, files: &Files) -> Result<Self, FileError> {
        let users = files.watch(path, Users::parse)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { users, turns: Arc::new(Semaphore::new(processors.div_ceil(2))) })
    }
}

#[async_trait]
impl Authenticator for Htpasswd {
    /// A wrong password and an unknown user are alike: the next authenticator is asked.
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let Credential::Password { user, password } = credential else { return Ok(None) };
        if password.expose().len() > MAX_PASSWORD_BYTES || CompactToken::is_meant_by(password.expose()) {
            return Ok(None);
        }
        let unavailable = |error| AuthenticationError::Unavailable(error);
        // The turn goes along, so that whoever hangs up frees it only when the work is done.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|closed| unavailable(closed.into()))?;
        let (users, name, password) = (self.users.current(), user.clone(), password.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            users.entry(&name, &password)
        });
        let entry = checked.await.map_err(|panicked| unavailable(panicked.into()))?;
        Ok(entry.map(|entry| Authenticated { entry: Some(entry), ..Authenticated::new(named(user)) }))
    }
}

impl UserFile for Htpasswd {
    fn current(&self, user: &Identity, entry: &EntryDigest) -> Option<Arc<Identity>> {
        let users = self.users.current();
        let hash = users.hashes.get(&user.name)?;
        (EntryDigest::of(hash.expose()) == *entry).then(|| named(&user.name))
    }
}

/// Nothing but a name is known of a user here.
fn named(user: &str) -> Arc<Identity> {
    Arc::new(Identity { name: user.to_owned(), ..Identity::default() })
}

impl Users {
    /// Lines of `user:hash`; empty ones and those that begin with `#` say nothing. A hash of another kind lets nobody in, as
    /// with distribution, and is named in the log.
    fn parse(contents: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(contents).map_err(|_| "it is not UTF-8".to_owned())?;
        let mut hashes = HashMap::new();
        let mut costs = BTreeSet::new();
        for (index, line) in text.lines().map(str::trim).enumerate() {
            let number = index + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line
                .split_once(':')
                .ok_or_else(|| format!("line {number} has no colon between user and hash"))?;
            if user.is_empty() || is_reserved(user) {
                return Err(format!("line {number} has a name that no user may have"));
            }
            match cost(hash) {
                Some(cost) if cost <= MAX_COST => {
                    costs.insert(cost);
                    hashes.insert(user.to_owned(), Secret::new(hash));
                }
                Some(_) => tracing::warn!(line = number, "htpasswd: a cost above {MAX_COST} lets nobody in"),
                None => tracing::warn!(line = number, "htpasswd: not bcrypt (`htpasswd -B`), lets nobody in"),
            }
        }
        if costs.len() > 1 {
            tracing::warn!(
                "htpasswd: hashes of several costs let users be told from names that nobody has, by time"
            );
        }
        // A salt and a hash of zeros.
        const LOWEST_COST: u32 = 4;
        let of_nobody = Secret::new(format!(
            "$2y${:02}${}",
            costs.last().copied().unwrap_or(LOWEST_COST),
            ".".repeat(22 + 31)
        ));
        Ok(Self { hashes, of_nobody })
    }

    /// The entry of `user`, if the password is theirs. Takes as long for whoever does not exist as for everybody else, if all
    /// hashes have the same cost.
    fn entry(&self, user: &str, password: &Secret) -> Option<EntryDigest> {
        let (hash, exists) = match self.hashes.get(user) {
            Some(hash) => (hash, true),
            None => (&self.of_nobody, false),
        };
        let is_theirs = bcrypt::verify(password.expose(), hash.expose()).unwrap_or(false) && exists;
        is_theirs.then(|| EntryDigest::of(hash.expose()))
    }
}

fn cost(hash: &str) -> Option<u32> {
    hash.parse::<HashParts>().ok().map(|parts| parts.get_cost())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// What `htpasswd -nbBC 5 alice wonderland` printed.
    const ALICE: &str = "$2y$05$DXK/Bc11JLbs6iwZw8gNau9EQq.Tx84ZRam5Cq1CqTYqextf389uG";

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password { user: user.to_owned(), password: Secret::new(password) }
    }

    async fn lets_in(file: &Htpasswd, user: &str, text: &str) -> bool {
        file.identify(&password(user, text)).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_user_of_the_file_is_let_in_by_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        let bob = bcrypt::hash("builder", 4).unwrap();
        let text = format!(
            "# users\n\nalice:{ALICE}\n  bob:{bob}  \nold:$apr1$x$y\nplain:secret\nsha:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"
        );
        std::fs::write(&path, text).unwrap();
        let files = Files::new();
        let file = Htpasswd::read(&path, &files).unwrap();
        let known = file.identify(&password("alice", "wonderland")).await.unwrap().unwrap();
        assert_eq!(*known.identity, Identity { name: "alice".to_owned(), ..Identity::default() });
        assert!(lets_in(&file, "bob", "builder").await);
        let refused = [
            ("alice", "Wonderland"),
            ("alice", ""),
            ("alice", ALICE),
            ("Alice", "wonderland"),
            ("bob", "wonderland"),
            ("", "wonderland"),
            ("nobody", ""),
            ("plain", "secret"),
            ("sha", "password"),
            ("old", "y"),
            ("alice", &"w".repeat(MAX_PASSWORD_BYTES + 1)),
            ("alice", "wonder\0land"),
        ];
        for (user, text) in refused {
            assert!(!lets_in(&file, user, text).await, "{user} {text}");
        }
        for other in [
            Credential::Token(Secret::new("wonderland")),
            Credential::Certificate { common_name: "alice".to_owned(), organizations: vec![] },
        ] {
            assert_eq!(file.identify(&other).await.unwrap(), None);
        }

        // Her password changes.
        std::fs::write(&path, format!("alice:{}", bcrypt::hash("looking-glass", 4).unwrap())).unwrap();
        files.use_what_is_new();
        assert!(lets_in(&file, "alice", "looking-glass").await);
        assert!(!lets_in(&file, "alice", "wonderland").await && !lets_in(&file, "bob", "builder").await);
    }

    #[test]
    fn hashes_of_other_programs_are_understood() {
        // By libxcrypt.
        for dialect in ["2a", "2b", "2y"] {
            let hash = format!("${dialect}$05$abcdefghijklmnopqrstuuA0vov2GDneHB3.8.cv9UF9g.RdvScIW");
            let users = Users::parse(format!("alice:{hash}").as_bytes()).unwrap();
            assert!(users.entry("alice", &Secret::new("wonderland")).is_some(), "{dialect}");
        }
    }

    #[test]
    fn a_line_that_is_no_user_is_named_and_not_shown() {
        for (text, expected) in [("alice:x\ns3cret", "line 2 has no colon"), (":s3cret", "line 1 has a name")]
        {
            let problem = Users::parse(text.as_bytes()).map(|_| ()).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("s3cret"), "{problem}");
        }
        assert!(Users::parse(b"\xff:x").is_err());
    }

    #[test]
    fn a_user_who_does_not_exist_takes_as_long_as_a_wrong_password() {
        const COST: u32 = 8;
        let users =
            Users::parse(format!("alice:{}", bcrypt::hash("wonderland", COST).unwrap()).as_bytes()).unwrap();
        assert_eq!(cost(users.of_nobody.expose()), Some(COST));
        let shortest = |user: &str| {
            let once = || {
                let began = Instant::now();
                assert!(users.entry(user, &Secret::new("guess")).is_none());
                began.elapsed()
            };
            (0..7).map(|_| once()).min().unwrap()
        };
        // Without a hash it would be thousands of times shorter; a busy machine makes either a few times longer.
        let (known, unknown) = (shortest("alice"), shortest("mallory"));
        assert!(unknown > known / 20 && known > unknown / 20, "{known:?} and {unknown:?}");
        // Nor would the password of nobody, if there were one, let anybody in.
        let users = Users { hashes: HashMap::new(), of_nobody: Secret::new(ALICE) };
        assert!(users.entry("mallory", &Secret::new("wonderland")).is_none());
    }

    #[test]
    fn a_hash_that_would_take_a_day_lets_nobody_in() {
        let costly = ALICE.replacen("$05$", "$31$", 1);
        let users = Users::parse(format!("alice:{costly}").as_bytes()).unwrap();
        assert_eq!(cost(users.of_nobody.expose()), Some(4));
        assert!(users.hashes.is_empty());
    }

    #[tokio::test]
    async fn a_token_is_not_worth_a_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, format!("alice:{ALICE}")).unwrap();
        let file = Htpasswd::read(&path, &Files::new()).unwrap();
        // No turn is free, so whatever needs one waits for ever.
        file.turns.forget_permits(Semaphore::MAX_PERMITS);
        assert!(!lets_in(&file, "alice", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA").await);
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_too_odd_to_be_parsed(contents: Vec<u8>, hash in "\\$2[abxy]\\$[0-9]{2}\\$[./A-Za-z0-9é]{50,55}") {
            let _ = Users::parse(&contents);
            let _ = Users::parse(format!("alice:{hash}").as_bytes());
        }
    }
}
