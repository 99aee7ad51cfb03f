//! Registries that ask a cluster, and whoever asks them.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};

use crate::harness::{
    Cluster, Image, Layer, TestRegistry, User, cluster::account, paper_cluster::binding, registry::overlay,
    user::Answer,
};

/// Somebody who asks about a repository, which need not exist.
pub(crate) struct Asking<'a> {
    pub(crate) user: &'a User,
    pub(crate) repository: String,
}

impl Asking<'_> {
    /// What they are answered who show this token and ask for `what` in the repository.
    pub(crate) async fn ask(&self, token: &str, method: Method, what: &str, body: Bytes) -> Answer {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let path = format!("/v2/{}/{what}", self.repository);
        self.user.ask(method, &path, &headers, body).await
    }

    /// What they are answered who list its tags.
    pub(crate) async fn status(&self, token: &str) -> StatusCode {
        self.ask(token, Method::GET, "tags/list", Bytes::new()).await.status
    }

    /// Whether they may pull from a repository that does not exist: they are told so.
    pub(crate) async fn may_pull(&self, token: &str) -> bool {
        self.status(token).await == StatusCode::NOT_FOUND
    }

    /// What they are answered who pull all of an image, each byte of which is to be right: 200, or what the first answer is that is not.
    pub(crate) async fn pull(&self, token: &str, tag: &str, image: &Image) -> StatusCode {
        let manifest = (format!("manifests/{tag}"), image.manifest.clone());
        let blobs = blobs(image).map(|(digest, blob)| (format!("blobs/{digest}"), blob));
        for (what, content) in [manifest].into_iter().chain(blobs) {
            let answer = self.ask(token, Method::GET, &what, Bytes::new()).await;
            if answer.status != StatusCode::OK {
                return answer.status;
            }
            assert_eq!(answer.body, content, "{what}");
        }
        StatusCode::OK
    }

    /// What they are answered who push an image: 201, or what the first answer is that is not.
    pub(crate) async fn push(&self, token: &str, tag: &str, image: &Image) -> StatusCode {
        for (digest, blob) in blobs(image) {
            let what = format!("blobs/uploads/?digest={digest}");
            let status = self.ask(token, Method::POST, &what, blob).await.status;
            if status != StatusCode::CREATED {
                return status;
            }
        }
        let what = format!("manifests/{tag}");
        self.ask(token, Method::PUT, &what, image.manifest.clone()).await.status
    }

    /// The token that the registry gives for a token, which is good.
    pub(crate) async fn registry_token(&self, token: &str) -> String {
        self.registry_token_if_good(token).await.expect("the token is good")
    }

    /// The token that the registry gives for a token, if it takes that one.
    pub(crate) async fn registry_token_if_good(&self, token: &str) -> Option<String> {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let answer = self.user.ask(Method::GET, "/token", &headers, Bytes::new()).await;
        if answer.status == StatusCode::UNAUTHORIZED {
            return None;
        }
        Some(answer.expect(StatusCode::OK).json()["token"].as_str().unwrap().to_owned())
    }
}

/// What a manifest refers to.
fn blobs(image: &Image) -> impl Iterator<Item = (Digest, Bytes)> {
    let blobs = image.layers.iter().map(Layer::bytes).chain([image.config.clone()]);
    blobs.map(|blob| (Digest::of(Algorithm::Sha256, &blob), blob))
}

/// A small image that nobody has pushed before.
pub(crate) fn an_image() -> Image {
    Image::of(vec![Layer::random(100)])
}

/// The sum of a metric's rows.
pub(crate) async fn metric(user: &User, name: &str) -> f64 {
    let text = user.metrics().await;
    let rows = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let rows: Vec<f64> = rows.map(|(_, value)| value.parse().unwrap()).collect();
    assert!(!rows.is_empty(), "there is no {name}");
    rows.into_iter().sum()
}

/// How often the API server was asked.
pub(crate) const QUESTIONS: &str = "wharf_cluster_questions_total";

/// Settings with which a registry shows its metrics.
pub(crate) fn measured(mut settings: Value) -> Value {
    overlay(&mut settings, &json!({ "http": { "debug": { "prometheus": { "enabled": true } } } }));
    settings
}

/// A registry that asks a cluster, with these settings of `auth.kubernetes`.
pub(crate) async fn with(cluster: &Cluster, more: Value) -> TestRegistry {
    let mut settings = cluster.settings().await;
    overlay(&mut settings, &json!({ "auth": { "kubernetes": more } }));
    TestRegistry::with(settings).await
}

/// A namespace in which the account `robot` may pull, and whoever asks there.
pub(crate) async fn robots<'a>(cluster: &Cluster, user: &'a User, prefix: &str) -> (String, Asking<'a>) {
    let namespace = cluster.namespace(prefix).await;
    let robot = account(&namespace, "robot");
    cluster.apply(&format!("{robot}\n---\n{}", binding(&namespace, "robot", "system:image-puller"))).await;
    let repository = format!("{namespace}/app");
    (namespace, Asking { user, repository })
}
