//! The programs and rights that a test needs and a machine may lack.
//!
//! libtest cannot skip a test that has begun. A test that cannot run here returns early, and its name and reason go into
//! the file `$WHARF_TEST_SKIPS`, from which `make test` prints its summary; where `CI` is set a skip is a failure.
//!
//! ```ignore
//! let Some(podman) = tool::debian("podman") else { return };
//! ```

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    panic::Location,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// The program of a Debian package that `tools/debian.txt` names.
#[track_caller]
pub(crate) fn debian(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    found_or_skip(program, folders, "tools/debian.sh")
}

/// A program that `tools/go.sh` built. Never one from `PATH`, where `ctr` is Debian's.
#[track_caller]
pub(crate) fn go(program: &str) -> Option<PathBuf> {
    found_or_skip(program, [folder("WHARF_TEST_PROGRAMS", "go/current")], "tools/go.sh")
}

/// A program of the virtual environment that `tools/python.sh` made, its `python` among them.
#[track_caller]
pub(crate) fn python(program: &str) -> Option<PathBuf> {
    found_or_skip(program, [folder("WHARF_TEST_PYTHON", "python/current/bin")], "tools/python.sh")
}

/// The server as a program that needs no library, which `tools/static.sh` built beside the one that is tested.
#[track_caller]
pub(crate) fn static_wharf() -> Option<PathBuf> {
    let profile = Path::new(env!("CARGO_BIN_EXE_wharf")).parent();
    let target = profile.and_then(Path::parent).expect("cargo builds into target/<profile>/");
    found_or_skip("wharf", [target.join("static")], "tools/static.sh")
}

/// Whether the test may mount, make namespaces and run containers.
#[track_caller]
pub(crate) fn root() -> bool {
    // The owner of a process's entry in /proc is its user.
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        skip("it needs root");
    }
    is_root
}

/// The folder that `variable` names, or what `tools/` last put under `inside` in its cache.
fn folder(variable: &str, inside: &str) -> PathBuf {
    let cache = || match env::var_os("WHARF_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache/wharf"),
    };
    env::var_os(variable).map_or_else(|| cache().join(inside), PathBuf::from)
}

#[track_caller]
fn found_or_skip(
    program: &str,
    folders: impl IntoIterator<Item = PathBuf>,
    installer: &str,
) -> Option<PathBuf> {
    let found = folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{program} is not there ({installer} installs it)"));
    }
    found
}

/// Notes that the running test cannot run here, and why.
#[track_caller]
fn skip(reason: &str) {
    // A test's thread bears its name, except where all tests share one (`--test-threads=1`).
    let thread = thread::current();
    let test = match thread.name() {
        Some("main") | None => Location::caller().to_string(),
        Some(name) => name.to_owned(),
    };
    eprintln!("skipped {test}: {reason}");
    if let Some(file) = env::var_os("WHARF_TEST_SKIPS") {
        let mut file =
            OpenOptions::new().append(true).create(true).open(file).expect("the list of skips opens");
        // One write, so that tests which skip at the same moment do not mix their lines.
        file.write_all(format!("{test}: {reason}\n").as_bytes()).expect("the list of skips takes a line");
    }
}

#[test]
fn the_go_programs_are_the_pinned_ones() {
    let Some(crane) = go("crane") else { return };
    let output = Command::new(crane).arg("version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let pinned = include_str!("../../tools/go.txt");
    let line = pinned.lines().find(|line| line.starts_with("crane ")).unwrap();
    assert!(
        line.split_whitespace().any(|word| word == version.trim()),
        "crane {version} is not that of {line}"
    );
}

#[test]
fn the_python_clients_can_be_imported() {
    let Some(python) = python("python") else { return };
    let status = Command::new(python).args(["-c", "import oras.client, dxf"]).status().unwrap();
    assert!(status.success());
}

#[test]
fn podman_runs_here() {
    let Some(podman) = debian("podman") else { return };
    if !root() {
        return;
    }
    let status = Command::new(podman).arg("--version").status().unwrap();
    assert!(status.success());
}
