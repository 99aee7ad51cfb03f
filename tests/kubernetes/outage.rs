//! An API server that is away, and comes back.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::permission::{Asking, measured, metric, robots};
use crate::harness::{Cluster, TestRegistry, cluster::ISSUER, until};

/// Whether the API server is heard of.
const HEARD: &str = "wharf_cluster_heard";

/// How long a request may wait for an API server that does not answer: five seconds, and more on a busy machine.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn whoever_is_known_goes_on_pulling_while_the_api_server_is_away() {
    let Some(cluster) = Cluster::start() else { return };
    let (leave, come_back) = (Cluster::kill_api_server, Cluster::start_api_server);
    outage(cluster.await, leave, come_back).await;
}

#[tokio::test]
async fn whoever_is_known_goes_on_pulling_while_the_api_server_is_frozen() {
    let Some(cluster) = Cluster::start() else { return };
    let (leave, come_back) =
        (Cluster::freeze_api_server, async |cluster: &mut Cluster| cluster.thaw_api_server());
    outage(cluster.await, leave, come_back).await;
}

/// What a registry does from when the API server of its cluster leaves until it has come back.
async fn outage(
    mut cluster: Cluster,
    leave: impl FnOnce(&mut Cluster),
    come_back: impl AsyncFnOnce(&mut Cluster),
) {
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
    let known_may_pull = async || {
        for token in [&known, &given] {
            let may_pull = timeout(LONGEST_WAIT, asking.may_pull(token)).await;
            assert_eq!(may_pull, Ok(true), "whoever is known goes on");
        }
    };
    let headers = [("authorization", &*format!("Bearer {unknown}"))];
    let path = format!("/v2/{other}/app/tags/list");
    let unknown_is_refused = async || {
        let answer = timeout(LONGEST_WAIT, user.ask(Method::GET, &path, &headers, Bytes::new())).await;
        let refused = answer.expect("it is refused, and not kept waiting");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.header("retry-after").is_some());
    };

    leave(&mut cluster);
    unknown_is_refused().await;
    until(async || {
        known_may_pull().await;
        readiness().await.1.contains("fell silent")
    })
    .await;
    assert_eq!(readiness().await.0, StatusCode::OK, "or nobody could pull");
    assert_eq!(metric(&user, HEARD).await, 0.0);
    known_may_pull().await;
    unknown_is_refused().await;

    // A registry that starts now knows nobody, says so, and needs no other start.
    let replica = registry.replica().await;
    let replica = replica.user("someone");
    let elsewhere = Asking { user: &replica, repository: asking.repository.clone() };
    assert_eq!(replica.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let status = timeout(LONGEST_WAIT, elsewhere.status(&known)).await;
    assert_eq!(status, Ok(StatusCode::SERVICE_UNAVAILABLE));

    come_back(&mut cluster).await;
    until(async || readiness().await.1 == "ready\n").await;
    assert_eq!(metric(&user, HEARD).await, 1.0);
    until(async || of_unknown.may_pull(&unknown).await).await;
    until(async || elsewhere.may_pull(&known).await).await;
    cluster.kubectl(["delete", "rolebinding", "system:image-puller", "-n", &*namespace]).await;
    until(async || asking.status(&given).await == StatusCode::FORBIDDEN).await;
}
