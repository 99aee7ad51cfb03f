use std::fs;
use std::process::Command;

use crate::harness::process::Process;
use crate::harness::registry::address_in;
use crate::harness::wharf;

/// Starts the server as a shell does in which `ulimit` was run like this, and gives its process and the limits it ends up with.
async fn serve(ulimit: &str, connections: usize) -> (Process, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" serve")]).arg(wharf::path());
    command.current_dir(folder.path());
    command.env("REGISTRY_HTTP_ADDR", "127.0.0.1:0");
    command.env("REGISTRY_HTTP_LIMITS_CONNECTIONS", connections.to_string());
    let (process, _) = Process::start(command, address_in).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let line = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    (process, line)
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let (process, limits) = serve("-Sn 100 && ulimit -Hn 900", 300).await;
    assert_eq!(limits, "900 900");
    let log = process.lines_until(|line| line.contains("listening")).await;
    assert!(!log.concat().contains("http.limits.connections"), "{log:#?}");
}

#[tokio::test]
async fn too_few_files_for_the_connections_that_are_allowed_are_warned_of() {
    let (process, limits) = serve("-n 300", 300).await;
    assert_eq!(limits, "300 300");
    let warning = |line: &str| line.contains("300 connections (http.limits.connections)").then_some(());
    process.line(warning).await;
}
