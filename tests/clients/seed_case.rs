//! What Wharf is for: a service account pushes and pulls as far as the role bindings of its cluster say so.

use bytes::Bytes;
use hyper::{Method, StatusCode};

use crate::{
    clients::containers::Containers,
    harness::{Cluster, TestRegistry, cluster::account, secrets, soon, until},
};

#[tokio::test]
async fn a_service_account_pushes_and_pulls_as_far_as_role_bindings_say_so() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let registry = TestRegistry::with(cluster.settings().await).await;
    let Some(alice) = Containers::near(&registry) else { return };
    let (host, someone) = (registry.host(), registry.user("someone"));
    let namespace = cluster.namespace("seed").await;
    cluster.apply(&account(&namespace, "example-sa")).await;
    let token = cluster.kubectl(["create", "token", "example-sa", "-n", &*namespace]).await;
    secrets::keep(token.trim());
    let shown = format!("Bearer {}", token.trim());
    let answers = async |method: Method, path: String, status: StatusCode| {
        let headers = [("authorization", &*shown)];
        someone.ask(method, &path, &headers, Bytes::new()).await.status == status
    };
    let (tags, uploads) =
        (format!("/v2/{namespace}/app/tags/list"), format!("/v2/{namespace}/app/blobs/uploads/"));

    alice.podman(format!("login -u example-sa -p {} {host}", token.trim())).await;
    let image = format!("{host}/{namespace}/app:1");
    alice.build(&image, "for the team", "").await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert!(refused.contains("denied") || refused.contains("403"), "{refused}");

    cluster.apply(&in_the_readme(&namespace)).await;
    until(async || answers(Method::GET, tags.clone(), StatusCode::NOT_FOUND).await).await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert!(refused.contains("denied") || refused.contains("403"), "{refused}");

    let builds =
        in_the_readme(&namespace).replace("image-puller", "image-builder").replace("-pulls", "-builds");
    cluster.apply(&builds).await;
    until(async || answers(Method::POST, uploads.clone(), StatusCode::ACCEPTED).await).await;
    alice.podman(format!("push {image}")).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "for the team");

    for binding in ["example-sa-builds", "example-sa-pulls"] {
        cluster.kubectl(["delete", "rolebinding", binding, "-n", &*namespace]).await;
    }
    soon(async || answers(Method::GET, tags.clone(), StatusCode::FORBIDDEN).await).await;
    alice.podman("rmi --all --force").await;
    let refused = alice.podman_in_vain(format!("pull {image}")).await;
    assert!(refused.contains("denied") || refused.contains("403"), "{refused}");
}

/// The role binding that README.md has `kubectl apply` take, for another namespace than `team`.
fn in_the_readme(namespace: &str) -> String {
    let (_, readme) = include_str!("../../README.md").split_once("kubectl apply -f - <<EOF\n").unwrap();
    let (yaml, _) = readme.split_once("    EOF\n").unwrap();
    let lines = yaml.lines().map(|line| line.strip_prefix("    ").unwrap());
    lines.collect::<Vec<_>>().join("\n").replace("namespace: team", &format!("namespace: {namespace}"))
}
