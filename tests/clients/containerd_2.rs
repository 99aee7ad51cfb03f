//! containerd 2: many ranges of one layer at once, and the CRI, by which a kubelet pulls.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::harness::{
    Image, Layer, MIB, TestRegistry, Workstation,
    containerd::{self, booted},
    process::Process,
    tool,
};

/// A node: containerd with its clients.
pub(super) struct Node {
    machine: Workstation,
    ctr: PathBuf,
    crictl: PathBuf,
    _containerd: Process,
}

impl Node {
    /// Starts a node that knows the registry at `host`.
    pub(super) async fn near(host: &str) -> Option<Self> {
        let settings = format!(
            "server = \"http://{host}\"\n[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        Self::start(Workstation::new(host), host, settings).await
    }

    /// Starts a node that trusts the registry at `host` for its `certificate`.
    async fn trusting(host: &str, certificate: &str) -> Option<Self> {
        let machine = Workstation::trusting(host, certificate);
        let authority = machine.home().join("ca.crt").display().to_string();
        let settings =
            format!("server = \"https://{host}\"\n[host.\"https://{host}\"]\nca = \"{authority}\"\n");
        Self::start(machine, host, settings).await
    }

    async fn start(machine: Workstation, host: &str, settings: String) -> Option<Self> {
        let (program, ctr) = (tool::go("containerd")?, tool::go("ctr")?);
        let (shim, crictl) = (tool::go("containerd-shim-runc-v2")?, tool::go("crictl")?);
        let unshare = tool::debian("unshare")?;
        tool::debian("runc")?;
        if !tool::root() {
            return None;
        }
        machine.write(&format!("certs.d/{host}/hosts.toml"), settings);
        let configuration = containerd::configuration(machine.home(), &format!("{host}/infra/pause:1"));
        let configuration = machine.write("containerd.toml", configuration);
        let mut command = Command::new(unshare);
        command.env("PATH", containerd::path(&shim));
        // What it mounts for containers goes with the namespace.
        command.arg("--mount").arg(program).arg("-c").arg(configuration);
        let (containerd, ()) = Process::start(command, booted).await;
        Some(Self { machine, ctr, crictl, _containerd: containerd })
    }

    /// Runs ctr with the words of `line`, and returns what it printed.
    pub(super) async fn ctr(&self, line: impl AsRef<str>) -> String {
        self.machine.run(&self.ctr, self.ctr_words(line.as_ref())).await
    }

    /// Runs ctr with the words of `line`, which must fail, and returns why it did.
    pub(super) async fn ctr_in_vain(&self, line: impl AsRef<str>) -> String {
        self.machine.run_in_vain(&self.ctr, self.ctr_words(line.as_ref())).await
    }

    fn ctr_words(&self, line: &str) -> Vec<String> {
        let socket = self.machine.home().join("containerd.sock").display().to_string();
        ["-a", &socket, "-n", "test"].into_iter().chain(line.split_whitespace()).map(str::to_owned).collect()
    }

    /// Runs an image that was pulled, and looks for a word of what it would say. The answer is in the exit status: now and
    /// then ctr loses what a container prints just before it ends.
    async fn finds(&self, image: &str, word: &str) {
        self.ctr(format!("run --rm {image} app /bin/busybox grep -q {word} /message")).await;
    }

    /// Runs crictl with the words of `line`, and returns what it printed.
    pub(super) async fn crictl(&self, line: impl AsRef<str>) -> String {
        self.machine.run(&self.crictl, self.crictl_words(line.as_ref())).await
    }

    /// Runs crictl with the words of `line`, which must fail, and returns why it did.
    pub(super) async fn crictl_in_vain(&self, line: impl AsRef<str>) -> String {
        self.machine.run_in_vain(&self.crictl, self.crictl_words(line.as_ref())).await
    }

    fn crictl_words(&self, line: &str) -> Vec<String> {
        let socket = format!("unix://{}/containerd.sock", self.machine.home().display());
        ["-r", &socket, "-t", "120s"].into_iter().chain(line.split_whitespace()).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_layer_is_pulled_by_many_ranges_at_once() {
    let registry = TestRegistry::start().await;
    let wire = registry.wire().await;
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(node) = Node::near(&wire.host()).await else { return };
    let layer = Layer::of_files([("data", &*Layer::random(3 * MIB).bytes())]);
    let image = Image::saying_amid("from many parts", &busybox, vec![layer.clone()]);
    registry.user("alice").push("team/app", "1", &image).await;

    let reference = format!("{}/team/app:1", wire.host());
    node.ctr(format!("images pull --plain-http {reference}")).await;
    let parts = wire.ranges().iter().filter(|range| !range.starts_with("bytes=0-")).count();
    assert!(parts >= 10, "asked for {:?}", wire.ranges());
    node.finds(&reference, "parts").await;
}

#[tokio::test]
async fn a_new_containerd_pushes_what_it_pulled() {
    let registry = TestRegistry::start().await;
    let host = registry.host();
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(node) = Node::near(&host).await else { return };
    let image = Image::saying("hello", &busybox);
    registry.user("alice").push("team/app", "1", &image).await;
    node.ctr(format!("images pull --plain-http {host}/team/app:1")).await;
    node.ctr(format!("images tag {host}/team/app:1 {host}/other/app:2")).await;
    node.ctr(format!("images push --plain-http {host}/other/app:2")).await;

    assert_eq!(registry.user("bob").pull_manifest("other/app", "2").await, image.manifest);
}

#[tokio::test]
async fn a_node_pulls_over_tls() {
    let (registry, certificate) = TestRegistry::with_tls().await;
    let (Some(busybox), Some(crane)) = (tool::debian("busybox"), tool::go("crane")) else { return };
    let Some(node) = Node::trusting(&registry.host(), &certificate).await else { return };
    Image::saying("hello", &busybox).write_layout(&node.machine.home().join("layout"), "1");
    let reference = format!("{}/team/app:1", registry.host());
    node.machine.run(&crane, ["push", "layout", &reference]).await;

    let hosts = node.machine.home().join("certs.d").display().to_string();
    node.ctr(format!("images pull --hosts-dir {hosts} {reference}")).await;
    node.finds(&reference, "hello").await;
    node.crictl(format!("pull {reference}")).await;
}

#[tokio::test]
async fn a_kubelet_pulls_over_the_cri() {
    let registry = TestRegistry::start().await;
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(node) = Node::near(&registry.host()).await else { return };
    let image = Image::saying("hello", &busybox);
    registry.user("alice").push("team/app", "1", &image).await;
    let repository = format!("{}/team/app", registry.host());
    for reference in [format!("{repository}:1"), format!("{repository}@{}", image.digest())] {
        node.crictl(format!("pull {reference}")).await;
        let status: Value =
            serde_json::from_str(&node.crictl(format!("inspecti {reference}")).await).unwrap();
        let digests = status["status"]["repoDigests"].as_array().unwrap();
        assert!(digests.contains(&format!("{repository}@{}", image.digest()).into()), "{digests:?}");
        node.crictl(format!("rmi {reference}")).await;
    }
}

#[tokio::test]
async fn a_pod_runs_whose_every_image_is_in_the_registry() {
    let registry = TestRegistry::start().await;
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(node) = Node::near(&registry.host()).await else { return };
    let alice = registry.user("alice");
    alice.push("infra/pause", "1", &Image::running(&["/bin/busybox", "sleep", "1000"], &busybox)).await;
    alice.push("team/app", "1", &Image::saying("hello from a pod", &busybox)).await;
    let host_network = json!({ "namespace_options": { "network": 2 } });
    let pod = json!({
        "metadata": { "name": "app", "namespace": "team", "uid": "1", "attempt": 0 },
        "log_directory": node.machine.home().join("logs"),
        "linux": { "security_context": host_network },
    });
    let image = format!("{}/team/app:1", registry.host());
    let container = json!({
        "metadata": { "name": "app" },
        "image": { "image": image },
        "log_path": "app.log",
        "linux": { "security_context": host_network },
    });
    node.machine.write("pod.json", pod.to_string());
    node.machine.write("container.json", container.to_string());

    let pod = node.crictl("runp pod.json").await;
    let created = node.crictl(format!("create --with-pull {} container.json pod.json", pod.trim())).await;
    node.crictl(format!("start {}", created.trim())).await;
    let said = node.crictl(format!("logs --follow {}", created.trim())).await;
    assert_eq!(said, "hello from a pod");
    node.crictl("rmp --all --force").await;
}
