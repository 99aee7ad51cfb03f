//! Whom a registry knows by asking a cluster.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::asking::{Asking, QUESTIONS, measured, metric, robots, with};
use crate::harness::{
    Cluster, TestRegistry,
    cluster::{ISSUER, account, user_token},
    paper_cluster::{binding, binding_of},
    registry::overlay,
    secrets, tool, until,
    wharf::{self, Printed},
};

#[tokio::test]
async fn in_a_pod_it_finds_its_cluster_by_what_every_pod_has() {
    let Some(cluster) = Cluster::shared() else { return };
    if !tool::root() {
        return;
    }
    let cluster = cluster.await;
    let registry = TestRegistry::foreign(&cluster.wharf_in_a_pod().await).await.searched_for_secrets();
    let namespace = cluster.namespace("pod").await;
    cluster.apply(&account(&namespace, "robot")).await;
    let token = cluster.token(&namespace, "robot", ISSUER).await;
    let user = registry.user("someone");
    let asking = Asking { user: &user, repository: format!("{namespace}/app") };
    until(async || asking.status(&token).await == StatusCode::FORBIDDEN).await;
    cluster.apply(&binding(&namespace, "robot", "system:image-puller")).await;
    until(async || asking.may_pull(&token).await).await;
}

#[tokio::test]
async fn people_are_known_by_the_api_server_alone() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    for permission in ["bindings", "accessreviews"] {
        let registry = with(cluster, json!({ "permission": permission })).await;
        let user = registry.user("someone");
        let namespace = cluster.namespace("people").await;
        let asking = Asking { user: &user, repository: format!("{namespace}/app") };
        for person in ["alice", "bob"] {
            until(async || asking.status(&user_token(person)).await == StatusCode::FORBIDDEN).await;
        }
        cluster.apply(&binding_of("Group", &namespace, "developers", "registry-viewer")).await;
        until(async || asking.may_pull(&user_token("alice")).await).await;
        assert_eq!(asking.status(&user_token("bob")).await, StatusCode::FORBIDDEN);
        assert_eq!(asking.status("nobody-shows-this-token").await, StatusCode::UNAUTHORIZED);
        // The group is in the registry's own token, which is all that is shown from then on.
        let given = asking.registry_token(&user_token("alice")).await;
        assert!(asking.may_pull(&given).await);
    }
}

#[tokio::test]
async fn a_token_is_for_the_registry_if_it_names_one_of_its_audiences() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let strict = with(cluster, json!({ "audiences": ["image-registry"] })).await;
    let both = with(cluster, json!({ "audiences": ["image-registry"], "apiaudiences": [ISSUER] })).await;
    let plain = with(cluster, json!({})).await;
    let users = [strict.user("a"), both.user("b"), plain.user("c")];
    let (namespace, strict) = robots(cluster, &users[0], "audience").await;
    let [both, plain] =
        [&users[1], &users[2]].map(|user| Asking { user, repository: strict.repository.clone() });
    let of = async |audience| cluster.token(&namespace, "robot", audience).await;
    let (ours, api, other) = (of("image-registry").await, of(ISSUER).await, of("elsewhere").await);
    for (asking, good, bad) in [
        (&strict, vec![&ours], vec![&api]),
        (&both, vec![&ours, &api], vec![]),
        (&plain, vec![&api], vec![&ours]),
    ] {
        for token in good {
            until(async || asking.may_pull(token).await).await;
        }
        for token in bad.into_iter().chain([&other]) {
            assert_eq!(asking.status(token).await, StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn what_can_i_advises_is_what_the_cluster_takes() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let namespace = cluster.namespace("advice").await;
    let account = format!("system:serviceaccount:{namespace}:robot");
    let push = format!("push {namespace}/app --as {account}");
    let ask = async |permission| can_i(cluster, &push, json!({ "permission": permission })).await;
    let mut advised = Vec::new();
    for permission in ["accessreviews", "bindings"] {
        let no = ask(permission).await;
        assert_eq!(no.code, Some(1), "{}{}", no.output, no.complaint);
        assert!(no.output.contains("cannot update resource \"imagestreams/layers\""), "{}", no.output);
        advised.push(advice(&no).to_owned());
    }
    assert_eq!(advised[0], advised[1]);
    cluster.kubectl(advised[0].split(' ')).await;
    for permission in ["bindings", "accessreviews"] {
        until(async || ask(permission).await.code == Some(0)).await;
        let yes = ask(permission).await.output;
        assert!(yes.contains("RoleBinding"), "{yes}");
    }
}

#[tokio::test]
async fn can_i_knows_a_token_as_the_cluster_does() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let namespace = cluster.namespace("shown").await;
    cluster.apply(&account(&namespace, "robot")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let pull = format!("pull {namespace}/app --token-file {}", file.display());
    let ask = async |token: &str| {
        std::fs::write(&file, token).unwrap();
        can_i(cluster, &pull, json!({ "audiences": ["image-registry"] })).await
    };
    let token = cluster.token(&namespace, "robot", "image-registry").await;
    let robot = format!("system:serviceaccount:{namespace}:robot");

    let no = ask(&token).await;
    assert_eq!((no.code, &*no.complaint), (Some(1), ""), "{}", no.output);
    assert!(
        no.output.starts_with(&format!("no: {robot} may not pull from {namespace}/app\n")),
        "{}",
        no.output
    );
    assert!(no.output.contains("They cannot get resource \"imagestreams/layers\""), "{}", no.output);
    cluster.kubectl(advice(&no).split(' ')).await;
    let yes = ask(&token).await;
    assert_eq!((yes.code, &*yes.complaint), (Some(0), ""), "{}", yes.output);
    let by =
        format!("RoleBinding {namespace}/image-puller-robot gives the user ClusterRole system:image-puller");
    assert!(yes.output.contains(&by), "{}", yes.output);

    // Somebody whom the API server alone knows; a token for others; one of nobody.
    let alice = ask(&user_token("alice")).await;
    assert!(alice.output.starts_with("no: alice may not pull"), "{}{}", alice.output, alice.complaint);
    assert!(alice.output.contains("their groups: developers, system:authenticated\n"), "{}", alice.output);
    let elsewhere = cluster.token(&namespace, "robot", "elsewhere").await;
    for (token, why) in [
        (&*elsewhere, "none of its audiences is accepted here"),
        ("nobody-shows-this-token", "the API server does not know the token"),
    ] {
        let refused = ask(token).await;
        assert_eq!((refused.code, &*refused.output), (Some(2), ""), "{why}");
        assert!(refused.complaint.contains(why), "{}", refused.complaint);
    }
}

/// What `wharf auth can-i` says beside a registry with these settings of `auth.kubernetes`.
async fn can_i(cluster: &Cluster, question: &str, more: Value) -> Printed {
    let mut settings = cluster.settings().await;
    overlay(&mut settings, &json!({ "version": 0.1, "auth": { "kubernetes": more } }));
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    std::fs::write(&file, settings.to_string()).unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let words = ["auth", "can-i"].into_iter().chain(question.split(' ')).chain(config);
    let printed = wharf::run(&words.collect::<Vec<_>>(), &[]);
    secrets::assert_none_in(printed.output.lines());
    printed
}

/// What it advises to run, without the program.
fn advice(no: &Printed) -> &str {
    let advice = no.output.lines().find_map(|line| line.trim().strip_prefix("kubectl "));
    advice.unwrap_or_else(|| panic!("{}", no.output))
}

#[tokio::test]
async fn a_thousand_nodes_cost_the_api_server_nothing_once_one_has_pulled() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let mut settings = measured(cluster.settings().await);
    overlay(&mut settings, &json!({ "http": { "trustedproxies": ["127.0.0.0/8"] } }));
    let registry = TestRegistry::with(settings).await;
    let user = registry.user("node");
    let (namespace, asking) = robots(cluster, &user, "storm").await;
    let tokens = async |count| {
        let made = stream::iter(0..count).map(|_| cluster.token(&namespace, "robot", ISSUER));
        made.buffer_unordered(16).collect::<Vec<_>>().await
    };
    // Each node is another client, by what a proxy says.
    let pull = async |number: usize, token: &str| {
        let address = format!("10.1.{}.{}", number / 250, number % 250);
        let headers = [("authorization", &*format!("Bearer {token}")), ("x-forwarded-for", &*address)];
        let path = format!("/v2/{}/tags/list", asking.repository);
        let answer = user.ask(Method::GET, &path, &headers, Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "node {number} may pull");
    };
    let storm = async |tokens: &[String]| {
        let pulls = (0..1000).map(|number| pull(number, &tokens[number % tokens.len()]));
        stream::iter(pulls).buffer_unordered(200).collect::<()>().await;
    };
    until(async || asking.may_pull(&cluster.token(&namespace, "robot", ISSUER).await).await).await;

    // All with one token, as an image pull secret is: it is asked about once, while all of them wait.
    let before = metric(&user, QUESTIONS).await;
    let shared = tokens(1).await;
    storm(&shared).await;
    assert_eq!(metric(&user, QUESTIONS).await, before + 1.0);
    storm(&shared).await;
    assert_eq!(metric(&user, QUESTIONS).await, before + 1.0);

    // Each pod with one of its own: once each.
    let own = tokens(100).await;
    storm(&own).await;
    assert_eq!(metric(&user, QUESTIONS).await, before + 101.0);
    storm(&own).await;
    assert_eq!(metric(&user, QUESTIONS).await, before + 101.0);
}
