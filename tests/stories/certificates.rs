//! People and machines whose client certificate says who they are.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{
    Authority, PaperCluster, TestRegistry, User,
    authority::Pair,
    paper_cluster::{binding, binding_of},
};

const TAGS: &str = "/v2/team/app/tags/list";

/// What a listener needs that asks for certificates and does not insist.
fn tls(authority: &Authority, folder: &Path) -> Value {
    let (certificate, key) = authority.issue();
    let (certificate_path, key_path) = (folder.join("tls.crt"), folder.join("tls.key"));
    fs::write(&certificate_path, certificate).unwrap();
    fs::write(&key_path, key).unwrap();
    json!({
        "certificate": certificate_path,
        "key": key_path,
        "clientcas": [authority.write_to(folder)],
        "clientauth": "verify-client-cert-if-given",
    })
}

/// Somebody who connects with this certificate, or with none.
fn holder(registry: &TestRegistry, authority: &Authority, pair: Option<Pair>) -> User {
    registry.user("someone").by_tls(authority.client(&rustls::version::TLS13, pair))
}

async fn status(user: &User, method: Method, path: &str, authorization: Option<&str>) -> StatusCode {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    user.ask(method, path, &headers, Bytes::new()).await.status
}

#[tokio::test]
async fn a_certificate_says_who_its_holder_is_and_bindings_say_what_they_may() {
    let (authority, folder, cluster) = (Authority::new(), tempfile::tempdir().unwrap(), PaperCluster::new());
    cluster.apply("user", &binding_of("User", "team", "alice", "system:image-puller"));
    cluster.apply("group", &binding_of("Group", "team", "builders", "system:image-builder"));
    let mut settings = cluster.settings();
    settings["http"]["tls"] = tls(&authority, folder.path());
    let nobodys = folder.path().join("tokens.yaml");
    fs::write(&nobodys, "[]\n").unwrap();
    settings["auth"]["kubernetes"]["tokens"] = json!(nobodys);
    let registry = TestRegistry::with(settings).await;
    let with = |name: &str, organizations: &[&str]| {
        holder(&registry, &authority, Some(authority.issue_to(name, organizations)))
    };
    let uploads = "/v2/team/app/blobs/uploads/";

    let (alice, bob, carol) =
        (with("alice", &[]), with("bob", &["builders", "others"]), with("carol", &["others"]));
    for (who, pulls, pushes) in [
        (&alice, StatusCode::NOT_FOUND, StatusCode::FORBIDDEN),
        (&bob, StatusCode::NOT_FOUND, StatusCode::ACCEPTED),
        (&carol, StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
        (&holder(&registry, &authority, None), StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
        // Only Kubernetes itself says this of somebody.
        (&with("system:admin", &["builders"]), StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
        (&with("", &["builders"]), StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(status(who, Method::GET, TAGS, None).await, pulls, "{who:?}");
        assert_eq!(status(who, Method::POST, uploads, None).await, pushes, "{who:?}");
    }

    // Somebody who guesses at their address keeps nobody out who has one.
    for number in 0.. {
        let guess = format!("Bearer guess-{number}");
        if status(&carol, Method::GET, TAGS, Some(&guess)).await == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
    }
    let late = with("alice", &["latecomers"]);
    assert_eq!(status(&late, Method::GET, TAGS, None).await, StatusCode::NOT_FOUND);

    // What is given for one that ends soon does so too.
    let soon = authority.issue_until("alice", SystemTime::now() + Duration::from_secs(200));
    let given = holder(&registry, &authority, Some(soon)).get("/token").await.expect(StatusCode::OK);
    let lifetime = given.json()["expires_in"].as_u64().unwrap();
    assert!((100..=200).contains(&lifetime), "{lifetime}");

    // A certificate is a credential for the token endpoint, too.
    let given = bob.get("/token").await.expect(StatusCode::OK).json();
    let ours = format!("Bearer {}", given["token"].as_str().unwrap());
    let nobody = holder(&registry, &authority, None);
    assert_eq!(status(&nobody, Method::POST, uploads, Some(&ours)).await, StatusCode::ACCEPTED);

    // Whoever logs in is who they log in as, for better or worse; what says that they show nothing does not count.
    let robot = format!("Bearer {}", cluster.token("team", "robot"));
    assert_eq!(status(&bob, Method::GET, TAGS, Some(&robot)).await, StatusCode::FORBIDDEN);
    let wrong = format!("Bearer {}", PaperCluster::new().token("team", "robot"));
    assert_eq!(status(&bob, Method::GET, TAGS, Some(&wrong)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&bob, Method::GET, TAGS, Some("Basic Og==")).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn beside_an_htpasswd_alone_a_certificate_lets_connect_and_no_more() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("htpasswd");
    // What `htpasswd -Bbn -C 4 alice secret` prints.
    fs::write(&file, "alice:$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG\n").unwrap();
    let settings = json!({ "http": { "tls": tls(&authority, folder.path()) }, "auth": { "htpasswd": { "path": file } } });
    let registry = TestRegistry::with(settings).await;
    let alice = holder(&registry, &authority, Some(authority.issue_to("alice", &[])));
    assert_eq!(status(&alice, Method::GET, TAGS, None).await, StatusCode::UNAUTHORIZED);
    let shown = format!("Basic {}", BASE64_STANDARD.encode("alice:secret"));
    assert_eq!(status(&alice, Method::GET, TAGS, Some(&shown)).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn certificates_may_let_connect_and_no_more() {
    let (authority, folder, cluster) = (Authority::new(), tempfile::tempdir().unwrap(), PaperCluster::new());
    cluster.apply("machine", &binding_of("User", "team", "machine", "registry-viewer"));
    cluster.apply("robot", &binding("team", "robot", "system:image-puller"));
    let mut settings = cluster.settings();
    settings["http"]["tls"] = tls(&authority, folder.path());
    settings["auth"]["kubernetes"]["certificates"] = json!("connections");
    let registry = TestRegistry::with(settings).await;
    let machine = holder(&registry, &authority, Some(authority.issue_to("machine", &[])));
    // Clients show what they have once they are asked to, here.
    for path in ["/v2/", TAGS] {
        let asked = machine.get(path).await.expect(StatusCode::UNAUTHORIZED);
        assert!(asked.header("www-authenticate").unwrap().starts_with("Bearer realm="), "{path}");
    }
    let robot = format!("Bearer {}", cluster.token("team", "robot"));
    assert_eq!(status(&machine, Method::GET, TAGS, Some(&robot)).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_certificate_of_a_proxy_names_nobody_behind_it() {
    let (authority, folder, cluster) = (Authority::new(), tempfile::tempdir().unwrap(), PaperCluster::new());
    cluster.apply("proxy", &binding_of("Group", "team", "system:authenticated", "system:image-puller"));
    let mut settings = cluster.settings();
    settings["http"]["tls"] = tls(&authority, folder.path());
    let ask = async |trusted: &[&str]| {
        let mut settings = settings.clone();
        settings["http"]["trustedproxies"] = json!(trusted);
        let registry = TestRegistry::with(settings).await;
        let proxy = holder(&registry, &authority, Some(authority.issue_to("proxy", &[])));
        let robot = format!("Bearer {}", cluster.token("team", "robot"));
        [
            status(&proxy, Method::GET, TAGS, None).await,
            status(&proxy, Method::GET, "/token", None).await,
            status(&proxy, Method::GET, TAGS, Some(&robot)).await,
        ]
    };
    let (unknown, known) = (StatusCode::NOT_FOUND, StatusCode::OK);
    assert_eq!(ask(&["192.0.2.1"]).await, [unknown, known, unknown], "it is a client like others");
    // What anybody gets at the token endpoint is a token for nobody.
    assert_eq!(ask(&["127.0.0.1"]).await, [StatusCode::UNAUTHORIZED, known, unknown]);
}
