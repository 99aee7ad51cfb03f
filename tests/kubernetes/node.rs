//! Pods whose images are in the registry, on a node that knows of it what administrators are told to give nodes.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Image, Network, Node, TestRegistry,
    cluster::account,
    node::{self, Programs},
    paper_cluster::binding,
    registry::overlay,
    until,
};

/// The registry as pods name it for which the kubelet logs in as their service accounts.
const HOST: &str = "registry.wharf.svc";

/// One that is at the port of HTTPS, to which the name itself leads the node.
const AT_ITS_PORT: &str = "images.wharf.svc";

const AUDIENCE: &str = "wharf-registry";

#[test]
fn a_node_starts_pods_whose_images_they_may_pull_and_no_others() {
    let (Some(network), Some(programs)) = (Network::found(), Programs::found()) else { return };
    network.run(async || {
        let Some(cluster) = Cluster::start() else { return };
        let cluster = cluster.await;
        let folder = tempfile::tempdir().unwrap();
        let [(registry, certificate), (_at_its_port, its_certificate)] =
            registries(&cluster, &programs, folder.path()).await;
        cluster.apply(include_str!("../../deploy/rbac/credential-provider.yaml")).await;
        let shipped = include_str!("../../deploy/kubelet/credential-provider.yaml");
        let credentials = shipped.replace("[registry.example.com]", &format!("[{HOST}, {AT_ITS_PORT}]"));
        let node = Node::start(&programs, &cluster, &credentials).await;
        let address = registry.host();
        node.knows(HOST, &address, &certificate);
        node.knows(&address, &address, &certificate);
        node.knows(AT_ITS_PORT, AT_ITS_PORT, &its_certificate);
        node.finds(AT_ITS_PORT);

        cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
        service_accounts_pull_what_they_are_bound_to(&cluster).await;
        a_secret_is_good_for_the_pods_that_name_it(&cluster, &address).await;
        a_registry_is_named_without_its_port(&cluster).await;
        a_deployment_is_available_once_its_account_may_pull(&cluster).await;
    });
}

/// Registries that obey the cluster and have images of the team, and their certificates. The second is at the port of HTTPS, and has
/// its certificate in `folder`.
async fn registries(cluster: &Cluster, programs: &Programs, folder: &Path) -> [(TestRegistry, String); 2] {
    let open = TestRegistry::start().await;
    // Each is another image, or the node would have all of it when it has had one.
    for (name, seconds) in [("app", "1000000"), ("web", "1000001"), ("port", "1000002")] {
        let image = Image::running(&["/bin/busybox", "sleep", seconds], &programs.busybox);
        open.user("builder").push(&format!("team/{name}"), "1", &image).await;
    }
    let mut settings = cluster.settings().await;
    overlay(&mut settings, &json!({ "auth": { "kubernetes": { "audiences": [AUDIENCE] } } }));
    let anywhere = open.tls_replica_with(settings.clone()).await;

    let own = rcgen::generate_simple_self_signed([AT_ITS_PORT.to_owned()]).unwrap();
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    fs::write(&certificate, own.cert.pem()).unwrap();
    fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let address = format!("{}:443", Network::ADDRESS);
    let tls = json!({ "certificate": certificate, "key": key });
    overlay(&mut settings, &json!({ "http": { "addr": address, "tls": tls } }));
    [anywhere, (open.replica_with(settings).await, own.cert.pem())]
}

/// Nothing but the account and its binding: there is no Secret.
async fn service_accounts_pull_what_they_are_bound_to(cluster: &Cluster) {
    let image = format!("{HOST}/team/app:1");
    for name in ["member", "stranger"] {
        cluster.apply(&account("team", name)).await;
    }
    let refused = Pod::start(cluster, "early", &spec("member", &image)).await;
    assert_lacks_the_right("member", &refused.complaint().await);
    cluster.apply(&binding("team", "member", "system:image-puller")).await;
    Pod::start(cluster, "bound", &spec("member", &image)).await.runs().await;
    // That the image is on the node by now is no right to it.
    let refused = Pod::start(cluster, "unbound", &spec("stranger", &image)).await;
    assert_lacks_the_right("stranger", &refused.complaint().await);
}

/// As `docs/authorization.md` has it. The kubelet does not log in at `address` by itself.
async fn a_secret_is_good_for_the_pods_that_name_it(cluster: &Cluster, address: &str) {
    let image = format!("{address}/team/app:1");
    let without = spec("default", &image);
    let with_secret_of = async |account: &str| {
        let token = cluster.token("team", account, AUDIENCE).await;
        let secret = ["create", "secret", "docker-registry", account, "-n", "team"];
        let login = ["--docker-server", address, "--docker-username", account, "--docker-password", &token];
        cluster.kubectl(secret.into_iter().chain(login)).await;
        let mut with = without.clone();
        with["imagePullSecrets"] = json!([{ "name": account }]);
        with
    };
    Pod::start(cluster, "secret", &with_secret_of("member").await).await.runs().await;
    let refused = Pod::start(cluster, "other-secret", &with_secret_of("stranger").await).await;
    let unknown = Pod::start(cluster, "no-secret", &without).await;
    assert_lacks_the_right("stranger", &refused.complaint().await);
    let complaint = unknown.complaint().await;
    assert!(complaint.contains("401 Unauthorized"), "{complaint}");
}

/// As nearly all are: the node finds the registry by its name alone.
async fn a_registry_is_named_without_its_port(cluster: &Cluster) {
    let image = format!("{AT_ITS_PORT}/team/port:1");
    Pod::start(cluster, "port", &spec("member", &image)).await.runs().await;
    let refused = Pod::start(cluster, "unbound-port", &spec("stranger", &image)).await;
    assert_lacks_the_right("stranger", &refused.complaint().await);
}

/// What most pods come from. Whoever looks why theirs does not start is told what to do, and needs to do nothing else.
async fn a_deployment_is_available_once_its_account_may_pull(cluster: &Cluster) {
    let is_available = async |name: &str| {
        let deployment = format!("deployment/{name}");
        cluster.kubectl(["rollout", "status", &*deployment, "-n", "team", "--timeout=120s"]).await;
    };
    for (name, account) in [("web", "member"), ("idle", "stranger")] {
        cluster.apply(&deployment(name, &spec(account, &format!("{HOST}/team/web:1"))).to_string()).await;
    }
    is_available("web").await;
    let pod = Pod::of_deployment(cluster, "idle").await;
    assert_lacks_the_right("stranger", &pod.complaint().await);
    let idle = cluster.admin().get("/apis/apps/v1/namespaces/team/deployments/idle").await;
    assert!(idle["status"]["availableReplicas"].is_null(), "{idle}");

    cluster.apply(&binding("team", "stranger", "registry-viewer")).await;
    is_available("idle").await;
}

/// What `kubectl apply` takes as a deployment of one pod.
fn deployment(name: &str, spec: &Value) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": "team" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    })
}

/// What `kubectl apply` takes as a pod's `spec`. There is no scheduler: a pod names its node.
fn spec(account: &str, image: &str) -> Value {
    json!({
        "nodeName": node::NAME,
        "hostNetwork": true,
        "serviceAccountName": account,
        "containers": [{ "name": "app", "image": image }],
    })
}

struct Pod<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Pod<'a> {
    async fn start(cluster: &'a Cluster, name: &str, spec: &Value) -> Self {
        let metadata = json!({ "name": name, "namespace": "team" });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        cluster.apply(&pod.to_string()).await;
        Self { cluster, name: name.to_owned() }
    }

    /// The one that a deployment comes to have.
    async fn of_deployment(cluster: &'a Cluster, name: &str) -> Self {
        let admin = cluster.admin();
        let path = format!("/api/v1/namespaces/team/pods?labelSelector=app%3D{name}");
        let made = async || {
            let pods = admin.get(&path).await;
            pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned)
        };
        until(async || made().await.is_some()).await;
        Self { cluster, name: made().await.expect("it was just there") }
    }

    /// Waits until it runs.
    async fn runs(&self) {
        let admin = self.cluster.admin();
        let path = format!("/api/v1/namespaces/team/pods/{}", self.name);
        let is_running = async || {
            let complaints = self.complaints().await;
            assert!(complaints.is_empty(), "{complaints:?}");
            admin.get(&path).await["status"]["phase"] == "Running"
        };
        until(is_running).await;
    }

    /// Waits for the event that says why its image cannot be had.
    async fn complaint(&self) -> String {
        let why = async || {
            let complaints = self.complaints().await;
            complaints.into_iter().find(|complaint| complaint.starts_with("Failed to pull image"))
        };
        until(async || why().await.is_some()).await;
        why().await.expect("it was just there")
    }

    async fn complaints(&self) -> Vec<String> {
        let of_pod = format!("involvedObject.name={},reason=Failed", self.name);
        let selector: String = form_urlencoded::byte_serialize(of_pod.as_bytes()).collect();
        let path = format!("/api/v1/namespaces/team/events?fieldSelector={selector}");
        let events = self.cluster.admin().get(&path).await;
        let messages = events["items"].as_array().unwrap().iter().map(|event| &event["message"]);
        messages.map(|message| message.as_str().unwrap().to_owned()).collect()
    }
}

/// An event says whom the registry refused, and what they would need.
#[track_caller]
fn assert_lacks_the_right(account: &str, complaint: &str) {
    let why =
        format!("User \"system:serviceaccount:team:{account}\" cannot get resource \"imagestreams/layers\"");
    assert!(complaint.replace('\\', "").contains(&why), "{complaint}");
}
