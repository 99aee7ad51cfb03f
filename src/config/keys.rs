//! Every key there is: distribution's, OpenShift's and our own, in the order of the manual.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Uri};
use regex::Regex;

use storage::{MissingReferences, Platform};

use super::document::{Content, Node};
use super::section::Section;
use super::value::{Choice, NonZeroSize, Size, Suite, UrlPath};
use super::{
    Address, Audit, Auth, Backend, Caches, Catalog, Certificates, Challenge, ClientCertificates, Cluster,
    ClusterPermission, Concurrency, Config, Deletion, FileCheck, ForeignUrls, Health, Http, Issuer, Keys,
    Limits, Listener, Locations, Log, Login, Management, Mode, OtherAudiences, Permission, PurgeAction,
    Purging, Storage, StorageCheck, Sync, Tags, Tls, TlsVersion, Uploads, Validation, Volume,
};

impl Config {
    /// Reads what a file and the environment say, from the defaults for what they leave open.
    pub(super) fn read<'n>(root: &mut Section<'n, '_>, file_is_there: bool, defaults: Self) -> Self {
        read_version(root, file_is_there);
        let openshift = root.section("openshift", OpenShift::read);
        let (http, uploads) = root.section("http", |http| {
            Http::read(http, openshift.requests, defaults.http, defaults.storage.uploads)
        });
        let mut is_said = false;
        let config = Self {
            http,
            storage: root.section("storage", |storage| {
                Storage::read(storage, openshift.blob_repository_ttl, Storage { uploads, ..defaults.storage })
            }),
            auth: root.section("auth", |auth| {
                let said = Auth::read(auth, &openshift);
                is_said = said.is_some();
                said.unwrap_or_default()
            }),
            validation: root.section("validation", |section| Validation::read(section, defaults.validation)),
            catalog: root.section("catalog", |section| Catalog::read(section, defaults.catalog)),
            tags: root.section("tags", |section| Tags::read(section, defaults.tags)),
            health: root.section("health", |section| Health::read(section, defaults.health)),
            log: Log::read(root, defaults.log),
            traces: root.section("tracing", |tracing| {
                tracing.section("otlp", |otlp| {
                    otlp.optional(
                        "endpoint",
                        "The collector that is sent traces, as in `http://localhost:4318`: OTLP by HTTP, below `/v1/traces`. Without it, OpenTelemetry's variables may name one.",
                    )
                })
            }),
        };
        if !is_said
            && let Some(open) = config.http.listeners.iter().find(|listener| !listener.address.is_local())
        {
            // A registry that anybody may write to is not something to be had by leaving a line out.
            let what = format!(
                "it is missing, and others than this machine can connect to \"{}\"; say who may come in, as \"auth.kubernetes\" or \
                 \"auth.htpasswd\" does, or write \"auth: none\" (REGISTRY_AUTH=none) to let everybody push, pull and delete",
                open.address
            );
            root.problem("auth", what);
        }
        root.ignored("notifications", "Wharf sends no events; the log has a line for each request");
        root.ignored("proxy", "Wharf does not fetch from other registries: it serves what was pushed to it");
        root.ignored(
            "middleware",
            "Wharf sends blobs itself; a redirect to another server of the folder would let in whoever knows a URL",
        );
        root.ignored("redis", "each replica remembers in its own memory; no other service is needed");
        root.ignored("policy", "all kinds of content are accepted");
        root.ignored("compatibility", "images of schema 1 are neither taken nor served");
        root.ignored("reporting", "errors go to the log alone; let what collects it report them");
        root.ignored("cache", "distribution has no such section; \"storage.cache\" is what it reads");
        config
    }
}

fn read_version(root: &mut Section<'_, '_>, file_is_there: bool) {
    #[derive(Clone, Copy, PartialEq)]
    struct Version;
    impl Choice for Version {
        const WORDS: &'static [(&'static str, Self)] = &[("0.1", Self)];
    }
    let has = root.has("version");
    root.optional::<Version>("version", "The format of the file; it must be there.");
    if file_is_there && !has {
        root.problem("version", "it is missing; begin the file with \"version: 0.1\"".to_owned());
    }
}

impl Http {
    fn read<'n>(
        http: &mut Section<'n, '_>,
        requests: Option<&'n Node>,
        defaults: Self,
        uploads: Uploads,
    ) -> (Self, Uploads) {
        let tls = http.section("tls", Tls::read);
        let first = read_address(http);
        let mut listeners: Vec<Listener> =
            first.map(|address| Listener { address, tls: tls.clone() }).into_iter().collect();
        listeners.extend(
            http.sections("listeners", |listener| {
                let address = read_address(listener);
                let encrypted = listener.get("tls", true, "Whether `http.tls` applies here, if it is set.");
                if address.is_none() {
                    listener
                        .problem("addr", "it is missing; say where to listen, as in \":5001\"".to_owned());
                }
                address.map(|address| Listener { address, tls: tls.clone().filter(|_| encrypted) })
            })
            .into_iter()
            .flatten(),
        );
        if listeners.is_empty() {
            listeners = defaults
                .listeners
                .into_iter()
                .map(|listener| Listener { tls: tls.clone(), ..listener })
                .collect();
        }

        let host: Option<Uri> = http
            .optional("host", "The scheme and host that `Location` begins with, whatever the request says.");
        let relative = http.get(
            "relativeurls",
            true,
            "Whether `Location` is a path. If not, it begins with the scheme and host that the client used, as `Forwarded` or `X-Forwarded-Proto` and `X-Forwarded-Host` tell. Distribution's default is false.",
        );
        let trusted_proxies = http.list(
            "trustedproxies",
            "Networks such as `10.0.0.0/8`, and `unix` for a socket, whose proxies are believed: the last address in `X-Forwarded-For` that is not one of theirs is the client, and clients are sent where these say that they called. Of others such headers are forgotten then. Without a list the address of the connection is the client, and only `Location` follows such headers.",
        );
        let UrlPath(prefix) =
            http.get("prefix", UrlPath(defaults.prefix), "The path below which the API lies.");
        let secret = http.secret(
            "secret",
            "secretfile",
            "What replicas sign the state with that the URLs of uploads carry, as those of distribution do; without one they carry none. Uploads that began before it changed begin again, unless it is taken away first (`docs/operations.md`).",
        );
        let headers =
            http.table::<HeaderName, HeaderValue>("headers", "Headers that every response carries.");
        let drain_delay = http.get(
            "draindelay",
            defaults.drain_delay,
            "How long after SIGTERM connections are still accepted, while `/readyz` is 503 already: what sends clients here must first learn of it. In Kubernetes try `5s`.",
        );
        let drain_timeout = http.get(
            "draintimeout",
            defaults.drain_timeout,
            "How long requests under way may take to finish after SIGTERM, and after `draindelay`; 0 stops at once.",
        );
        let http2 = http.section("http2", |http2| {
            !http2.get("disabled", !defaults.http2, "Whether HTTP/2 is not offered over TLS.")
        });
        let h2c = http.section("h2c", |h2c| {
            h2c.get("enabled", defaults.h2c, "Whether HTTP/2 is understood without TLS.")
        });
        let (management, metrics) = http.section("debug", |debug| Management::read(debug, &prefix));
        let (limits, uploads) = http.section("limits", |limits| {
            limits.stand_in("requests", requests);
            Limits::read(limits, defaults.limits, uploads)
        });
        let http = Self {
            listeners,
            management,
            metrics,
            http2,
            h2c,
            secret,
            locations: match (host, relative) {
                (Some(host), _) => Locations::Below(host),
                (None, true) => Locations::Relative,
                (None, false) => Locations::FromRequest,
            },
            prefix,
            trusted_proxies,
            headers: headers
                .into_iter()
                .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
                .fold(defaults.headers, |mut headers, (name, value)| {
                    headers.append(name, value);
                    headers
                }),
            drain_delay,
            drain_timeout,
            limits,
        };
        (http, uploads)
    }
}

fn read_address(section: &mut Section<'_, '_>) -> Option<Address> {
    #[derive(Clone, Copy, PartialEq)]
    enum Net {
        Tcp,
        Unix,
    }
    impl Choice for Net {
        const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("unix", Self::Unix)];
    }
    match section.get("net", Net::Tcp, "The kind of `addr`. A path is a Unix socket in any case.") {
        Net::Tcp => section.optional(
            "addr",
            "Where to listen: `:5000` is every interface, IPv6 and IPv4. If nothing says where, it is `127.0.0.1:5000`.",
        ),
        Net::Unix => section.optional("addr", "The path of the Unix socket.").map(Address::Unix),
    }
}

impl Management {
    /// Reads it, and the path of the metrics on the listeners of the API.
    fn read(debug: &mut Section<'_, '_>, prefix: &str) -> (Self, Option<String>) {
        let address: Option<Address> = debug.optional(
            "addr",
            "A listener, always plain HTTP, for `/healthz`, `/readyz` and `/`, which are answered beside the API too, and for `/debug/health` and the metrics, which are not.",
        );
        let (enabled, path) = debug.section("prometheus", |prometheus| {
            let enabled = prometheus.optional(
                "enabled",
                "Whether there are metrics: on the listener `http.debug.addr`, or without one beside the API. If nothing is said, they are where that listener is.",
            );
            let UrlPath(path) = prometheus.get("path", UrlPath("/metrics".to_owned()), "Their path.");
            let is_taken = matches!(path.as_str(), "" | "/healthz" | "/readyz" | "/debug/health")
                || path == "/v2"
                || path.starts_with("/v2/")
                || (!prefix.is_empty() && path.starts_with(prefix));
            if is_taken {
                let what = "something else is served there; try \"/metrics\"";
                prometheus.problem("path", what.to_owned());
            }
            (enabled, path)
        });
        let path = enabled.unwrap_or(address.is_some()).then_some(path);
        match address {
            Some(_) => (Self { address, metrics: path }, None),
            None => (Self::default(), path),
        }
    }
}

impl Tls {
    fn read(tls: &mut Section<'_, '_>) -> Option<Self> {
        let certificate: Option<PathBuf> = tls.optional(
            "certificate",
            "The certificate chain, PEM, leaf first. It is read again when the file changes.",
        );
        let key: Option<PathBuf> =
            tls.optional("key", "The private key, PEM. It is read again when the file changes.");
        let authorities: Vec<PathBuf> =
            tls.list("clientcas", "Authorities, PEM, one of which must have signed a client's certificate.");
        let demand = tls.get(
            "clientauth",
            ClientAuth::RequireAndVerify,
            "Whether clients must show a certificate, once `clientcas` is set. One that nobody verifies proves nothing: `request-client-cert` asks for none, with a warning, and `require-any-client-cert` is refused.",
        );
        let oldest = tls.get(
            "minimumtls",
            OldestTls::Spoken(TlsVersion::Tls12),
            "The oldest version of TLS that is spoken. Below 1.2 none is, whatever this says.",
        );
        let minimum_version = match oldest {
            OldestTls::Spoken(version) => version,
            OldestTls::Unsafe => {
                tls.warn("minimumtls", "it is not safe, and is not spoken; TLS 1.2 is the oldest");
                TlsVersion::Tls12
            }
        };
        let suites: Vec<Suite> = tls.list(
            "ciphersuites",
            "The suites offered in TLS 1.2; none means all that are safe. Those of TLS 1.3 are always offered.",
        );
        tls.refused(
            "letsencrypt",
            "Wharf does not ask for certificates itself; let cert-manager or certbot write the files of \"http.tls.certificate\" and \"key\"",
        );

        if suites.iter().any(|suite| matches!(suite, Suite::Missing)) {
            tls.warn("ciphersuites", "some of these are unsafe, and are not offered");
        }
        let cipher_suites: Vec<_> = suites
            .iter()
            .filter_map(|suite| match suite {
                Suite::Safe(suite) => Some(*suite),
                Suite::Always | Suite::Missing => None,
            })
            .collect();
        if cipher_suites.is_empty() && !suites.is_empty() && minimum_version == TlsVersion::Tls12 {
            tls.problem(
                "ciphersuites",
                "none of these can be offered in TLS 1.2; add one, or set \"minimumtls: tls1.3\"".to_owned(),
            );
        }
        let clients = match (demand, authorities) {
            (_, authorities) if authorities.is_empty() => ClientCertificates::NotAsked,
            (ClientAuth::VerifyIfGiven, authorities) => ClientCertificates::Optional(authorities),
            (ClientAuth::RequireAndVerify, authorities) => ClientCertificates::Required(authorities),
            (ClientAuth::Request, _) => {
                tls.warn(
                    "clientauth",
                    "a certificate that nobody verifies proves nothing, so none is asked for",
                );
                ClientCertificates::NotAsked
            }
            (ClientAuth::RequireAny, _) => {
                let what = "a certificate that nobody verifies proves nothing; write \"require-and-verify-client-cert\"";
                tls.problem("clientauth", what.to_owned());
                ClientCertificates::NotAsked
            }
        };
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(Self { certificate, key, clients, minimum_version, cipher_suites })
            }
            (None, None) => {
                if clients != ClientCertificates::NotAsked {
                    tls.problem(
                        "clientcas",
                        "there is no TLS without \"certificate\" and \"key\"; add them".to_owned(),
                    );
                }
                None
            }
            (Some(_), None) => {
                tls.problem("key", "it is missing; name the private key of \"certificate\"".to_owned());
                None
            }
            (None, Some(_)) => {
                tls.problem("certificate", "it is missing; name the certificate of \"key\"".to_owned());
                None
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum OldestTls {
    Spoken(TlsVersion),
    /// What distribution 2.8 still speaks.
    Unsafe,
}

impl Choice for OldestTls {
    // The second spelling is that of OpenShift's operator.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tls1.2", Self::Spoken(TlsVersion::Tls12)),
        ("VersionTLS12", Self::Spoken(TlsVersion::Tls12)),
        ("tls1.3", Self::Spoken(TlsVersion::Tls13)),
        ("VersionTLS13", Self::Spoken(TlsVersion::Tls13)),
        ("tls1.0", Self::Unsafe),
        ("VersionTLS10", Self::Unsafe),
        ("tls1.1", Self::Unsafe),
        ("VersionTLS11", Self::Unsafe),
    ];
}

#[derive(Clone, Copy, PartialEq)]
enum ClientAuth {
    RequireAndVerify,
    VerifyIfGiven,
    RequireAny,
    Request,
}

impl Choice for ClientAuth {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("require-and-verify-client-cert", Self::RequireAndVerify),
        ("verify-client-cert-if-given", Self::VerifyIfGiven),
        ("require-any-client-cert", Self::RequireAny),
        ("request-client-cert", Self::Request),
    ];
}

impl Limits {
    fn read(limits: &mut Section<'_, '_>, defaults: Self, uploads: Uploads) -> (Self, Uploads) {
        let NonZeroSize(header_bytes) = limits.get(
            "headerbytes",
            NonZeroSize(defaults.header_bytes),
            "The size of a request's line and headers together.",
        );
        let NonZeroSize(buffer_bytes) = limits.get(
            "uploadbuffer",
            NonZeroSize(uploads.buffer_bytes),
            "The memory for what was received and not yet written, of all uploads together; less than a MiB counts as one. Beside it a connection holds what came and nobody has read yet, also before it is known who sends it: up to 64 KiB, or 2 MiB with HTTP/2. Manifests that are pushed are held whole.",
        );
        let connections = limits.get(
            "connections",
            defaults.connections,
            "Connections open at once; more wait to be accepted.",
        );
        let header_timeout = limits.get(
            "headertimeout",
            defaults.header_timeout,
            "How long a request's headers may take to arrive.",
        );
        let idle_body_timeout =
            limits.get("idlebodytimeout", defaults.idle_body_timeout, "How long a body may stand still.");
        for (key, value, what) in [
            ("headertimeout", header_timeout, "no request arrives at once; try \"30s\""),
            ("idlebodytimeout", idle_body_timeout, "no body arrives at once; try \"1m\""),
        ] {
            if value.is_zero() {
                limits.problem(key, what.to_owned());
            }
        }
        let (reads, writes) = limits.section("requests", |requests| {
            (
                requests.section("read", |read| Concurrency::read(read, defaults.reads)),
                requests.section("write", |write| Concurrency::read(write, defaults.writes)),
            )
        });
        let limits = Self { header_bytes, connections, header_timeout, idle_body_timeout, reads, writes };
        (limits, Uploads { buffer_bytes })
    }
}

impl Concurrency {
    fn read(section: &mut Section<'_, '_>, defaults: Self) -> Self {
        let running = section.get(
            "maxrunning",
            defaults.running.map_or(0, NonZeroUsize::get),
            "How many requests run at once; 0 means no limit. `read` is GET and HEAD, `write` all others.",
        );
        let queued = section.get(
            "maxinqueue",
            defaults.queued,
            "How many more may wait; others are answered with 429.",
        );
        let wait = section.get(
            "maxwaitinqueue",
            defaults.longest_wait.unwrap_or_default(),
            "How long one may wait; 0 means until its turn comes.",
        );
        Self {
            running: NonZeroUsize::new(running),
            queued,
            longest_wait: (wait > Duration::ZERO).then_some(wait),
        }
    }
}

const LATER: &str = "object stores are not supported by this version; use \"filesystem\" or \"inmemory\"";

impl Storage {
    fn read<'n>(storage: &mut Section<'n, '_>, membership_ttl: Option<&'n Node>, defaults: Self) -> Self {
        let mut chosen: Vec<&str> =
            ["filesystem", "inmemory"].into_iter().filter(|driver| storage.has(driver)).collect();
        let volume = match &defaults.backend {
            Backend::Volume(volume) => volume.clone(),
            Backend::Memory => Volume::default(),
        };
        let volume = storage.section("filesystem", |section| Volume::read(section, volume));
        let in_memory =
            storage.mark("inmemory", "Keeps everything in the memory of the process, for trying it.");
        for store in ["s3", "s3aws", "azure", "gcs", "swift"] {
            if storage.refused(store, LATER) {
                chosen.push(store);
            }
        }
        storage.refused("oss", "Wharf does not speak Aliyun's protocol; its store also answers to S3's");
        if in_memory {
            storage.forget("filesystem");
        }
        if let [first, second, ..] = chosen.as_slice() {
            let what = format!("\"{first}\" keeps the content already; remove one of the two");
            storage.problem(second, what);
        }

        let deletion = storage.section("delete", |delete| {
            delete.get(
                "enabled",
                defaults.deletion == Deletion::Allowed,
                "Whether clients may delete. Without any configuration file the default is true.",
            )
        });
        storage.section("redirect", |redirect| {
            redirect.optional::<bool>(
                "disable",
                "Whether pulls are never sent to the store itself. They never are, whatever this says: a folder cannot be sent to.",
            );
        });
        let (purging, read_only) = storage.section("maintenance", |maintenance| {
            let purging =
                maintenance.section("uploadpurging", |purging| Purging::read(purging, defaults.purging));
            let read_only = maintenance.section("readonly", |read_only| {
                read_only.get(
                    "enabled",
                    defaults.mode == Mode::ReadOnly,
                    "Whether everything that writes is answered with 405.",
                )
            });
            (purging, read_only)
        });
        let caches = storage.section("cache", |cache| {
            cache.stand_in("membershipttl", membership_ttl);
            Caches::read(cache, defaults.caches)
        });
        storage.section("tag", |tag| {
            tag.ignored("concurrencylimit", "Wharf chooses how many tags it reads at once");
        });
        Self {
            backend: if in_memory { Backend::Memory } else { Backend::Volume(volume) },
            mode: if read_only { Mode::ReadOnly } else { Mode::ReadWrite },
            deletion: if deletion { Deletion::Allowed } else { Deletion::Refused },
            purging,
            caches,
            uploads: defaults.uploads,
        }
    }
}

impl Volume {
    fn read(section: &mut Section<'_, '_>, defaults: Self) -> Self {
        let root = section.get(
            "rootdirectory",
            defaults.root,
            "The folder that holds everything. Without any configuration file it is `data`.",
        );
        let sync = section.get(
            "sync",
            defaults.sync == Sync::Always,
            "Whether content is synced to the disk before it is acknowledged. Without, a crash of the machine may take it.",
        );
        section.ignored("maxthreads", "Wharf chooses its number of threads by what the machine has");
        Self { root, sync: if sync { Sync::Always } else { Sync::Never } }
    }
}

impl Purging {
    fn read(section: &mut Section<'_, '_>, defaults: Self) -> Self {
        let (default_age, default_interval) = match defaults {
            Self::After { age, interval, .. } => (age, interval),
            Self::Never => (Duration::ZERO, Duration::ZERO),
        };
        let enabled =
            section.get("enabled", defaults != Self::Never, "Whether abandoned uploads are removed.");
        let age = section.get("age", default_age, "For how long an upload must have been untouched.");
        let interval = section.get(
            "interval",
            default_interval,
            "How often abandoned uploads are looked for, first within an hour after the start.",
        );
        let report = section.get("dryrun", false, "Whether they are only named in the log.");
        if enabled && interval < Duration::from_secs(1) {
            section.problem("interval", "looking all the time helps nobody; write \"1s\" or more".to_owned());
        }
        match enabled {
            false => Self::Never,
            true => Self::After {
                age,
                interval,
                action: if report { PurgeAction::Report } else { PurgeAction::Remove },
            },
        }
    }
}

impl Caches {
    fn read(cache: &mut Section<'_, '_>, defaults: Self) -> Self {
        #[derive(Clone, Copy, PartialEq)]
        enum Store {
            Memory,
            Redis,
        }
        impl Choice for Store {
            const WORDS: &'static [(&'static str, Self)] =
                &[("inmemory", Self::Memory), ("redis", Self::Redis)];
        }
        let older = cache.alias("layerinfo", "storage.cache.blobdescriptor");
        cache.stand_in("blobdescriptor", older);
        let store = cache.get(
            "blobdescriptor",
            Store::Memory,
            "Where facts about blobs are remembered: in memory, whatever this says.",
        );
        if store == Store::Redis {
            cache.warn("blobdescriptor", "redis is not asked: each replica remembers in its own memory");
        }
        let entries = cache.get(
            "blobdescriptorsize",
            defaults.entries,
            "How many facts of each kind are remembered: which repository holds a digest, what a tag points at.",
        );
        let Size(manifest_bytes) = cache.get(
            "manifestbytes",
            Size(defaults.manifest_bytes),
            "The memory for manifests that were served.",
        );
        let membership = cache.get(
            "membershipttl",
            defaults.membership,
            "How long it is believed that a repository holds a digest, if another replica deletes it.",
        );
        let tags = cache.get(
            "tagttl",
            defaults.tags,
            "How long it is believed that a tag points where it did, if another replica moves it.",
        );
        Self { manifest_bytes, entries, membership, tags }
    }
}

impl Auth {
    /// Gives nothing if nothing is said.
    fn read<'n>(auth: &mut Section<'n, '_>, openshift: &OpenShift<'n>) -> Option<Self> {
        const TOKENS: &str = "tokens of another server are not read; let clients log in with their tokens of the cluster, as \"auth.kubernetes\" has it";
        let open = auth.mark("none", "Lets everybody in, for everything. Without any `auth` so it is where only this machine can connect; elsewhere that is an error.");
        let (has_kubernetes, has_htpasswd) = (auth.has("kubernetes"), auth.has("htpasswd"));
        let mut refused = auth.refused("token", TOKENS);
        refused |= auth
            .refused("silly", "it lets in whoever sends any header; write \"auth: none\" if that is meant");
        let (users, password_realm): (Option<PathBuf>, String) = auth.section("htpasswd", |htpasswd| {
            let realm = htpasswd.get("realm", "Wharf".to_owned(), "What a browser says that a password is for.");
            if realm.chars().any(|it| !matches!(it, ' '..='~') || it == '"' || it == '\\') {
                let what = "it must be printable ASCII without quotes; write words, as in \"our images\"";
                htpasswd.problem("realm", what.to_owned());
            }
            let path = htpasswd.optional(
                "path",
                "A file of users and bcrypt hashes (`htpasswd -Bbn`), read again when it changes. Alone it lets its users do everything; beside `auth.kubernetes` bindings may name them.",
            );
            if has_htpasswd && path.is_none() {
                htpasswd.problem("path", "it is missing; name the file".to_owned());
            }
            (path, realm)
        });
        // OpenShift's own word for it. A cluster that has both words for one thing has one configuration too many.
        let same = auth.alias("openshift", "auth.kubernetes");
        let has_cluster = has_kubernetes || same.is_some();
        if has_kubernetes && same.is_some() {
            auth.problem(
                "openshift",
                "it means the same as \"auth.kubernetes\"; remove one of the two".to_owned(),
            );
        }
        // One that is no section is complained of below, by the name that it was written under.
        let is_section = |node: &&Node| matches!(node.content, Content::Map(_) | Content::Nothing);
        auth.stand_in("kubernetes", same.filter(is_section));
        // What that registry itself has there, unless it has a section of its own for it.
        let is_openshifts = |name: &str| matches!(name, "realm" | "tokenrealm" | "audit");
        let realm = auth.section("openshift", |older| {
            older.leave(|name| !is_openshifts(name));
            older.ignored("audit", OPENSHIFTS_AUDIT);
            read_openshifts_realms(older)
        });
        let login = auth.section("kubernetes", |kubernetes| {
            if same.is_some() {
                kubernetes.leave(is_openshifts);
            }
            kubernetes.stand_in("realm", openshift.realm.or(realm));
            kubernetes.stand_in("kubeconfig", openshift.kubeconfig);
            Login::read(kubernetes, has_cluster, users, password_realm)
        });
        if !has_cluster {
            auth.forget("kubernetes");
        }
        if !has_htpasswd {
            auth.forget("htpasswd");
        }
        if open && (has_cluster || has_htpasswd) {
            auth.problem("none", "logins are configured beside it; remove one of the two".to_owned());
        }
        if has_cluster || has_htpasswd {
            return Some(Self::Login(Box::new(login)));
        }
        (open || refused).then_some(Self::Anyone)
    }
}

impl Login {
    fn read(
        kubernetes: &mut Section<'_, '_>,
        is_there: bool,
        htpasswd: Option<PathBuf>,
        password_realm: String,
    ) -> Self {
        let folder: Option<PathBuf> = kubernetes.optional(
            "folder",
            "A folder of Roles, ClusterRoles, RoleBindings and ClusterRoleBindings as `kubectl apply` takes them, read again when it changes. Without one a cluster is asked.",
        );
        let cluster = Cluster::read(kubernetes, folder.is_some());
        let has_cluster = is_there && folder.is_none();
        let issuers = kubernetes.sections("issuers", |issuer| {
            let name: Option<String> =
                issuer.optional("issuer", "What their tokens have as `iss`, such as `https://kubernetes.default.svc`.");
            let keys: Option<String> = issuer.optional(
                "keys",
                "Their public keys: a file of them (PEM, or a JSON Web Key Set as `kubectl get --raw /openid/v1/jwks` prints it), read again when it changes, or the URL of such a set. Without it they are where the issuer says.",
            );
            let authorities: Option<PathBuf> = issuer.optional(
                "ca",
                "A file of authorities, PEM, one of which must have signed the certificate of whoever serves the keys, read again when it changes; otherwise those that the machine trusts.",
            );
            if name.is_none() {
                issuer.problem("issuer", "it is missing; say what the tokens have as \"iss\"".to_owned());
            }
            let is_url = |text: &str| text.contains("://");
            let keys = match keys {
                Some(text) if is_url(&text) => match text.parse::<Uri>() {
                    Ok(at) if at.scheme() == Some(&Scheme::HTTPS) => Keys::Published { at: Some(at), authorities },
                    Ok(_) | Err(_) => {
                        let what = "keys that are not fetched by https could be anybody's; write https://…";
                        issuer.problem("keys", what.to_owned());
                        return None;
                    }
                },
                Some(file) => {
                    if authorities.is_some() {
                        issuer.problem("ca", "nobody serves keys that are in a file; remove it".to_owned());
                    }
                    Keys::File(file.into())
                }
                None if name.as_ref().is_some_and(|name| name.starts_with("https://")) => {
                    Keys::Published { at: None, authorities }
                }
                None => {
                    issuer.problem("keys", "it is missing; name the file or the URL of the public keys".to_owned());
                    return None;
                }
            };
            Some(Issuer { name: name?, keys })
        });
        let mut names = HashSet::new();
        if let Some(twice) = issuers.iter().flatten().find(|issuer| !names.insert(&issuer.name)) {
            let what = format!(
                "{} is named twice, and only one would count; put the keys of both into one file",
                twice.name
            );
            kubernetes.problem("issuers", what);
        }
        if has_cluster && !issuers.is_empty() {
            let what = "the cluster that is asked knows its issuers and their keys; remove it";
            kubernetes.problem("issuers", what.to_owned());
        }
        let audiences: Vec<String> = kubernetes.list(
            "audiences",
            "The registry's names in the `aud` of tokens, as `kubectl create token --audience` sets them.",
        );
        let api_server_audiences: Vec<String> = kubernetes.list(
            "apiaudiences",
            "The API server's own, if a token for it is good here too: those that pods have anyway, and those in Secrets.",
        );
        let other_audiences = kubernetes.get(
            "otheraudiences",
            OtherAudiences::Tolerated,
            "Whether a token may be for others as well: one that is can be shown here by whoever it was shown to.",
        );
        if other_audiences == OtherAudiences::Refused
            && audiences.is_empty()
            && api_server_audiences.is_empty()
        {
            let what = "it does not say which are the registry's; name \"audiences\" beside it";
            kubernetes.problem("otheraudiences", what.to_owned());
        }
        let longest_token_age = kubernetes.get(
            "longesttokenage",
            Duration::from_secs(24 * 60 * 60),
            "How long after it was made a token of a service account is good, if it does not end before.",
        );
        if longest_token_age.is_zero() {
            kubernetes.problem("longesttokenage", "no token would be good; try \"24h\"".to_owned());
        }
        let tokens = kubernetes.optional(
            "tokens",
            "A file of other tokens, by their SHA-256, and whose they are. It is read again when it changes.",
        );
        let certificates = kubernetes.get(
            "certificates",
            Certificates::NameUsers,
            "What a client's certificate is good for: its `CN` names a user whom bindings may name, or it lets its holder connect and no more, so that they are asked to log in. With `auth.htpasswd` alone it is `connections`.",
        );
        let challenge = kubernetes.get(
            "challenge",
            Challenge::Bearer,
            "How clients are asked to log in: for a token that the registry gives, or with each request. With `auth.htpasswd` alone it is `basic`.",
        );
        let realm: Option<Uri> = kubernetes.optional(
            "realm",
            "The scheme and host at which clients find the token endpoint; without it `http.host`, or what the client calls.",
        );
        if realm.as_ref().is_some_and(|realm| realm.path() != "/" || realm.query().is_some()) {
            let what = "the token endpoint has a path of its own; write the scheme and host alone";
            kubernetes.problem("realm", what.to_owned());
        }
        let token_lifetime = kubernetes.get(
            "tokenlifetime",
            Duration::from_secs(300),
            "How long a token that the registry gives is good: 5 minutes at least, unless what it was given for ends before.",
        );
        if token_lifetime < Duration::from_secs(300) {
            let what = "clients count on five minutes at least; write 5m or more";
            kubernetes.problem("tokenlifetime", what.to_owned());
        }
        let token_keys = kubernetes.optional(
            "tokenkeys",
            "A file of secrets, one a line, that tokens are made with by the first and known by all. Replicas need the same; without a file each start makes one.",
        );
        Self {
            permission: match folder {
                Some(folder) => Permission::Folder(folder),
                None if is_there => Permission::Cluster(cluster),
                None => Permission::Users,
            },
            issuers: issuers.into_iter().flatten().collect(),
            audiences,
            api_server_audiences,
            other_audiences,
            longest_token_age,
            tokens,
            htpasswd,
            password_realm,
            certificates: if is_there { certificates } else { Certificates::AdmitConnections },
            challenge: if is_there { challenge } else { Challenge::Basic },
            realm,
            token_lifetime,
            token_keys,
        }
    }
}

impl Cluster {
    fn read(kubernetes: &mut Section<'_, '_>, has_folder: bool) -> Self {
        let kubeconfig: Option<PathBuf> = kubernetes.optional(
            "kubeconfig",
            "A file of the address of the API server and of what is shown to it. Without one it is the cluster that the registry is a pod of.",
        );
        let permission = kubernetes.get(
            "permission",
            ClusterPermission::Bindings,
            "How a cluster tells what somebody may: by its roles and bindings, which are watched, or by a SubjectAccessReview for each question.",
        );
        let outage = kubernetes.get(
            "outage",
            Duration::from_secs(60 * 60),
            "How long what the cluster told counts while it does not answer; 3 minutes at least, since it is heard of about once a minute.",
        );
        let revocation = kubernetes.get(
            "revocation",
            Duration::from_secs(60),
            "How long a token may be good whose pod or Secret was deleted, and a token that the registry gave for it; 20 seconds at least. An account that is deleted ends both within a second or two.",
        );
        for (key, value, least) in [("outage", outage, 180), ("revocation", revocation, 20)] {
            if value < Duration::from_secs(least) {
                kubernetes.problem(key, format!("it is too short to be kept; write {least}s or more"));
            }
        }
        for (key, stands) in [
            ("kubeconfig", kubeconfig.is_some()),
            ("permission", kubernetes.has("permission")),
            ("outage", kubernetes.has("outage")),
            ("revocation", kubernetes.has("revocation")),
        ] {
            if has_folder && stands {
                let what = "a folder of roles and bindings is named beside it; remove one of the two";
                kubernetes.problem(key, what.to_owned());
            }
        }
        Self { kubeconfig, permission, outage, revocation }
    }
}

impl Choice for Certificates {
    const WORDS: &'static [(&'static str, Self)] =
        &[("users", Self::NameUsers), ("connections", Self::AdmitConnections)];
}

impl Choice for OtherAudiences {
    const WORDS: &'static [(&'static str, Self)] =
        &[("tolerated", Self::Tolerated), ("refused", Self::Refused)];
}

impl Choice for ClusterPermission {
    const WORDS: &'static [(&'static str, Self)] =
        &[("bindings", Self::Bindings), ("accessreviews", Self::AccessReviews)];
}

impl Choice for Challenge {
    const WORDS: &'static [(&'static str, Self)] = &[("bearer", Self::Bearer), ("basic", Self::Basic)];
}

impl Validation {
    fn read(validation: &mut Section<'_, '_>, defaults: Self) -> Self {
        #[derive(Clone, Copy, PartialEq)]
        enum Platforms {
            All,
            None,
            List,
        }
        impl Choice for Platforms {
            const WORDS: &'static [(&'static str, Self)] =
                &[("all", Self::All), ("none", Self::None), ("list", Self::List)];
        }
        let disabled = validation.get(
            "disabled",
            false,
            "Accepts manifests whose layers or manifests are missing, and descriptors with any `urls`.",
        );
        validation.ignored("enabled", "it is on unless \"validation.disabled\" is true");
        validation.section("manifests", |manifests| {
            let NonZeroSize(manifest_bytes) = manifests.get(
                "maxbytes",
                NonZeroSize(defaults.manifest_bytes),
                "The size above which a manifest is answered with 413.",
            );
            let (allow, deny): (Vec<Regex>, Vec<Regex>) = manifests.section("urls", |urls| {
                (
                    urls.list(
                        "allow",
                        "Patterns of which a descriptor's `urls` must match one. If `allow` and `deny` are empty, any may stand there; distribution then accepts none.",
                    ),
                    urls.list("deny", "Patterns of which they may match none."),
                )
            });
            let (platforms, listed) = manifests.section("indexes", |indexes| {
                let platforms = indexes.get(
                    "platforms",
                    Platforms::All,
                    "Which of the manifests in an index must be there before it: all, none, or those for the platforms of `platformlist`.",
                );
                let listed = indexes.sections("platformlist", |platform| {
                    let os = platform.optional("os", "The operating system, as in `linux`.");
                    let architecture = platform.optional("architecture", "The kind of processor, as in `amd64`.");
                    for (name, word) in [("os", &os), ("architecture", &architecture)] {
                        if word.is_none() {
                            platform.problem(name, "it is missing; a platform has an os and an architecture".to_owned());
                        }
                    }
                    Some(Platform { os: os?, architecture: architecture? })
                });
                match (platforms, indexes.has("platformlist")) {
                    (Platforms::List, _) if listed.is_empty() => {
                        let problem = "no platform is listed; list some, or set \"platforms\" to \"all\" or \"none\"";
                        indexes.problem("platformlist", problem.to_owned());
                    }
                    (Platforms::All | Platforms::None, true) => {
                        indexes.warn("platformlist", "it does nothing unless \"platforms\" is \"list\"");
                    }
                    (Platforms::List, _) | (Platforms::All | Platforms::None, false) => {}
                }
                (platforms, listed.into_iter().flatten().collect::<Vec<_>>())
            });
            Self {
                manifest_bytes,
                urls: if disabled { ForeignUrls::default() } else { ForeignUrls { allow, deny } },
                missing_references: match platforms {
                    _ if disabled => MissingReferences::AllowAll,
                    Platforms::All => MissingReferences::Refuse,
                    Platforms::None => MissingReferences::AllowChildren,
                    Platforms::List => MissingReferences::AllowOtherPlatforms(listed.into()),
                },
            }
        })
    }
}

impl Catalog {
    fn read(catalog: &mut Section<'_, '_>, defaults: Self) -> Self {
        Self {
            max_entries: catalog.get("maxentries", defaults.max_entries, "The longest page of repositories."),
        }
    }
}

impl Tags {
    fn read(tags: &mut Section<'_, '_>, defaults: Self) -> Self {
        Self { max_tags: tags.get("maxtags", defaults.max_tags, "The longest page of tags.") }
    }
}

impl Health {
    fn read(health: &mut Section<'_, '_>, defaults: Self) -> Self {
        let check = defaults.storage.clone().unwrap_or_default();
        let storage = health.section("storagedriver", |driver| {
            let enabled = driver.get(
                "enabled",
                defaults.storage.is_some(),
                "Whether `/readyz` depends on whether the store can be read. Other requests never do. Distribution's default is false.",
            );
            let check = StorageCheck {
                interval: driver.get("interval", check.interval, "How often the store is looked at."),
                threshold: driver.get("threshold", check.threshold, "How many failures in a row count."),
                timeout: driver.get(
                    "timeout",
                    check.timeout,
                    "How long it may take to answer; what takes longer has failed.",
                ),
            };
            if check.timeout.is_zero() {
                driver.problem("timeout", "no store answers at once; try \"10s\"".to_owned());
            }
            if check.interval.is_zero() {
                driver.problem("interval", "looking all the time helps nobody; try \"10s\"".to_owned());
            }
            enabled.then_some(check)
        });
        let files = health.sections("file", |file| {
            let path: Option<PathBuf> = file.optional(
                "file",
                "A file that makes the server unready while it is there, to take it out of service.",
            );
            if path.is_none() {
                file.problem("file", "it is missing; name the file".to_owned());
            }
            let interval = file.get("interval", check.interval, "How often it is looked for.");
            if interval.is_zero() {
                file.problem("interval", "looking all the time helps nobody; try \"10s\"".to_owned());
            }
            Some(FileCheck { path: path?, interval })
        });
        for others in ["http", "tcp"] {
            health.ignored(
                others,
                "what others answer makes no replica unready: it would make all of them so at once",
            );
        }
        Self { storage, files: files.into_iter().flatten().collect() }
    }
}

impl Log {
    /// Reads the section `log`, and `loglevel` beside it, which is its older form.
    fn read(root: &mut Section<'_, '_>, defaults: Self) -> Self {
        let older = root.alias("loglevel", "log.level");
        root.section("log", |log| {
            log.stand_in("level", older);
            let level = log.get("level", defaults.level, "The least important lines that are written.");
            let format = log.get(
                "formatter",
                defaults.format,
                "How a line looks; `auto` is text on a terminal and JSON elsewhere.",
            );
            let fields = log.table::<String, String>(
                "fields",
                "What stands on each line besides, as in `environment: production`.",
            );
            let access = log.section("accesslog", |access| {
                !access.get("disabled", !defaults.access, "Whether requests are not logged.")
            });
            let audit = log.section("audit", |audit| {
                let off = audit.get(
                    "disabled",
                    defaults.audit == Audit::Off,
                    "Whether pushes, deletions and denials are not written down.",
                );
                let path = audit.optional(
                    "path",
                    "A file for them alone, begun anew when it was moved away. Without it they are among the other lines, as JSON with the `target` `audit`.",
                );
                match path {
                    _ if off => Audit::Off,
                    Some(path) => Audit::File(path),
                    None => Audit::AmongOthers,
                }
            });
            let places = log.get("reportcaller", defaults.places, "Whether lines say where in the program they come from.");
            log.ignored("hooks", "Wharf sends no mail; let what collects the log raise the alarm");
            let fields = fields.into_iter().map(|(name, values)| (name, values.join(", ")));
            Self { level, format, fields: fields.chain(defaults.fields).collect(), places, access, audit }
        })
    }
}

const OPENSHIFTS_AUDIT: &str =
    "pushes, deletions and denials are written down unless \"log.audit.disabled\" is true";

/// Reads what OpenShift's registry calls itself, and gives where clients find its token endpoint.
fn read_openshifts_realms<'n>(auth: &mut Section<'n, '_>) -> Option<&'n Node> {
    auth.ignored(
        "realm",
        "\"auth.htpasswd.realm\" is what clients are told, and \"tokenrealm\" where the token endpoint is",
    );
    auth.alias("tokenrealm", "auth.kubernetes.realm")
}

/// What OpenShift's registry adds to distribution's configuration, where we have the same under another name.
struct OpenShift<'n> {
    requests: Option<&'n Node>,
    blob_repository_ttl: Option<&'n Node>,
    realm: Option<&'n Node>,
    kubeconfig: Option<&'n Node>,
}

impl<'n> OpenShift<'n> {
    fn read(openshift: &mut Section<'n, '_>) -> Self {
        #[derive(Clone, Copy, PartialEq)]
        struct Version;
        impl Choice for Version {
            const WORDS: &'static [(&'static str, Self)] = &[("1.0", Self)];
        }
        openshift.optional::<Version>("version", "The format of the section.");
        let requests = openshift.alias("requests", "http.limits.requests");
        let blob_repository_ttl = openshift.section("cache", |cache| {
            cache.ignored("disabled", "set \"storage.cache.membershipttl\" and \"tagttl\" to 0 instead");
            cache.alias("blobrepositoryttl", "storage.cache.membershipttl")
        });
        let realm = openshift.section("auth", read_openshifts_realms);
        let kubeconfig = openshift.alias("kubeconfig", "auth.kubernetes.kubeconfig");
        openshift.ignored("server", "clients are told relative locations, so no address is needed");
        openshift.ignored("audit", OPENSHIFTS_AUDIT);
        openshift.ignored("metrics", "\"http.debug.prometheus\" says where metrics are");
        openshift.ignored("quota", "Wharf counts nobody's images");
        openshift.ignored("pullthrough", "Wharf does not fetch from other registries");
        openshift.ignored("compatibility", "schema 2 and OCI manifests are always accepted");
        Self { requests, blob_repository_ttl, realm, kubeconfig }
    }
}
