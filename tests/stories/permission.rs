//! Logins without bindings. What people may where there are some, the table says, in `tests/authorization`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::harness::TestRegistry;

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
}
