//! Service accounts that log in with their tokens, and push and pull as far as role bindings say so.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    clients::{containerd::containerd, containerd_2::Node, containers::Containers},
    harness::{
        Image, Layer, PaperCluster, TestRegistry, User, Workstation,
        paper_cluster::{binding, binding_of},
        tool,
    },
};

/// A registry in which one service account may push and pull, and another one nothing.
struct Team {
    cluster: PaperCluster,
    registry: TestRegistry,
}

const MEMBER: &str = "example-sa";
const STRANGER: &str = "stranger";

impl Team {
    async fn new() -> Self {
        let cluster = PaperCluster::new();
        cluster.apply("push", &binding("team", MEMBER, "system:image-builder"));
        let registry = TestRegistry::with(cluster.settings()).await;
        Self { cluster, registry }
    }

    fn token(&self, account: &str) -> String {
        self.cluster.token("team", account)
    }

    /// `HOST/team/app:1`.
    fn image(&self) -> String {
        format!("{}/team/app:1", self.registry.host())
    }

    /// A `config.json` as `docker login` leaves it.
    fn config(&self, account: &str) -> String {
        let auth = BASE64_STANDARD.encode(format!("{account}:{}", self.token(account)));
        json!({ "auths": { self.registry.host(): { "auth": auth } } }).to_string()
    }

    /// What is in the `.dockercfg` that OpenShift makes for each service account: names of registries, and nothing around them.
    fn dockercfg(&self, account: &str) -> Value {
        let token = self.token(account);
        let auth = BASE64_STANDARD.encode(format!("<token>:{token}"));
        let login = json!({ "username": "<token>", "password": token, "email": "a@b.c", "auth": auth });
        json!({ self.registry.host(): login })
    }

    /// What is in the `.dockerconfigjson` that `kubectl create secret docker-registry` makes.
    fn dockerconfigjson(&self, account: &str) -> String {
        json!({ "auths": self.dockercfg(account) }).to_string()
    }
}

/// Runs a program whose `config.json` is that of the stranger, who must be refused, then that of the member. Returns what it
/// told the stranger.
async fn is_for_members(team: &Team, machine: &Workstation, program: &Path, line: &str) -> String {
    let line = line.replace("HOST", &team.registry.host());
    machine.write("docker/config.json", team.config(STRANGER));
    let refused = machine.run_in_vain(program, line.split_whitespace()).await;
    assert_denied(&refused);
    machine.write("docker/config.json", team.config(MEMBER));
    machine.run(program, line.split_whitespace()).await;
    refused
}

/// Asks with an `Authorization` until the answer has this status: bindings are looked at every few seconds.
async fn until(user: &User, method: Method, path: &str, authorization: &str, status: StatusCode) {
    loop {
        let headers = [("authorization", authorization)];
        if user.ask(method.clone(), path, &headers, Bytes::new()).await.status == status {
            return;
        }
    }
}

/// Programs say one or the other, by what they were doing.
#[track_caller]
fn assert_denied(complaint: &str) {
    assert!(complaint.contains("Forbidden") || complaint.contains("denied"), "{complaint}");
}

/// What a program says that shows why it was refused.
#[track_caller]
fn assert_told_why(complaint: &str) {
    let why = "User \"system:serviceaccount:team:stranger\" cannot get resource \"imagestreams/layers\"";
    assert!(complaint.replace('\\', "").contains(why), "{complaint}");
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
    assert_denied(&refused);

    cluster.apply("pull", &binding("team", "example-sa", "system:image-puller"));
    until(&someone, Method::GET, tags, &shown, StatusCode::NOT_FOUND).await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert_denied(&refused);

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
    assert_denied(&refused);

    // Where nobody in particular may pull, nobody has to log in.
    let Some(bob) = Containers::near(&registry) else { return };
    let refused = bob.podman_in_vain(format!("pull {image}")).await;
    assert!(refused.contains("unauthorized") || refused.contains("authentication required"), "{refused}");
    cluster.apply("pull", &binding_of("Group", "team", "system:unauthenticated", "system:image-puller"));
    loop {
        if someone.get(tags).await.status != StatusCode::UNAUTHORIZED {
            break;
        }
    }
    assert_eq!(bob.run(&image).await, "for the team");
}

#[tokio::test]
async fn crane_and_cosign_log_in_by_a_config_json() {
    let team = Team::new().await;
    let machine = team.registry.workstation();
    let (Some(crane), Some(cosign)) = (tool::go("crane"), tool::go("cosign")) else { return };
    let image = Image::of(vec![Layer::of_files([("data", b"data".as_slice())])]);
    image.write_layout(&machine.home().join("layout"), "1");
    let run = async |program, line: &str| is_for_members(&team, &machine, program, line).await;
    run(&crane, "push layout HOST/team/app:1").await;
    assert_told_why(&run(&crane, "pull --format oci HOST/team/app:1 back").await);

    for line in [
        "generate-key-pair",
        "signing-config create --out signing.json",
        "trusted-root create --out root.json",
    ] {
        machine.run(&cosign, line.split_whitespace()).await;
    }
    let app = format!("HOST/team/app@{}", image.digest());
    let sign = "sign -y --key cosign.key --signing-config signing.json --trusted-root root.json";
    assert_told_why(&run(&cosign, &format!("{sign} {app}")).await);
    run(&cosign, &format!("verify --key cosign.pub --insecure-ignore-tlog {app}")).await;
}

#[tokio::test]
async fn oras_and_helm_log_in_by_themselves() {
    let team = Team::new().await;
    let machine = team.registry.workstation();
    let (Some(oras), Some(helm)) = (tool::go("oras"), tool::go("helm")) else { return };
    machine.write("note.txt", "read me");
    machine.run(&helm, ["create", "shop"]).await;
    machine.run(&helm, ["package", "shop"]).await;
    for account in [STRANGER, MEMBER] {
        let token = team.token(account);
        let login = |line: &str| format!("{line} login --plain-http -u {account} -p {token} HOST");
        for (program, login, push, pull) in [
            (
                &oras,
                login(""),
                "push --plain-http HOST/team/art:1 note.txt",
                "pull --plain-http HOST/team/art:1 -o back",
            ),
            (
                &helm,
                login("registry"),
                "push --plain-http shop-0.1.0.tgz oci://HOST/team",
                "pull --plain-http oci://HOST/team/shop --version 0.1.0 -d back",
            ),
        ] {
            let words = |line: &str| {
                let line = line.replace("HOST", &team.registry.host());
                line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            machine.run(program, words(&login)).await;
            if account == STRANGER {
                assert_denied(&machine.run_in_vain(program, words(push)).await);
            } else {
                machine.run(program, words(push)).await;
                machine.run(program, words(pull)).await;
            }
        }
    }
    // It shows its login only when it is asked to.
    let listed = machine.run(&oras, ["repo", "ls", "--plain-http", &team.registry.host()]).await;
    assert_eq!(listed, "team/art\nteam/shop\n");
    assert_eq!(machine.read("back/note.txt"), b"read me");
    assert_eq!(machine.read("back/shop-0.1.0.tgz"), machine.read("shop-0.1.0.tgz"));
}

#[tokio::test]
async fn skopeo_podman_and_buildah_log_in_by_the_files_of_secrets() {
    let team = Team::new().await;
    let Some(alice) = Containers::near(&team.registry) else { return };
    let image = team.image();
    alice.lay_out("app", &Image::saying("for the team", &alice.busybox));
    let push = format!("copy oci:app:1 docker://{image}");
    // kubectl's, named on the command line.
    alice.machine.write("secret", team.dockerconfigjson(STRANGER));
    let with_secret = push.replace("copy", "copy --dest-authfile secret");
    assert_denied(&alice.skopeo_in_vain(&with_secret).await);
    alice.machine.write("secret", team.dockerconfigjson(MEMBER));
    alice.skopeo(&with_secret).await;
    alice.buildah(format!("pull --authfile secret {image}")).await;
    alice.buildah(format!("push --authfile secret {image} docker://{image}-again")).await;

    // OpenShift's, where it is looked for at home.
    alice.machine.write(".dockercfg", team.dockercfg(STRANGER).to_string());
    assert_denied(&alice.skopeo_in_vain(&push).await);
    alice.machine.write(".dockercfg", team.dockercfg(MEMBER).to_string());
    alice.skopeo(&push).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "for the team");
}

#[tokio::test]
async fn nodes_log_in_with_what_the_kubelet_gives_them() {
    let team = Team::new().await;
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(skopeo) = tool::debian("skopeo") else { return };
    let Some(node) = Node::near(&team.registry.host()).await else { return };
    let Some((ctr, machine, _containerd)) = containerd(&team.registry).await else { return };
    let image = team.image();
    Image::saying("for the team", &busybox).write_layout(&machine.home().join("app"), "1");
    machine.write("secret", team.dockerconfigjson(MEMBER));
    let copy = format!("copy --dest-authfile secret oci:app:1 docker://{image}");
    machine.run(&skopeo, copy.split_whitespace()).await;

    let login = |account| format!("{account}:{}", team.token(account));
    let socket = machine.home().join("containerd.sock").display().to_string();
    let older = |line: String| {
        [vec!["-a".to_owned(), socket.clone()], line.split_whitespace().map(str::to_owned).collect()].concat()
    };
    let pull = |account| format!("images pull --plain-http --user {} {image}", login(account));
    let push = |account| format!("images push --plain-http --user {} {image}-again {image}", login(account));
    assert_denied(&machine.run_in_vain(&ctr, older(pull(STRANGER))).await);
    machine.run(&ctr, older(pull(MEMBER))).await;
    assert_denied(&machine.run_in_vain(&ctr, older(push(STRANGER))).await);
    machine.run(&ctr, older(push(MEMBER))).await;

    assert_told_why(&node.ctr_in_vain(pull(STRANGER)).await);
    node.ctr(pull(MEMBER)).await;
    assert_denied(&node.ctr_in_vain(push(STRANGER)).await);
    node.ctr(push(MEMBER)).await;
    // What a kubelet gets is what the pod's event says.
    let refused = node.crictl_in_vain(format!("pull --creds {} {image}", login(STRANGER))).await;
    assert_told_why(&refused);
    node.crictl(format!("pull --creds {} {image}", login(MEMBER))).await;
}
