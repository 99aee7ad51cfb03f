//! A network of a test's own, in which nothing else listens and no setting is the machine's.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    panic::resume_unwind,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::tool;

/// What makes such networks. Each has loopback, and one address that is not a loopback one.
pub(crate) struct Network {
    unshare: PathBuf,
    ip: PathBuf,
}

impl Network {
    pub(crate) const ADDRESS: &str = "10.88.78.1";

    #[track_caller]
    pub(crate) fn found() -> Option<Self> {
        let network = Self { unshare: tool::debian("unshare")?, ip: tool::debian("ip")? };
        tool::root().then_some(network)
    }

    /// Runs a test on a thread that is in a new network, as are the programs and threads that it starts.
    pub(crate) fn run(&self, test: impl AsyncFnOnce() + Send) {
        let inside = || {
            self.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        };
        let name = thread::current().name().unwrap_or("main").to_owned(); // by which it is skipped
        thread::scope(|scope| {
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).unwrap();
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    /// Moves the calling thread into a new network.
    fn enter(&self) {
        let script = "\"$0\" link set lo up && \"$0\" addr add \"$1/32\" dev lo && echo made && read -r _";
        let mut maker = Command::new(&self.unshare)
            .args(["--net", "sh", "-c", script])
            .args([self.ip.as_os_str(), Self::ADDRESS.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(maker.stdout.take().expect("it is piped")).read_line(&mut said).unwrap();
        assert_eq!(said, "made\n", "the network is made");
        let network = File::open(format!("/proc/{}/ns/net", maker.id())).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        maker.wait().unwrap(); // Nobody says anything to it any more: it ends.
    }
}
