//! The program that is tested, as a command that somebody runs and reads.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::secrets;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) complaint: String,
}

/// Where it is.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wharf"))
}

/// Runs it with nothing in its environment but what the story says.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Printed {
    run_on(arguments, environment, "")
}

/// Runs it with `input` on its standard input.
pub(crate) fn run_on(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Printed {
    let mut child = Command::new(path())
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wharf starts");
    // Whoever does not read it may have ended.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let ended = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("wharf prints text");
    let printed =
        Printed { code: ended.status.code(), output: text(ended.stdout), complaint: text(ended.stderr) };
    secrets::assert_none_in(printed.complaint.lines());
    printed
}
