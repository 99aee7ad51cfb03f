//! A real Kubernetes cluster: etcd, the API server, and the controllers that a registry meets. It has no nodes but those
//! that a test lets join it.
//!
//! Tests share one, in namespaces of their own. Whoever takes a part of it away, or grants something to everybody in
//! all of it, starts another.

mod api;

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::{Method, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::sync::{OnceCell, oneshot};

pub(crate) use self::api::Api;
use super::{node, process::Process, scratch::Scratch, secrets, tool, until, wharf, workstation};

/// The `iss` of the tokens, and the audience of the API server itself: what nearly every cluster has.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";

/// Those who are no service accounts, and the group of each.
const USERS: [(&str, &str); 4] =
    [(ADMIN, "system:masters"), ("alice", "developers"), ("bob", ""), (node::USER, "system:nodes")];
/// Who may do everything.
pub(crate) const ADMIN: &str = "admin";

/// The controllers that have to do with accounts, roles and namespaces, and those that make pods.
const CONTROLLERS: [&str; 8] = [
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
];

/// How the API server tells whoever watches what is there already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lists {
    /// As the beginning of a watch.
    Streamed,
    /// Page by page alone, as older ones do.
    Paged,
}

/// A control plane. It ends when it is dropped, and when the tests end in whatever way.
pub(crate) struct Cluster {
    api_server: Process,
    _controllers: Process,
    _etcd: Process,
    site: Site,
    /// The account and the rights of registries, once they are there.
    rights_of_registries: OnceCell<()>,
}

/// What the parts of a cluster have in common.
struct Site {
    programs: Programs,
    address: SocketAddr,
    /// Keeps the API server's port for it, also while it is down.
    _port: Socket,
    /// The certificate of whoever vouches for the API server.
    authority: String,
    folder: Scratch,
}

struct Programs {
    setpriv: PathBuf,
    etcd: PathBuf,
    api_server: PathBuf,
    controllers: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// The cluster that the tests of this binary share, started for the first of them.
    #[track_caller]
    pub(crate) fn shared() -> Option<impl Future<Output = &'static Self>> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        let programs = Programs::found()?;
        Some(SHARED.get_or_init(|| async {
            let (started, starting) = oneshot::channel();
            // Its programs end with the thread that started them, so that is not the thread of a test.
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = started.send(runtime.block_on(Self::of(programs))); // The test may have given up.
                loop {
                    thread::park();
                }
            });
            starting.await.expect("the cluster starts")
        }))
    }

    /// A cluster of the test's own.
    #[track_caller]
    pub(crate) fn start() -> Option<impl Future<Output = Self>> {
        Some(Self::of(Programs::found()?))
    }

    async fn of(programs: Programs) -> Self {
        let site = Site::new(programs);
        let etcd = site.start_etcd().await;
        let api_server = site.start_api_server(Lists::Streamed).await;
        let controllers = site.start_controllers().await;
        let rights_of_registries = OnceCell::new();
        Self { api_server, _controllers: controllers, _etcd: etcd, site, rights_of_registries }
    }

    /// The settings of a registry that asks this cluster as one of its service accounts, with the rights that we ship for it.
    pub(crate) async fn settings(&self) -> Value {
        let objects = concat!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: wharf}\n---\n",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: wharf, namespace: wharf}\n---\n",
            include_str!("../../deploy/rbac/roles.yaml"),
            "\n---\n",
            include_str!("../../deploy/rbac/registry.yaml"),
        );
        // By one test for all: of two that apply what is not there yet, one is told that it is there already, and fails.
        self.rights_of_registries.get_or_init(|| self.apply(objects)).await;
        let token = self.token("wharf", "wharf", ISSUER).await;
        json!({ "auth": { "kubernetes": { "kubeconfig": self.kubeconfig(&token) } } })
    }

    /// A program that runs Wharf as a pod of this cluster does: with what every pod finds below `/var/run/secrets`, as the service account
    /// that has the rights that we ship.
    pub(crate) async fn wharf_in_a_pod(&self) -> PathBuf {
        let settings = self.settings().await;
        let kubeconfig = fs::read(settings["auth"]["kubernetes"]["kubeconfig"].as_str().unwrap()).unwrap();
        let kubeconfig: Value = serde_json::from_slice(&kubeconfig).unwrap();
        let pod = tempfile::tempdir_in(self.site.folder.path()).unwrap().keep();
        fs::write(pod.join("token"), kubeconfig["users"][0]["user"]["token"].as_str().unwrap()).unwrap();
        fs::write(pod.join("namespace"), "wharf").unwrap();
        fs::copy(self.site.folder.path().join("ca.crt"), pod.join("ca.crt")).unwrap();
        let (address, wharf) = (self.site.address, wharf::path());
        let (host, port, pod_path, wharf) = (address.ip(), address.port(), pod.display(), wharf.display());
        let program = pod.join("wharf");
        let script = format!(
            "#!/bin/sh
export KUBERNETES_SERVICE_HOST={host} KUBERNETES_SERVICE_PORT={port} REGISTRY_AUTH_KUBERNETES_CHALLENGE=bearer
exec unshare --mount sh -c '
    secrets=/run/secrets/kubernetes.io/serviceaccount
    mount -t tmpfs run /run && mkdir -p $secrets && mount --bind {pod_path} $secrets && exec {wharf} \"$@\"
' wharf \"$@\"
"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// Kills the API server. Its port stays its own, and etcd keeps what it knows.
    pub(crate) fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Has the API server answer nothing, though it is there and connections to it are taken.
    pub(crate) fn freeze_api_server(&mut self) {
        self.api_server.freeze();
    }

    /// Has the frozen API server go on.
    pub(crate) fn thaw_api_server(&mut self) {
        self.api_server.thaw();
    }

    /// Has tokens signed with a new key from now on, by an API server that knows the old ones.
    pub(crate) async fn rotate_keys(&mut self) {
        self.kill_api_server();
        self.site.add_key();
        self.start_api_server().await;
    }

    /// Starts the API server again.
    pub(crate) async fn start_api_server(&mut self) {
        self.start_api_server_with(Lists::Streamed).await;
    }

    /// Starts the API server again, as one that tells so what is there.
    pub(crate) async fn start_api_server_with(&mut self, lists: Lists) {
        self.api_server = self.site.start_api_server(lists).await;
    }

    /// The lists and watches that registries asked for and got: the path and query of each.
    pub(crate) fn reads_of_registries(&self) -> Vec<String> {
        let log = fs::read_to_string(self.site.folder.path().join("audit")).unwrap_or_default();
        // The last line may be half written, and one that a kill cut off stands before the next server's first.
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let answered = events.filter(|event| {
            let is_watch = event["verb"] == "watch";
            let stage = if is_watch { "ResponseStarted" } else { "ResponseComplete" };
            event["stage"] == stage && event["responseStatus"]["code"] == 200
        });
        answered.map(|event| event["requestURI"].as_str().unwrap().to_owned()).collect()
    }

    /// The API server, as whoever may do everything meets it.
    pub(crate) fn admin(&self) -> Api {
        self.site.admin()
    }

    /// The API server, as it is met with a token.
    pub(crate) fn with_token(&self, token: &str) -> Api {
        Api::new(self.site.address, &self.site.authority, token)
    }

    /// A file by which programs reach the API server with a token.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        self.site.kubeconfig(token)
    }

    /// A new namespace, whose name begins with `prefix`.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let wanted = json!({ "metadata": { "generateName": format!("{prefix}-") } });
        let namespace = self.admin().post("/api/v1/namespaces", &wanted).await;
        namespace["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Does what `kubectl apply -f` does.
    pub(crate) async fn apply(&self, yaml: &str) {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.site.folder.path()).unwrap();
        std::io::Write::write_all(&mut file, yaml.as_bytes()).unwrap();
        self.kubectl([OsStr::new("apply"), OsStr::new("-f"), file.path().as_os_str()]).await;
    }

    /// Runs `kubectl`, which may do everything, and returns what it prints.
    pub(crate) async fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let home = self.site.folder.path();
        let mut kubectl = tokio::process::Command::new(&self.site.programs.kubectl);
        kubectl
            .env_clear()
            .env("HOME", home) // where it remembers what the API server has
            .env("KUBECONFIG", home.join(ADMIN))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        workstation::finish_well(&mut kubectl).await
    }

    /// The token of a service account for an audience, good for an hour.
    pub(crate) async fn token(&self, namespace: &str, account: &str, audience: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let wanted = json!({ "spec": { "audiences": [audience], "expirationSeconds": 3600 } });
        let request = self.admin().post(&path, &wanted).await;
        request["status"]["token"].as_str().unwrap().to_owned()
    }

    /// The token of a service account as it is in a Secret, which is made for it: for no audience in particular, and without an end.
    pub(crate) async fn token_in_a_secret(&self, namespace: &str, account: &str) -> String {
        let wanted = json!({
            "type": "kubernetes.io/service-account-token",
            "metadata": { "name": account, "annotations": { "kubernetes.io/service-account.name": account } },
        });
        let (admin, path) = (self.admin(), format!("/api/v1/namespaces/{namespace}/secrets"));
        admin.post(&path, &wanted).await;
        let path = format!("{path}/{account}");
        let kept = async || admin.get(&path).await["data"]["token"].as_str().map(str::to_owned);
        until(async || kept().await.is_some()).await; // A controller puts it there.
        let token = BASE64_STANDARD.decode(kept().await.expect("it was just there")).unwrap();
        let token = String::from_utf8(token).unwrap();
        secrets::keep(&token);
        token
    }
}

/// The token of somebody who is no service account: `alice`, `bob`, or the node.
pub(crate) fn user_token(user: &str) -> String {
    let token = format!("{user}-shows-this-token");
    secrets::keep(&token);
    token
}

/// A service account, as `kubectl apply` takes it.
pub(crate) fn account(namespace: &str, name: &str) -> String {
    format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}")
}

impl Site {
    fn new(programs: Programs) -> Self {
        let folder = Scratch::new();
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();

        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        write("ca.crt", &authority.pem());
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let (params, key) = (CertificateParams::new(names).unwrap(), KeyPair::generate().unwrap());
        write("tls.crt", &params.signed_by(&key, &authority).unwrap().pem());
        write("tls.key", &key.serialize_pem());
        let users = USERS.map(|(user, group)| format!("{},{user},uid-of-{user},{group}\n", user_token(user)));
        write("tokens.csv", &users.concat());
        // What registries read is written down once that is answered.
        let reads = json!({ "level": "Metadata", "users": ["system:serviceaccount:wharf:wharf"], "verbs": ["list", "watch"] });
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "Panic"],
            "rules": [reads, { "level": "None" }],
        });
        write("policy", &policy.to_string());

        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_port(true).unwrap(); // As --permit-port-sharing does. Nobody connects to it, since it does not listen.
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = port.local_addr().unwrap().as_socket().unwrap();

        let site = Self { programs, address, _port: port, authority: authority.pem(), folder };
        fs::rename(site.kubeconfig(&user_token(ADMIN)), site.folder.path().join(ADMIN)).unwrap();
        site.add_key();
        site
    }

    /// Makes a key that signs the tokens of accounts from the next start on. Those before it are known.
    fn add_key(&self) {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap().serialize_pem();
        let file = |name| self.folder.path().join(name);
        let known = fs::read_to_string(file("sa.keys")).unwrap_or_default();
        fs::write(file("sa.keys"), known + &key).unwrap();
        fs::write(file("sa.key"), key).unwrap();
    }

    /// Sockets in the folder spare it ports.
    async fn start_etcd(&self) -> Process {
        let mut etcd = self.command(&self.programs.etcd);
        etcd.args([
            "--data-dir=etcd",
            "--listen-client-urls=unix://client:0",
            "--listen-peer-urls=unix://peer:0",
            "--advertise-client-urls=http://127.0.0.1:0", // which nobody asks for
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-outputs=stderr",
        ]);
        let (etcd, ()) =
            Process::start(etcd, |line| line.contains("serving client traffic").then_some(())).await;
        etcd
    }

    async fn start_api_server(&self, lists: Lists) -> Process {
        let mut api_server = self.command(&self.programs.api_server);
        api_server.arg(format!("--etcd-servers=unix://{}/client:0", self.folder.path().display()));
        api_server.arg(format!("--secure-port={}", self.address.port()));
        api_server.arg(format!("--service-account-issuer={ISSUER}"));
        api_server.arg(format!("--feature-gates=WatchList={}", matches!(lists, Lists::Streamed)));
        api_server.args([
            "--permit-port-sharing",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--tls-cert-file=tls.crt",
            "--tls-private-key-file=tls.key",
            "--service-account-key-file=sa.keys",
            "--service-account-signing-key-file=sa.key",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--audit-policy-file=policy",
            "--audit-log-path=audit",
        ]);
        let (api_server, ()) = Process::start(api_server, |_| Some(())).await;
        let admin = self.admin();
        let is_ready = async || {
            let answer = admin.try_to(Method::GET, "/readyz", None).await;
            answer.is_ok_and(|(status, _)| status == StatusCode::OK)
        };
        api_server.until(is_ready).await;
        api_server
    }

    async fn start_controllers(&self) -> Process {
        let mut controllers = self.command(&self.programs.controllers);
        controllers.arg(format!("--kubeconfig={ADMIN}"));
        controllers.arg(format!("--controllers={}", CONTROLLERS.join(",")));
        controllers.args([
            "--service-account-private-key-file=sa.key",
            "--root-ca-file=ca.crt",
            "--secure-port=0",
            "--leader-elect=false",
        ]);
        let (controllers, ()) = Process::start(controllers, |_| Some(())).await;
        controllers
    }

    /// A program that ends with the thread that starts it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.programs.setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.current_dir(self.folder.path()).stdin(self.folder.in_use());
        command
    }

    fn admin(&self) -> Api {
        Api::new(self.address, &self.authority, &user_token(ADMIN))
    }

    fn kubeconfig(&self, token: &str) -> PathBuf {
        let configuration = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "tests", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": self.folder.path().join("ca.crt"),
            } }],
            "users": [{ "name": "user", "user": { "token": token } }],
            "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "user" } }],
            "current-context": "tests",
        });
        let file = tempfile::Builder::new().suffix(".kubeconfig").tempfile_in(self.folder.path()).unwrap();
        serde_json::to_writer_pretty(&file, &configuration).unwrap();
        file.into_temp_path().keep().unwrap()
    }
}

impl Programs {
    #[track_caller]
    fn found() -> Option<Self> {
        Some(Self {
            setpriv: tool::debian("setpriv")?,
            etcd: tool::go("etcd")?,
            api_server: tool::go("kube-apiserver")?,
            controllers: tool::go("kube-controller-manager")?,
            kubectl: tool::go("kubectl")?,
        })
    }
}
