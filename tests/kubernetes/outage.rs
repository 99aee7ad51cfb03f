//! An API server that is away, and comes back.

use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::permission::{Asking, measured, metric, robots};
use crate::harness::{Cluster, TestRegistry, cluster::ISSUER, until};

/// Whether the API server is heard of.
const HEARD: &str = "wharf_cluster_heard";

#[tokio::test]
async fn whoever_is_known_goes_on_pulling_while_the_api_server_is_away() {
    let Some(cluster) = Cluster::start() else { return };
    let mut cluster = cluster.await;
    let registry = TestRegistry::with(measured(cluster.settings().await)).await;
    let user = registry.user("someone");
    let (namespace, asking) = robots(&cluster, &user, "known").await;
    let (other, of_unknown) = robots(&cluster, &user, "unknown").await;
    let known = cluster.token(&namespace, "robot", ISSUER).await;
    let unknown = cluster.token(&other, "robot", ISSUER).await;
    until(async || asking.may_pull(&known).await).await;
    let readiness = async || {
        let ready = user.get("/readyz").await;
        (ready.status, String::from_utf8(ready.body.to_vec()).unwrap())
    };
    until(async || readiness().await == (StatusCode::OK, "ready\n".to_owned())).await;
    let given = asking.registry_token(&known).await;

    cluster.kill_api_server();
    until(async || readiness().await.1.contains("fell silent")).await;
    assert_eq!(readiness().await.0, StatusCode::OK, "or nobody could pull");
    assert_eq!(metric(&user, HEARD).await, 0.0);
    for token in [&known, &given] {
        assert!(asking.may_pull(token).await);
    }
    let headers = [("authorization", &*format!("Bearer {unknown}"))];
    let path = format!("/v2/{other}/app/tags/list");
    let refused = user.ask(Method::GET, &path, &headers, Bytes::new()).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.header("retry-after").is_some());

    // A registry that starts now knows nobody, says so, and needs no other start.
    let replica = registry.replica().await;
    let replica = replica.user("someone");
    let elsewhere = Asking { user: &replica, repository: asking.repository.clone() };
    assert_eq!(replica.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(elsewhere.status(&known).await, StatusCode::SERVICE_UNAVAILABLE);

    cluster.start_api_server().await;
    until(async || readiness().await.1 == "ready\n").await;
    assert_eq!(metric(&user, HEARD).await, 1.0);
    until(async || of_unknown.may_pull(&unknown).await).await;
    until(async || elsewhere.may_pull(&known).await).await;
    cluster.kubectl(["delete", "rolebinding", "system:image-puller", "-n", &*namespace]).await;
    until(async || asking.status(&given).await == StatusCode::FORBIDDEN).await;
}
