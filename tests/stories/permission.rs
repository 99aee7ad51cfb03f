//! Logins without bindings. What people may where there are some, the table says, in `tests/authorization`.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};
use tempfile::NamedTempFile;

use crate::harness::{
    PaperCluster, TestRegistry,
    paper_cluster::{binding, binding_of},
    secrets, until,
};

/// What `htpasswd -nbBC 4 alice secret` prints, and `htpasswd -nbBC 5 alice wonderland`.
const SECRET: &str = "$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG";
const WONDERLAND: &str = "$2y$05$DXK/Bc11JLbs6iwZw8gNau9EQq.Tx84ZRam5Cq1CqTYqextf389uG";

fn alices_htpasswd() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("alice:{SECRET}\n")).unwrap();
    file
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn an_htpasswd_alone_lets_its_users_do_everything_and_nobody_else_anything() {
    let file = alices_htpasswd();
    let settings = json!({ "auth": { "htpasswd": { "path": file.path() } } });
    let registry = TestRegistry::with(settings).await;
    let someone = registry.user("someone");
    let refused = someone.get("/v2/").await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"Wharf\""));
    for (password, status) in [("secret", StatusCode::ACCEPTED), ("wrong", StatusCode::UNAUTHORIZED)] {
        let shown = basic("alice", password);
        let headers = [("authorization", &*shown)];
        let path = "/v2/team/app/blobs/uploads/";
        someone.ask(Method::POST, path, &headers, Bytes::new()).await.expect(status);
    }
    someone.get("/v2/team/app/tags/list").await.expect(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn whoever_shows_what_cannot_be_read_has_failed() {
    let file = alices_htpasswd();
    let registry = TestRegistry::with(json!({ "auth": { "htpasswd": { "path": file.path() } } })).await;
    let someone = registry.user("someone");
    let ask = async |shown: &str| {
        someone.ask(Method::GET, "/v2/", &[("authorization", shown)], Bytes::new()).await.status
    };
    for number in 0..5 {
        for shown in [
            format!("Basic {number}!"),
            format!("Basic {}", BASE64_STANDARD.encode(format!("no colon {number}"))),
            format!("Digest username={number}"),
            format!("Bearer {number}{}", "a".repeat(16 << 10)),
        ] {
            assert_eq!(ask(&shown).await, StatusCode::UNAUTHORIZED, "{shown:.40}");
        }
    }
    assert_eq!(ask(&basic("alice", "secret")).await, StatusCode::TOO_MANY_REQUESTS);
    // Whoever reads the audit log learns of it.
    registry
        .log_line(&[("target", "audit"), ("reason", "too many credentials from there were not good")])
        .await;
}

#[tokio::test]
async fn without_any_audience_a_token_for_the_api_server_is_good() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "robot", "system:image-puller"));
    let mut settings = cluster.settings();
    settings["auth"]["kubernetes"].as_object_mut().unwrap().remove("audiences");
    let plain = TestRegistry::with(settings.clone()).await;
    settings["auth"]["kubernetes"]["audiences"] = json!(["image-registry"]);
    settings["auth"]["kubernetes"]["otheraudiences"] = json!("refused");
    let strict = TestRegistry::with(settings).await;
    let status = async |registry: &TestRegistry, audiences: &[&str]| {
        let token = cluster.token_with("team", "robot", &json!({ "aud": audiences }));
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let user = registry.user("someone");
        user.ask(Method::GET, "/v2/team/app/tags/list", &headers, Bytes::new()).await.status
    };
    let api_server = "https://kubernetes.default.svc";
    for (registry, audiences, expected) in [
        (&plain, &[api_server][..], StatusCode::NOT_FOUND),
        (&plain, &["image-registry"], StatusCode::UNAUTHORIZED),
        (&strict, &["image-registry"], StatusCode::NOT_FOUND),
        (&strict, &["image-registry", "vault"], StatusCode::UNAUTHORIZED),
        (&strict, &[api_server], StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(status(registry, audiences).await, expected, "{audiences:?}");
    }
}

#[tokio::test]
async fn a_token_that_one_replica_gave_is_good_at_those_that_have_its_keys() {
    let (cluster, keys) = (PaperCluster::new(), NamedTempFile::new().unwrap());
    std::fs::write(&keys, "0123456789abcdef".repeat(4)).unwrap();
    let mut settings = cluster.settings();
    let alone = TestRegistry::with(settings.clone()).await;
    settings["auth"]["kubernetes"]["tokenkeys"] = json!(keys.path());
    let (one, other) = (alone.replica_with(settings.clone()).await, alone.replica_with(settings).await);
    let shown = format!("Bearer {}", cluster.token("team", "robot"));
    let ask = async |registry: &TestRegistry, path: &str, shown: &str| {
        registry.user("robot").ask(Method::GET, path, &[("authorization", shown)], Bytes::new()).await
    };
    let given = ask(&one, "/token", &shown).await.expect(StatusCode::OK).json();
    let given = format!("Bearer {}", given["token"].as_str().unwrap());
    for (registry, expected) in
        [(&one, StatusCode::OK), (&other, StatusCode::OK), (&alone, StatusCode::UNAUTHORIZED)]
    {
        ask(registry, "/v2/", &given).await.expect(expected);
    }
}

#[tokio::test]
async fn clients_are_asked_for_their_token_as_a_password_where_that_is_wanted() {
    let cluster = PaperCluster::new();
    let mut settings = cluster.settings();
    settings["auth"]["kubernetes"]["challenge"] = json!("basic");
    let registry = TestRegistry::with(settings).await;
    let user = registry.user("robot");
    let asked = user.get("/v2/").await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(asked.header("www-authenticate"), Some("Basic realm=\"Wharf\""));
    let shown = basic("robot", &cluster.token("team", "robot"));
    user.ask(Method::GET, "/v2/", &[("authorization", &*shown)], Bytes::new()).await.expect(StatusCode::OK);
}

/// Settings by which replicas share a key, and files of users that can be replaced.
struct Users {
    folder: tempfile::TempDir,
    cluster: PaperCluster,
}

impl Users {
    fn settings(&self) -> Value {
        let path = |name: &str| json!(self.folder.path().join(name));
        let mut settings = self.cluster.settings();
        settings["auth"]["htpasswd"] = json!({ "path": path("htpasswd") });
        settings["auth"]["kubernetes"]["tokens"] = path("tokens.yaml");
        settings["auth"]["kubernetes"]["tokenkeys"] = path("keys");
        settings
    }

    /// Renamed, so that nobody reads half of it.
    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let unfinished = self.folder.path().join("unfinished");
        std::fs::write(&unfinished, contents).unwrap();
        std::fs::rename(unfinished, self.folder.path().join(name)).unwrap();
    }

    fn write_tokens(&self, entries: &[(&str, &str, &[&str])]) {
        let entries = entries.iter().map(|(user, token, groups)| {
            secrets::keep(token);
            let hash = Digest::of(Algorithm::Sha256, token.as_bytes()).hex().to_string();
            json!({ "sha256": hash, "user": user, "groups": groups })
        });
        self.write("tokens.yaml", Value::from_iter(entries).to_string());
    }
}

#[tokio::test]
async fn what_the_registry_gave_ends_with_the_password_or_token_that_it_was_given_for() {
    let users = Users { folder: tempfile::tempdir().unwrap(), cluster: PaperCluster::new() };
    users.cluster.apply("pull", &binding_of("Group", "team", "developers", "system:image-puller"));
    let [carols, carols_next, daves, erins] = ["carols", "carols-next", "daves", "erins"]
        .map(|whose| format!("{whose}-token-of-thirty-two-letters"));
    users.write("keys", "0123456789abcdef".repeat(4));
    users.write("htpasswd", format!("alice:{SECRET}\nbob:{SECRET}\nhugo:{SECRET}\n"));
    users.write_tokens(&[("carol", &carols, &[]), ("dave", &daves, &[]), ("erin", &erins, &[])]);
    let one = TestRegistry::with(users.settings()).await;
    let other = one.replica_with(users.settings()).await;
    let ask = async |registry: &TestRegistry, path: &str, shown: &str| {
        registry.user("someone").ask(Method::GET, path, &[("authorization", shown)], Bytes::new()).await
    };
    let log_in = async |shown: String| {
        let given = ask(&one, "/token", &shown).await.expect(StatusCode::OK).json();
        let given = format!("Bearer {}", given["token"].as_str().unwrap());
        secrets::keep(&given);
        for registry in [&one, &other] {
            ask(registry, "/v2/", &given).await.expect(StatusCode::OK);
        }
        given
    };
    let is_good_everywhere = async |given: &str| {
        for registry in [&one, &other] {
            ask(registry, "/v2/", given).await.expect(StatusCode::OK);
        }
    };
    let ends_everywhere = async |given: &str| {
        for registry in [&one, &other] {
            until(async || ask(registry, "/v2/", given).await.status == StatusCode::UNAUTHORIZED).await;
        }
    };
    let alice = log_in(basic("alice", "secret")).await;
    let bob = log_in(basic("bob", "secret")).await;
    let hugo = log_in(basic("hugo", "secret")).await;
    let carol = log_in(format!("Bearer {carols}")).await;
    let dave = log_in(format!("Bearer {daves}")).await;
    let erin = log_in(format!("Bearer {erins}")).await;

    // Alice and Erin are taken out, Bob has another password, Carol another token.
    users.write("htpasswd", format!("bob:{WONDERLAND}\nhugo:{SECRET}\n"));
    users.write_tokens(&[("carol", &carols_next, &[]), ("dave", &daves, &[])]);
    for given in [&alice, &bob, &carol, &erin] {
        ends_everywhere(given).await;
    }
    is_good_everywhere(&hugo).await;
    is_good_everywhere(&dave).await;
    // What they have now lets them in at once.
    for shown in [basic("bob", "wonderland"), format!("Bearer {carols_next}")] {
        is_good_everywhere(&log_in(shown).await).await;
    }

    // Dave joins the developers, and goes on with what he has.
    let pull = async |registry: &TestRegistry| ask(registry, "/v2/team/app/tags/list", &dave).await.status;
    for registry in [&one, &other] {
        assert_eq!(pull(registry).await, StatusCode::FORBIDDEN);
    }
    users.write_tokens(&[("carol", &carols_next, &[]), ("dave", &daves, &["developers"])]);
    for registry in [&one, &other] {
        until(async || pull(registry).await == StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn what_fits_into_no_token_of_the_registry_is_given_back_and_goes_on_as_long_as_it_lasts() {
    let users = Users { folder: tempfile::tempdir().unwrap(), cluster: PaperCluster::new() };
    users.cluster.apply("group", &binding_of("Group", "team", "developers", "registry-viewer"));
    users.cluster.apply("account", &binding("team", "robot", "system:image-puller"));
    // One has a very long name, and the other a very long uid.
    let carols = "carols-token-of-thirty-two-letters".to_owned();
    let carol = "c".repeat(5000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let account = json!({ "name": "robot", "uid": "u".repeat(5000) });
    let claims =
        json!({ "exp": now + 200, "kubernetes.io": { "namespace": "team", "serviceaccount": account } });
    let robots = users.cluster.token_with("team", "robot", &claims);
    users.write("keys", "0123456789abcdef".repeat(4));
    users.write("htpasswd", format!("alice:{SECRET}\n"));
    users.write_tokens(&[(&carol, &carols, &["developers"])]);
    let registry = TestRegistry::with(users.settings()).await;
    let someone = registry.user("someone");
    for (token, lasts) in [(&carols, 300..=300), (&robots, 100..=200)] {
        let (bearer, password) = (format!("Bearer {token}"), basic("somebody", token));
        let form = Bytes::from(format!("grant_type=refresh_token&refresh_token={token}"));
        for (method, header, body) in [
            (Method::GET, ("authorization", &*bearer), Bytes::new()),
            (Method::GET, ("authorization", &*password), Bytes::new()),
            (Method::POST, ("content-type", "application/x-www-form-urlencoded"), form),
        ] {
            let given = someone.ask(method, "/token", &[header], body).await.expect(StatusCode::OK).json();
            assert_eq!((&given["token"], &given["access_token"]), (&json!(token), &json!(token)));
            let expires_in = given["expires_in"].as_u64().unwrap();
            assert!(lasts.contains(&expires_in), "{expires_in}");
        }
        let path = "/v2/team/app/tags/list";
        let headers = [("authorization", &*bearer)];
        someone.ask(Method::GET, path, &headers, Bytes::new()).await.expect(StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn the_answer_to_a_form_repeats_the_scopes_that_it_asked_for() {
    let cluster = PaperCluster::new();
    let registry = TestRegistry::with(cluster.settings()).await;
    let (user, token) = (registry.user("robot"), cluster.token("team", "robot"));
    for (asked, told) in [
        ("", ""),
        ("&scope=", ""),
        ("&scope=repository:team/app:pull,push", "repository:team/app:pull,push"),
        ("&scope=repository:team/app:pull+registry:catalog:*", "repository:team/app:pull registry:catalog:*"),
        ("&scope=repository%3Ateam%2Fapp%3Apull&scope=x", "repository:team/app:pull x"),
        // No words that a scope may have.
        ("&scope=a%22+b%5C+c%0Ad++%C3%A9+e", "e"),
    ] {
        for grant in ["password&username=robot&password=", "refresh_token&refresh_token="] {
            let form = Bytes::from(format!("grant_type={grant}{token}&service=registry{asked}"));
            let kind = ("content-type", "application/x-www-form-urlencoded");
            let given = user.ask(Method::POST, "/token", &[kind], form).await.expect(StatusCode::OK).json();
            assert_eq!(given["scope"], told, "{grant}{asked}");
        }
    }
    let shown = format!("Bearer {token}");
    let path = "/token?scope=repository:team/app:pull";
    let given = user.ask(Method::GET, path, &[("authorization", &*shown)], Bytes::new()).await.json();
    assert!(given["token"].is_string() && given.get("scope").is_none());
}
