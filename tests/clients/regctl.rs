//! regctl: copies with all that belongs to an image, and uploads in numbered chunks.

use crate::harness::{Image, Layer, MIB, TestRegistry, Workstation, tool};

/// Runs regctl with the words of `line`; `HOST` stands for the registry.
async fn regctl(machine: &Workstation, registry: &TestRegistry, line: &str) -> Option<String> {
    let line = line.replace("HOST", &registry.host());
    Some(machine.run(&tool::go("regctl")?, line.split_whitespace()).await)
}

#[tokio::test]
async fn an_image_is_imported_in_chunks_and_copied_with_its_referrers() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    if regctl(&machine, &registry, "registry set --tls disabled --skip-check HOST").await.is_none() {
        return;
    }
    let image = Image::of(vec![Layer::of_files([("data", &*Layer::random(5 * MIB).bytes())])]);
    image.write_layout(&machine.home().join("layout"), "1");
    let tar = std::path::Path::new("/bin/tar");
    machine.run(tar, ["-C", "layout", "-cf", "app.tar", "."]).await;
    regctl(&machine, &registry, "image import HOST/team/app:1 app.tar").await;
    let digest = regctl(&machine, &registry, "image digest HOST/team/app:1").await.unwrap();
    assert_eq!(digest.trim(), image.digest().to_string());

    machine.write("bill", "of materials");
    let put = "artifact put --artifact-type application/x-bill --file-media-type text/plain -f bill --subject HOST/team/app:1";
    regctl(&machine, &registry, put).await;
    regctl(&machine, &registry, "image copy --referrers --digest-tags HOST/team/app:1 HOST/mirror/app:1")
        .await;
    let tree = regctl(&machine, &registry, "artifact tree HOST/mirror/app:1").await.unwrap();
    assert!(tree.contains("application/x-bill"), "{tree}");
    let list = regctl(&machine, &registry, "artifact get --subject HOST/mirror/app:1").await.unwrap();
    assert_eq!(list, "of materials");
}

#[tokio::test]
async fn tags_go_one_by_one() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let image = Image::of(vec![Layer::random(100)]);
    for tag in ["1", "2", "3"] {
        registry.user("alice").push("team/app", tag, &image).await;
    }
    if regctl(&machine, &registry, "registry set --tls disabled --skip-check HOST").await.is_none() {
        return;
    }
    regctl(&machine, &registry, "tag delete HOST/team/app:2").await;
    assert_eq!(regctl(&machine, &registry, "tag ls HOST/team/app").await.unwrap(), "1\n3\n");
    let manifest =
        regctl(&machine, &registry, "manifest get --format raw-body HOST/team/app:3").await.unwrap();
    assert_eq!(manifest.as_bytes(), image.manifest);
    let name = format!("HOST/team/app {}", image.layers[0].digest());
    let head = regctl(&machine, &registry, &format!("blob head {name}")).await.unwrap();
    assert!(head.to_lowercase().contains("content-length: 100"), "{head}");
}
