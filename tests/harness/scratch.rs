//! A folder for programs that may outlive a test that is killed.

use std::{
    io::{PipeWriter, pipe},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A folder that is removed when everybody who has it in use has gone, in whatever way: dropped, ended, or killed.
pub(crate) struct Scratch {
    path: PathBuf,
    /// The remover waits until nobody holds a copy of it any longer.
    in_use: Option<PipeWriter>,
    remover: Child,
}

/// Whoever was killed may be in a group for a moment.
const REMOVER: &str = r#"
    read -r _
    for group; do
        for _ in 1 2 3 4 5 6 7 8 9; do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && continue 2
            sleep 0.1
        done
        echo "the control group $group is left" >&2
    done
    rm -rf "$0"
"#;

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::and_control_groups(&[])
    }

    /// A folder with which control groups go, and those in them.
    pub(crate) fn and_control_groups(groups: &[PathBuf]) -> Self {
        let path = tempfile::Builder::new().prefix("wharf-kubernetes-").tempdir().unwrap().keep();
        let (unused, in_use) = pipe().unwrap();
        let mut remover = Command::new("sh");
        remover.args(["-c", REMOVER]).arg(&path).args(groups).stdin(unused);
        let remover = remover.process_group(0).spawn().unwrap(); // What interrupts the test spares it.
        Self { path, in_use: Some(in_use), remover }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The input of a program that uses the folder.
    pub(crate) fn in_use(&self) -> Stdio {
        self.in_use.as_ref().expect("it is in use until it is dropped").try_clone().unwrap().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.in_use.take());
        let _ = self.remover.wait(); // That it has failed, it has said.
    }
}
