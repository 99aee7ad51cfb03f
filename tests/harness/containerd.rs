//! How containerd is started.

use std::path::Path;

/// The configuration of a containerd 2 that keeps everything in `home`, and makes pods of the image `sandbox`. How registries
/// are reached, it looks up in `certs.d` there.
pub(crate) fn configuration(home: &Path, sandbox: &str) -> String {
    let home = home.display();
    format!(
        r#"version = 3
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "{home}/containerd.sock"
[ttrpc]
address = "{home}/containerd.ttrpc"
[plugins.'io.containerd.internal.v1.opt']
path = "{home}/opt"
[plugins.'io.containerd.transfer.v1.local']
max_concurrent_downloads = 4
concurrent_layer_fetch_buffer = 262144
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{home}/certs.d"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{sandbox}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
conf_dir = "{home}/cni"
"#
    )
}

/// Where it looks for programs: for its `shim`, and for what starts containers.
pub(crate) fn path(shim: &Path) -> String {
    let folder = shim.parent().expect("a program is in a folder").display();
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{folder}:{path}:/usr/sbin:/sbin")
}

/// Recognises the line in which containerd, old or new, says that it is ready.
pub(crate) fn booted(line: &str) -> Option<()> {
    line.contains("containerd successfully booted").then_some(())
}
