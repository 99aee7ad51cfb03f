//! `permission: accessreviews`: a registry that asks the API server about each act, and remembers its answers for ten seconds.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::asking::{Asking, QUESTIONS, an_image, measured, metric};
use crate::harness::{
    Cluster, TestRegistry,
    cluster::{ISSUER, account},
    paper_cluster::{binding, binding_of},
    registry::overlay,
    until,
    user::Answer,
};

/// What takes a right of its own.
#[derive(Clone, Copy, Debug)]
enum Act {
    Pull,
    Push,
    DeleteTag,
    DeleteManifest,
}

/// Each act, and how whoever may is answered. What they delete is not there, so that it can be tried again and again.
const ACTS: [(Act, StatusCode); 4] = [
    (Act::Pull, StatusCode::OK),
    (Act::Push, StatusCode::CREATED),
    (Act::DeleteTag, StatusCode::NOT_FOUND),
    (Act::DeleteManifest, StatusCode::NOT_FOUND),
];

/// The settings of such a registry. About tokens that it knows it asks nothing more.
async fn settings(cluster: &Cluster) -> Value {
    let mut settings = measured(cluster.settings().await);
    let kubernetes = json!({ "permission": "accessreviews", "revocation": "1h" });
    overlay(&mut settings, &json!({ "auth": { "kubernetes": kubernetes } }));
    settings
}

#[tokio::test]
async fn each_may_do_what_their_role_has_as_long_as_they_have_it() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let namespace = cluster.namespace("acts").await;
    let open = TestRegistry::start().await;
    let repository = format!("{namespace}/app");
    let (image, old, absent) = (an_image(), an_image(), an_image());
    for (tag, image) in [("v1", &image), ("old", &old)] {
        open.user("owner").push(&repository, tag, image).await;
    }
    let registry = open.replica_with(settings(cluster).await).await;
    let user = registry.user("someone");
    let asking = Asking { user: &user, repository };
    let try_to = async |act: Act, token: &str| match act {
        Act::Pull => asking.pull(token, "v1", &image).await,
        Act::Push => asking.push(token, "new", &image).await,
        Act::DeleteTag => asking.ask(token, Method::DELETE, "manifests/none", Bytes::new()).await.status,
        Act::DeleteManifest => {
            let what = format!("manifests/{}", absent.digest());
            asking.ask(token, Method::DELETE, &what, Bytes::new()).await.status
        }
    };

    let names = ["stranger", "puller", "pusher", "editor"];
    cluster.apply(&names.map(|name| account(&namespace, name)).join("\n---\n")).await;
    let token = async |name| cluster.token(&namespace, name, ISSUER).await;
    let (stranger, puller) = (token("stranger").await, token("puller").await);
    let (pusher, editor) = (token("pusher").await, token("editor").await);
    for token in [&stranger, &puller, &pusher, &editor] {
        until(async || try_to(Act::Pull, token).await == StatusCode::FORBIDDEN).await;
        for (act, _) in ACTS {
            assert_eq!(try_to(act, token).await, StatusCode::FORBIDDEN, "{act:?}");
        }
    }

    let roles =
        [("puller", "system:image-puller"), ("pusher", "system:image-pusher"), ("editor", "registry-editor")];
    cluster.apply(&roles.map(|(name, role)| binding(&namespace, name, role)).join("\n---\n")).await;
    // Each may do so many of the acts.
    let rights = [(&puller, 1), (&pusher, 2), (&editor, 4), (&stranger, 0)];
    for (token, count) in rights {
        for (act, allowed) in &ACTS[..count] {
            until(async || try_to(*act, token).await == *allowed).await;
        }
        for (act, _) in &ACTS[count..] {
            assert_eq!(try_to(*act, token).await, StatusCode::FORBIDDEN, "{act:?}");
        }
    }

    // What was pushed is there for others, and what is deleted is gone: first the tag, then the manifest that had it.
    assert_eq!(asking.pull(&puller, "new", &image).await, StatusCode::OK);
    let delete = async |what: &str| {
        let answer = asking.ask(&editor, Method::DELETE, what, Bytes::new()).await;
        answer.expect(StatusCode::ACCEPTED);
    };
    delete("manifests/old").await;
    let tags = asking.ask(&puller, Method::GET, "tags/list", Bytes::new()).await.json()["tags"].take();
    assert_eq!(tags, json!(["new", "v1"]));
    let digest = old.digest().to_string();
    assert_eq!(asking.pull(&puller, &digest, &old).await, StatusCode::OK);
    delete(&format!("manifests/{digest}")).await;
    assert_eq!(asking.pull(&puller, &digest, &old).await, StatusCode::NOT_FOUND);

    cluster.kubectl(["delete", "rolebinding", "--all", "-n", &*namespace]).await;
    for (token, count) in rights {
        for (act, _) in &ACTS[..count] {
            until(async || try_to(*act, token).await == StatusCode::FORBIDDEN).await;
        }
    }
}

#[tokio::test]
async fn what_somebody_may_not_read_is_neither_mounted_nor_listed() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let (namespace, secret) = (cluster.namespace("open").await, cluster.namespace("secret").await);
    let [app, base] = [&namespace, &secret].map(|namespace| format!("{namespace}/app"));
    let registry = TestRegistry::start().await;
    let (image, hidden) = (an_image(), an_image());
    for (repository, image) in [(&app, &image), (&base, &hidden)] {
        registry.user("owner").push(repository, "v1", image).await;
    }
    let registry = registry.replica_with(settings(cluster).await).await;
    let user = registry.user("someone");
    let [app, base] = [app, base].map(|repository| Asking { user: &user, repository });
    let builder = binding(&namespace, "robot", "system:image-builder");
    cluster.apply(&[account(&namespace, "robot"), builder].join("\n---\n")).await;
    let robot = cluster.token(&namespace, "robot", ISSUER).await;
    until(async || app.pull(&robot, "v1", &image).await == StatusCode::OK).await;

    let layer = hidden.layers[0].digest();
    let mount = async |from: &str| {
        let what = format!("blobs/uploads/?mount={layer}&from={from}");
        app.ask(&robot, Method::POST, &what, Bytes::new()).await.status
    };
    let pull_mounted = async || {
        let answer = app.ask(&robot, Method::GET, &format!("blobs/{layer}"), Bytes::new()).await;
        answer.status
    };
    let listed = async || {
        let headers = [("authorization", &*format!("Bearer {robot}"))];
        let answer = user.ask(Method::GET, "/v2/_catalog", &headers, Bytes::new()).await;
        answer.expect(StatusCode::OK).json()["repositories"].take()
    };
    // Whether it is there is not told: an upload begins.
    for from in [&base.repository, &format!("{secret}/none")] {
        assert_eq!(mount(from).await, StatusCode::ACCEPTED);
        assert_eq!(pull_mounted().await, StatusCode::NOT_FOUND);
    }
    assert_eq!(listed().await, json!([app.repository]));

    let user_name = format!("system:serviceaccount:{namespace}:robot");
    cluster.apply(&binding_of("User", &secret, &user_name, "system:image-puller")).await;
    until(async || base.pull(&robot, "v1", &hidden).await == StatusCode::OK).await;
    assert_eq!(mount(&base.repository).await, StatusCode::CREATED);
    assert_eq!(pull_mounted().await, StatusCode::OK);
    assert_eq!(listed().await, json!([app.repository, base.repository]));
}

#[tokio::test]
async fn while_the_api_server_is_away_nothing_counts_but_what_it_was_asked_before() {
    let Some(cluster) = Cluster::start() else { return };
    let mut cluster = cluster.await;
    let namespace = cluster.namespace("away").await;
    let [app, other] = ["app", "other"].map(|name| format!("{namespace}/{name}"));
    let open = TestRegistry::start().await;
    let image = an_image();
    for repository in [&app, &other] {
        open.user("owner").push(repository, "v1", &image).await;
    }
    let registry = open.replica_with(settings(&cluster).await).await;
    let user = registry.user("someone");
    let [app, other] = [app, other].map(|repository| Asking { user: &user, repository });
    let editor = binding(&namespace, "robot", "registry-editor");
    let objects = [account(&namespace, "robot"), account(&namespace, "stranger"), editor];
    cluster.apply(&objects.join("\n---\n")).await;
    let robot = cluster.token(&namespace, "robot", ISSUER).await;
    let stranger = cluster.token(&namespace, "stranger", ISSUER).await;
    until(async || app.pull(&robot, "v1", &image).await == StatusCode::OK).await;
    until(async || app.pull(&stranger, "v1", &image).await == StatusCode::FORBIDDEN).await;

    cluster.kill_api_server();
    let as_before = async || {
        assert_eq!(app.pull(&robot, "v1", &image).await, StatusCode::OK);
        assert_eq!(app.pull(&stranger, "v1", &image).await, StatusCode::FORBIDDEN);
    };
    // The robot might do all of this, and nobody has asked.
    let layer = format!("blobs/{}", image.layers[0].digest());
    let by_digest = format!("manifests/{}", image.digest());
    let the_rest_is_unknown = async || {
        for (asking, method, what) in [
            (&other, Method::GET, "manifests/v1"),
            (&other, Method::GET, &*layer),
            (&other, Method::GET, "tags/list"),
            (&app, Method::POST, "blobs/uploads/"),
            (&app, Method::PUT, "manifests/new"),
            (&app, Method::DELETE, "manifests/v1"),
            (&app, Method::DELETE, &*by_digest),
            (&app, Method::DELETE, &*layer),
        ] {
            let body = if method == Method::PUT { image.manifest.clone() } else { Bytes::new() };
            assert_unknown(asking.ask(&robot, method, what, body).await);
        }
        let headers = [("authorization", &*format!("Bearer {robot}"))];
        assert_unknown(user.ask(Method::GET, "/v2/_catalog", &headers, Bytes::new()).await);
        // Nor is it known what anybody may who shows nothing.
        assert_unknown(user.get(&format!("/v2/{}/manifests/v1", app.repository)).await);
    };
    as_before().await;
    the_rest_is_unknown().await;
    // Answers go on to count when they are so old that it is asked again, and there is nobody who answers.
    let asked = metric(&user, QUESTIONS).await;
    until(async || {
        as_before().await;
        metric(&user, QUESTIONS).await > asked
    })
    .await;
    as_before().await;
    the_rest_is_unknown().await;

    cluster.start_api_server().await;
    until(async || other.pull(&robot, "v1", &image).await == StatusCode::OK).await;
    let tags = app.ask(&robot, Method::GET, "tags/list", Bytes::new()).await.json()["tags"].take();
    assert_eq!(tags, json!(["v1"]), "nothing was pushed or deleted");
    assert_eq!(app.pull(&robot, "v1", &image).await, StatusCode::OK);
    until(async || app.push(&robot, "new", &image).await == StatusCode::CREATED).await;
    cluster.kubectl(["delete", "rolebinding", "--all", "-n", &*namespace]).await;
    for asking in [&app, &other] {
        until(async || asking.pull(&robot, "v1", &image).await == StatusCode::FORBIDDEN).await;
    }
}

/// A registry that does not know whether somebody may does nothing, and says when to ask again.
#[track_caller]
fn assert_unknown(answer: Answer) {
    let answer = answer.expect(StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
}
