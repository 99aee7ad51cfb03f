//! Tokens of people and machines in a file, for use without a cluster: who shows which token is who.
//!
//! The file holds digests. A token is found by the SHA-256 of what was shown: how long the search takes depends on the digest,
//! which nobody can steer towards another one, so it tells nothing. A plain SHA-256 is enough because a token is random
//! (`openssl rand -hex 32`); a password that somebody thought of belongs in `htpasswd`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

use crate::files::{FileError, Files, Watched};
use crate::identity::is_reserved;
use crate::{Authenticated, AuthenticationError, Authenticator, Credential, EntryDigest, Identity, UserFile};

/// Knows the tokens of a file such as this:
///
/// ```yaml
/// - sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b   # printf %s "$TOKEN" | sha256sum
///   user: alice
///   uid: "17"                                                                  # optional, as all that follows
///   groups: [developers]
///   extra: {example.com/team: [blue]}
/// ```
///
/// Names that begin with `system:` are refused: only a cluster says who carries one.
#[derive(Debug)]
pub struct TokensFile(Watched<Tokens>);

type Tokens = HashMap<EntryDigest, Arc<Identity>>;

impl TokensFile {
    /// Reads the file, and again when it changes. Blocks: this is for the start.
    ///
    /// # Errors
    /// When it cannot be read, or an entry is not right.
    pub fn read(path: &Path, files: &Files) -> Result<Self, FileError> {
        files.watch(path, parse).map(Self)
    }
}

#[async_trait]
impl Authenticator for TokensFile {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let Some(token) = credential.token() else { return Ok(None) };
        let entry = EntryDigest::of(token.expose());
        let identity = self.0.current().get(&entry).cloned();
        Ok(identity.map(|identity| Authenticated { entry: Some(entry), ..Authenticated::new(identity) }))
    }
}

impl UserFile for TokensFile {
    fn current(&self, user: &Identity, entry: &EntryDigest) -> Option<Arc<Identity>> {
        self.0.current().get(entry).filter(|current| current.is_same_user_as(user)).cloned()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    user: String,
    uid: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

/// The problems name entries and lines, and show nothing of them: somebody may have put a token where its digest belongs.
fn parse(contents: &[u8]) -> Result<Tokens, String> {
    let text = str::from_utf8(contents).map_err(|_| "it is not UTF-8".to_owned())?;
    let entries: Option<Vec<Entry>> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| format!("line {}: ", location.line()));
        let expected =
            "it is not a YAML list of entries with `sha256`, `user` and perhaps `uid`, `groups`, `extra`";
        format!("{}{expected}", line.unwrap_or_default())
    })?;
    let mut tokens = Tokens::new();
    for (index, entry) in entries.unwrap_or_default().into_iter().enumerate() {
        let number = index + 1;
        let hash = hash(&entry.sha256)
            .ok_or_else(|| format!("entry {number}: `sha256` is not 64 hexadecimal digits"))?;
        let names = || [&entry.user].into_iter().chain(&entry.groups);
        if names().any(|name| name.is_empty()) {
            return Err(format!("entry {number}: a user or group is empty"));
        }
        if names().any(|name| is_reserved(name)) {
            return Err(format!(
                "entry {number}: names that begin with `system:` are Kubernetes's own; choose others and bind roles to them"
            ));
        }
        let identity =
            Identity { name: entry.user, uid: entry.uid, groups: entry.groups, extra: entry.extra };
        if tokens.insert(hash, Arc::new(identity)).is_some() {
            return Err(format!("entry {number}: its token is that of an entry before"));
        }
    }
    Ok(tokens)
}

fn hash(text: &str) -> Option<EntryDigest> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(EntryDigest(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    /// What `printf %s secret | sha256sum` prints.
    const OF_SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    async fn name_of(file: &TokensFile, credential: Credential) -> Option<String> {
        file.identify(&credential).await.unwrap().map(|known| known.identity.name.clone())
    }

    fn token(text: &str) -> Credential {
        Credential::Token(Secret::new(text))
    }

    fn hex_of(text: &str) -> String {
        EntryDigest::of(text).0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test]
    async fn who_shows_a_token_of_the_file_is_who_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        let text = format!(
            "# people\n- sha256: {OF_SECRET}\n  user: alice\n  uid: \"17\"\n  groups: [developers, testers]\n  extra:\n    example.com/team: [blue]\n\
             - {{sha256: {}, user: bob}}\n",
            hex_of("bobs").to_uppercase()
        );
        std::fs::write(&path, &text).unwrap();
        let files = Files::new();
        let file = TokensFile::read(&path, &files).unwrap();
        let alice = file.identify(&token("secret")).await.unwrap().unwrap();
        let identity = Identity {
            name: "alice".to_owned(),
            uid: Some("17".to_owned()),
            groups: vec!["developers".to_owned(), "testers".to_owned()],
            extra: [("example.com/team".to_owned(), vec!["blue".to_owned()])].into(),
        };
        let entry = Some(EntryDigest::of("secret"));
        assert_eq!(alice, Authenticated { entry, ..Authenticated::new(Arc::new(identity)) });
        let password =
            |user: &str| Credential::Password { user: user.to_owned(), password: Secret::new("bobs") };
        assert_eq!(name_of(&file, password("anything")).await.as_deref(), Some("bob"));
        for other in ["", "secre", "secret ", "Secret", OF_SECRET] {
            assert_eq!(name_of(&file, token(other)).await, None, "{other}");
        }
        let certificate = Credential::Certificate { common_name: "secret".to_owned(), organizations: vec![] };
        assert_eq!(name_of(&file, certificate).await, None);

        // Revoked, then broken, then emptied.
        std::fs::write(&path, text.split("- {").next().unwrap()).unwrap();
        files.use_what_is_new();
        assert_eq!(name_of(&file, password("")).await, None);
        std::fs::write(&path, "- user: mallory").unwrap();
        files.use_what_is_new();
        assert_eq!(name_of(&file, token("secret")).await.as_deref(), Some("alice"));
        std::fs::write(&path, "# nobody\n").unwrap();
        files.use_what_is_new();
        assert_eq!(name_of(&file, token("secret")).await, None);
    }

    #[test]
    fn a_wrong_entry_is_named_and_not_shown() {
        let cases = [
            (format!("- {{sha256: {OF_SECRET}}}"), "line 1: it is not a YAML list"),
            (
                format!("- {{sha256: {OF_SECRET}, user: alice}}\n- {{sha256: s3cret, user: bob, grups: []}}"),
                "line 2: ",
            ),
            ("tokens: []".to_owned(), "it is not a YAML list"),
            ("- {sha256: s3cret, user: alice}".to_owned(), "entry 1: `sha256` is not 64"),
            (format!("- {{sha256: \"{}\", user: alice}}", "é".repeat(32)), "entry 1: `sha256` is not 64"),
            (format!("- {{sha256: {}, user: alice}}", "g".repeat(64)), "entry 1: `sha256` is not 64"),
            (format!("- {{sha256: {OF_SECRET}, user: \"\"}}"), "entry 1: a user or group is empty"),
            (
                format!("- {{sha256: {OF_SECRET}, user: a, groups: [\"\"]}}"),
                "entry 1: a user or group is empty",
            ),
            (
                format!("- {{sha256: {OF_SECRET}, user: a, groups: [b, system:masters]}}"),
                "entry 1: names that begin",
            ),
            (
                format!("- {{sha256: {OF_SECRET}, user: system:serviceaccount:team:builder}}"),
                "entry 1: names that begin",
            ),
            (
                format!(
                    "- {{sha256: {OF_SECRET}, user: a}}\n- {{sha256: {}, user: b}}",
                    OF_SECRET.to_uppercase()
                ),
                "entry 2: its token",
            ),
            (format!("- {{sha256: {OF_SECRET}, user: a, user: b}}"), "line 1: "),
        ];
        for (text, expected) in cases {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
            assert!(!problem.contains("s3cret") && !problem.contains(OF_SECRET), "{problem}");
        }
        assert!(parse(b"\xff").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_too_odd_to_be_parsed(contents: Vec<u8>, text in "(- |sha256:|user:|\\{|\\[|&a|\\*a|<<|\n| |[a-f0-9]{4}){0,40}") {
            let _ = parse(&contents);
            let _ = parse(text.as_bytes());
        }
    }
}
