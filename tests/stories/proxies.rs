//! What a registry believes of what stands in front of it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{PaperCluster, TestRegistry, User};

/// What a proxy adds to a request of `client`.
fn from(client: &str) -> [(&'static str, String); 3] {
    [
        ("x-forwarded-for", client.to_owned()),
        ("x-forwarded-host", "registry.example".to_owned()),
        ("x-forwarded-proto", "https".to_owned()),
    ]
}

async fn ask(user: &User, path: &str, client: &str, password: Option<&str>) -> crate::harness::user::Answer {
    let mut headers = from(client).to_vec();
    headers.push(("x-request-id", format!("from-{client}").replace(", ", "-")));
    headers.extend(password.map(|password| {
        ("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("alice:{password}"))))
    }));
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    user.ask(Method::GET, path, &headers, Bytes::new()).await
}

fn settings(cluster: &PaperCluster, proxies: &Value) -> Value {
    let mut settings = cluster.settings();
    settings["http"] = json!({ "trustedproxies": proxies, "relativeurls": false });
    settings
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is_and_where_it_called() {
    let cluster = PaperCluster::new();
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("htpasswd");
    // What `htpasswd -Bbn -C 4 alice secret` prints.
    std::fs::write(&users, "alice:$2y$04$f9iXm6KjCBCvHfQipitgTei0H0AAHaFr7DXwPpwFYUmHQCKtgKkTG\n").unwrap();
    let mut settings = cluster.settings();
    settings["http"] = json!({ "trustedproxies": ["127.0.0.0/8", "10.0.0.0/8"] });
    settings["auth"]["htpasswd"] = json!({ "path": users });
    let registry = TestRegistry::with(settings).await;
    let proxy = registry.user("proxy");

    // What stands left of the client's own address was written by itself.
    let refused =
        ask(&proxy, "/v2/", "1.1.1.1, 192.0.2.7, 10.1.2.3", None).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"https://registry.example/token\",service=\"registry.example\"")
    );
    let line =
        registry.log_line(&[("target", "access"), ("request.id", "from-1.1.1.1-192.0.2.7-10.1.2.3")]).await;
    assert_eq!(line["client.address"], "192.0.2.7");

    // Whoever guesses is made to wait, whatever they say of themselves; others behind the same proxy are not.
    let mut last = StatusCode::UNAUTHORIZED;
    for guess in 0..40 {
        let client = format!("203.0.113.{guess}, 192.0.2.7");
        last = ask(&proxy, "/v2/", &client, Some(&format!("guess {guess}"))).await.status;
        if last == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    ask(&proxy, "/v2/", "192.0.2.8", Some("secret")).await.expect(StatusCode::OK);
    let event = registry.log_line(&[("target", "audit"), ("decision", "refused")]).await;
    assert_eq!(event["client.address"], "192.0.2.7");
}

#[tokio::test]
async fn what_others_say_of_a_client_is_not_believed() {
    let cluster = PaperCluster::new();
    // This machine is not in the list: whoever connects from it is a client.
    let registry = TestRegistry::with(settings(&cluster, &json!(["10.0.0.0/8"]))).await;
    let (someone, host) = (registry.user("someone"), registry.host());
    let refused = ask(&someone, "/v2/", "192.0.2.7", None).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(
        refused.header("www-authenticate"),
        Some(&*format!("Bearer realm=\"http://{host}/token\",service=\"{host}\""))
    );
    let line = registry.log_line(&[("target", "access"), ("request.id", "from-192.0.2.7")]).await;
    assert_eq!(line["client.address"], "127.0.0.1");

    // Without a list nobody is believed about who and where; that TLS ends before the registry can only be told by a header.
    let registry = TestRegistry::with(settings(&cluster, &json!([]))).await;
    let (someone, host) = (registry.user("someone"), registry.host());
    let refused = ask(&someone, "/v2/", "192.0.2.7", None).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(
        refused.header("www-authenticate"),
        Some(&*format!("Bearer realm=\"https://{host}/token\",service=\"{host}\""))
    );
    let line = registry.log_line(&[("target", "access"), ("request.id", "from-192.0.2.7")]).await;
    assert_eq!(line["client.address"], "127.0.0.1");
}

#[tokio::test]
async fn below_a_prefix_the_token_endpoint_is_where_its_realm_says() {
    let cluster = PaperCluster::new();
    let mut settings = cluster.settings();
    settings["http"] = json!({ "prefix": "/images/" });
    let registry = TestRegistry::with(settings).await;
    let (someone, host) = (registry.user("someone"), registry.host());
    let refused = someone.get("/images/v2/").await.expect(StatusCode::UNAUTHORIZED);
    let challenge = format!("Bearer realm=\"http://{host}/images/token\",service=\"{host}\"");
    assert_eq!(refused.header("www-authenticate"), Some(&*challenge));
    let shown = format!("Bearer {}", cluster.token("team", "robot"));
    for path in ["/images/token", "/images/openshift/token"] {
        let headers = [("authorization", &*shown)];
        let given =
            someone.ask(Method::GET, path, &headers, Bytes::new()).await.expect(StatusCode::OK).json();
        let ours = format!("Bearer {}", given["token"].as_str().unwrap());
        let headers = [("authorization", &*ours)];
        someone.ask(Method::GET, "/images/v2/", &headers, Bytes::new()).await.expect(StatusCode::OK);
    }
    someone.get("/token").await.expect(StatusCode::NOT_FOUND);

    // An address of its own says what the outside calls the prefix.
    let mut settings = cluster.settings();
    settings["http"] = json!({ "prefix": "/images", "host": "https://registry.example/outside" });
    let registry = TestRegistry::with(settings).await;
    let refused = registry.user("someone").get("/images/v2/").await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"https://registry.example/outside/token\",service=\"registry.example\"")
    );
}
