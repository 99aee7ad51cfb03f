//! `strace`, as what makes a server's system calls fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{TestRegistry, process::Process};

/// Tries something while the first call of a kind fails, then while the second does, and so on until none is left to fail. `attempt` is
/// told when, in the words of [`Faults::inject`], and tells how many failed: each thread counts its own calls.
pub(super) async fn each_in_turn(calls: &str, mut attempt: impl AsyncFnMut(&str) -> usize) {
    let mut number = 1;
    while attempt(&number.to_string()).await > 0 {
        number += 1;
    }
    assert!(number > 1, "{calls} is called");
}

/// System calls that fail for as long as it lives.
pub(super) struct Faults {
    strace: Process,
    log: tempfile::NamedTempFile,
}

impl Faults {
    /// Lets those of a server's `calls` fail that `when` counts, by thread; with a `path`, only those on that file.
    pub(super) async fn inject(
        strace: &Path,
        registry: &TestRegistry,
        calls: &str,
        error: &str,
        when: &str,
        path: Option<PathBuf>,
    ) -> Self {
        Self::attach(strace, registry, calls, &format!("{calls}:error={error}:when={when}"), path).await
    }

    /// Has `strace` follow a server's `calls` and do to them what `injection` says; with a `path`, only to those on that file.
    pub(super) async fn attach(
        strace: &Path,
        registry: &TestRegistry,
        calls: &str,
        injection: &str,
        path: Option<PathBuf>,
    ) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(strace);
        command.arg("--follow-forks").arg("--output").arg(log.path());
        command.arg(format!("--attach={}", registry.process_id()));
        command.arg(format!("--trace={calls}"));
        command.arg(format!("--inject={injection}"));
        if let Some(path) = path {
            command.arg("--trace-path").arg(path);
        }
        let attached = |line: &str| line.contains("attached").then_some(());
        let (strace, ()) = Process::start(command, attached).await;
        Self { strace, log }
    }

    /// Lets calls succeed again, and tells how many failed.
    pub(super) async fn heal(self) -> usize {
        self.strace.interrupt().await;
        fs::read_to_string(self.log.path()).unwrap().matches("(INJECTED)").count()
    }
}
