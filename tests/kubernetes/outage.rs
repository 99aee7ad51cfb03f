//! An API server that is away, and comes back.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::asking::{Asking, an_image, measured, metric, robots};
use crate::harness::{Cluster, TestRegistry, cluster::ISSUER, paper_cluster::binding, until};

/// Whether the API server is heard of.
const HEARD: &str = "wharf_cluster_heard";

/// How long a request may wait for an API server that does not answer: five seconds, and more on a busy machine.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn whoever_is_known_goes_on_while_the_api_server_is_away() {
    let Some(cluster) = Cluster::start() else { return };
    let (leave, come_back) = (Cluster::kill_api_server, Cluster::start_api_server);
    outage(cluster.await, leave, come_back).await;
}

#[tokio::test]
async fn whoever_is_known_goes_on_while_the_api_server_is_frozen() {
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
    let open = TestRegistry::start().await;
    let registry = open.replica_with(measured(cluster.settings().await)).await;
    let user = registry.user("someone");
    let (namespace, asking) = robots(&cluster, &user, "known").await;
    let (other, of_unknown) = robots(&cluster, &user, "unknown").await;
    cluster.apply(&binding(&namespace, "robot", "system:image-pusher")).await;
    let image = an_image();
    for repository in [&asking.repository, &of_unknown.repository] {
        open.user("owner").push(repository, "v1", &image).await;
    }
    let known = cluster.token(&namespace, "robot", ISSUER).await;
    let unknown = cluster.token(&other, "robot", ISSUER).await;
    until(async || asking.push(&known, "v1", &image).await == StatusCode::CREATED).await;
    let readiness = async || {
        let ready = user.get("/readyz").await;
        (ready.status, String::from_utf8(ready.body.to_vec()).unwrap())
    };
    until(async || readiness().await == (StatusCode::OK, "ready\n".to_owned())).await;
    let given = asking.registry_token(&known).await;
    let known_may_pull = async || {
        for token in [&known, &given] {
            let pulled = timeout(LONGEST_WAIT, asking.pull(token, "v1", &image)).await;
            assert_eq!(pulled, Ok(StatusCode::OK), "whoever is known goes on");
        }
    };
    let known_may_push = async |tag: &str| {
        let another = an_image();
        for token in [&known, &given] {
            let pushed = timeout(LONGEST_WAIT, asking.push(token, tag, &another)).await;
            assert_eq!(pushed, Ok(StatusCode::CREATED), "whoever is known goes on");
        }
        assert_eq!(asking.pull(&known, tag, &another).await, StatusCode::OK);
    };
    let blob = format!("blobs/{}", image.layers[0].digest());
    let unknown_is_refused = async || {
        for what in ["manifests/v1", &*blob] {
            let asked = of_unknown.ask(&unknown, Method::GET, what, Bytes::new());
            let answer = timeout(LONGEST_WAIT, asked).await.expect("it is refused, and not kept waiting");
            let refused = answer.expect(StatusCode::SERVICE_UNAVAILABLE);
            assert!(refused.header("retry-after").is_some());
        }
    };

    leave(&mut cluster);
    unknown_is_refused().await;
    known_may_push("before-it-is-missed").await;
    until(async || {
        known_may_pull().await;
        readiness().await.1.contains("fell silent")
    })
    .await;
    assert_eq!(readiness().await.0, StatusCode::OK, "or nobody could pull");
    assert_eq!(metric(&user, HEARD).await, 0.0);
    known_may_pull().await;
    known_may_push("while-it-is-silent").await;
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
    until(async || of_unknown.pull(&unknown, "v1", &image).await == StatusCode::OK).await;
    until(async || elsewhere.pull(&known, "v1", &image).await == StatusCode::OK).await;
    cluster.kubectl(["delete", "rolebinding", "--all", "-n", &*namespace]).await;
    until(async || asking.pull(&given, "v1", &image).await == StatusCode::FORBIDDEN).await;
}
