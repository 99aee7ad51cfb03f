//! What the operator meant: every setting, resolved and cross-checked, so that nothing else meets a half-valid value.
//!
//! [`Config::default`] is what runs when nothing was configured at all. A configuration file starts from
//! [`Config::of_an_empty_file`] instead, whose defaults are those of CNCF distribution where the two differ.

mod document;
mod environment;
mod keys;
mod problem;
mod proxy;
mod section;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri};
use regex::Regex;
use storage::MissingReferences;

pub use auth::{OtherAudiences, Secret};
pub use document::Origin;
pub use problem::{Problem, Problems};
pub use proxy::{Network, NotANetwork, Proxy};
pub use section::{Effect, Key, Setting};

use document::Node;
use section::Findings;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A configuration that was read.
#[derive(Debug)]
pub struct Loaded {
    /// What is meant.
    pub config: Config,
    /// What was read and has no effect, or not the one that was hoped for.
    pub warnings: Vec<Problem>,
    /// Every value that holds, and where it came from.
    pub settings: Vec<Setting>,
}

/// Reads a file, if there is one, and lets the environment override it.
///
/// # Errors
/// All that is wrong, at once.
pub fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Loaded, Problems> {
    let Some(path) = file else { return parse(None, environment) };
    let name = path.display().to_string();
    let text = std::fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
    match text {
        Ok(text) => parse(Some((&name, &text)), environment),
        Err(error) => Err(Problems(vec![Problem {
            origin: Origin::Default,
            key: name,
            what: format!("the configuration cannot be read: {error}"),
        }])),
    }
}

/// Reads a file's name and text, if there is one, and lets the environment override it.
///
/// # Errors
/// All that is wrong, at once.
pub fn parse(file: Option<(&str, &str)>, environment: &BTreeMap<String, String>) -> Result<Loaded, Problems> {
    let mut findings = Findings::default();
    let mut root = match file {
        None => Node::nothing(Origin::Default),
        Some((name, text)) => {
            let name: Arc<str> = Arc::from(name);
            let origin = |line| Origin::File { name: name.clone(), line };
            Node::parse(text, &origin).map_err(|malformed| {
                let origin = origin(malformed.line);
                Problems(vec![Problem { origin, key: String::new(), what: malformed.what }])
            })?
        }
    };
    environment::apply(&mut root, environment, &mut findings.problems);
    for section in ["storage", "auth"] {
        if let Some(node) = root.get_mut(section) {
            node.spell_out();
        }
    }
    let defaults = if file.is_some() { Config::of_an_empty_file() } else { Config::default() };
    let config = findings.read(&root, |root| Config::read(root, file.is_some(), defaults));
    if findings.problems.is_empty() {
        Ok(Loaded { config, warnings: findings.warnings, settings: findings.settings })
    } else {
        Err(Problems(findings.problems))
    }
}

/// Lists every key that a configuration file may have, with the defaults of a file: those without a section first,
/// OpenShift's last.
pub fn keys() -> Vec<Key> {
    let mut findings = Findings::of_all_keys();
    let root = Node::nothing(Origin::Default);
    findings.read(&root, |root| Config::read(root, false, Config::of_an_empty_file()));
    findings.keys.sort_by_key(|key| (key.path.contains('.'), key.path.starts_with("openshift.")));
    findings.keys
}

/// Everything that can be set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Listeners, TLS, limits: all that the network sees.
    pub http: Http,
    /// Where the content is kept, and what may be done with it.
    pub storage: Storage,
    /// Which manifests are accepted.
    pub validation: Validation,
    /// The list of repositories.
    pub catalog: Catalog,
    /// The list of a repository's tags.
    pub tags: Tags,
    /// What is written to standard error.
    pub log: Log,
    /// The collector that is sent traces; without one the environment may name it.
    pub traces: Option<Uri>,
    /// What readiness looks at.
    pub health: Health,
    /// Who is let in.
    pub auth: Auth,
}

impl Config {
    /// Returns the defaults of a configuration that was written down, as distribution has them: its data folder,
    /// and no deletion unless it is asked for.
    pub fn of_an_empty_file() -> Self {
        let mut config = Self::default();
        config.storage.backend =
            Backend::Volume(Volume { root: PathBuf::from("/var/lib/registry"), ..Volume::default() });
        config.storage.deletion = Deletion::Refused;
        config
    }
}

/// The network's side.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where clients connect; never empty.
    pub listeners: Vec<Listener>,
    /// Where health and metrics are answered beside the API.
    pub management: Management,
    /// The path of the metrics on these listeners, if they are there too.
    pub metrics: Option<String>,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// Whether HTTP/2 is understood without TLS.
    pub h2c: bool,
    /// What replicas sign the state with that the URLs of uploads carry. Without one they carry none.
    pub secret: Option<Secret>,
    /// How `Location` is written.
    pub locations: Locations,
    /// The path below which the whole API lies: empty, or `/so/me/thing` without a slash at its end.
    pub prefix: String,
    /// Who is believed about who called, and where.
    pub trusted_proxies: Vec<Proxy>,
    /// Headers that every response carries besides its own.
    pub headers: HeaderMap,
    /// How long connections are still accepted once the server was asked to stop, so that others learn of it.
    pub drain_delay: Duration,
    /// How long requests under way may take to finish after that.
    pub drain_timeout: Duration,
    /// What one client, or all of them, may use up.
    pub limits: Limits,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listeners: vec![Listener {
                address: Address::Tcp { host: "127.0.0.1".to_owned(), port: 5000 },
                tls: None,
            }],
            management: Management::default(),
            metrics: None,
            http2: true,
            h2c: false,
            secret: None,
            locations: Locations::Relative,
            prefix: String::new(),
            trusted_proxies: Vec::new(),
            headers: HeaderMap::new(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
            limits: Limits::default(),
        }
    }
}

/// One place where clients connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Where it is.
    pub address: Address,
    /// How it is encrypted, if it is.
    pub tls: Option<Tls>,
}

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A port of every interface, IPv6 and IPv4: `:5000`.
    EveryInterface {
        /// The port; 0 lets the system choose.
        port: u16,
    },
    /// A port of one address or name: `127.0.0.1:5000`, `[::1]:5000`, `registry.example:5000`.
    Tcp {
        /// An IP address, without brackets, or a name that is resolved when the server starts.
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Whether nobody but who is on this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::EveryInterface { .. } => false,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryInterface { port } => write!(formatter, ":{port}"),
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// How a listener is encrypted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// The certificate chain, PEM, leaf first; read again when the file changes.
    pub certificate: PathBuf,
    /// Its private key, PEM; read again when the file changes.
    pub key: PathBuf,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
    /// The oldest version that is spoken.
    pub minimum_version: TlsVersion,
    /// The suites offered in TLS 1.2; empty means all that are safe. Those of TLS 1.3 are always offered.
    pub cipher_suites: Vec<rustls::CipherSuite>,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientCertificates {
    /// None is asked for.
    NotAsked,
    /// One that is shown must be signed by one of these authorities (PEM files).
    Optional(Vec<PathBuf>),
    /// One must be shown, and signed by one of these authorities (PEM files).
    Required(Vec<PathBuf>),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// How `Location` is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Locations {
    /// As a path, which is right behind any proxy.
    Relative,
    /// With the scheme and host that the client used, as the request's headers tell.
    FromRequest,
    /// Below this scheme and host, whatever the request says.
    Below(Uri),
}

impl Locations {
    /// The scheme and host that clients use, where that is configured.
    pub fn host(&self) -> Option<&Uri> {
        match self {
            Self::Below(url) => Some(url),
            Self::Relative | Self::FromRequest => None,
        }
    }
}

/// Where health and metrics are answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Management {
    /// A listener of its own, always plain HTTP, beside those of the API.
    pub address: Option<Address>,
    /// The path of the metrics there, if they are there.
    pub metrics: Option<String>,
}

/// What one client, or all of them, may use up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The size of a request's line and headers together.
    pub header_bytes: NonZeroUsize,
    /// Connections open at once, over all listeners; more wait to be accepted.
    pub connections: NonZeroUsize,
    /// How long a request's headers may take to arrive.
    pub header_timeout: Duration,
    /// How long a body may stand still, in either direction.
    pub idle_body_timeout: Duration,
    /// Requests that read: `GET` and `HEAD`.
    pub reads: Concurrency,
    /// Requests that write: all others.
    pub writes: Concurrency,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: size(64 * KIB),
            connections: size(10_000),
            header_timeout: Duration::from_secs(30),
            idle_body_timeout: Duration::from_secs(60),
            reads: Concurrency::default(),
            writes: Concurrency::default(),
        }
    }
}

/// How many requests of one kind are served at once; one too many is told to come back (429).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Concurrency {
    /// How many run; none means that there is no limit.
    pub running: Option<NonZeroUsize>,
    /// How many more may wait for their turn.
    pub queued: usize,
    /// How long one waits for its turn; none means until it comes.
    pub longest_wait: Option<Duration>,
}

/// Where the content is kept, and what may be done with it.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// What keeps it.
    pub backend: Backend,
    /// Whether anything may change.
    pub mode: Mode,
    /// Whether clients may delete.
    pub deletion: Deletion,
    /// What becomes of uploads that nobody finishes.
    pub purging: Purging,
    /// What is remembered.
    pub caches: Caches,
    /// What uploads may hold in memory.
    pub uploads: Uploads,
}

/// What keeps the content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// A folder.
    Volume(Volume),
    /// The memory of this process: gone when it stops.
    Memory,
}

impl Default for Backend {
    fn default() -> Self {
        Self::Volume(Volume::default())
    }
}

/// A folder that keeps the content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volume {
    /// The folder above `docker/registry`.
    pub root: PathBuf,
    /// What a crash of the machine may take.
    pub sync: Sync,
}

impl Default for Volume {
    fn default() -> Self {
        Self { root: PathBuf::from("data"), sync: Sync::Always }
    }
}

/// What a crash of the machine may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sync {
    /// Nothing that was acknowledged: files and folders are synced before the answer.
    Always,
    /// What the kernel had not yet written: faster, for content that can be pushed again.
    Never,
}

/// Whether anything may change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Pulls and pushes.
    #[default]
    ReadWrite,
    /// Pulls alone: whatever writes is answered with 405.
    ReadOnly,
}

/// Whether clients may delete manifests and blobs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Deletion {
    /// They may.
    #[default]
    Allowed,
    /// They are answered with 405 and `UNSUPPORTED`.
    Refused,
}

/// What becomes of uploads that nobody finishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purging {
    /// They stay.
    Never,
    /// They are removed, or only named in the log.
    After {
        /// For how long one must have been untouched.
        age: Duration,
        /// How often they are looked for.
        interval: Duration,
        /// What is done to them.
        action: PurgeAction,
    },
}

impl Default for Purging {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        Self::After { age: 168 * HOUR, interval: 24 * HOUR, action: PurgeAction::Remove }
    }
}

/// What is done to an upload that nobody finishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PurgeAction {
    /// It is removed.
    Remove,
    /// It is named in the log, and stays.
    Report,
}

/// What is remembered, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caches {
    /// The memory for manifests, which never change.
    pub manifest_bytes: usize,
    /// How many facts of each kind are remembered: that a repository holds a digest, what a tag points at.
    pub entries: usize,
    /// How long it is believed that a repository holds a digest.
    pub membership: Duration,
    /// How long it is believed that a tag points where it did. What this process changes it knows at once.
    pub tags: Duration,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            manifest_bytes: 32 * MIB,
            entries: 10_000,
            membership: Duration::from_secs(60),
            tags: Duration::from_secs(1),
        }
    }
}

/// What uploads may hold in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uploads {
    /// The bytes that were received and not yet written, of all uploads together.
    pub buffer_bytes: NonZeroUsize,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { buffer_bytes: size(8 * MIB) }
    }
}

/// Which manifests are accepted.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The size above which a manifest is refused with 413.
    pub manifest_bytes: NonZeroUsize,
    /// Which descriptors may say that their content lies elsewhere.
    pub urls: ForeignUrls,
    /// Which content that a manifest refers to must be there before it.
    pub missing_references: MissingReferences,
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            manifest_bytes: size(4 * MIB),
            urls: ForeignUrls::default(),
            missing_references: MissingReferences::Refuse,
        }
    }
}

/// Which descriptors may say, by `urls`, that their content lies elsewhere: those whose every URL matches one of `allow`, or
/// anything if that is empty, and none of `deny`.
#[derive(Clone, Debug, Default)]
pub struct ForeignUrls {
    /// Patterns of which one must match, unless there is none.
    pub allow: Vec<Regex>,
    /// Patterns of which none may match.
    pub deny: Vec<Regex>,
}

impl ForeignUrls {
    /// Tells whether a descriptor may name this URL.
    pub fn accept(&self, url: &str) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.is_match(url)))
            && !self.deny.iter().any(|pattern| pattern.is_match(url))
    }
}

/// The list of repositories.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Catalog {
    /// The longest page.
    pub max_entries: NonZeroUsize,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { max_entries: size(1000) }
    }
}

/// The list of a repository's tags.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tags {
    /// The longest page.
    pub max_tags: NonZeroUsize,
}

impl Default for Tags {
    fn default() -> Self {
        Self { max_tags: size(1000) }
    }
}

/// What is written to standard error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// What stands on each line, name by name.
    pub fields: Vec<(String, String)>,
    /// Whether lines say where in the program they come from.
    pub places: bool,
    /// Whether there is a line for each request.
    pub access: bool,
    /// Where pushes, deletions and denials are written down.
    pub audit: Audit,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Auto,
            fields: Vec::new(),
            places: false,
            access: true,
            audit: Audit::AmongOthers,
        }
    }
}

/// Where pushes, deletions and denials are written down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Audit {
    /// Nowhere.
    Off,
    /// Among the other lines.
    AmongOthers,
    /// In a file of their own.
    File(PathBuf),
}

/// How important a line is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogLevel {
    /// Needs a person.
    Error,
    /// Was recovered from.
    Warn,
    /// Changed the server's state.
    Info,
    /// Helps to investigate.
    Debug,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What readiness looks at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// How the store is looked at; without it the server is ready as soon as it listens.
    pub storage: Option<StorageCheck>,
    /// While one of these is there the server is not ready.
    pub files: Vec<FileCheck>,
}

impl Default for Health {
    fn default() -> Self {
        Self { storage: Some(StorageCheck::default()), files: Vec::new() }
    }
}

/// A file by which somebody takes the server out of service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileCheck {
    /// Where it is.
    pub path: PathBuf,
    /// How often it is looked for.
    pub interval: Duration,
}

/// How the store is looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StorageCheck {
    /// How often.
    pub interval: Duration,
    /// How many failures in a row make the server unready.
    pub threshold: NonZeroUsize,
    /// How long it may take; what takes longer has failed.
    pub timeout: Duration,
}

impl Default for StorageCheck {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            threshold: NonZeroUsize::MIN,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Who is let in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Auth {
    /// Everybody, for everything.
    #[default]
    Anyone,
    /// Whoever may, by what they log in with.
    Login(Box<Login>),
}

/// How people log in, and what decides what they may.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// What decides.
    pub permission: Permission,
    /// Whose tokens of service accounts are known.
    pub issuers: Vec<Issuer>,
    /// The audiences of the registry.
    pub audiences: Vec<String>,
    /// The audiences of the API server, if its tokens are good here. Without any audience they are: a cluster knows its own, and
    /// elsewhere they are called like the issuers.
    pub api_server_audiences: Vec<String>,
    /// Whether a token may be for others as well.
    pub other_audiences: OtherAudiences,
    /// How long after it was made a token of a service account is good.
    pub longest_token_age: Duration,
    /// A file of tokens and whose they are.
    pub tokens: Option<PathBuf>,
    /// A file of users and their passwords.
    pub htpasswd: Option<PathBuf>,
    /// What clients are told that a password is for.
    pub password_realm: String,
    /// What certificates are good for. Where whoever is known may do everything, to connect is not enough.
    pub certificates: Certificates,
    /// How clients are asked to log in.
    pub challenge: Challenge,
    /// The scheme and host of the token endpoint, if requests do not say it.
    pub realm: Option<Uri>,
    /// How long a token that the registry gives is good.
    pub token_lifetime: Duration,
    /// The file of the keys that those are made with; without one each start makes its own.
    pub token_keys: Option<PathBuf>,
}

/// What decides who may do what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Permission {
    /// Whoever is known may do everything, and nobody else anything, as in distribution.
    Users,
    /// Roles and bindings in the files of a folder.
    Folder(PathBuf),
    /// A cluster.
    Cluster(Cluster),
}

/// A cluster that knows who somebody is and what they may.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// The file of its address and of what the registry shows to it; without one they are those of every pod.
    pub kubeconfig: Option<PathBuf>,
    /// How it tells what somebody may.
    pub permission: ClusterPermission,
    /// How long what it told counts while it is away.
    pub outage: Duration,
    /// How long a token may be good whose pod or Secret is gone.
    pub revocation: Duration,
}

/// How a cluster tells what somebody may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClusterPermission {
    /// By its roles and bindings, which are watched.
    Bindings,
    /// By an answer to each question.
    AccessReviews,
}

/// Who makes tokens of service accounts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    /// What the tokens have as `iss`.
    pub name: String,
    /// The keys that verify them.
    pub keys: Keys,
}

/// Where the keys of an issuer are found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Keys {
    /// In a file.
    File(PathBuf),
    /// Where the issuer publishes them, or says that it does (OpenID Connect Discovery 1.0).
    Published {
        /// The URL of the keys themselves, if it is not the issuer that is asked where they are.
        at: Option<Uri>,
        /// The file of the authorities of whoever serves them, if it is not one that this machine trusts anyway.
        authorities: Option<PathBuf>,
    },
}

/// How clients are asked to log in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Challenge {
    /// By fetching a token for their password.
    Bearer,
    /// By sending it with each request.
    Basic,
}

/// What a client's certificate, which the TLS handshake has verified, is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Certificates {
    /// It says who its holder is.
    NameUsers,
    /// It lets its holder connect, and no more.
    AdmitConnections,
}

/// A default that is not zero, as its text shows.
fn size(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("defaults are not zero")
}
