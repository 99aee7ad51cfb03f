//! What an operator relies on, from a file's text to the configuration that holds.

use proptest::prelude::*;

use super::*;

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> Loaded {
    file_with(text, &[])
}

fn file_with(text: &str, variables: &[(&str, &str)]) -> Loaded {
    let text = format!("version: 0.1\n{text}");
    parse(Some(("config.yml", &text)), &environment(variables)).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    problems_with(text, &[])
}

fn problems_with(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let text = format!("version: 0.1\n{text}");
    let problems = parse(Some(("config.yml", &text)), &environment(variables)).unwrap_err();
    problems.0.iter().map(Problem::to_string).collect()
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|warning| warning.key.as_str()).collect()
}

fn addresses(loaded: &Loaded) -> Vec<String> {
    loaded.config.http.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

mod the_defaults {
    use super::*;

    #[test]
    fn without_any_configuration_a_newcomer_can_push_and_delete() {
        let loaded = parse(None, &BTreeMap::new()).unwrap();
        assert_eq!(addresses(&loaded), ["127.0.0.1:5000"]);
        assert_eq!(loaded.config.storage.backend, Backend::Volume(Volume::default()));
        assert_eq!(loaded.config.storage.deletion, Deletion::Allowed);
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn a_file_brings_distributions_own() {
        let config = file("").config;
        assert_eq!(config.storage.deletion, Deletion::Refused);
        let Backend::Volume(volume) = config.storage.backend else { panic!("not a volume") };
        assert_eq!(volume.root, Path::new("/var/lib/registry"));
    }

    #[test]
    fn what_is_shown_of_them_is_what_holds() {
        // Reading every shown default again changes nothing.
        let shown = parse(None, &BTreeMap::new()).unwrap().settings;
        let text = |setting: &Setting| format!("{}={}", setting.key, setting.value);
        let variables: BTreeMap<String, String> = shown
            .iter()
            .map(|setting| {
                let variable = format!("REGISTRY_{}", setting.key.to_uppercase().replace('.', "_"));
                (variable, setting.value.clone())
            })
            .collect();
        let again = parse(None, &variables).unwrap();
        assert_eq!(
            again.settings.iter().map(text).collect::<Vec<_>>(),
            shown.iter().map(text).collect::<Vec<_>>()
        );
        assert!(again.warnings.is_empty(), "{:?}", again.warnings);
    }
}

mod a_file {
    use super::*;

    #[test]
    fn sets_what_it_says() {
        let config = file(
            "
http:
  addr: 10.0.0.1:8443
  net: tcp
  prefix: /registry/
  secret: hunter2
  draintimeout: 1m30s
  headers: {X-Content-Type-Options: [nosniff], X-Name: one}
  http2: {disabled: yes}
  h2c: {enabled: on}
  debug: {addr: ':5001'}
  tls: {certificate: tls.crt, key: tls.key, clientcas: [ca.pem], minimumtls: tls1.3}
  listeners: [{addr: '[::1]:5000', tls: false}, {addr: /run/wharf.sock}]
  limits: {headerbytes: 8KiB, requests: {write: {maxrunning: 4, maxinqueue: 2, maxwaitinqueue: 1s}}}
storage:
  filesystem: {rootdirectory: /data, sync: false}
  delete: {enabled: true}
  maintenance: {readonly: {enabled: true}, uploadpurging: {age: 1h, interval: 10m, dryrun: true}}
  cache: {manifestbytes: 1MiB, tagttl: 0}
validation:
  manifests: {urls: {deny: ['^http:']}, indexes: {platforms: none}}
catalog: {maxentries: 5}
log: {level: warn, formatter: logstash, accesslog: {disabled: true}, audit: {path: /var/log/audit.log}}
auth: none
health: {storagedriver: {enabled: false}}
",
        )
        .config;
        let http = &config.http;
        let tls = Tls {
            certificate: "tls.crt".into(),
            key: "tls.key".into(),
            clients: ClientCertificates::Required(vec!["ca.pem".into()]),
            minimum_version: TlsVersion::Tls13,
            cipher_suites: Vec::new(),
        };
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        assert_eq!(
            http.listeners,
            [
                Listener { address: tcp("10.0.0.1", 8443), tls: Some(tls.clone()) },
                Listener { address: tcp("::1", 5000), tls: None },
                Listener { address: Address::Unix("/run/wharf.sock".into()), tls: Some(tls) },
            ]
        );
        assert_eq!(http.prefix, "/registry");
        assert_eq!(http.secret, Some(Secret::new("hunter2")));
        assert_eq!(http.drain_timeout, Duration::from_secs(90));
        assert_eq!(http.headers["x-name"], "one");
        assert_eq!((http.http2, http.h2c), (false, true));
        assert_eq!(http.limits.header_bytes.get(), 8192);
        assert_eq!(
            http.limits.writes,
            Concurrency {
                running: NonZeroUsize::new(4),
                queued: 2,
                longest_wait: Some(Duration::from_secs(1))
            }
        );
        let storage = &config.storage;
        assert_eq!(storage.backend, Backend::Volume(Volume { root: "/data".into(), sync: Sync::Never }));
        assert_eq!((storage.mode, storage.deletion), (Mode::ReadOnly, Deletion::Allowed));
        let purging = Purging::After {
            age: Duration::from_secs(3600),
            interval: Duration::from_secs(600),
            action: PurgeAction::Report,
        };
        assert_eq!(storage.purging, purging);
        assert_eq!((storage.caches.manifest_bytes, storage.caches.tags), (MIB, Duration::ZERO));
        assert!(
            config.validation.urls.accept("https://anywhere") && !config.validation.urls.accept("http://x")
        );
        assert_eq!(config.validation.missing_references, storage::MissingReferences::AllowChildren);
        assert_eq!(config.catalog.max_entries.get(), 5);
        assert_eq!((config.log.level, config.log.format), (LogLevel::Warn, LogFormat::Json));
        assert!(!config.log.access);
        assert_eq!(config.log.audit, Audit::File("/var/log/audit.log".into()));
        assert_eq!(config.health.storage, None);
    }

    #[test]
    fn may_list_the_platforms_whose_manifests_an_index_needs() {
        let indexes = |indexes: &str| format!("validation: {{manifests: {{indexes: {indexes}}}}}");
        let listed = file(&indexes("{platforms: list, platformlist: [{os: linux, architecture: amd64}]}"));
        let amd64 = storage::Platform { os: "linux".to_owned(), architecture: "amd64".to_owned() };
        let expected = storage::MissingReferences::AllowOtherPlatforms([amd64].into());
        assert_eq!(listed.config.validation.missing_references, expected);
        for nothing in ["{platforms: list}", "{platforms: list, platformlist: []}"] {
            assert!(problems(&indexes(nothing))[0].contains("platformlist: no platform is listed"));
        }
        assert!(
            problems(&indexes("{platforms: list, platformlist: [{os: linux}]}"))[0]
                .contains("platformlist[0].architecture: it is missing")
        );
        let in_vain = file(&indexes("{platformlist: [{os: linux, architecture: amd64}]}"));
        assert!(in_vain.warnings[0].what.contains("does nothing"));
    }

    #[test]
    fn may_ask_for_a_tls_that_is_no_longer_spoken() {
        let tls = |version: &str| {
            file(&format!("http: {{tls: {{certificate: c, key: k, minimumtls: {version}}}}}"))
        };
        for version in ["tls1.0", "tls1.1", "VersionTLS10"] {
            let loaded = tls(version);
            let spoken = loaded.config.http.listeners[0].tls.as_ref().unwrap().minimum_version;
            assert_eq!(spoken, TlsVersion::Tls12);
            let warned: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            let warning =
                "config.yml:2: http.tls.minimumtls: it is not safe, and is not spoken; TLS 1.2 is the oldest";
            assert_eq!(warned, [warning]);
        }
        assert!(tls("VersionTLS13").warnings.is_empty());
    }

    #[test]
    fn may_name_files_that_take_the_server_out_of_service() {
        let files = file("health: {file: [{file: /run/drain, interval: 1s}, {file: /run/other}]}")
            .config
            .health
            .files;
        let [first, second] = &files[..] else { panic!("{files:?}") };
        assert_eq!((first.path.to_str(), first.interval), (Some("/run/drain"), Duration::from_secs(1)));
        assert_eq!((second.path.to_str(), second.interval), (Some("/run/other"), Duration::from_secs(10)));
        assert!(
            problems("health: {file: [{interval: 1s}]}")[0].contains("health.file[0].file: it is missing")
        );
    }

    #[test]
    fn names_a_realm_that_a_header_can_hold() {
        let realm = |realm: &str| format!("auth: {{htpasswd: {{path: users, realm: {realm}}}}}");
        let Auth::Login(login) = file(&realm("our images")).config.auth else {
            panic!("logins are configured")
        };
        assert_eq!(login.password_realm, "our images");
        for wrong in ["'a \"quote\"'", "größe", "\"two\\nlines\""] {
            assert!(
                problems(&realm(wrong))[0].contains("auth.htpasswd.realm: it must be printable"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn may_name_its_driver_and_its_login_with_a_bare_word() {
        assert_eq!(file("storage: inmemory\nauth: none").config.storage.backend, Backend::Memory);
    }

    #[test]
    fn is_told_everything_that_is_wrong_at_once() {
        let text = "http:
  adr: :5000
  draintimeout: 7 dayz
  tls:
    certificate: tls.crt
storage:
  filesystem:
  s3: {bucket: images}
log:
  level: loud
rootdirectory: /data
";
        assert_eq!(
            problems(text),
            [
                "config.yml:5: http.tls.key: it is missing; name the private key of \"certificate\"",
                "config.yml:4: http.draintimeout: \"7 dayz\" is not a duration; try \"168h\"",
                "config.yml:9: storage.s3: object stores are not supported by this version; use \"filesystem\" or \"inmemory\"",
                "config.yml:9: storage.s3: \"filesystem\" keeps the content already; remove one of the two",
                "config.yml:11: log.level: \"loud\" is not one of error, warn, warning, info, debug; try \"debug\"",
                "config.yml:3: http.adr: there is no such key; did you mean \"http.addr\"?",
                "config.yml:12: rootdirectory: there is no such key; did you mean \"storage.filesystem.rootdirectory\"?",
            ]
        );
    }

    #[test]
    fn must_begin_with_its_version() {
        let without = parse(Some(("config.yml", "log: {}")), &BTreeMap::new()).unwrap_err().to_string();
        assert!(without.contains("begin the file with \"version: 0.1\""), "{without}");
        let newer = parse(Some(("config.yml", "version: 0.2")), &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(newer, "config.yml:1: version: \"0.2\" is not one of 0.1; try \"0.1\"");
    }

    #[test]
    fn that_is_no_yaml_is_told_where() {
        let problems = problems("http: [\nlog: }");
        assert!(problems[0].starts_with("config.yml:3: it is not YAML: "), "{problems:?}");
    }

    #[test]
    fn may_use_anchors_and_merges_but_not_to_fill_the_memory() {
        let config = file("log: {level: &level warn}\nloglevel: *level\nhealth: {storagedriver: {<<: {interval: 1s, threshold: 2}, threshold: 3}}").config;
        assert_eq!(config.log.level, LogLevel::Warn);
        let check = config.health.storage.unwrap();
        assert_eq!((check.interval.as_secs(), check.threshold.get()), (1, 3));

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let alias = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        assert!(problems(&bomb)[0].contains("aliases unfold to too much"));
        let nested = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
        assert!(problems(&nested)[0].contains("nested deeper"));
        assert_eq!(problems(&"[".repeat(100_000)).len(), 1);
    }

    #[test]
    fn keeps_its_secret_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        let loaded = file(&format!("http: {{secretfile: '{}'}}", path.display()));
        assert_eq!(loaded.config.http.secret, Some(Secret::new("hunter2")));
        let problems = problems("http: {secretfile: /nowhere/secret}");
        assert!(problems[0].starts_with("config.yml:2: http.secretfile: \"/nowhere/secret\" cannot be read"));
    }

    #[test]
    fn with_unsafe_ciphers_is_told_so() {
        let tls =
            |suites: &str| format!("http: {{tls: {{certificate: c, key: k, ciphersuites: [{suites}]}}}}");
        let loaded = file(&tls("TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"));
        let suites = &loaded.config.http.listeners[0].tls.as_ref().unwrap().cipher_suites;
        assert_eq!(suites, &[rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        assert_eq!(warnings(&loaded), ["http.tls.ciphersuites"]);
        assert!(problems(&tls("TLS_RSA_WITH_AES_128_CBC_SHA"))[0].contains("none of these can be offered"));
        assert!(problems(&tls("AES"))[0].contains("\"AES\" is not a cipher suite"));
    }
}

mod the_environment {
    use super::*;

    #[test]
    fn overrides_the_file_and_is_named_as_the_origin() {
        let loaded = file_with(
            "http: {addr: ':5000'}\nauth: none\nstorage: {filesystem: {rootdirectory: /a}}",
            &[
                ("REGISTRY_HTTP_ADDR", ":6000"),
                ("REGISTRY_HTTP_SECRET", "0123"),
                ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/b"),
                ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
            ],
        );
        assert_eq!(addresses(&loaded), [":6000"]);
        assert_eq!(loaded.config.http.secret, Some(Secret::new("0123")));
        assert_eq!(loaded.config.storage.deletion, Deletion::Allowed);
        let root = loaded.settings.iter().find(|setting| setting.key.ends_with("rootdirectory")).unwrap();
        assert_eq!(
            (root.value.as_str(), root.origin.to_string().as_str()),
            ("/b", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
        );
    }

    #[test]
    fn is_enough_without_a_file() {
        let loaded = parse(None, &environment(&[("REGISTRY_STORAGE", "inmemory")])).unwrap();
        assert_eq!(loaded.config.storage.backend, Backend::Memory);
    }

    #[test]
    fn replaces_a_section_whole() {
        let text = "storage: {filesystem: {rootdirectory: /a}, delete: {enabled: true}}";
        let config = file_with(text, &[("REGISTRY_STORAGE", "inmemory")]).config;
        assert_eq!((config.storage.backend, config.storage.deletion), (Backend::Memory, Deletion::Refused));
        let config = file_with(
            text,
            &[("REGISTRY_STORAGE", "filesystem"), ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/b")],
        )
        .config;
        assert_eq!(
            config.storage.backend,
            Backend::Volume(Volume { root: "/b".into(), ..Volume::default() })
        );
    }

    #[test]
    fn that_adds_a_second_driver_is_refused() {
        let problems = problems_with(
            "storage: {filesystem: {rootdirectory: /a}}",
            &[("REGISTRY_STORAGE_INMEMORY", "{}")],
        );
        assert_eq!(
            problems,
            [
                "REGISTRY_STORAGE_INMEMORY: storage.inmemory: \"filesystem\" keeps the content already; remove one of the two"
            ]
        );
    }

    #[test]
    fn makes_the_read_only_switch_in_both_forms() {
        for (variable, value) in [
            ("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}"),
            ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true"),
        ] {
            assert_eq!(file_with("", &[(variable, value)]).config.storage.mode, Mode::ReadOnly);
        }
    }

    #[test]
    fn walks_lists_by_index() {
        let text = "http: {listeners: [{addr: ':1'}]}\nauth: none";
        let grown = [("REGISTRY_HTTP_LISTENERS_0_ADDR", ":2"), ("REGISTRY_HTTP_LISTENERS_1_ADDR", ":3")];
        assert_eq!(addresses(&file_with(text, &grown)), [":2", ":3"]);
        assert_eq!(addresses(&file_with("auth: none", &grown)), [":2", ":3"]);
        let beyond = problems_with(text, &[("REGISTRY_HTTP_LISTENERS_2_ADDR", ":3")]);
        assert_eq!(
            beyond,
            ["REGISTRY_HTTP_LISTENERS_2_ADDR: listeners: 2 is no index of this list; the next one is 1"]
        );
    }

    #[test]
    fn knows_gos_names_and_openshifts() {
        let loaded = file_with(
            "http: {tls: {certificate: c, key: k}}",
            &[
                ("REGISTRY_HTTP_TLS_MINVERSION", "VersionTLS13"),
                (
                    "OPENSHIFT_REGISTRY_HTTP_TLS_CIPHERSUITES",
                    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256",
                ),
                ("REGISTRY_HEALTH_FILECHECKERS", "[{file: /tmp/down}]"),
                ("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING", "10"),
                ("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXWAITINQUEUE", "1m0s"),
                ("REGISTRY_OPENSHIFT_SERVER_ADDR", "image-registry.openshift-image-registry.svc:5000"),
                ("REGISTRY_OPENSHIFT_QUOTA_ENABLED", "true"),
            ],
        );
        let tls = loaded.config.http.listeners[0].tls.as_ref().unwrap();
        assert_eq!((tls.minimum_version, tls.cipher_suites.len()), (TlsVersion::Tls13, 1));
        assert_eq!(loaded.config.http.limits.reads.running, NonZeroUsize::new(10));
        assert_eq!(loaded.config.http.limits.reads.longest_wait, Some(Duration::from_secs(60)));
        assert_eq!(warnings(&loaded), ["openshift.server", "openshift.quota"]);
        assert_eq!(loaded.config.health.files[0].path.to_str(), Some("/tmp/down"));
        let limit = loaded
            .settings
            .iter()
            .find(|setting| setting.key == "http.limits.requests.read.maxrunning")
            .unwrap();
        assert_eq!(limit.origin.to_string(), "REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING");
    }

    #[test]
    fn that_kubernetes_made_for_a_service_called_registry_does_no_harm() {
        let loaded = file_with(
            "",
            &[
                ("REGISTRY_CONFIGURATION_PATH", "/etc/config.yml"),
                ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
                ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
                ("REGISTRY_SERVICE_HOST", "10.0.0.1"),
            ],
        );
        assert_eq!(warnings(&loaded), ["port", "service"]);
    }

    #[test]
    fn that_is_no_yaml_is_named_without_its_value() {
        let problems = problems_with("", &[("REGISTRY_HTTP_SECRET", "{hunter2")]);
        assert!(problems[0].starts_with("REGISTRY_HTTP_SECRET: it is not YAML"), "{problems:?}");
        assert!(!problems[0].contains("hunter2"));
    }
}

/// Loads what others ship, and compares the keys that it is warned of, or what is wrong.
#[test]
fn the_configurations_that_others_ship_are_understood() {
    const STORE: &str = "object stores are not supported by this version; use \"filesystem\" or \"inmemory\"";
    let loads: [(&str, &str, &[&str]); 5] = [
        (
            "distribution-2-dev.yml",
            include_str!("../../tests/fixtures/config/distribution-2-dev.yml"),
            &["storage.cache.blobdescriptor", "log.hooks", "notifications", "redis"],
        ),
        (
            "distribution-2-old.yml",
            include_str!("../../tests/fixtures/config/distribution-2-old.yml"),
            &["notifications", "redis"],
        ),
        (
            "distribution-3-dev.yml",
            include_str!("../../tests/fixtures/config/distribution-3-dev.yml"),
            &["storage.tag.concurrencylimit"],
        ),
        (
            "distribution-3-cache.yml",
            include_str!("../../tests/fixtures/config/distribution-3-cache.yml"),
            &["storage.cache.blobdescriptor", "notifications", "proxy", "redis"],
        ),
        (
            "distribution-3-example.yml",
            include_str!("../../tests/fixtures/config/distribution-3-example.yml"),
            &["storage.tag.concurrencylimit"],
        ),
    ];
    // Most say nothing of who may come in.
    let open = |text: &str| match text.contains("\nauth:") {
        true => BTreeMap::new(),
        false => environment(&[("REGISTRY_AUTH", "none")]),
    };
    for (name, text, expected) in loads {
        let loaded = parse(Some((name, text)), &open(text)).unwrap();
        assert_eq!(warnings(&loaded), expected, "{name}");
        assert_eq!(addresses(&loaded), [":5000"], "{name}");
    }
    let refused = [
        (
            "distribution-3-s3.yml",
            include_str!("../../tests/fixtures/config/distribution-3-s3.yml"),
            format!("distribution-3-s3.yml:27: storage.s3: {STORE}"),
        ),
        (
            "distribution-3-e2e.yml",
            include_str!("../../tests/fixtures/config/distribution-3-e2e.yml"),
            format!("distribution-3-e2e.yml:25: storage.s3: {STORE}"),
        ),
    ];
    for (name, text, expected) in refused {
        assert_eq!(parse(Some((name, text)), &open(text)).unwrap_err().to_string(), expected);
    }
    let openshift = include_str!("../../tests/fixtures/config/openshift.yml");
    let Auth::Login(login) = parse(Some(("openshift.yml", openshift)), &BTreeMap::new()).unwrap().config.auth
    else {
        panic!("nobody has to log in")
    };
    assert!(matches!(login.permission, Permission::Cluster(_)));
}

#[test]
fn a_registry_that_others_reach_must_say_who_may_come_in() {
    const MISSING: &str = "auth: it is missing, and others than this machine can connect to \":5000\"; say who may come in, as \
        \"auth.kubernetes\" or \"auth.htpasswd\" does, or write \"auth: none\" (REGISTRY_AUTH=none) to let everybody push, pull and \
        delete";
    let shipped = include_str!("../../tests/fixtures/config/distribution-2-old.yml");
    let refused = parse(Some(("config.yml", shipped)), &BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(refused, format!("config.yml:1: {MISSING}"));
    let refused = parse(None, &environment(&[("REGISTRY_HTTP_ADDR", ":5000")])).unwrap_err().to_string();
    assert_eq!(refused, format!("REGISTRY_HTTP_ADDR: {MISSING}"));
    for (text, is_open) in [
        ("", true),
        ("http: {addr: 'localhost:5000'}", true),
        ("http: {addr: '127.1.2.3:5000'}", true),
        ("http: {addr: '[::1]:5000', debug: {addr: ':5001'}}", true),
        ("http: {addr: /run/wharf.sock}", true),
        ("http: {addr: ':5000'}\nauth: none", true),
        ("http: {addr: ':5000'}\nauth: {none: {}}", true),
        ("http: {addr: ':5000'}\nauth:", false),
        ("http: {addr: ':5000'}\nauth: {}", false),
        ("http: {addr: '0.0.0.0:5000'}", false),
        ("http: {addr: '[::]:5000'}", false),
        ("http: {addr: '[::ffff:127.0.0.1]:5000'}", false),
        ("http: {addr: 'localhost.example:5000'}", false),
        ("http: {listeners: [{addr: '127.0.0.1:5000'}, {addr: '10.0.0.1:5000'}]}", false),
    ] {
        let text = format!("version: 0.1\n{text}");
        match parse(Some(("config.yml", &text)), &BTreeMap::new()) {
            Ok(loaded) => assert!(is_open && loaded.config.auth == Auth::Anyone, "{text}"),
            Err(problems) => assert!(
                !is_open && problems.to_string().contains("auth: it is missing"),
                "{text}: {problems}"
            ),
        }
    }
}

#[test]
fn a_time_in_which_nothing_can_happen_is_no_limit() {
    for (text, expected) in [
        (
            "http: {limits: {headertimeout: 0}}",
            "http.limits.headertimeout: no request arrives at once; try \"30s\"",
        ),
        (
            "http: {limits: {idlebodytimeout: 0s}}",
            "http.limits.idlebodytimeout: no body arrives at once; try \"1m\"",
        ),
        (
            "auth: {kubernetes: {longesttokenage: 0}}",
            "auth.kubernetes.longesttokenage: no token would be good; try \"24h\"",
        ),
        (
            "auth: {kubernetes: {tokenlifetime: 1m}}",
            "auth.kubernetes.tokenlifetime: clients count on five minutes at least; write 5m or more",
        ),
        (
            "health: {storagedriver: {timeout: 0}}",
            "health.storagedriver.timeout: no store answers at once; try \"10s\"",
        ),
    ] {
        assert_eq!(problems(text), [format!("config.yml:2: {expected}")]);
    }
    // What counts from now on, or what nobody waits for.
    let at_once = "http: {draindelay: 0, draintimeout: 0}\nstorage: {cache: {membershipttl: 0, tagttl: 0}}";
    assert!(file(at_once).warnings.is_empty());
}

#[test]
fn a_list_of_proxies_is_one_of_networks() {
    let text = "http: {trustedproxies: [10.0.0.0/8, '::1', unix]}";
    let networks = ["10.0.0.0/8", "::1"].map(|network| Proxy::Network(network.parse().unwrap()));
    assert_eq!(file(text).config.http.trusted_proxies, [&networks[..], &[Proxy::UnixSocket]].concat());
    assert_eq!(
        problems("http: {trustedproxies: [proxy.example]}"),
        [
            "config.yml:2: http.trustedproxies[0]: \"proxy.example\" is not a network; try \"10.0.0.0/8\", an address, or \"unix\""
        ]
    );
}

#[test]
fn metrics_are_where_health_is_or_where_they_are_asked_for() {
    let paths = |text: &str| {
        let http = file(text).config.http;
        (http.metrics, http.management.metrics)
    };
    let some = |path: &str| Some(path.to_owned());
    assert_eq!(paths(""), (None, None));
    assert_eq!(paths("http: {debug: {addr: ':5001'}}"), (None, some("/metrics")));
    assert_eq!(paths("http: {debug: {prometheus: {enabled: true, path: /m}}}"), (some("/m"), None));
    assert_eq!(
        paths("http: {debug: {addr: ':5001', prometheus: {enabled: true}}}"),
        (None, some("/metrics"))
    );
    assert_eq!(paths("http: {debug: {addr: ':5001', prometheus: {enabled: false}}}"), (None, None));
    for taken in ["/", "/v2", "/v2/x", "/healthz", "/readyz/"] {
        let problems = problems(&format!("http: {{debug: {{prometheus: {{path: {taken}}}}}}}"));
        assert!(problems[0].contains("http.debug.prometheus.path: something else"), "{problems:?}");
    }
}

#[test]
fn the_manual_lists_exactly_the_keys_there_are() {
    let (_, manual) = include_str!("../../docs/configuration.md").split_once("## All keys").unwrap();
    let listed: Vec<&str> = manual.lines().filter(|line| line.starts_with("- ")).collect();
    let keys: Vec<String> = keys().iter().map(Key::to_string).collect();
    // `wharf config keys` prints what docs/configuration.md must list.
    for (listed, key) in listed.iter().zip(&keys) {
        assert_eq!(listed, key);
    }
    assert_eq!(listed.len(), keys.len());
}

#[test]
fn every_example_in_the_manual_loads() {
    let manual = include_str!("../../docs/configuration.md");
    let examples: Vec<&str> =
        manual.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let loaded = parse(Some(("docs/configuration.md", example)), &BTreeMap::new()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

#[test]
fn every_example_of_who_may_do_what_is_taken() {
    let manual = include_str!("../../docs/authorization.md");
    // Those within a list are set in.
    let examples = manual.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let examples: Vec<String> = examples
        .map(|example| {
            let depth = example.len() - example.trim_start_matches(' ').len();
            let lines = example.lines().map(|line| line.get(depth..).unwrap_or_default());
            lines.map(|line| format!("{line}\n")).collect()
        })
        .collect();
    let of = |beginning: &str| {
        let matching: Vec<&String> = examples
            .iter()
            .filter(|example| example.trim_start_matches("# config.yml\n").starts_with(beginning))
            .collect();
        assert!(!matching.is_empty(), "none begins with {beginning}");
        matching
    };
    let folder = tempfile::tempdir().unwrap();
    let [configurations, parts, bindings, tokens] = ["version:", "auth:", "apiVersion:", "- sha256:"].map(of);
    assert_eq!(
        [&configurations, &parts, &bindings, &tokens].map(Vec::len).iter().sum::<usize>(),
        examples.len()
    );
    for configuration in configurations {
        parse(Some(("docs/authorization.md", configuration)), &BTreeMap::new()).unwrap();
    }
    for part in parts {
        file(part);
    }
    for binding in bindings {
        std::fs::write(folder.path().join("binding.yaml"), binding).unwrap();
        auth::bindings::Folder::open(folder.path()).unwrap();
    }
    for list in tokens {
        let path = folder.path().join("tokens");
        std::fs::write(&path, list).unwrap();
        auth::TokensFile::read(&path, &auth::Files::new()).unwrap();
    }
}

#[test]
fn secrets_do_not_print() {
    let loaded = file("http: {secret: hunter2}");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_url_must_be_allowed_and_not_denied() {
    let pattern = |text: &str| vec![Regex::new(text).unwrap()];
    let urls = ForeignUrls { allow: pattern("^https://ours/"), deny: pattern("/secret/") };
    assert!(urls.accept("https://ours/layer"));
    assert!(!urls.accept("https://ours/secret/layer"));
    assert!(!urls.accept("https://theirs/layer"));
    assert!(ForeignUrls::default().accept("https://theirs/layer"));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>(), value in any::<String>()) {
        let _ = parse(Some(("config.yml", &text)), &environment(&[("REGISTRY_HTTP_HEADERS_0", &value)]));
    }

    #[test]
    fn no_text_in_yamls_letters_makes_the_reader_panic(text in "[-a-b0:{}\\[\\],&*!|>'\"%#?<. \n\t]{0,80}") {
        let _ = parse(Some(("config.yml", &text)), &BTreeMap::new());
    }

    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(at in 0_usize..1400, cut in 0_usize..20, put in "[-:{}&*'\" \n0a]{0,3}") {
        let mut text = include_str!("../../tests/fixtures/config/distribution-2-dev.yml").to_owned();
        let (start, end) = (at.min(text.len()), (at + cut).min(text.len()));
        text.replace_range(start..end, &put);
        let _ = parse(Some(("config.yml", &text)), &BTreeMap::new());
    }

    #[test]
    fn no_word_makes_a_key_panic(word in any::<String>()) {
        let variables: BTreeMap<String, String> = keys()
            .iter()
            .map(|key| format!("REGISTRY_{}", key.path.to_uppercase().replace("[]", "_0").replace('.', "_")))
            .map(|variable| (variable, serde_json::Value::from(word.as_str()).to_string()))
            .collect();
        let _ = parse(None, &variables);
    }
}

#[test]
fn a_login_needs_a_folder_and_keys() {
    let wrong = [
        (
            "auth: {kubernetes: {}, openshift: {}}",
            "c.yml:2: auth.openshift: it means the same as \"auth.kubernetes\"; remove one of the two",
        ),
        (
            "auth: {kubernetes: {issuers: [{issuer: 'https://x'}]}}",
            "c.yml:2: auth.kubernetes.issuers: the cluster that is asked knows its issuers and their keys; remove it",
        ),
        (
            "auth: {kubernetes: {otheraudiences: refused}}",
            "c.yml:2: auth.kubernetes.otheraudiences: it does not say which are the registry's; name \"audiences\" beside it",
        ),
        (
            "auth: {kubernetes: {outage: 1m}}",
            "c.yml:2: auth.kubernetes.outage: it is too short to be kept; write 180s or more",
        ),
        (
            "auth: {kubernetes: {folder: rbac, kubeconfig: k}}",
            "c.yml:2: auth.kubernetes.kubeconfig: a folder of roles and bindings is named beside it; remove one of the two",
        ),
        (
            "auth: {kubernetes: {folder: rbac, permission: bindings}}",
            "c.yml:2: auth.kubernetes.permission: a folder of roles and bindings is named beside it; remove one of the two",
        ),
        (
            "auth: {kubernetes: {folder: rbac, outage: 2h}}",
            "c.yml:2: auth.kubernetes.outage: a folder of roles and bindings is named beside it; remove one of the two",
        ),
        (
            "auth: {kubernetes: {folder: rbac, revocation: 2m}}",
            "c.yml:2: auth.kubernetes.revocation: a folder of roles and bindings is named beside it; remove one of the two",
        ),
        (
            "auth: {kubernetes: {folder: rbac, issuers: [{issuer: x, keys: a.pub, ca: ca.pem}]}}",
            "c.yml:2: auth.kubernetes.issuers[0].ca: nobody serves keys that are in a file; remove it",
        ),
        (
            "auth: {kubernetes: {realm: 'https://r/token'}}",
            "c.yml:2: auth.kubernetes.realm: the token endpoint has a path of its own; write the scheme and host alone",
        ),
        (
            "auth: {kubernetes: {folder: rbac, audiences: [a], issuers: [{issuer: x, keys: a.pub}, {issuer: x, keys: b.pub}]}}",
            "c.yml:2: auth.kubernetes.issuers: x is named twice, and only one would count; put the keys of both into one file",
        ),
        (
            "auth: {kubernetes: {folder: rbac, audiences: [a], issuers: [{issuer: x}]}}",
            "c.yml:2: auth.kubernetes.issuers[0].keys: it is missing; name the file or the URL of the public keys",
        ),
        (
            "auth: {kubernetes: {folder: rbac, audiences: [a], issuers: [{issuer: x, keys: 'http://x/keys'}]}}",
            "c.yml:2: auth.kubernetes.issuers[0].keys: keys that are not fetched by https could be anybody's; write https://…",
        ),
        ("auth: {htpasswd: {}}", "c.yml:2: auth.htpasswd.path: it is missing; name the file"),
        (
            "auth: {none: {}, htpasswd: {path: users}}",
            "c.yml:2: auth.none: logins are configured beside it; remove one of the two",
        ),
    ];
    for (text, expected) in wrong {
        let text = format!("version: 0.1\n{text}\n");
        assert_eq!(parse(Some(("c.yml", &text)), &BTreeMap::new()).unwrap_err().to_string(), expected);
    }
    let text = "version: 0.1\nauth: {kubernetes: {folder: rbac, issuers: [{issuer: x, keys: sa.pub}], audiences: [registry]}}";
    let Auth::Login(login) = parse(Some(("c.yml", text)), &BTreeMap::new()).unwrap().config.auth else {
        panic!("nobody has to log in")
    };
    assert_eq!(login.permission, Permission::Folder("rbac".into()));
    assert_eq!(login.issuers, [Issuer { name: "x".to_owned(), keys: Keys::File("sa.pub".into()) }]);
    assert_eq!((login.audiences, login.challenge), (vec!["registry".to_owned()], Challenge::Bearer));
    assert_eq!(login.other_audiences, OtherAudiences::Tolerated);
}

#[test]
fn the_keys_of_an_issuer_are_in_a_file_at_a_url_or_where_it_says() {
    let text = "
auth:
  kubernetes:
    folder: rbac
    issuers:
      - {issuer: x, keys: sa.pub}
      - {issuer: y, keys: 'https://keys.example/jwks', ca: ca.pem}
      - {issuer: 'https://z.example'}
";
    let Auth::Login(login) = file(text).config.auth else { panic!("nobody has to log in") };
    let keys: Vec<Keys> = login.issuers.into_iter().map(|issuer| issuer.keys).collect();
    let at = Some("https://keys.example/jwks".parse().unwrap());
    assert_eq!(
        keys,
        [
            Keys::File("sa.pub".into()),
            Keys::Published { at, authorities: Some("ca.pem".into()) },
            Keys::Published { at: None, authorities: None },
        ]
    );
}

#[test]
fn without_a_folder_a_cluster_is_asked_and_openshift_says_so_in_its_own_words() {
    let cluster = |text: &str| {
        let text = format!("version: 0.1\n{text}\n");
        let Auth::Login(login) = parse(Some(("c.yml", &text)), &BTreeMap::new()).unwrap().config.auth else {
            panic!("nobody has to log in")
        };
        let Permission::Cluster(cluster) = login.permission.clone() else { panic!("no cluster is asked") };
        (cluster, login)
    };
    let (plain, _) = cluster("auth: {kubernetes: {}}");
    assert_eq!((plain.kubeconfig, plain.permission), (None, ClusterPermission::Bindings));
    let (asked, _) = cluster("auth: {kubernetes: {kubeconfig: k, permission: accessreviews}}");
    assert_eq!((asked.kubeconfig, asked.permission), (Some("k".into()), ClusterPermission::AccessReviews));
    let (asked, login) = cluster(
        "auth: {openshift: {}}\nopenshift: {version: 1.0, kubeconfig: k, auth: {realm: openshift, tokenrealm: 'https://r'}}",
    );
    assert_eq!(asked.kubeconfig, Some("k".into()));
    assert_eq!(login.realm, Some("https://r".parse().unwrap()));
    // As older configurations of its registry have it, and the newer place counts more.
    let older = "auth: {openshift: {realm: openshift, tokenrealm: 'https://r', audit: {enabled: true}, audiences: [a]}}";
    let (_, login) = cluster(older);
    assert_eq!(login.realm, Some("https://r".parse().unwrap()));
    assert_eq!((login.audiences, login.password_realm), (vec!["a".to_owned()], "Wharf".to_owned()));
    assert_eq!(warnings(&file(older)), ["auth.openshift.audit", "auth.openshift.realm"]);
    let (_, login) = cluster(&format!("{older}\nopenshift: {{auth: {{tokenrealm: 'https://newer'}}}}"));
    assert_eq!(login.realm, Some("https://newer".parse().unwrap()));
    assert_eq!(
        problems("auth: {openshift: {realm: openshift, folders: rbac}}"),
        [
            "config.yml:2: auth.kubernetes.folders: there is no such key; did you mean \"auth.kubernetes.folder\"?"
        ]
    );
    assert_eq!(
        problems("auth: {openshift: yes}"),
        ["config.yml:2: auth.openshift: a word stands where keys are expected"]
    );
}
