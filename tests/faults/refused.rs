//! A store that takes no more, and a registry that is told not to take any.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::registry::{address_in, overlay};
use crate::harness::{Image, Layer, MIB, TestRegistry, User, process::Process, tool, until, wharf};

/// A file system that is mounted for as long as it lives.
struct Mounted(TempDir);

impl Mounted {
    /// A small disk of its own.
    fn small_disk(mebibytes: usize) -> Self {
        let size = format!("size={mebibytes}m");
        Self::with(|mount| mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]))
    }

    /// What is in a folder, but `options` hold for it.
    fn folder(folder: &Path, options: &str) -> Self {
        Self::with(|mount| mount.args(["-o", &format!("bind,{options}")]).arg(folder))
    }

    fn with(options: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mounted = Self(tempfile::tempdir().unwrap());
        mounted.mount(options);
        mounted
    }

    fn mount(&self, options: impl FnOnce(&mut Command) -> &mut Command) {
        let mounted = options(&mut Command::new("mount")).arg(self.path()).status();
        assert!(mounted.unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes it away, which leaves the folder below it.
    fn unmount(&self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.unwrap().success());
    }

    /// Lets other options hold, as soon as nothing is being written.
    async fn remount(&self, options: &str) {
        until(async || {
            let mut mount = Command::new("mount");
            mount.args(["-o", &format!("remount,bind,{options}")]).arg(self.path());
            mount.stderr(Stdio::null()).status().unwrap().success()
        })
        .await;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_with_507_and_loses_nothing() {
    if !tool::root() {
        return;
    }
    let disk = Mounted::small_disk(8);
    let registry = TestRegistry::with(watched(disk.path())).await;
    let alice = registry.user("alice");
    let kept = Image::of(vec![Layer::random(MIB)]);
    alice.push("team/app", "kept", &kept).await;

    let large = Layer::random(16 * MIB);
    let upload = alice.begin_upload("team/app").await;
    alice.send(&upload, large.first(MIB)).await;
    let refused = alice.finish_with(&upload, &large.digest(), large.from(MIB)).await;
    let refused = refused.expect(StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(refused.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains("full"));
    // Nobody gives the upload up, and what was acknowledged of it is kept. The rest leaves its room to others.
    assert_eq!(alice.upload_end(&upload).await, MIB);
    alice.push("team/app", "meanwhile", &Image::of(vec![Layer::random(MIB)])).await;

    // To the last byte.
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![0; 16 * MIB]).unwrap_err();
    says(&alice, "ready\nnothing can be pushed: there is no space left\n").await;
    assert!(alice.metrics().await.contains("\nwharf_store_writable 0\n"));
    registry.line_with("the store takes nothing").await;
    assert_eq!(alice.pull_manifest("team/app", "kept").await, kept.manifest);
    let registry = registry.restart().await;
    let alice = registry.user("alice");
    assert_eq!(alice.pull("team/app", kept.layers[0].digest()).await, kept.layers[0]);
    says(&alice, "ready\nnothing can be pushed: there is no space left\n").await;
    fs::remove_file(filler).unwrap();
    says(&alice, "ready\n").await;
    assert!(alice.metrics().await.contains("\nwharf_store_writable 1\n"));
    alice.push("team/app", "after", &Image::of(vec![Layer::random(MIB)])).await;
}

/// Somebody who owns nothing.
const NOBODY: u32 = 65_534;

/// A server on a folder, perhaps as another user.
fn server_on(folder: &Path, program: &Path, user: Option<u32>) -> Command {
    let mut command = Command::new(program);
    command.arg("serve").env_clear().env("REGISTRY_HTTP_ADDR", "127.0.0.1:0");
    command.env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", folder).current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

/// Starts a server on a folder that it cannot use, perhaps as another user, and returns why it does not start.
fn complaint_about(folder: &Path, program: &Path, user: Option<u32>) -> String {
    let ended = server_on(folder, program, user).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).unwrap()
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The program in a folder for everybody: the checkout may lie where only this user can go.
fn program_for_everybody() -> (TempDir, PathBuf) {
    let programs = tempfile::tempdir().unwrap();
    allow(programs.path(), 0o755);
    let program = programs.path().join("wharf");
    fs::copy(wharf::path(), &program).unwrap();
    (programs, program)
}

#[test]
fn a_folder_on_a_read_only_file_system_is_named_at_the_start() {
    if !tool::root() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let folder = Mounted::folder(empty.path(), "ro");
    let complaint = complaint_about(folder.path(), &wharf::path(), None);
    let named = format!(
        "{}/docker/registry/wharf/staging is on a file system that is mounted read-only",
        folder.path().display()
    );
    assert!(complaint.contains(&named), "{complaint}");
    assert!(complaint.contains("storage.maintenance.readonly"), "{complaint}");
}

#[test]
fn a_folder_that_this_user_may_not_use_is_named_at_the_start() {
    if !tool::root() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    fs::create_dir(&folder).unwrap();
    allow(parent.path(), 0o755);
    let (_programs, program) = program_for_everybody();
    for (mode, act) in [(0o755, "make"), (0o700, "list"), (0o711, "list")] {
        allow(&folder, mode);
        let complaint = complaint_about(&folder, &program, Some(NOBODY));
        assert!(
            complaint.contains(&format!("user {NOBODY} may not {act} {}", folder.display())),
            "{complaint}"
        );
    }
    allow(parent.path(), 0o700);
    let complaint = complaint_about(&folder, &program, Some(NOBODY));
    assert!(complaint.contains(&format!("may not look into {}", folder.display())), "{complaint}");
}

#[tokio::test]
async fn a_folder_is_made_where_this_user_may_not_look() {
    if !tool::root() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    allow(parent.path(), 0o733);
    let (_programs, program) = program_for_everybody();
    let command = server_on(&parent.path().join("data"), &program, Some(NOBODY));
    let (server, _) = Process::start(command, address_in).await;
    server.line(|line| line.contains("made, but not synced").then_some(())).await;
}

#[tokio::test]
async fn a_folder_that_holds_no_registry_yet_is_named_in_the_log() {
    let registry = TestRegistry::start().await;
    registry.line_with("the folder holds no registry yet").await;
    registry.user("alice").push("team/app", "1", &Image::of(vec![Layer::random(10)])).await;
    let registry = registry.restart().await;
    let log = registry.log_until("listening").await;
    assert!(!log.iter().any(|line| line.contains("no registry yet")), "{log:#?}");
}

#[tokio::test]
async fn a_read_only_registry_in_an_empty_folder_is_a_warning() {
    let empty = tempfile::tempdir().unwrap();
    let registry = TestRegistry::with(read_only(watched(empty.path()))).await;
    let line = registry.line_with("the folder holds no registry").await;
    assert!(line.contains("is its volume mounted?"), "{line}");
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["level"], "WARN");
}

#[tokio::test]
async fn a_read_only_registry_serves_and_takes_nothing() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    registry.user("alice").push("team/app", "1", &image).await;
    let reading = registry.replica_with(read_only(json!({}))).await;
    let bob = reading.user("bob");
    assert_eq!(bob.pull_manifest("team/app", "1").await, image.manifest);
    let refused = bob.delete("/v2/team/app/manifests/1").await.expect(StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.json()["errors"][0]["code"], "UNSUPPORTED");
    assert_eq!(begin_upload(&bob).await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_read_only_mount_is_ready_in_read_only_mode_and_nothing_is_tried() {
    if !tool::root() {
        return;
    }
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    registry.user("alice").push("team/app", "1", &image).await;
    let mount = Mounted::folder(registry.data().ancestors().nth(3).unwrap(), "ro");
    let reading = registry.replica_with(read_only(watched(mount.path()))).await;
    let bob = reading.user("bob");
    let looks = "wharf_backend_operation_duration_seconds_count{operation=\"probe\"} ";
    until(async || {
        let metrics = bob.metrics().await;
        metrics.lines().any(|line| line.strip_prefix(looks).is_some_and(|count| count != "1"))
    })
    .await;
    assert_eq!(bob.get("/readyz").await.expect(StatusCode::OK).body, "ready\n");
    let metrics = bob.metrics().await;
    assert!(!metrics.contains("store_writable") && !metrics.contains("probe_writing"), "{metrics}");
    assert_eq!(bob.pull_manifest("team/app", "1").await, image.manifest);
    assert_eq!(bob.pull("team/app", image.layers[0].digest()).await, image.layers[0]);
}

#[tokio::test]
async fn a_volume_that_became_read_only_can_be_pulled_from() {
    if !tool::root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = Mounted::folder(folder.path(), "rw");
    let registry = TestRegistry::with(watched(mount.path())).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    mount.remount("ro").await;
    says(&alice, "ready\nnothing can be pushed: the store may not be written to\n").await;
    assert_eq!(begin_upload(&alice).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(alice.pull_manifest("team/app", "1").await, image.manifest);
    mount.remount("rw").await;
    says(&alice, "ready\n").await;
    alice.push("team/app", "2", &image).await;
}

#[tokio::test]
async fn a_folder_that_is_away_makes_the_registry_unready_and_lets_it_live() {
    let parent = tempfile::tempdir().unwrap();
    let [folder, away] = ["data", "away"].map(|name| parent.path().join(name));
    let registry = TestRegistry::with(watched(&folder)).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    assert!(is_ready(&alice).await);
    fs::rename(&folder, &away).unwrap();
    until(async || !is_ready(&alice).await).await;
    registry.line_with("the store does not answer").await;
    // Nor is it made anew for those who push.
    assert_eq!(begin_upload(&alice).await, StatusCode::SERVICE_UNAVAILABLE);
    fs::rename(&away, &folder).unwrap();
    until(async || is_ready(&alice).await).await;
    assert_eq!(alice.pull_manifest("team/app", "1").await, image.manifest);
}

#[tokio::test]
async fn a_volume_that_is_unmounted_makes_the_registry_unready_until_it_is_back() {
    if !tool::root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = Mounted::folder(folder.path(), "rw");
    let registry = TestRegistry::with(watched(mount.path())).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    mount.unmount();
    until(async || !is_ready(&alice).await).await;
    let line = registry.line_with("the store does not answer").await;
    assert!(line.contains("is the volume mounted?"), "{line}");
    // What was pushed now would be hidden once it is back.
    assert_eq!(begin_upload(&alice).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    mount.mount(|mount| mount.args(["-o", "bind"]).arg(folder.path()));
    until(async || is_ready(&alice).await).await;
    assert_eq!(alice.pull_manifest("team/app", "1").await, image.manifest);
}

/// Asks to begin an upload.
async fn begin_upload(user: &User) -> StatusCode {
    user.ask(hyper::Method::POST, "/v2/team/app/blobs/uploads/", &[], bytes::Bytes::new()).await.status
}

/// The settings of a registry in a folder at which it looks often.
fn watched(folder: &Path) -> Value {
    json!({
        "http": { "debug": { "prometheus": { "enabled": true } } },
        "health": { "storagedriver": { "interval": "20ms" } },
        "storage": { "filesystem": { "rootdirectory": folder } },
    })
}

/// The same, but nothing is written.
fn read_only(mut settings: Value) -> Value {
    overlay(&mut settings, &json!({ "storage": { "maintenance": { "readonly": { "enabled": true } } } }));
    settings
}

/// Whether a registry, which is alive all the time, is ready.
async fn is_ready(user: &User) -> bool {
    user.get("/healthz").await.expect(StatusCode::OK);
    user.get("/readyz").await.status == StatusCode::OK
}

/// Waits until a registry, which is ready all the time, says this of itself.
async fn says(user: &User, words: &str) {
    until(async || user.get("/readyz").await.expect(StatusCode::OK).body == words).await;
}

#[tokio::test]
async fn deletion_that_is_off_is_unsupported() {
    let registry = TestRegistry::with(json!({ "storage": { "delete": { "enabled": false } } })).await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    for path in [
        "/v2/team/app/manifests/1".to_owned(),
        format!("/v2/team/app/manifests/{}", image.digest()),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest()),
    ] {
        let refused = alice.delete(&path).await.expect(StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.json()["errors"][0]["code"], "UNSUPPORTED", "{path}");
    }
    assert_eq!(alice.pull_manifest("team/app", "1").await, image.manifest);
}
