//! Logins without bindings. What people may where there are some, the table says, in `tests/authorization`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::harness::{PaperCluster, TestRegistry, paper_cluster::binding};

fn alices_htpasswd() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    // What `htpasswd -Bbn -C 4 alice secret` prints.
    std::fs::write(&file, "alice:$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG\n").unwrap();
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
