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

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = tempfile::Builder::new().prefix("wharf-kubernetes-").tempdir().unwrap().keep();
        let (unused, in_use) = pipe().unwrap();
        let mut remover = Command::new("sh");
        remover.args(["-c", "read -r _; rm -rf \"$0\""]).arg(&path).stdin(unused);
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
