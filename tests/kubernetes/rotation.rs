//! The key that signs the tokens of accounts is replaced, as clusters do from time to time.

use super::asking::{QUESTIONS, measured, metric, robots};
use crate::harness::{Cluster, TestRegistry, cluster::ISSUER, until};

#[tokio::test]
async fn a_new_key_is_known_at_once_and_the_old_one_still() {
    let Some(cluster) = Cluster::start() else { return };
    let mut cluster = cluster.await;
    let registry = TestRegistry::with(measured(cluster.settings().await)).await;
    let user = registry.user("someone");
    let (namespace, asking) = robots(&cluster, &user, "keys").await;
    let old = cluster.token(&namespace, "robot", ISSUER).await;
    until(async || asking.may_pull(&old).await).await;

    cluster.rotate_keys().await;
    let new = cluster.token(&namespace, "robot", ISSUER).await;
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(header(&old), header(&new), "they name other keys");
    until(async || asking.may_pull(&new).await).await;
    assert!(asking.may_pull(&old).await);

    // By the keys that it published: what they did not sign is refused without asking.
    let asked = metric(&user, QUESTIONS).await;
    for token in [&old, &new] {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
        assert_eq!(asking.status(&forged).await, hyper::StatusCode::UNAUTHORIZED);
    }
    assert_eq!(metric(&user, QUESTIONS).await, asked);
}
