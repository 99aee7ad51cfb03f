//! A cluster with many bindings.

use futures_util::{StreamExt, stream};
use serde_json::json;

use super::permission::Asking;
use crate::harness::{
    Cluster, TestRegistry,
    cluster::{ISSUER, account},
    until,
};

#[tokio::test]
async fn ten_thousand_bindings_are_read_whole_and_followed() {
    const BINDINGS: usize = 10_000;
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.await;
    let settings = cluster.settings().await;
    let namespace = cluster.namespace("many").await;
    cluster.apply(&account(&namespace, "robot")).await;
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
    let accounts: Vec<String> =
        (0..BINDINGS / 100).map(|number| account(&namespace, &format!("other-{number}"))).collect();
    cluster.apply(&accounts.join("\n---\n")).await;

    let registry = TestRegistry::with(settings).await;
    let user = registry.user("someone");
    let asking = Asking { user: &user, repository: format!("{namespace}/app") };
    for number in 0..BINDINGS / 100 {
        let token = cluster.token(&namespace, &format!("other-{number}"), ISSUER).await;
        until(async || asking.may_pull(&token).await).await;
    }
    let token = cluster.token(&namespace, "robot", ISSUER).await;
    until(async || asking.status(&token).await == hyper::StatusCode::FORBIDDEN).await;
    bind(BINDINGS, "robot").await;
    until(async || asking.may_pull(&token).await).await;
    admin.delete(&format!("{path}/binding-{BINDINGS}")).await;
    until(async || asking.status(&token).await == hyper::StatusCode::FORBIDDEN).await;
}
