//! Service accounts that log in with their tokens, and push and pull as far as role bindings say so.

use bytes::Bytes;
use hyper::{Method, StatusCode};

use crate::{
    clients::containers::Containers,
    harness::{PaperCluster, TestRegistry, User, paper_cluster::binding},
};

/// Asks with an `Authorization` until the answer has this status: bindings are looked at every few seconds.
async fn until(user: &User, method: Method, path: &str, authorization: &str, status: StatusCode) {
    loop {
        let headers = [("authorization", authorization)];
        if user.ask(method.clone(), path, &headers, Bytes::new()).await.status == status {
            return;
        }
    }
}

/// podman says one or the other, by what it was doing.
fn is_denial(complaint: &str) -> bool {
    complaint.contains("403 (Forbidden)") || complaint.contains("denied")
}

#[tokio::test]
async fn a_service_account_pushes_and_pulls_as_far_as_bindings_say_so() {
    let cluster = PaperCluster::new();
    let registry = TestRegistry::with(cluster.settings()).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let (host, token) = (registry.host(), cluster.token("team", "example-sa"));
    let (image, someone) = (format!("{host}/team/app:1"), registry.user("someone"));
    let tags = "/v2/team/app/tags/list";
    let shown = format!("Bearer {token}");

    let wrong = alice.podman_in_vain(format!("login -u example-sa -p {token}x {host}")).await;
    assert!(wrong.contains("invalid username/password"), "{wrong}");
    alice.podman(format!("login -u example-sa -p {token} {host}")).await;
    alice.build(&image, "for the team", "").await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert!(is_denial(&refused), "{refused}");

    cluster.apply("pull", &binding("team", "example-sa", "system:image-puller"));
    until(&someone, Method::GET, tags, &shown, StatusCode::NOT_FOUND).await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert!(is_denial(&refused), "{refused}");

    cluster.apply("push", &binding("team", "example-sa", "system:image-builder"));
    until(&someone, Method::POST, "/v2/team/app/blobs/uploads/", &shown, StatusCode::ACCEPTED).await;
    alice.podman(format!("push {image}")).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "for the team");

    cluster.delete("push");
    cluster.delete("pull");
    until(&someone, Method::GET, tags, &shown, StatusCode::FORBIDDEN).await;
    alice.podman("rmi --all --force").await;
    let refused = alice.podman_in_vain(format!("pull {image}")).await;
    assert!(is_denial(&refused), "{refused}");
}
