//! Everybody in the table, and what they show.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac;
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};
use tempfile::TempDir;

use crate::harness::{PaperCluster, TestRegistry, secrets};

/// A second cluster whose accounts are let in.
const OTHER_ISSUER: &str = "https://other.example";

/// Who has a token of the tokens file, and in which groups they are.
const PEOPLE: [(&str, &[&str]); 6] = [
    ("alice", &[]),
    ("bob", &[]),
    ("dora", &["developers"]),
    ("otto", &[]),
    ("root", &[]),
    ("tess", &["testers"]),
];

/// Users of the htpasswd file, whose password is `secret`, as `htpasswd -Bbn -C 4` prints them.
const USERS: [&str; 2] = ["harry", "hugo"];
const HASH: &str = "$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG";

/// Who is taken out of these files.
const LEAVERS: [&str; 2] = ["hugo", "otto"];

/// Everybody who has an account somewhere, and where.
pub(super) struct People {
    folder: TempDir,
    cluster: PaperCluster,
    other: PaperCluster,
    /// What has the key that the other cluster will use next, and one whose key nobody trusts.
    next: PaperCluster,
    stranger: PaperCluster,
    /// Where tokens say that keys are. Nobody calls there.
    elsewhere: TcpListener,
    /// The same words mean the same token each time.
    shown: Mutex<HashMap<String, Shown>>,
}

/// What somebody shows.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    Nothing,
    Token(String),
    Password { user: String, password: String },
}

impl People {
    pub(super) fn gather() -> Self {
        let cluster = PaperCluster::new();
        cluster.apply("objects", include_str!("objects.yaml"));
        cluster.apply("taken-away", include_str!("taken_away.yaml"));
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let people = Self {
            folder: tempfile::tempdir().unwrap(),
            cluster,
            other: PaperCluster::new(),
            next: PaperCluster::new(),
            stranger: PaperCluster::new(),
            elsewhere,
            shown: Mutex::default(),
        };
        people.write_files_without(&[]);
        people
    }

    /// The settings of a registry that knows them. It believes where requests come from, so that each line of the table has a source of
    /// its own.
    pub(super) fn settings(&self) -> Value {
        let mut settings = self.cluster.settings();
        let kubernetes = &mut settings["auth"]["kubernetes"];
        let other = json!({ "issuer": OTHER_ISSUER, "keys": self.other.public_key() });
        kubernetes["issuers"].as_array_mut().unwrap().push(other);
        kubernetes["tokens"] = json!(self.tokens());
        settings["auth"]["htpasswd"] = json!({ "path": self.htpasswd() });
        settings["http"] = json!({ "trustedproxies": ["127.0.0.1"] });
        settings
    }

    /// Takes away what the last lines of the table are about, and waits until the registry has noticed.
    pub(super) async fn take_away_from(&self, registry: &TestRegistry) {
        self.cluster.delete("taken-away");
        replace(&self.other.public_key(), fs::read(self.next.public_key()).unwrap());
        self.write_files_without(&LEAVERS);
        let folder = self.cluster.objects().display().to_string();
        registry.log_line(&[("message", "roles and bindings reloaded"), ("folder", &folder)]).await;
        for file in [self.other.public_key(), self.tokens(), self.htpasswd()] {
            let file = file.display().to_string();
            registry.log_line(&[("message", "file reloaded"), ("file", &file)]).await;
        }
    }

    pub(super) fn assert_that_no_token_was_followed(&self) {
        let caller = self.elsewhere.accept();
        assert!(
            caller.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "a URL in a token is called"
        );
    }

    /// What they show whom these words of the table mean. `registry` and `another` one give tokens.
    pub(super) async fn shown(&self, who: &str, registry: &TestRegistry, another: &TestRegistry) -> Shown {
        if let Some(shown) = self.known().get(who) {
            return shown.clone();
        }
        let mut ways = who.split(" by ");
        let mut shown = self.own(ways.next().unwrap_or_default());
        for way in ways {
            shown = match way.split_once(' ').unwrap_or((way, "")) {
                ("password", user) => {
                    let user = user.strip_prefix("of ").unwrap_or("anybody").to_owned();
                    Shown::Password { user, password: shown.secret() }
                }
                ("forging", what) => Shown::Token(forged(&shown.secret(), what)),
                (path, "of another registry") => shown.exchanged_at(another, path).await,
                (path, _) => shown.exchanged_at(registry, path).await,
            };
        }
        self.known().insert(who.to_owned(), shown.clone());
        shown
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody shows who has it from nobody here.
    fn own(&self, who: &str) -> Shown {
        let (name, flaws) = who.split_once(" (").unwrap_or((who, ")"));
        let flaws = flaws.strip_suffix(')').expect("what is opened is closed");
        match (name, name.split_once('/')) {
            ("nobody", _) => Shown::Nothing,
            (_, Some((namespace, account))) => Shown::Token(self.token(namespace, account, flaws)),
            (user, None) if USERS.contains(&user) => {
                Shown::Password { user: user.to_owned(), password: "secret".to_owned() }
            }
            (person, None) => {
                assert!(PEOPLE.iter().any(|(name, _)| *name == person), "nobody is called {person}");
                Shown::Token(token_of(person))
            }
        }
    }

    /// The token of a service account, with flaws.
    fn token(&self, namespace: &str, account: &str, flaws: &str) -> String {
        let (mut header, mut claims) = (json!({ "alg": "ES256" }), PaperCluster::claims(namespace, account));
        let (mut header_twice, mut claims_twice) = (String::new(), String::new());
        let mut key = "ours";
        for flaw in flaws.split("; ").filter(|flaw| !flaw.is_empty()) {
            let (name, value) = flaw.split_once(' ').expect("a flaw has a name and a value");
            let (name, value, is_twice) = match name {
                "key" => {
                    key = value;
                    continue;
                }
                "also" => {
                    value.split_once(' ').map(|(name, value)| (name, value, true)).expect("it says what")
                }
                _ => (name, value, false),
            };
            let (part, twice) = match name {
                "alg" | "kid" | "typ" | "crit" | "jwk" | "jku" | "x5u" | "x5c" => {
                    (&mut header, &mut header_twice)
                }
                _ => (&mut claims, &mut claims_twice),
            };
            let (part, value) = (part.as_object_mut().expect("both are objects"), self.value(value));
            match value {
                _ if is_twice => *twice = format!("\"{name}\":{value},"),
                Value::Null => drop(part.remove(name)),
                value => drop(part.insert(name.to_owned(), value)),
            }
        }
        let [header, claims] = [(header, header_twice), (claims, claims_twice)]
            .map(|(part, twice)| part.to_string().replacen('{', &format!("{{{twice}"), 1));
        let signed = || [&header, &claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        match key {
            "ours" => self.cluster.sign(&header, &claims),
            "other" => self.other.sign(&header, &claims),
            "next" => self.next.sign(&header, &claims),
            "stranger" => self.stranger.sign(&header, &claims),
            "none" => signed() + ".",
            // The public key, taken for a secret that is shared.
            "public" => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, &fs::read(self.cluster.public_key()).unwrap());
                let signed = signed();
                let tag = hmac::sign(&secret, signed.as_bytes());
                format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
            }
            _ => panic!("nobody has the key {key}"),
        }
    }

    /// The value of a claim or header: JSON, a time from now, or a word. Null is none.
    fn value(&self, text: &str) -> Value {
        let time = text.strip_prefix(['+', '-']).and_then(|text| {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let seconds = match unit {
                "s" => 1,
                "h" => 3600,
                "d" => 24 * 3600,
                _ => return None,
            };
            Some(number.parse::<u64>().ok()? * seconds)
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        match (text, time) {
            (_, Some(time)) if text.starts_with('-') => json!(now - time),
            (_, Some(time)) => json!(now + time),
            ("none", _) => Value::Null,
            ("our-key", _) => self.cluster.jwk()["kid"].clone(),
            ("their-key", _) => self.stranger.jwk(),
            ("their-url", _) => json!(format!("https://{}", self.elsewhere.local_addr().unwrap())),
            ("16-KiB", _) => json!("x".repeat(16 << 10)),
            ("64-KiB", _) => json!("x".repeat(64 << 10)),
            (text, None) => serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")),
        }
    }

    /// Writes the tokens file and the htpasswd file.
    fn write_files_without(&self, leavers: &[&str]) {
        let entries = PEOPLE.iter().filter(|(name, _)| !leavers.contains(name)).map(|(name, groups)| {
            let hash = Digest::of(Algorithm::Sha256, token_of(name).as_bytes()).hex().to_string();
            json!({ "sha256": hash, "user": name, "groups": groups })
        });
        let users =
            USERS.iter().filter(|name| !leavers.contains(name)).map(|name| format!("{name}:{HASH}\n"));
        replace(&self.tokens(), Value::from_iter(entries).to_string());
        replace(&self.htpasswd(), users.collect::<String>());
    }

    fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens.yaml")
    }

    fn htpasswd(&self) -> PathBuf {
        self.folder.path().join("htpasswd")
    }
}

impl Shown {
    /// The header that shows it.
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Token(token) => Some(format!("Bearer {token}")),
            Self::Password { user, password } => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
            }
        }
    }

    /// The token or password.
    pub(super) fn secret(&self) -> String {
        match self {
            Self::Nothing => panic!("nobody shows nothing as something"),
            Self::Token(secret) | Self::Password { password: secret, .. } => secret.clone(),
        }
    }

    async fn exchanged_at(&self, registry: &TestRegistry, path: &str) -> Self {
        let header = self.header();
        let headers: Vec<_> = header.iter().map(|value| ("authorization", value.as_str())).collect();
        let given = registry.user("somebody").ask(Method::GET, path, &headers, Bytes::new()).await;
        let given = given.expect(StatusCode::OK).json();
        assert_eq!(given["token"], given["access_token"]);
        Self::Token(given["token"].as_str().expect("there is a token").to_owned())
    }
}

/// A token changed after it was signed.
fn forged(token: &str, what: &str) -> String {
    if let Some(sealed) = token.strip_prefix("wharf.") {
        return match what {
            "other-letter" => {
                let first = if sealed.starts_with('A') { 'B' } else { 'A' };
                format!("wharf.{first}{}", &sealed[1..])
            }
            "cut" => token[..token.len() - 4].to_owned(),
            "padded" => format!("{token}=="),
            _ => panic!("{what} is no way to forge a token of the registry"),
        };
    }
    let (front, signature) = token.rsplit_once('.').expect("a token has dots");
    let (head, claims) = front.split_once('.').expect("a token has two dots");
    match what {
        "other-claims" => {
            let claims = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
            assert!(claims.contains("team"), "{claims}");
            format!(
                "{head}.{}.{signature}",
                BASE64_URL_SAFE_NO_PAD.encode(claims.replace("team", "by-own-account"))
            )
        }
        "other-header" => {
            format!(
                "{}.{claims}.{signature}",
                BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#)
            )
        }
        "other-signature" => {
            let first = if signature.starts_with('A') { 'B' } else { 'A' };
            format!("{front}.{first}{}", &signature[1..])
        }
        "short-signature" => format!("{front}.{}", &signature[..40]),
        "no-signature" => format!("{front}."),
        "two-parts" => front.to_owned(),
        "four-parts" => format!("{token}.{signature}"),
        "padded" => format!("{token}=="),
        // The same bytes, with bits that mean nothing: 64 bytes leave four of the last letter unused.
        "loose" => {
            let (rest, last) = signature.split_at(signature.len() - 1);
            let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let next = letters.find(last).expect("it is one of them") + 1;
            format!("{front}.{rest}{}", &letters[next..=next])
        }
        "as-json" => json!({ "protected": head, "payload": claims, "signature": signature }).to_string(),
        _ => panic!("{what} is no way to forge"),
    }
}

/// Writes a file, of which nobody reads the half.
fn replace(path: &Path, contents: impl AsRef<[u8]>) {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, contents).unwrap();
    fs::rename(unfinished, path).unwrap();
}

/// The token of somebody in the tokens file.
fn token_of(person: &str) -> String {
    let token = Digest::of(Algorithm::Sha256, format!("the token of {person}").as_bytes()).hex().to_string();
    secrets::keep(&token);
    token
}
