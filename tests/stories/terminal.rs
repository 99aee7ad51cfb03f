//! Somebody who tries it out at a terminal.

use std::{io::Write, io::pipe, process::Command};

use crate::harness::{process::Process, registry::address_in, tool, wharf};

#[tokio::test]
async fn a_person_at_a_terminal_reads_what_to_do_and_stops_it_with_a_key() {
    let Some(script) = tool::debian("script") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (keyboard, mut keys) = pipe().unwrap();
    let mut command = Command::new(script);
    // Some shells keep themselves between the terminal and the server, and the key ends them as well.
    let serve = format!("exec {} serve", wharf::path().display());
    command.args(["--quiet", "--return", "--command", &serve]);
    command.arg("/dev/null").current_dir(folder.path()).env("REGISTRY_HTTP_ADDR", "127.0.0.1:0");
    command.stdin(keyboard);
    let (terminal, address) = Process::start(command, address_in).await;
    let said = terminal.lines_until(|line| line.contains("Stop it with Ctrl-C.")).await.join("\n");
    assert!(
        said.contains(&format!("podman push --tls-verify=false localhost:{}/demo/app", address.port())),
        "{said}"
    );
    assert!(
        said.contains("Wharf keeps images in data. Anybody who can connect may push and pull."),
        "{said}"
    );
    assert!(!said.contains("{\"timestamp\""), "its log is for people: {said}");

    keys.write_all(b"\x03").unwrap();
    let stopping = terminal.lines_until(|line| line.contains("SIGINT")).await;
    assert!(stopping.last().unwrap().contains("stopping"), "{stopping:#?}");
    terminal.ended().await;
}
