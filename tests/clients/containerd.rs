//! Debian's containerd, driven by its `ctr`: as nodes have pulled for years.

use std::process::Command;

use crate::harness::{Image, TestRegistry, Workstation, containerd::booted, process::Process, tool};

#[tokio::test]
async fn containerd_runs_what_it_pulls_and_pushes_what_it_has() {
    let registry = TestRegistry::start().await;
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some((ctr, machine, _containerd)) = containerd(&registry).await else { return };
    let image = Image::saying("hello from a node", &busybox);
    registry.user("alice").push("team/app", "1", &image).await;
    let ctr = async |line: String| {
        let socket = machine.home().join("containerd.sock").display().to_string();
        let words = ["-a", &socket].into_iter().chain(line.split_whitespace());
        machine.run(&ctr, words).await
    };

    let host = registry.host();
    for snapshotter in ["native", "overlayfs"] {
        ctr(format!("images pull --plain-http --snapshotter {snapshotter} {host}/team/app:1")).await;
        // By its status: now and then ctr loses what a container prints just before it ends.
        let look = format!("app-{snapshotter} /bin/busybox grep -q node /message");
        ctr(format!("run --rm --snapshotter {snapshotter} {host}/team/app:1 {look}")).await;
    }

    ctr(format!("images tag {host}/team/app:1 {host}/other/app:2")).await;
    ctr(format!("images push --plain-http {host}/other/app:2")).await;
    assert_eq!(registry.user("bob").pull_manifest("other/app", "2").await, image.manifest);
}

/// Starts a containerd of the test's own: its client, its machine, and itself.
pub(super) async fn containerd(
    registry: &TestRegistry,
) -> Option<(std::path::PathBuf, Workstation, Process)> {
    let programs = (tool::debian("containerd")?, tool::debian("ctr")?, tool::debian("unshare")?);
    let (containerd, ctr, unshare) = programs;
    tool::debian("runc")?;
    if !tool::root() {
        return None;
    }
    let machine = registry.workstation();
    let home = machine.home().display();
    let configuration = format!(
        "version = 2\nroot = \"{home}/root\"\nstate = \"{home}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{home}/containerd.sock\"\n"
    );
    let configuration = machine.write("containerd.toml", configuration);
    let mut command = Command::new(unshare);
    // What it mounts for containers goes with the namespace.
    command.arg("--mount").arg(containerd).arg("-c").arg(configuration);
    let (process, ()) = Process::start(command, booted).await;
    Some((ctr, machine, process))
}
