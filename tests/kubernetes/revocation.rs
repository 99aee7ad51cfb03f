//! For how long it goes on to count what is deleted in the cluster: of accounts not at all, of what tokens are bound to no longer than
//! `revocation` says.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::asking::{Asking, QUESTIONS, measured, metric, robots, with};
use crate::harness::{
    Cluster, TestRegistry,
    cluster::{Api, ISSUER, account},
    paper_cluster::binding,
    registry::overlay,
    soon, until,
};

/// How much later than promised it is looked whether a token has ended: what the last question may take on a busy machine.
const SPARE: Duration = Duration::from_secs(5);

/// How often each token is shown until then.
const STEP: Duration = Duration::from_secs(2);

/// How many tokens of a pod nobody shows before it is gone. With a step between them that is as long as the API server remembers tokens.
const LATE: usize = 5;

#[tokio::test]
async fn what_is_deleted_in_the_cluster_lets_nobody_in_any_more() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    // Nobody is asked again about a token that is known: what ends here does because it was heard.
    let mut settings = measured(cluster.settings().await);
    overlay(&mut settings, &json!({ "auth": { "kubernetes": { "revocation": "1h" } } }));
    let registry = TestRegistry::with(settings).await;
    let user = registry.user("someone");
    let (namespace, asking) = robots(cluster, &user, "gone").await;
    let admin = cluster.admin();
    let are_soon_answered = async |tokens: [&str; 2], status: StatusCode| {
        for token in tokens {
            soon(async || asking.status(token).await == status).await;
        }
    };
    let own = cluster.token(&namespace, "robot", ISSUER).await;
    until(async || asking.may_pull(&own).await).await;
    let given = asking.registry_token(&own).await;
    assert!(given.starts_with("wharf.") && asking.may_pull(&given).await);
    let asked = metric(&user, QUESTIONS).await;

    // A right goes before its owner does, and comes back.
    cluster.kubectl(["delete", "rolebinding", "system:image-puller", "-n", &*namespace]).await;
    are_soon_answered([&own, &given], StatusCode::FORBIDDEN).await;
    cluster.apply(&binding(&namespace, "robot", "system:image-puller")).await;
    are_soon_answered([&own, &given], StatusCode::NOT_FOUND).await;
    admin.delete(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/robot")).await;
    are_soon_answered([&own, &given], StatusCode::UNAUTHORIZED).await;
    assert_eq!(metric(&user, QUESTIONS).await, asked, "nobody was asked");

    // An account that has the name of another is another.
    cluster.apply(&account(&namespace, "robot")).await;
    let new = cluster.token(&namespace, "robot", ISSUER).await;
    until(async || asking.may_pull(&new).await).await;
    for token in [&own, &given] {
        assert_eq!(asking.status(token).await, StatusCode::UNAUTHORIZED);
    }

    // With a namespace goes everything in it, once a controller has come to that.
    let given = asking.registry_token(&new).await;
    assert!(asking.may_pull(&given).await);
    let asked = metric(&user, QUESTIONS).await;
    admin.delete(&format!("/api/v1/namespaces/{namespace}")).await;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    until(async || admin.get(&accounts).await["items"].as_array().is_none_or(Vec::is_empty)).await;
    are_soon_answered([&new, &given], StatusCode::UNAUTHORIZED).await;
    assert_eq!(metric(&user, QUESTIONS).await, asked, "nobody was asked");
}

#[tokio::test]
async fn what_is_bound_to_a_pod_or_secret_ends_with_it_within_the_time_that_is_configured() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    // In the shortest time that there is, each question is asked anew; in the other, answers count for a while.
    let registries = [
        with(cluster, json!({ "revocation": "20s" })).await,
        with(cluster, json!({ "revocation": "30s" })).await,
    ];
    let users = registries.each_ref().map(|registry| registry.user("someone"));
    let (namespace, one) = robots(cluster, &users[0], "bound").await;
    let other = Asking { user: &users[1], repository: one.repository.clone() };
    let inside = format!("/api/v1/namespaces/{namespace}");
    let admin = cluster.admin();

    let pod = json!({ "metadata": { "name": "p" }, "spec": {
        "serviceAccountName": "robot", "nodeName": "none", "containers": [{ "name": "c", "image": "x" }],
    } });
    let pod = admin.post(&format!("{inside}/pods"), &pod).await;
    let of_old = cluster.token_in_a_secret(&namespace, "robot").await;
    let secret = admin.get(&format!("{inside}/secrets/robot")).await;
    let bound = [
        token_bound_to(&admin, &inside, "Pod", &pod).await,
        token_bound_to(&admin, &inside, "Secret", &secret).await,
        of_old,
    ];
    let own = [cluster.token(&namespace, "robot", ISSUER).await];
    let given_by_one = log_in(&one, &bound).await;
    let given_by_other = log_in(&other, &bound).await;
    let given_for_own = log_in(&one, &own).await;
    let mut late = Vec::new();
    for _ in 0..LATE {
        late.push(token_bound_to(&admin, &inside, "Pod", &pod).await);
    }

    // Of all of them the API server has just found that they are good, which it remembers.
    for token in bound.iter().chain(&late) {
        assert!(is_good(&admin, token, &[]).await);
    }
    admin.delete(&format!("{inside}/pods/p?gracePeriodSeconds=0")).await;
    admin.delete(&format!("{inside}/secrets/robot")).await;
    for token in &bound {
        // It was never asked about this audience, so that it has to look.
        until(async || !is_good(&admin, token, &[ISSUER, &Uuid::new_v4().to_string()]).await).await;
    }
    let gone = Instant::now();
    let ends = [(20, &one, given_by_one), (30, &other, given_by_other)].map(|(seconds, asking, given)| {
        assert_ended_after(Duration::from_secs(seconds), gone, asking, &bound, &late, given)
    });
    join_all(ends).await;
    for token in own.iter().chain(&given_for_own) {
        assert!(one.may_pull(token).await, "their account is there");
    }
}

/// Shows a registry what is `bound` to something that has been `gone` since a moment, again and again until `revocation` is over, and
/// once each token that it gives for these meanwhile. Then none of all that may be good, nor what it had `given` before. The API server
/// remembers a token, the registry what it was told, and whom it has found: it takes longest if each does so in its last moment. So each of
/// `late` is first shown a step after the one before, and with each step come tokens of the registry that it has not been shown either.
async fn assert_ended_after(
    revocation: Duration,
    gone: Instant,
    asking: &Asking<'_>,
    bound: &[String],
    late: &[String],
    mut given: Vec<String>,
) {
    let (mut bound, mut late) = (bound.to_vec(), late.iter().cloned());
    let mut moment = gone;
    while moment < gone + revocation {
        sleep_until(moment).await;
        bound.extend(late.next());
        let before = given.len();
        for token in &bound {
            asking.status(token).await; // It may be good or not.
            given.extend(asking.registry_token_if_good(token).await);
        }
        for token in &given[before..] {
            asking.status(token).await;
        }
        moment += STEP;
    }
    sleep_until(gone + revocation + SPARE).await;
    for token in bound.iter().chain(&given) {
        assert_eq!(asking.status(token).await, StatusCode::UNAUTHORIZED, "{revocation:?} are over");
    }
}

/// What a registry gives for each of these, which are good.
async fn log_in(asking: &Asking<'_>, tokens: &[String]) -> Vec<String> {
    let mut given = Vec::new();
    for token in tokens {
        until(async || asking.may_pull(token).await).await;
        let new = asking.registry_token(token).await;
        assert!(new.starts_with("wharf.") && asking.may_pull(&new).await);
        given.push(new);
    }
    given
}

/// Whether the API server takes a token for one of these audiences, or, without any, for itself.
async fn is_good(admin: &Api, token: &str, audiences: &[&str]) -> bool {
    let review = json!({ "spec": { "token": token, "audiences": audiences } });
    let review = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    review["status"]["authenticated"] == true
}

/// A token of the robot `inside` a namespace that ends with an object of this kind.
async fn token_bound_to(admin: &Api, inside: &str, kind: &str, object: &Value) -> String {
    let (name, uid) = (&object["metadata"]["name"], &object["metadata"]["uid"]);
    let wanted = json!({ "spec": { "audiences": [ISSUER], "expirationSeconds": 3600, "boundObjectRef": {
        "apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
    } } });
    let made = admin.post(&format!("{inside}/serviceaccounts/robot/token"), &wanted).await;
    made["status"]["token"].as_str().unwrap().to_owned()
}
