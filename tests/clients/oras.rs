//! oras: artifacts of any kind, and what is attached to them.

use serde_json::Value;

use super::settings;
use crate::harness::{Layer, MIB, TestRegistry, Workstation, tool};

/// Runs oras with the words of `line`; `HOST` stands for the registry.
async fn oras(machine: &Workstation, registry: &TestRegistry, line: &str) -> Option<String> {
    let line = line.replace("HOST", &registry.host());
    Some(machine.run(&tool::go("oras")?, line.split_whitespace()).await)
}

#[tokio::test]
async fn an_artifact_comes_back_with_its_files() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    let data = Layer::random(5 * MIB).bytes();
    machine.write("data.bin", &data);
    machine.write("note.txt", "read me");
    let push =
        "push --plain-http HOST/team/art:1,2 --artifact-type application/x-art note.txt:text/plain data.bin";
    if oras(&machine, &registry, push).await.is_none() {
        return;
    }
    oras(&machine, &registry, "pull --plain-http HOST/team/art:2 -o back").await;
    assert_eq!(machine.read("back/data.bin"), data);
    assert_eq!(machine.read("back/note.txt"), b"read me");
    assert_eq!(oras(&machine, &registry, "repo tags --plain-http HOST/team/art").await.unwrap(), "1\n2\n");
    assert_eq!(oras(&machine, &registry, "repo ls --plain-http HOST").await.unwrap(), "team/art\n");

    oras(&machine, &registry, "manifest delete --plain-http --force HOST/team/art:1").await;
    assert_eq!(oras(&machine, &registry, "repo tags --plain-http HOST/team/art").await.unwrap(), "");
}

#[tokio::test]
async fn what_is_attached_is_discovered_and_copied_along() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    for file in ["app", "bill", "signature"] {
        machine.write(file, file);
    }
    if oras(&machine, &registry, "push --plain-http HOST/team/app:1 app").await.is_none() {
        return;
    }
    for (kind, file) in [("application/x-bill", "bill"), ("application/x-signature", "signature")] {
        let attach = format!("attach --plain-http HOST/team/app:1 --artifact-type {kind} {file}");
        oras(&machine, &registry, &attach).await;
    }
    oras(&machine, &registry, "cp --from-plain-http --to-plain-http -r HOST/team/app:1 HOST/mirror/app:1")
        .await;

    for repository in ["team/app", "mirror/app"] {
        let discover = format!("discover --plain-http --format json HOST/{repository}:1");
        let found: Value =
            serde_json::from_str(&oras(&machine, &registry, &discover).await.unwrap()).unwrap();
        assert_eq!(found["referrers"].as_array().unwrap().len(), 2, "{found}");
        let one = format!("{discover} --artifact-type application/x-bill");
        let found: Value = serde_json::from_str(&oras(&machine, &registry, &one).await.unwrap()).unwrap();
        assert_eq!(found["referrers"].as_array().unwrap().len(), 1, "{found}");
    }
    oras(&machine, &registry, "backup --plain-http --include-referrers HOST/team/app:1 -o kept").await;
    oras(&machine, &registry, "restore --plain-http --input kept HOST/restored/app:1").await;
    oras(&machine, &registry, "pull --plain-http HOST/restored/app:1 -o restored").await;
    assert_eq!(machine.read("restored/app"), b"app");
}

#[tokio::test]
async fn a_blob_is_pushed_fetched_and_deleted_alone() {
    let registry = TestRegistry::with(settings()).await;
    let machine = registry.workstation();
    let blob = Layer::random(MIB);
    machine.write("blob", blob.bytes());
    if oras(&machine, &registry, "blob push --plain-http HOST/team/blobs blob").await.is_none() {
        return;
    }
    let name = format!("HOST/team/blobs@{}", blob.digest());
    oras(&machine, &registry, &format!("blob fetch --plain-http {name} --output back")).await;
    assert_eq!(machine.read("back"), blob.bytes());
    oras(&machine, &registry, &format!("blob delete --plain-http --force {name}")).await;
    let gone = registry.user("bob").head(&format!("/v2/team/blobs/blobs/{}", blob.digest())).await;
    gone.expect(hyper::StatusCode::NOT_FOUND);
}
