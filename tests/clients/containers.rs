//! podman, buildah and skopeo on one machine: they share its store of images.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::harness::{Image, TestRegistry, Workstation, tool};

/// A machine with the three programs, run as root, whose images and containers are kept in its home.
pub(super) struct Containers {
    pub(super) machine: Workstation,
    /// A static busybox, for images that run.
    pub(super) busybox: PathBuf,
    buildah: PathBuf,
    podman: PathBuf,
    skopeo: PathBuf,
    unshare: PathBuf,
}

impl Containers {
    /// Sets a machine up that knows `registry`, if this one has the programs and the rights.
    #[track_caller]
    pub(super) fn near(registry: &TestRegistry) -> Option<Self> {
        Self::at(registry.workstation())
    }

    /// Sets `machine` up, if this one has the programs and the rights.
    #[track_caller]
    pub(super) fn at(machine: Workstation) -> Option<Self> {
        tool::debian("runc")?;
        let containers = Self {
            machine,
            busybox: tool::debian("busybox")?,
            buildah: tool::debian("buildah")?,
            podman: tool::debian("podman")?,
            skopeo: tool::debian("skopeo")?,
            unshare: tool::debian("unshare")?,
        };
        tool::root().then_some(containers)
    }

    /// Runs podman with the words of `line`, and returns what it printed.
    pub(super) async fn podman(&self, line: impl AsRef<str>) -> String {
        self.with_store(&self.podman, line.as_ref()).await
    }

    /// Runs podman with the words of `line`, which must fail, and returns why it did.
    pub(super) async fn podman_in_vain(&self, line: impl AsRef<str>) -> String {
        self.machine.finish_in_vain(self.on_store(&self.podman, line.as_ref())).await
    }

    /// Runs buildah with the words of `line`, and returns what it printed.
    pub(super) async fn buildah(&self, line: impl AsRef<str>) -> String {
        self.with_store(&self.buildah, line.as_ref()).await
    }

    /// Runs buildah with the words of `line`, which must fail, and returns why it did.
    pub(super) async fn buildah_in_vain(&self, line: impl AsRef<str>) -> String {
        self.machine.finish_in_vain(self.on_store(&self.buildah, line.as_ref())).await
    }

    /// Runs skopeo with the words of `line`, and returns what it printed.
    pub(super) async fn skopeo(&self, line: impl AsRef<str>) -> String {
        self.machine.run(&self.skopeo, line.as_ref().split_whitespace()).await
    }

    /// Runs skopeo with the words of `line`, which must fail, and returns why it did.
    pub(super) async fn skopeo_in_vain(&self, line: impl AsRef<str>) -> String {
        self.machine.run_in_vain(&self.skopeo, line.as_ref().split_whitespace()).await
    }

    /// Writes `image` as a layout into the home; the three programs read it as `oci:NAME:1`.
    pub(super) fn lay_out(&self, name: &str, image: &Image) {
        image.write_layout(&self.machine.home().join(name), "1");
    }

    /// Builds an image that prints `message`, for the machine or for another `platform`, and names it `name`.
    pub(super) async fn build(&self, name: &str, message: &str, options: &str) {
        let context = self.machine.home().join("context");
        std::fs::create_dir_all(&context).unwrap();
        std::fs::copy(&self.busybox, context.join("busybox")).unwrap();
        std::fs::write(context.join("message"), message).unwrap();
        let file = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY message /\nCMD [\"/bin/busybox\", \"cat\", \"/message\"]\n";
        std::fs::write(context.join("Containerfile"), file).unwrap();
        self.buildah(format!("bud --isolation chroot --layers {options} --tag {name} context")).await;
    }

    /// Builds an image for each of `architectures`, which prints which that is, and pushes them as one to `there`.
    pub(super) async fn push_for_each(&self, architectures: &[&str], there: &str) {
        for architecture in architectures {
            let options = format!("--arch {architecture} --manifest all");
            self.build(&format!("app-{architecture}"), architecture, &options).await;
        }
        self.buildah(format!("manifest push --all all docker://{there}")).await;
    }

    /// Runs an image that the store has or that can be pulled, and returns what it printed.
    pub(super) async fn run(&self, image: &str) -> String {
        self.podman(format!("run --rm --network none {image}")).await
    }

    /// Starts podman with the words of `line`, as a program that serves.
    pub(super) fn podman_command(&self, line: impl AsRef<str>) -> Command {
        self.on_store(&self.podman, line.as_ref())
    }

    async fn with_store(&self, program: &Path, line: &str) -> String {
        self.machine.finish(self.on_store(program, line)).await
    }

    fn on_store(&self, program: &Path, line: &str) -> Command {
        let home = self.machine.home();
        let mut command = self.machine.command(&self.unshare);
        // The programs mount their store; the mounts go with the namespace.
        command.arg("--mount").arg(program);
        command.arg("--root").arg(home.join("store")).arg("--runroot").arg(home.join("run/store"));
        command.args(["--storage-driver", "overlay"]).args(line.split_whitespace());
        command
    }
}
