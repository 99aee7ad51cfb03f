//! Someone's machine: a home of its own, in which client programs find how the registry is reached.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

/// How long one command may take. The slowest takes seconds, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// A home, and the settings by which programs keep everything inside it. What they leave mounted or running is not
/// theirs: each command is a process group of its own, killed when the test gives up on it.
pub(crate) struct Workstation {
    home: TempDir,
}

impl Workstation {
    /// Makes a home whose programs speak plain HTTP with the registry at `host`.
    pub(crate) fn new(host: &str) -> Self {
        let workstation = Self::make();
        let registries = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
        workstation.write(".config/containers/registries.conf", registries);
        workstation
    }

    /// Makes a home whose programs trust the registry at `host` for its `certificate`, or can be told to trust `ca.crt`.
    pub(crate) fn trusting(host: &str, certificate: &str) -> Self {
        let workstation = Self::make();
        workstation.write("ca.crt", certificate);
        workstation.write(&format!(".config/containers/certs.d/{host}/ca.crt"), certificate);
        workstation
    }

    fn make() -> Self {
        let home = tempfile::Builder::new().prefix("wharf-home-").tempdir().unwrap();
        for folder in ["tmp", "run"] {
            fs::create_dir(home.path().join(folder)).unwrap();
        }
        let workstation = Self { home };
        // Locks in files, since those in memory are shared by the whole machine; limits as they are where raising them is
        // not permitted; the runtime that knows cgroups v1.
        let containers = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
             lock_type = \"file\"\ntmp_dir = \"{}/run/libpod\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
            workstation.home().display(),
        );
        workstation.write(".config/containers/containers.conf", containers);
        workstation.write("docker/config.json", "{}");
        workstation
    }

    /// The home folder, in which commands run.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file into the home, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Reads a file of the home.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.home.path().join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a program that must succeed, and returns what it printed.
    pub(crate) async fn run<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> String {
        self.finish(self.command_line(program, arguments)).await
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) async fn finish(&self, mut command: Command) -> String {
        finish_well(&mut command).await
    }

    /// Runs a program that must fail, and returns what it printed and complained about.
    pub(crate) async fn run_in_vain<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> String {
        self.finish_in_vain(self.command_line(program, arguments)).await
    }

    /// Runs a command that must fail, and returns what it printed and complained about.
    pub(crate) async fn finish_in_vain(&self, mut command: Command) -> String {
        let output = finish(&mut command).await;
        assert!(!output.status.success(), "{command:?} succeeds:\n{}", both(&output));
        both(&output)
    }

    fn command_line<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = self.command(program);
        command.args(arguments);
        command
    }

    /// Prepares a command that sees nothing but this home.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let home = self.home.path();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", home)
            .env("TMPDIR", home.join("tmp"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("CONTAINERS_CONF", home.join(".config/containers/containers.conf"))
            .env("DOCKER_CONFIG", home.join("docker"))
            .env("REGCTL_CONFIG", home.join("regctl.json"))
            .env("HELM_CACHE_HOME", home.join("helm/cache"))
            .env("HELM_CONFIG_HOME", home.join("helm/config"))
            .env("HELM_DATA_HOME", home.join("helm/data"))
            .env("SSL_CERT_FILE", home.join("ca.crt"))
            .env("TUF_ROOT", home.join("tuf"))
            .env("COSIGN_PASSWORD", "")
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Runs `command`, which must succeed, and returns what it printed.
pub(super) async fn finish_well(command: &mut Command) -> String {
    let output = finish(command).await;
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command` to its end, or kills it and all that it started.
async fn finish(command: &mut Command) -> Output {
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Ok(output) = timeout(PATIENCE, child.wait_with_output()).await {
        return output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    }
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL); // It may have ended just now.
    }
    panic!("{command:?} does not end")
}

/// What a command wrote, for whoever has to find out why it failed.
fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
