//! What the disk was told before a push was answered, as `strace` sees it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, process::Command};

use hyper::StatusCode;
use serde_json::json;
use storage::Digest;

use super::strace;
use crate::harness::{Image, Layer, TestRegistry, process::Process};

/// A system call that succeeded, and the lines of the trace at which it began and ended: others come between.
#[derive(Debug)]
struct Call {
    text: String,
    began: usize,
    ended: usize,
}

/// The calls of a server, in the order in which they began, while images are pushed as `v1`, one after the other.
async fn calls_of_pushes(registry: &TestRegistry, images: &[&Image]) -> Option<Vec<Call>> {
    let push = async || {
        for image in images {
            registry.user("alice").push("team/app", "v1", image).await;
        }
    };
    calls_during(registry, push).await
}

/// The calls of a server, in the order in which they began, while something is done.
async fn calls_during(registry: &TestRegistry, act: impl AsyncFnOnce()) -> Option<Vec<Call>> {
    let strace = strace()?;
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(strace);
    command.arg("--follow-forks").arg("--decode-fds=path").arg("--string-limit=400");
    command.arg("--output").arg(log.path());
    command.arg(format!("--attach={}", registry.process_id()));
    command.arg("--trace=mkdir,rename,fsync,fdatasync,write,writev,sendto,sendmsg");
    let attached = |line: &str| line.contains("attached").then_some(());
    let (strace, ()) = Process::start(command, attached).await;
    act().await;
    strace.interrupt().await;
    Some(parse(&fs::read_to_string(log.path()).unwrap()))
}

fn parse(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut under_way: HashMap<&str, usize> = HashMap::new();
    for (at, line) in log.lines().enumerate() {
        let (thread, text) = line.split_once(' ').unwrap();
        if let Some((_, rest)) = text.split_once(" resumed>") {
            let Some(begun) = under_way.remove(thread) else { continue };
            calls[begun].text.push_str(rest);
            calls[begun].ended = at;
        } else if let Some(begin) = text.strip_suffix("<unfinished ...>") {
            under_way.insert(thread, calls.len());
            calls.push(Call { text: begin.trim().to_owned(), began: at, ended: usize::MAX });
        } else {
            calls.push(Call { text: text.trim().to_owned(), began: at, ended: at });
        }
    }
    calls.retain(|call| !call.text.contains("= -1 "));
    calls
}

/// The lines at which the server began to say that something is kept.
fn answers(calls: &[Call]) -> Vec<usize> {
    answers_of(calls, 201)
}

fn answers_of(calls: &[Call], status: u16) -> Vec<usize> {
    let head = format!("HTTP/1.1 {status}");
    calls.iter().filter(|call| call.text.contains(&head)).map(|call| call.began).collect()
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

/// The path of what was synced.
fn synced(call: &Call) -> Option<&Path> {
    let (name, rest) = call.text.split_once('(')?;
    let (_, path) = rest.split_once('<').filter(|_| name == "fsync" || name == "fdatasync")?;
    path.split_once('>').map(|(path, _)| Path::new(path))
}

/// Whether all of a sync of `path` came between two lines.
fn is_synced_between(calls: &[Call], path: &Path, from: usize, to: usize) -> bool {
    calls.iter().any(|call| synced(call) == Some(path) && from < call.began && call.ended < to)
}

/// When a file came to its place for the first time.
fn named<'a>(calls: &'a [Call], path: &Path) -> &'a Call {
    let to = format!(", \"{}\")", path.display());
    let named = calls.iter().find(|call| call.text.starts_with("rename(") && call.text.contains(&to));
    named.unwrap_or_else(|| panic!("nothing comes to {}: {calls:#?}", path.display()))
}

/// How many of `folders` were made before a line, after making sure that each of them was durable by then.
fn durable_folders<'a>(
    calls: &[Call],
    folders: impl IntoIterator<Item = &'a PathBuf>,
    before: usize,
) -> usize {
    let mut count = 0;
    for folder in folders {
        let made = format!("mkdir(\"{}\"", folder.display());
        let made = calls.iter().find(|call| call.text.starts_with(&made) && call.ended < before);
        let Some(made) = made else { continue };
        count += 1;
        let synced = is_synced_between(calls, folder.parent().unwrap(), made.ended, before);
        assert!(synced, "the entry of {} is not synced before {before}: {calls:#?}", folder.display());
    }
    count
}

#[tokio::test]
async fn every_folder_is_durable_before_the_answer_whoever_made_it() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    let Some(calls) = calls_of_pushes(&registry, &[&image]).await else { return };
    let answers = answers(&calls);
    assert_eq!(answers.len(), 3, "a layer, the config, the manifest: {calls:#?}");
    // By the first answer the layer can be found, by the last one all.
    let folders = folders(&registry);
    let of_blobs = folders.iter().filter(|folder| !folder.to_str().unwrap().contains("_manifests"));
    assert!(durable_folders(&calls, of_blobs, answers[0]) > 8);
    assert!(durable_folders(&calls, &folders, answers[2]) > 20);
    // What a file holds, before it gets its name.
    let blob = registry.blob(&image.layers[0].digest());
    let named = named(&calls, &blob);
    let is_upload =
        |call: &Call| synced(call).is_some_and(|path| path.to_str().unwrap().contains("_uploads"));
    let uploads = calls.iter().filter(|call| call.text.starts_with("fdatasync(") && is_upload(call));
    assert!(uploads.into_iter().any(|call| call.ended < named.began));
    assert!(is_synced_between(&calls, blob.parent().unwrap(), named.ended, answers[0]));
}

#[tokio::test]
async fn a_tag_is_set_when_all_that_it_leads_to_is_durable() {
    let registry = TestRegistry::start().await;
    let image = Image::of(vec![Layer::random(1000)]);
    let Some(calls) = calls_of_pushes(&registry, &[&image]).await else { return };
    let manifests = registry.data().join("repositories/team/app/_manifests");
    let hex = image.digest().hex().to_string();
    let blob = registry.blob(&image.digest());
    let revision = manifests.join("revisions/sha256").join(&hex).join("link");
    let memory = manifests.join("tags/v1/index/sha256").join(&hex).join("link");
    let tag = manifests.join("tags/v1/current/link");
    // Distribution's garbage collection gives up at a revision without a manifest.
    for (first, then) in [(&blob, &revision), (&blob, &memory), (&revision, &tag), (&memory, &tag)] {
        let (there, next) = (named(&calls, first), named(&calls, then));
        let is_durable = is_synced_between(&calls, first.parent().unwrap(), there.ended, next.began);
        assert!(is_durable, "{} before {}: {calls:#?}", first.display(), then.display());
    }
    let folders = folders(&registry);
    let others = folders.iter().filter(|folder| !tag.starts_with(folder) || manifests.starts_with(folder));
    assert!(durable_folders(&calls, others, named(&calls, &tag).began) > 18);
}

#[tokio::test]
async fn a_manifest_takes_one_sync_for_each_folder_that_it_changes() {
    // Whoever looks whether the store takes something syncs that, too.
    let unwatched = json!({ "health": { "storagedriver": { "enabled": false } } });
    let registry = TestRegistry::with(unwatched).await;
    let images = [(); 2].map(|()| Image::of(vec![Layer::random(1000)]));
    let Some(calls) = calls_of_pushes(&registry, &images.each_ref()).await else { return };
    let answers = answers(&calls);
    let [.., before, after] = answers[..] else { panic!("{calls:#?}") };
    let mut syncs: BTreeMap<&Path, usize> = BTreeMap::new();
    for call in calls.iter().filter(|call| before < call.began && call.ended < after) {
        *syncs.entry(synced(call).unwrap_or(Path::new("no sync"))).or_default() += 1;
    }
    syncs.remove(Path::new("no sync"));
    let staged = syncs.keys().filter(|path| path.to_str().unwrap().contains("staging")).count();
    assert_eq!(staged, 4, "the manifest, and three links: {syncs:#?}");
    let hex = images[1].digest().hex().to_string();
    let app = registry.data().join("repositories/team/app/_manifests");
    let mut changed: Vec<PathBuf> = ["revisions/sha256", "tags/v1/index/sha256"]
        .iter()
        .flat_map(|folder| [app.join(folder), app.join(folder).join(&hex)])
        .chain(registry.blob(&images[1].digest()).ancestors().skip(1).take(2).map(Path::to_owned))
        .chain([app.join("tags/v1/current")])
        .collect();
    // Unless a blob that begins with the same two digits came before.
    if syncs.len() > staged + changed.len() {
        changed.push(registry.data().join("blobs/sha256"));
    }
    for folder in &changed {
        assert_eq!(syncs.get(folder.as_path()), Some(&1), "{}: {syncs:#?}", folder.display());
    }
    assert_eq!(syncs.len(), staged + changed.len(), "and no other: {syncs:#?}");
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
    let Some(calls) = calls_of_pushes(&registry, &[&image]).await else { return };
    let answer = answers(&calls)[0];
    let root = registry.data();
    for folder in made.iter().flat_map(|folder| folder.ancestors().take_while(|it| it.starts_with(&root))) {
        let synced = is_synced_between(&calls, folder, 0, answer);
        assert!(synced, "the entries of {} are not synced: {calls:#?}", folder.display());
    }
}

#[tokio::test]
async fn a_chunk_that_is_acknowledged_and_its_hash_state_are_on_the_disk() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    let id = upload.id();
    let send = async || alice.send(&upload, Layer::random(1000).bytes()).await;
    let Some(calls) = calls_during(&registry, send).await else { return };
    let [answer] = answers_of(&calls, 202)[..] else { panic!("{calls:#?}") };
    let folder = registry.data().join("repositories/team/app/_uploads").join(id);
    let states = folder.join("hashstates/sha256");
    let data = calls.iter().find(|call| synced(call) == Some(&folder.join("data"))).expect("it is synced");
    // A state must never promise more than there is.
    for path in [&states.join("1000"), &states, &folder.join("hashstates"), &folder] {
        assert!(is_synced_between(&calls, path, data.ended, answer), "{}: {calls:#?}", path.display());
    }
}

#[tokio::test]
async fn what_is_gone_is_gone_from_the_disk_before_the_answer() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "v1", &image).await;
    alice.push("team/app", "v2", &image).await;
    let [blob, manifest] = [image.layers[0].digest(), image.digest()];
    let hex = |digest: Digest| digest.hex().to_string();
    let app = registry.data().join("repositories/team/app");
    for (path, changed) in [
        ("manifests/v1".to_owned(), app.join("_manifests/tags")),
        (format!("blobs/{blob}"), app.join("_layers/sha256").join(hex(blob))),
        (format!("manifests/{manifest}"), app.join("_manifests/revisions/sha256").join(hex(manifest))),
    ] {
        let delete =
            async || drop(alice.delete(&format!("/v2/team/app/{path}")).await.expect(StatusCode::ACCEPTED));
        let Some(calls) = calls_during(&registry, delete).await else { return };
        let [answer] = answers_of(&calls, 202)[..] else { panic!("{calls:#?}") };
        let is_synced = calls
            .iter()
            .any(|call| synced(call).is_some_and(|path| path.starts_with(&changed)) && call.ended < answer);
        assert!(is_synced, "{path}: nothing in {} is synced: {calls:#?}", changed.display());
    }
}

#[tokio::test]
async fn nothing_is_synced_when_the_operator_does_not_want_it() {
    let registry = TestRegistry::with(json!({ "storage": { "filesystem": { "sync": false } } })).await;
    let image = Image::of(vec![Layer::random(1000)]);
    let Some(calls) = calls_of_pushes(&registry, &[&image]).await else { return };
    assert!(calls.iter().any(|call| call.text.starts_with("mkdir(")));
    let syncs: Vec<_> = calls.iter().filter(|call| call.text.contains("sync(")).collect();
    assert!(syncs.is_empty(), "{syncs:#?}");
}
