//! Who may do what, as people meet it: logins by tokens of service accounts, rights by role bindings.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Image, Layer, PaperCluster, TestRegistry, paper_cluster::binding};

const TAGS: &str = "/v2/team/app/tags/list";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn whoever_may_not_is_told_how_to_log_in_or_what_is_missing() {
    let cluster = PaperCluster::new();
    let registry = TestRegistry::with(cluster.settings()).await;
    let (someone, host) = (registry.user("someone"), registry.host());
    let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"{host}\"");

    let base = someone.get("/v2/").await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(base.header("www-authenticate"), Some(&*challenge));
    let tags = someone.get(TAGS).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(
        tags.header("www-authenticate"),
        Some(&*format!("{challenge},scope=\"repository:team/app:pull\""))
    );

    let token = cluster.token("team", "robot");
    for shown in [basic("robot", &token), basic("<token>", &token), bearer(&token)] {
        let headers = [("authorization", &*shown)];
        someone.ask(Method::GET, "/v2/", &headers, Bytes::new()).await.expect(StatusCode::OK);
        let refused =
            someone.ask(Method::GET, TAGS, &headers, Bytes::new()).await.expect(StatusCode::FORBIDDEN);
        assert_eq!(
            refused.json()["errors"][0]["message"],
            "the requested access is denied: User \"system:serviceaccount:team:robot\" cannot get resource \"imagestreams/layers\" in API group \
             \"image.openshift.io\" of the name \"app\" in the namespace \"team\""
        );
    }
}

#[tokio::test]
async fn what_is_not_good_is_refused_and_never_taken_for_nobody() {
    let cluster = PaperCluster::new();
    cluster.apply(
        "everybody",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: everybody}, \
         subjects: [{kind: Group, name: 'system:unauthenticated'}, {kind: Group, name: 'system:authenticated'}], \
         roleRef: {kind: ClusterRole, name: 'system:image-puller', apiGroup: rbac.authorization.k8s.io}}",
    );
    let registry = TestRegistry::with(cluster.settings()).await;
    let someone = registry.user("someone");
    // Anybody may pull here: it is for what they show that they are refused.
    someone.get(TAGS).await.expect(StatusCode::NOT_FOUND);

    let good = cluster.token("team", "robot");
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let with = |claims| cluster.token_with("team", "robot", &claims);
    let stranger = PaperCluster::new().token("team", "robot");
    for token in [
        with(json!({ "exp": 1_700_000_000 })),
        with(json!({ "nbf": 4_000_000_000_u64 })),
        with(json!({ "iat": 4_000_000_000_u64 })),
        with(json!({ "iat": 1_700_000_000 })),
        with(json!({ "aud": ["another-service"] })),
        with(json!({ "aud": [] })),
        with(json!({ "iss": "https://elsewhere" })),
        with(json!({ "sub": "system:serviceaccount:team:admin" })),
        with(json!({ "kubernetes.io": {} })),
        stranger,
        format!("{head}.{claims}."),
        format!("{head}.{claims}.{}", &signature[1..]),
        format!("eyJhbGciOiJub25lIn0.{claims}."),
        "wharf.e30.AAAA".to_owned(),
        "not a token".to_owned(),
    ] {
        for shown in [basic("robot", &token), bearer(&token)] {
            let headers = [("authorization", &*shown)];
            let refused = someone.ask(Method::GET, TAGS, &headers, Bytes::new()).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{token}");
            assert!(refused.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
            let refused = someone.ask(Method::GET, "/token", &headers, Bytes::new()).await;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{token}");
        }
    }
}

#[tokio::test]
async fn the_token_endpoint_gives_a_token_for_a_token_and_none_for_its_own() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "robot", "system:image-puller"));
    let registry = TestRegistry::with(cluster.settings()).await;
    let someone = registry.user("someone");
    let token = cluster.token("team", "robot");
    let form = |text: String| (Method::POST, vec![], Bytes::from(text));
    let shown = basic("anything", &token);
    for (method, headers, body) in [
        (Method::GET, vec![("authorization", &*shown)], Bytes::new()),
        form(format!(
            "grant_type=password&service=x&client_id=containerd-client&username=u&password={token}"
        )),
        form(format!("grant_type=refresh_token&service=x&client_id=x&refresh_token={token}")),
    ] {
        for path in ["/token?service=x&scope=repository:team/app:pull", "/openshift/token"] {
            let given =
                someone.ask(method.clone(), path, &headers, body.clone()).await.expect(StatusCode::OK);
            let given = given.json();
            assert_eq!(given["token"], given["access_token"]);
            assert_eq!(given["expires_in"], 300);
            let ours = given["token"].as_str().unwrap();
            assert_ne!(ours, token);
            let headers = [("authorization", &*bearer(ours))];
            someone.ask(Method::GET, TAGS, &headers, Bytes::new()).await.expect(StatusCode::NOT_FOUND);
            // Neither may a token of ours be turned into the next, nor does it open other doors.
            someone.ask(Method::GET, "/token", &headers, Bytes::new()).await.expect(StatusCode::UNAUTHORIZED);
            let elsewhere = "/v2/other/app/tags/list";
            someone.ask(Method::GET, elsewhere, &headers, Bytes::new()).await.expect(StatusCode::FORBIDDEN);
        }
    }

    // Nobody in particular gets one, too, and is nobody with it.
    let nobody = someone.get("/token").await.expect(StatusCode::OK).json();
    let headers = [("authorization", &*bearer(nobody["token"].as_str().unwrap()))];
    someone.ask(Method::GET, "/v2/", &headers, Bytes::new()).await.expect(StatusCode::OK);
    someone.ask(Method::GET, TAGS, &headers, Bytes::new()).await.expect(StatusCode::UNAUTHORIZED);
    someone.ask(Method::DELETE, "/token", &[], Bytes::new()).await.expect(StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn people_see_the_repositories_that_they_may_pull() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "reader", "system:image-puller"));
    let open = TestRegistry::start().await;
    for repository in ["team/app", "other/app", "team/base", "zoo/app"] {
        open.user("alice").push(repository, "1", &Image::of(vec![Layer::random(1000)])).await;
    }
    let registry = open.replica_with(cluster.settings()).await;
    let token = bearer(&cluster.token("team", "reader"));
    let headers = [("authorization", &*token)];
    let someone = registry.user("someone");
    let all = someone.ask(Method::GET, "/v2/_catalog", &headers, Bytes::new()).await;
    assert_eq!(all.json()["repositories"], json!(["team/app", "team/base"]));
    let first = someone.ask(Method::GET, "/v2/_catalog?n=1", &headers, Bytes::new()).await;
    assert_eq!(first.json()["repositories"], json!(["team/app"]));
    assert!(first.header("link").is_some());
    let last = someone.ask(Method::GET, "/v2/_catalog?n=1&last=team/app", &headers, Bytes::new()).await;
    assert_eq!((last.json()["repositories"].clone(), last.header("link")), (json!(["team/base"]), None));
}

#[tokio::test]
async fn an_htpasswd_alone_lets_its_users_do_everything_and_nobody_else_anything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    // What `htpasswd -Bbn -C 4 alice secret` prints.
    std::fs::write(&file, "alice:$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG\n").unwrap();
    let settings = json!({ "auth": { "htpasswd": { "path": file } } });
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
    someone.get(TAGS).await.expect(StatusCode::UNAUTHORIZED);
}
