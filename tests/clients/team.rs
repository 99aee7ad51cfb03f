//! A team of service accounts that log in, and the cluster that makes their tokens and says what they may: one on paper, or a real
//! one.
//!
//! What is bound or taken away here, the registry has heard of when the call returns.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{
    Cluster, PaperCluster, TestRegistry,
    cluster::{ISSUER, account},
    paper_cluster::{binding, binding_of},
    until,
};

/// The role of those who pull.
pub(super) const PULLER: &str = "system:image-puller";
/// The role of those who push as well.
pub(super) const BUILDER: &str = "system:image-builder";

const MEMBER: &str = "example-sa";
const STRANGER: &str = "stranger";

/// Two service accounts of a namespace, and a registry that obeys their cluster. At first they may do nothing there.
pub(super) struct Team {
    pub(super) registry: TestRegistry,
    pub(super) namespace: String,
    /// Who gets roles.
    pub(super) member: Account,
    /// Who never gets one.
    pub(super) stranger: Account,
    cluster: EitherCluster,
}

/// A service account, and the token that it shows.
pub(super) struct Account {
    pub(super) name: &'static str,
    pub(super) token: String,
}

enum EitherCluster {
    Paper(PaperCluster),
    Real(&'static Cluster),
}

/// How the accounts of a real cluster come by their tokens.
#[derive(Clone, Copy)]
enum Tokens {
    /// They are asked for, and end.
    Requested,
    /// They are in Secrets, and do not end.
    InSecrets,
}

/// A team of a cluster on paper, which every machine has.
pub(super) async fn on_paper() -> Option<Team> {
    let cluster = PaperCluster::new();
    let registry = TestRegistry::with(cluster.settings()).await;
    let namespace = "team".to_owned();
    let accounts = [MEMBER, STRANGER].map(|name| Account { name, token: cluster.token(&namespace, name) });
    Some(Team::of(EitherCluster::Paper(cluster), registry, namespace, accounts).await)
}

/// A team of the real cluster that tests share.
pub(super) async fn in_a_cluster() -> Option<Team> {
    with_tokens(Tokens::Requested).await
}

/// The same, but its accounts show what is in their Secrets.
pub(super) async fn with_secrets() -> Option<Team> {
    with_tokens(Tokens::InSecrets).await
}

async fn with_tokens(tokens: Tokens) -> Option<Team> {
    let cluster = Cluster::shared()?.await;
    let settings = cluster.settings().await;
    let namespace = cluster.namespace("team").await;
    let objects = [MEMBER, STRANGER].map(|name| account(&namespace, name));
    cluster.apply(&objects.join("\n---\n")).await;
    let with_token = async |name: &'static str| {
        let token = match tokens {
            Tokens::Requested => cluster.token(&namespace, name, ISSUER).await,
            Tokens::InSecrets => cluster.token_in_a_secret(&namespace, name).await,
        };
        Account { name, token }
    };
    let accounts = [with_token(MEMBER).await, with_token(STRANGER).await];
    let registry = TestRegistry::with(settings).await;
    Some(Team::of(EitherCluster::Real(cluster), registry, namespace, accounts).await)
}

impl Team {
    async fn of(
        cluster: EitherCluster,
        registry: TestRegistry,
        namespace: String,
        [member, stranger]: [Account; 2],
    ) -> Self {
        let team = Self { registry, namespace, member, stranger, cluster };
        // Who was just made may not be known yet.
        for account in [&team.member, &team.stranger] {
            until(async || team.refuses(account, PULLER).await).await;
        }
        team
    }

    /// Binds the member to a role.
    pub(super) async fn bind(&self, role: &str) {
        self.apply(role, &binding(&self.namespace, self.member.name, role)).await;
        until(async || !self.refuses(&self.member, role).await).await;
    }

    /// Takes a role away from the member, which has none left that allows the same.
    pub(super) async fn unbind(&self, role: &str) {
        match &self.cluster {
            EitherCluster::Paper(cluster) => cluster.delete(role),
            EitherCluster::Real(cluster) => {
                cluster.kubectl(["delete", "rolebinding", role, "-n", &*self.namespace]).await;
            }
        }
        until(async || self.refuses(&self.member, role).await).await;
    }

    /// Lets those pull who do not log in.
    pub(super) async fn open(&self) {
        let everybody = binding_of("Group", &self.namespace, "system:unauthenticated", PULLER);
        self.apply(PULLER, &everybody).await;
        let (someone, tags) = (self.registry.user("someone"), self.path("tags/list"));
        until(async || someone.get(&tags).await.status != StatusCode::UNAUTHORIZED).await;
    }

    /// Puts a binding into the cluster. In a real one it has the name of its role.
    async fn apply(&self, role: &str, binding: &str) {
        match &self.cluster {
            EitherCluster::Paper(cluster) => cluster.apply(role, binding),
            EitherCluster::Real(cluster) => cluster.apply(binding).await,
        }
    }

    /// Whether the registry knows an account, and does not let it do what a role is for.
    async fn refuses(&self, account: &Account, role: &str) -> bool {
        let (method, path) = if role == BUILDER {
            (Method::POST, self.path("blobs/uploads/"))
        } else {
            (Method::GET, self.path("tags/list"))
        };
        let headers = [("authorization", &*format!("Bearer {}", account.token))];
        let answer = self.registry.user(account.name).ask(method, &path, &headers, Bytes::new()).await;
        answer.status == StatusCode::FORBIDDEN
    }

    fn path(&self, of_app: &str) -> String {
        format!("/v2/{}/app/{of_app}", self.namespace)
    }

    /// `HOST/NAMESPACE/app:1`.
    pub(super) fn image(&self) -> String {
        format!("{}/{}/app:1", self.registry.host(), self.namespace)
    }

    /// The words of a command line in which `TEAM` stands for `HOST/NAMESPACE`.
    pub(super) fn words(&self, line: &str) -> Vec<String> {
        let line = line.replace("TEAM", &format!("{}/{}", self.registry.host(), self.namespace));
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// A `config.json` as `docker login` leaves it.
    pub(super) fn config(&self, account: &Account) -> String {
        let auth = BASE64_STANDARD.encode(format!("{}:{}", account.name, account.token));
        json!({ "auths": { self.registry.host(): { "auth": auth } } }).to_string()
    }

    /// What is in the `.dockercfg` that OpenShift makes for each service account: names of registries, and nothing around them.
    pub(super) fn dockercfg(&self, account: &Account) -> Value {
        let token = &account.token;
        let auth = BASE64_STANDARD.encode(format!("<token>:{token}"));
        let login = json!({ "username": "<token>", "password": token, "email": "a@b.c", "auth": auth });
        json!({ self.registry.host(): login })
    }

    /// What is in the `.dockerconfigjson` that `kubectl create secret docker-registry` makes.
    pub(super) fn dockerconfigjson(&self, account: &Account) -> String {
        json!({ "auths": self.dockercfg(account) }).to_string()
    }

    /// Makes sure that a program says why an account was refused.
    #[track_caller]
    pub(super) fn assert_told_why(&self, account: &Account, complaint: &str) {
        let user = format!("system:serviceaccount:{}:{}", self.namespace, account.name);
        let why = format!("User \"{user}\" cannot get resource \"imagestreams/layers\"");
        assert!(complaint.replace('\\', "").contains(&why), "{complaint}");
    }
}

/// Makes sure that a program says that it was refused. Programs say one or the other, by what they were doing: what is answered
/// to HEAD, by which most pushes begin, cannot say why.
#[track_caller]
pub(super) fn assert_denied(complaint: &str) {
    assert!(complaint.contains("Forbidden") || complaint.contains("denied"), "{complaint}");
}
