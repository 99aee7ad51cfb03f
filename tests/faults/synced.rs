//! What the disk was told before a push was answered, as `strace` sees it.

use std::path::{Path, PathBuf};
use std::{fs, process::Command};

use serde_json::json;

use crate::harness::{Image, Layer, TestRegistry, process::Process, tool};

/// The calls of a server, in their order, while an image is pushed to a folder that holds nothing yet.
async fn calls_of_a_first_push(registry: &TestRegistry, image: &Image) -> Option<Vec<String>> {
    let strace = tool::debian("strace")?;
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(strace);
    command.arg("--follow-forks").arg("--decode-fds=path").arg("--string-limit=400");
    command.arg("--output").arg(log.path());
    command.arg(format!("--attach={}", registry.process_id()));
    command.arg("--trace=mkdir,rename,fsync,fdatasync,write,writev,sendto,sendmsg");
    let attached = |line: &str| line.contains("attached").then_some(());
    let (strace, ()) = Process::start(command, attached).await;
    registry.user("alice").push("team/app", "v1", image).await;
    strace.interrupt().await;
    Some(fs::read_to_string(log.path()).unwrap().lines().map(str::to_owned).collect())
}

/// The folders that lead to what the push made, without its uploads, which are gone.
fn folders(registry: &TestRegistry) -> Vec<PathBuf> {
    let mut found = vec![registry.data()];
    let mut at = 0;
    while let Some(folder) = found.get(at) {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let below: Vec<_> = entries.filter(|path| path.is_dir() && !path.ends_with("_uploads")).collect();
        found.extend(below);
        at += 1;
    }
    found
}

fn is_sync_of(line: &str, path: &Path) -> bool {
    line.contains("sync(") && line.contains(&format!("<{}>", path.display()))
}

#[tokio::test]
async fn every_folder_is_durable_before_the_answer_whoever_made_it() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    let Some(calls) = calls_of_a_first_push(&registry, &image).await else { return };
    let answers: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].contains("HTTP/1.1 201")).collect();
    assert_eq!(answers.len(), 3, "a layer, the config, the manifest: {calls:#?}");
    // By the first answer the layer can be found, by the last one all.
    for (answer, is_needed) in [
        (answers[0], (|folder: &Path| !folder.to_str().unwrap().contains("_manifests")) as fn(&Path) -> bool),
        (answers[2], |_| true),
    ] {
        let made = |folder: &Path| {
            let call = format!("mkdir(\"{}\"", folder.display());
            calls[..answer].iter().rposition(|line| line.contains(&call) && !line.contains("ENOENT"))
        };
        let mut count = 0;
        for folder in folders(&registry).into_iter().filter(|folder| is_needed(folder)) {
            let Some(made) = made(&folder) else { continue };
            count += 1;
            let parent = folder.parent().unwrap();
            let synced = calls[made..answer].iter().any(|line| is_sync_of(line, parent));
            assert!(synced, "the entry of {} is not synced: {calls:#?}", folder.display());
        }
        assert!(count > 8, "{count} folders were made");
    }
    // What a file holds, before it gets its name.
    let blob = registry.blob(&image.layers[0].digest());
    let named =
        calls.iter().position(|line| line.contains("rename(") && line.contains(blob.to_str().unwrap()));
    let named = named.expect("an upload becomes a blob");
    assert!(calls[..named].iter().any(|line| line.contains("fdatasync(") && line.contains("_uploads")));
    assert!(calls[named..answers[0]].iter().any(|line| is_sync_of(line, blob.parent().unwrap())));
}

#[tokio::test]
async fn a_folder_that_another_server_has_just_made_is_durable_before_the_answer() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    let hex = image.layers[0].digest().hex().to_string();
    let layers = registry.data().join("repositories/team/app/_layers/sha256");
    let made = [layers.join(&hex), registry.data().join("blobs/sha256").join(&hex[..2]).join(&hex)];
    for folder in &made {
        fs::create_dir_all(folder).unwrap();
    }
    let Some(calls) = calls_of_a_first_push(&registry, &image).await else { return };
    let answer = calls.iter().position(|line| line.contains("HTTP/1.1 201")).unwrap();
    let root = registry.data();
    for folder in made.iter().flat_map(|folder| folder.ancestors().take_while(|it| it.starts_with(&root))) {
        let synced = calls[..answer].iter().any(|line| is_sync_of(line, folder));
        assert!(synced, "the entries of {} are not synced: {calls:#?}", folder.display());
    }
}

#[tokio::test]
async fn nothing_is_synced_when_the_operator_does_not_want_it() {
    let registry = TestRegistry::with(json!({ "storage": { "filesystem": { "sync": false } } })).await;
    let image = Image::of(vec![Layer::random(1000)]);
    let Some(calls) = calls_of_a_first_push(&registry, &image).await else { return };
    assert!(calls.iter().any(|line| line.contains("mkdir(")));
    let syncs: Vec<_> = calls.iter().filter(|line| line.contains("sync(")).collect();
    assert!(syncs.is_empty(), "{syncs:#?}");
}
