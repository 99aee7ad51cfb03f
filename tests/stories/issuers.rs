//! An issuer of tokens publishes its keys, and no file of them is carried to the registry.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::{Router, http::HeaderMap, routing::get};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::{
    harness::{Authority, PaperCluster, TestRegistry, User, paper_cluster::binding, until},
    server::{Running, on_any_port, tls::settings_in},
};

/// What an API server answers to whoever asks where the keys of its tokens are, and for them.
fn routes(cluster: &PaperCluster) -> Router {
    let discovery = async |headers: HeaderMap| {
        let issuer = format!("https://{}", headers["host"].to_str().unwrap());
        json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks") }).to_string()
    };
    let keys = json!({ "keys": [cluster.jwk()] }).to_string();
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/openid/v1/jwks", get(move || async move { keys }))
}

async fn pull(user: &User, token: &str) -> StatusCode {
    let shown = format!("Bearer {token}");
    user.ask(Method::GET, "/v2/team/app/tags/list", &[("authorization", &shown)], Bytes::new()).await.status
}

#[tokio::test]
async fn tokens_are_verified_by_the_keys_that_their_issuer_publishes() {
    let (authority, folder, cluster) = (Authority::new(), tempfile::tempdir().unwrap(), PaperCluster::new());
    cluster.apply("pull", &binding("team", "robot", "system:image-puller"));
    let tls = on_any_port(Some(settings_in(&authority, folder.path())));
    let publisher = Running::start(tls, routes(&cluster)).await;
    let issuer = format!("https://{}", publisher.address);
    let mut settings = cluster.settings();
    settings["auth"]["kubernetes"]["issuers"] =
        json!([{ "issuer": issuer, "ca": authority.write_to(folder.path()) }]);
    let registry = TestRegistry::with(settings).await;
    let user = registry.user("someone");
    let token = |id: &str| cluster.token_with("team", "robot", &json!({ "iss": issuer, "jti": id }));

    assert_eq!(pull(&user, &token("first")).await, StatusCode::NOT_FOUND);
    let claims = json!({ "iss": issuer });
    let forged = PaperCluster::new().token_with("team", "robot", &claims);
    assert_eq!(pull(&user, &forged).await, StatusCode::UNAUTHORIZED);

    // Its keys are known. Who comes with another one may be anybody, as soon as the issuer may be asked again.
    publisher.stop().await;
    assert_eq!(pull(&user, &token("second")).await, StatusCode::NOT_FOUND);
    let number = AtomicU32::new(0);
    until(async || {
        let mut claims = PaperCluster::claims("team", "robot");
        claims["iss"] = json!(issuer);
        claims["jti"] = json!(number.fetch_add(1, Ordering::Relaxed).to_string());
        let token = cluster.sign(r#"{"alg":"ES256","kid":"new"}"#, &claims.to_string());
        pull(&user, &token).await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
}
