//! A real node of a cluster: containerd 2 and a kubelet.
//!
//! Both are in process and mount namespaces of their own, which end with containerd: with it go its containers and what was
//! mounted for them, in whatever way the test ends. What the kubelet sets and writes of the
//! machine, it meets there as copies.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command as Client;
use uuid::Uuid;

use super::{
    Cluster, Image, Network, cluster::user_token, containerd, process::Process, scratch::Scratch, tool,
    wharf, workstation,
};

/// Who it is in the cluster.
pub(crate) const USER: &str = "system:node:wharf-node";

/// What a pod names whose node is this one.
pub(crate) const NAME: &str = "wharf-node";

/// The image that holds a pod's namespaces. It comes from no registry.
const SANDBOX: &str = "tests.local/pause:1";

/// What a kubelet sets, below `/proc/sys`.
const SETTINGS: &str = "kernel/panic kernel/panic_on_oops kernel/keys/root_maxbytes kernel/keys/root_maxkeys \
                        vm/overcommit_memory vm/panic_on_oom";

/// Where it writes although it has a folder of its own.
const FOLDERS: &str = "run var/lib var/log";

/// A node. It ends when it is dropped, and when the tests end in whatever way.
pub(crate) struct Node {
    kubelet: Process,
    /// The parent of containerd, which is the first process of its namespace.
    containerd: Process,
    folder: Scratch,
}

/// The programs of a node.
pub(crate) struct Programs {
    pub(crate) busybox: PathBuf,
    nsenter: PathBuf,
    setpriv: PathBuf,
    unshare: PathBuf,
    containerd: PathBuf,
    ctr: PathBuf,
    kubelet: PathBuf,
    shim: PathBuf,
}

impl Node {
    /// Joins the cluster, in a [`Network`] of both. Pods log in as the kubelet's `credential_providers` say, whose programs
    /// are beside Wharf.
    pub(crate) async fn start(programs: &Programs, cluster: &Cluster, credential_providers: &str) -> Self {
        let pods = format!("wharf-pods-{}", Uuid::new_v4());
        let folder = Scratch::and_control_groups(&control_groups(&pods));
        let home = folder.path();
        fs::create_dir(home.join("cni")).unwrap();
        // Pods are in the network of their node, so this is never asked for more than its name.
        let no_network =
            json!({ "cniVersion": "1.0.0", "name": "none", "plugins": [{ "type": "loopback" }] });
        fs::write(home.join("cni/none.conflist"), no_network.to_string()).unwrap();
        fs::write(home.join("containerd.toml"), containerd::configuration(home, SANDBOX)).unwrap();
        fs::write(home.join("credentials.yaml"), credential_providers).unwrap();
        fs::write(home.join("kubelet.json"), settings(home, &pods).to_string()).unwrap();
        fs::write(home.join("hosts"), "127.0.0.1 localhost\n").unwrap();

        let (containerd, ()) = Process::start(programs.containerd(&folder), containerd::booted).await;
        programs.import_sandbox(&folder).await;
        let kubelet = programs.kubelet(&folder, containerd.id(), cluster);
        let (kubelet, ()) = Process::start(kubelet, |_| Some(())).await;
        let node = Self { kubelet, containerd, folder };
        let admin = cluster.admin();
        let is_ready = async || {
            let known = admin.try_to(hyper::Method::GET, &format!("/api/v1/nodes/{NAME}"), None).await;
            let conditions = known.map(|(_, node)| node["status"]["conditions"].clone()).unwrap_or_default();
            let mut conditions = conditions.as_array().into_iter().flatten();
            conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        node.kubelet.until(is_ready).await;
        node
    }

    /// Lets images name `host`, and mean the registry at `address`, which is known by its `certificate`.
    pub(crate) fn knows(&self, host: &str, address: &str, certificate: &str) {
        let folder = self.folder.path().join("certs.d").join(host);
        fs::create_dir_all(&folder).unwrap();
        let authority = folder.join("ca.crt");
        fs::write(&authority, certificate).unwrap();
        let authority = authority.display();
        let settings = format!(
            "server = \"https://{host}\"\n[host.\"https://{address}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\nca = \"{authority}\"\n"
        );
        fs::write(folder.join("hosts.toml"), settings).unwrap();
    }

    /// Has `name` lead to the address of its [`Network`], as a name server would.
    pub(crate) fn finds(&self, name: &str) {
        let mut hosts = File::options().append(true).open(self.folder.path().join("hosts")).unwrap();
        writeln!(hosts, "{} {name}", Network::ADDRESS).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kubelet.kill();
        // When the first process of a namespace has ended, all others have, and nobody uses the folder any longer.
        let parent = self.containerd.id();
        let first = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        if let Some(first) = first.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(first, Signal::KILL); // It may have ended by itself.
            self.containerd.wait();
        }
    }
}

impl Programs {
    #[track_caller]
    pub(crate) fn found() -> Option<Self> {
        tool::debian("runc")?;
        Some(Self {
            busybox: tool::debian("busybox")?,
            nsenter: tool::debian("nsenter")?,
            setpriv: tool::debian("setpriv")?,
            unshare: tool::debian("unshare")?,
            containerd: tool::go("containerd")?,
            ctr: tool::go("ctr")?,
            kubelet: tool::go("kubelet")?,
            shim: tool::go("containerd-shim-runc-v2")?,
        })
    }

    fn containerd(&self, folder: &Scratch) -> Command {
        let mut command = Command::new(&self.setpriv);
        let script = format!(
            "for setting in {SETTINGS}; do
                mkdir -p \"settings/${{setting%/*}}\"
                cat \"/proc/sys/$setting\" >\"settings/$setting\"
                mount --bind \"settings/$setting\" \"/proc/sys/$setting\"
            done
            for folder in {FOLDERS}; do
                mkdir -p \"over/$folder\" \"work/$folder\"
                mount -t overlay -o \"lowerdir=/$folder,upperdir=over/$folder,workdir=work/$folder\" node \"/$folder\"
            done
            mount --bind hosts /etc/hosts
            exec \"$0\" -c containerd.toml"
        );
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.unshare);
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-e", "-c"]);
        command.arg(script).arg(&self.containerd);
        command.env("PATH", containerd::path(&self.shim));
        command.current_dir(folder.path()).stdin(folder.in_use());
        command
    }

    /// Gives containerd an image that waits.
    async fn import_sandbox(&self, folder: &Scratch) {
        let layout = folder.path().join("sandbox");
        let image = Image::running(&["/bin/busybox", "sleep", "1000000"], &self.busybox);
        image.write_layout(&layout, SANDBOX);
        let archive = folder.path().join("sandbox.tar");
        let mut tar = tar::Builder::new(File::create(&archive).unwrap());
        tar.append_dir_all("", layout).unwrap();
        tar.finish().unwrap();
        let mut ctr = Client::new(&self.ctr);
        ctr.arg("-a").arg(folder.path().join("containerd.sock"));
        ctr.args(["-n", "k8s.io", "images", "import"]).arg(archive);
        ctr.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        workstation::finish_well(&mut ctr).await;
    }

    fn kubelet(&self, folder: &Scratch, unshared: u32, cluster: &Cluster) -> Command {
        let mut command = Command::new(&self.nsenter);
        command.arg(format!("--mount=/proc/{unshared}/ns/mnt"));
        command.arg(format!("--pid=/proc/{unshared}/ns/pid_for_children"));
        command.arg(&self.kubelet);
        command.arg(format!("--kubeconfig={}", cluster.kubeconfig(&user_token(USER)).display()));
        command.arg(format!("--hostname-override={NAME}"));
        command.arg(format!("--node-ip={}", Network::ADDRESS));
        let providers = wharf::path();
        let providers = providers.parent().expect("a program is in a folder").display();
        command.arg(format!("--image-credential-provider-bin-dir={providers}"));
        for (option, file) in [
            ("image-credential-provider-config", "credentials.yaml"),
            ("config", "kubelet.json"),
            ("root-dir", "kubelet"),
            ("cert-dir", "certificates"),
        ] {
            command.arg(format!("--{option}={}", folder.path().join(file).display()));
        }
        command.env("PATH", containerd::path(&self.shim)).stdin(folder.in_use());
        command
    }
}

/// The kubelet's configuration: what a test needs, and nothing by which it would touch the machine.
fn settings(home: &Path, pods: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", home.display()),
        "podLogsDir": home.join("logs"),
        "resolvConf": "",
        "volumePluginDir": home.join("plugins"),
        "address": Network::ADDRESS,
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{pods}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        // A disk that is nearly full is none of the tests' business.
        "evictionHard": { "memory.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
    })
}

/// Makes a group called `name` in each hierarchy that the machine has.
fn control_groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut groups = vec![root.join(name)];
    if !root.join("cgroup.controllers").exists() {
        // Version 1: a folder for each, some of which have a second name.
        let entries = fs::read_dir(root).unwrap().map(Result::unwrap);
        let hierarchies = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        groups = hierarchies.map(|hierarchy| hierarchy.path().join(name)).collect();
    }
    for group in &groups {
        fs::create_dir(group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
    }
    groups
}
