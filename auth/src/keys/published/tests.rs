//! Keys that are fetched from a real server, by TLS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::AuthenticationError;
use crate::keys::tests::TestKey;
use crate::keys::{KeySet, PublicKey};

const HERE: &str = "127.0.0.1";
const NEVER: i32 = 9000;
const A_SECOND: Duration = Duration::from_secs(1);

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// What a server shows that is called `name`, up to the year `last`.
    fn server(&self, name: &str, last: i32) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(last, 12, 31);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

/// A server, which answers what it is told to.
struct Publisher {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
enum Answer {
    /// Head and body.
    Whole(String),
    /// This, and then the second again and again, after so long each time.
    Endless(&'static str, String, Duration),
}

impl Publisher {
    async fn start(tls: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, asked) = (Arc::<Mutex<HashMap<String, Answer>>>::default(), Arc::default());
        let task = tokio::spawn({
            let (tls, answers, asked) =
                (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&answers), Arc::clone(&asked));
            async move {
                // Whoever is still being answered goes with it.
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(answer(stream, tls.clone(), Arc::clone(&answers), Arc::clone(&asked)));
                }
            }
        });
        Self { address, answers, asked, task }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn answers(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn publishes(&self, path: &str, keys: &[&TestKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answers(path, whole("200 OK", &json!({ "keys": keys }).to_string()));
    }

    fn says_that_keys_are_at(&self, issuer: &str, at: &str) {
        let document = json!({ "issuer": issuer, "jwks_uri": at, "response_types_supported": ["id_token"] });
        self.answers(DISCOVERY, whole("200 OK", &document.to_string()));
    }

    /// The paths that were asked for since this was asked last.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn whole(status: &str, body: &str) -> Answer {
    Answer::Whole(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// Answers one connection for as long as it is used.
async fn answer(
    stream: TcpStream,
    tls: TlsAcceptor,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(tls.accept(stream).await?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        asked.lock().unwrap().push(path.clone());
        let answer = answers.lock().unwrap().get(&path).cloned();
        match answer.unwrap_or_else(|| whole("404 Not Found", "")) {
            Answer::Whole(text) => stream.write_all(text.as_bytes()).await?,
            Answer::Endless(text, more, pause) => {
                stream.write_all(text.as_bytes()).await?;
                loop {
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                    stream.write_all(more.as_bytes()).await?;
                }
            }
        }
        stream.flush().await?;
    }
}

/// A publisher, and a registry that trusts whom its file of authorities names.
struct World {
    authority: Authority,
    publisher: Publisher,
    folder: TempDir,
    files: Files,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let publisher = Publisher::start(authority.server(HERE, NEVER)).await;
        let world = Self { authority, publisher, folder: tempfile::tempdir().unwrap(), files: Files::new() };
        world.trusts(&world.authority.0.pem());
        world
    }

    fn authorities(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn trusts(&self, authorities: &str) {
        std::fs::write(self.authorities(), authorities).unwrap();
        self.files.use_what_is_new();
    }

    fn keys(&self, issuer: &str, at: Option<String>) -> KeySet {
        let at = at.map(|at| at.parse().unwrap());
        KeySet::fetched(Arc::new(
            PublishedKeys::new(issuer, at, Some(&self.authorities()), &self.files).unwrap(),
        ))
    }

    /// Keys at a URL that is configured.
    fn keys_at(&self, path: &str) -> KeySet {
        self.keys("https://issuer.example", Some(self.publisher.url(path)))
    }

    /// Keys where the publisher says, who is the issuer.
    fn keys_said(&self) -> KeySet {
        self.keys(&self.publisher.url(""), None)
    }
}

async fn named(keys: &KeySet, key: &TestKey) -> Result<Vec<Arc<PublicKey>>, AuthenticationError> {
    keys.named(Some(&key.id())).await
}

/// Whether what `key` signs is verified.
async fn verifies(keys: &KeySet, key: &TestKey) -> bool {
    let found = named(keys, key).await.unwrap();
    found.iter().any(|found| found.verifies(key.algorithm(), b"message", &key.sign(b"message")))
}

/// Why no keys could be fetched, with all causes.
async fn problem(keys: &KeySet, key: &TestKey) -> String {
    match named(keys, key).await {
        Err(AuthenticationError::Unavailable(error)) => {
            let error: &dyn std::error::Error = &*error;
            let causes = std::iter::successors(Some(error), |error| error.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        }
        Err(error) => panic!("{error}"),
        Ok(found) => panic!("{} keys are found", found.len()),
    }
}

/// Makes it later by so much, for those who look at the clock.
async fn later(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_are_fetched_where_the_configuration_or_the_issuer_says() {
    let (world, key, other) = (World::new().await, TestKey::p256(), TestKey::p256());
    let publisher = &world.publisher;
    publisher.publishes("/keys", &[&key]);
    let keys = world.keys_at("/keys");
    assert!(verifies(&keys, &key).await);
    assert_eq!(publisher.asked(), ["/keys"]);

    // The issuer may have them served by somebody else.
    let elsewhere = Publisher::start(world.authority.server(HERE, NEVER)).await;
    elsewhere.publishes("/their/keys", &[&other]);
    publisher.says_that_keys_are_at(&publisher.url(""), &elsewhere.url("/their/keys"));
    let keys = world.keys_said();
    assert!(verifies(&keys, &other).await);
    assert_eq!(
        (publisher.asked(), elsewhere.asked()),
        (vec![DISCOVERY.to_owned()], vec!["/their/keys".to_owned()])
    );
}

#[tokio::test]
async fn an_answer_that_is_not_keys_is_none_and_leads_nowhere() {
    let (world, key) = (World::new().await, TestKey::p256());
    let publisher = &world.publisher;
    publisher.publishes("/keys", &[&key]);
    let document = json!({ "keys": [key.jwk()] }).to_string();
    let large = document.clone() + &" ".repeat(1 << 20);
    let endless = Answer::Endless("HTTP/1.1 200 OK\r\n\r\n", " ".repeat(64 << 10), Duration::ZERO);
    for (path, answer, reason) in [
        ("/moved", whole("302 Found\r\nlocation: /keys", ""), "answers 302 Found"),
        ("/moved-for-ever", whole("308 Permanent Redirect\r\nlocation: /keys", ""), "answers 308"),
        ("/failing", whole("500 Internal Server Error", &document), "answers 500"),
        ("/refusing", whole("401 Unauthorized", &document), "answers 401"),
        ("/page", whole("200 OK", "<html></html>"), "not a JSON Web Key Set"),
        ("/empty", whole("200 OK", r#"{"keys":[]}"#), "no RSA, P-256, P-384 or P-521 key"),
        ("/large", whole("200 OK", &large), "length limit exceeded"),
        ("/endless", endless, "length limit exceeded"),
        ("/no-http", Answer::Whole("keys\r\n\r\n".to_owned()), "invalid HTTP"),
    ] {
        publisher.answers(path, answer);
        let problem = problem(&world.keys_at(path), &key).await;
        assert!(problem.contains(reason), "{path}: {problem}");
        assert_eq!(publisher.asked(), [path]);
    }

    let issuer = publisher.url("");
    let plain = publisher.url("/keys").replace("https:", "http:");
    for (named, at, reason) in [
        ("https://issuer.example", publisher.url("/keys"), "says that it is somebody else"),
        (&*format!("{issuer}/"), publisher.url("/keys"), "says that it is somebody else"),
        (&*issuer, plain, "is not fetched by https"),
        (&*issuer, "/keys".to_owned(), "is not fetched by https"),
        (&*issuer, "no URL".to_owned(), "invalid uri character"),
    ] {
        publisher.says_that_keys_are_at(named, &at);
        let problem = problem(&world.keys_said(), &key).await;
        assert!(problem.contains(reason), "{named} {at}: {problem}");
        assert_eq!(publisher.asked(), [DISCOVERY]);
    }
    publisher.answers(DISCOVERY, whole("200 OK", r#"{"issuer":"x"}"#));
    assert!(problem(&world.keys_said(), &key).await.contains("missing field `jwks_uri`"));
    let insecure = world.keys(&issuer.replace("https:", "http:"), None);
    assert!(problem(&insecure, &key).await.contains("is not fetched by https"));
}

#[tokio::test]
async fn whom_no_authority_of_ours_vouches_for_is_not_asked() {
    let (world, key) = (World::new().await, TestKey::p256());
    for (server, reason) in [
        // Its authority has the name of ours.
        (Authority::new().server(HERE, NEVER), "BadSignature"),
        (world.authority.server("issuer.example", NEVER), "not valid for name"),
        (world.authority.server(HERE, 2020), "expired"),
    ] {
        let publisher = Publisher::start(server).await;
        publisher.publishes("/keys", &[&key]);
        let keys = world.keys("https://issuer.example", Some(publisher.url("/keys")));
        let problem = problem(&keys, &key).await;
        assert!(problem.contains(reason), "{problem}");
        assert!(publisher.asked().is_empty());
    }
}

#[tokio::test]
async fn authorities_may_change_and_useless_ones_leave_those_that_were() {
    let (world, old, new, next) = (World::new().await, TestKey::p256(), TestKey::p256(), TestKey::p256());
    world.publisher.publishes("/keys", &[&old]);
    let keys = world.keys_at("/keys");
    assert!(verifies(&keys, &old).await);

    world.publisher.publishes("/keys", &[&old, &new]);
    world.trusts(&Authority::new().0.pem());
    later(A_SECOND).await;
    assert!(problem(&keys, &new).await.contains("BadSignature"));
    world.trusts(&(Authority::new().0.pem() + &world.authority.0.pem()));
    later(A_SECOND).await;
    assert!(verifies(&keys, &new).await);

    world.publisher.publishes("/keys", &[&next]);
    for useless in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        world.trusts(useless);
        let refused =
            PublishedKeys::new("https://issuer.example", None, Some(&world.authorities()), &world.files);
        assert!(matches!(refused, Err(PublishedKeysError::Authorities(_))), "{useless}");
    }
    later(A_SECOND).await;
    assert!(verifies(&keys, &next).await);
}

#[tokio::test]
async fn a_new_key_is_fetched_once_a_second_by_one_and_a_failure_takes_none_away() {
    let (world, old, new) = (World::new().await, TestKey::p256(), TestKey::p384());
    let publisher = &world.publisher;
    publisher.publishes("/keys", &[&old]);
    let keys = Arc::new(world.keys_at("/keys"));
    assert!(verifies(&keys, &old).await);

    // Nobody asks again within the second, and then one for all.
    publisher.publishes("/keys", &[&old, &new]);
    tokio::time::pause();
    assert!(named(&keys, &new).await.unwrap().is_empty());
    assert_eq!(publisher.asked().len(), 1);
    tokio::time::resume();
    later(A_SECOND).await;
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let (keys, id) =
            (Arc::clone(&keys), if number == 50 { new.id() } else { format!("made up {number}") });
        callers.spawn(async move { keys.named(Some(&id)).await.unwrap().len() });
    }
    assert_eq!(callers.join_all().await.iter().sum::<usize>(), 1);
    assert_eq!(publisher.asked(), ["/keys"]);
    assert!(verifies(&keys, &new).await);

    publisher.answers("/keys", whole("503 Service Unavailable", ""));
    later(A_SECOND).await;
    assert!(problem(&keys, &TestKey::p256()).await.contains("answers 503"));
    // The connection was kept; now there is nobody to connect to either.
    drop(world.publisher);
    later(A_SECOND).await;
    assert!(named(&keys, &TestKey::p256()).await.is_err());
    assert!(verifies(&keys, &old).await && verifies(&keys, &new).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_to_its_end_is_given_up() {
    let (world, key) = (World::new().await, TestKey::p256());
    const HEAD: &str = "HTTP/1.1 200 OK\r\n\r\n";
    const AN_HOUR: Duration = Duration::from_secs(3600);
    for answer in [
        Answer::Endless("", String::new(), AN_HOUR),
        Answer::Endless(HEAD, String::new(), AN_HOUR),
        Answer::Endless("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", String::new(), AN_HOUR),
        Answer::Endless(HEAD, " ".to_owned(), A_SECOND),
    ] {
        world.publisher.answers("/keys", answer);
        let began = tokio::time::Instant::now();
        let problem = problem(&world.keys_at("/keys"), &key).await;
        assert!(problem.contains("not there within 10 s"), "{problem}");
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    }
}
