//! A cluster with many bindings, which are read as streams and by pages.

use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use serde_json::json;

use super::asking::Asking;
use crate::harness::{
    Cluster, TestRegistry,
    cluster::{ISSUER, Lists},
    until,
};

#[tokio::test]
async fn ten_thousand_bindings_are_read_whole_and_followed() {
    const BINDINGS: usize = 10_000;
    let Some(cluster) = Cluster::start() else { return };
    let mut cluster = cluster.await;
    let settings = cluster.settings().await;
    let namespace = cluster.namespace("many").await;
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    let admin = cluster.admin();
    let bind = async |number: usize, subject: &str| {
        let binding = json!({
            "metadata": { "name": format!("binding-{number}") },
            "subjects": [{ "kind": "ServiceAccount", "name": subject, "namespace": namespace }],
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:image-puller" },
        });
        admin.post(&path, &binding).await;
    };
    // Wherever a page of them ends, some account is bound on either side of it alone.
    let others: Vec<String> = (0..BINDINGS).map(|number| format!("other-{}", number / 100)).collect();
    let binding = others.iter().enumerate().map(|(number, other)| bind(number, other));
    stream::iter(binding).buffer_unordered(32).collect::<()>().await;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let token_of = async |account: String| {
        admin.post(&accounts, &json!({ "metadata": { "name": account } })).await;
        cluster.token(&namespace, &account, ISSUER).await
    };
    let tokens = (0..BINDINGS / 100).map(|number| token_of(format!("other-{number}")));
    let tokens: Vec<String> = stream::iter(tokens).buffer_unordered(16).collect().await;
    let token = token_of("robot".to_owned()).await;

    for lists in [Lists::Streamed, Lists::Paged] {
        if let Lists::Paged = lists {
            cluster.kill_api_server();
            cluster.start_api_server_with(lists).await;
        }
        let before = cluster.reads_of_registries().len();
        let registry = TestRegistry::with(settings.clone()).await;
        let user = registry.user("someone");
        let asking = Asking { user: &user, repository: format!("{namespace}/app") };
        let pulls = tokens.iter().map(async |token| until(async || asking.may_pull(token).await).await);
        stream::iter(pulls).buffer_unordered(16).collect::<()>().await;
        until(async || asking.status(&token).await == StatusCode::FORBIDDEN).await;
        bind(BINDINGS, "robot").await;
        until(async || asking.may_pull(&token).await).await;
        admin.delete(&format!("{path}/binding-{BINDINGS}")).await;
        until(async || asking.status(&token).await == StatusCode::FORBIDDEN).await;

        let reads = cluster.reads_of_registries().split_off(before);
        for kind in ["clusterroles", "roles", "clusterrolebindings", "rolebindings", "serviceaccounts"] {
            let of_kind = |read: &&String| read.contains(&format!("/{kind}?"));
            let count = |part| reads.iter().filter(of_kind).filter(|read| read.contains(part)).count();
            let (streams, pages) = (count("sendInitialEvents=true"), count("limit=500"));
            let least = if kind == "rolebindings" { BINDINGS / 500 } else { 1 };
            let is_right = match lists {
                Lists::Streamed => streams > 0 && pages == 0,
                Lists::Paged => streams == 0 && pages >= least,
            };
            assert!(is_right, "{kind}, {lists:?}: {reads:?}");
        }
    }
}
