//! Debian's docker-registry on a folder of Wharf's, and Wharf on one of its: nobody has to stay.

use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, TestRegistry, tool},
};

#[tokio::test]
async fn what_wharf_keeps_docker_registry_serves() {
    let registry = TestRegistry::start().await;
    let Some(program) = tool::debian("docker-registry") else { return };
    let Some(alice) = Containers::near(&registry) else { return };
    push_every_kind(&alice, &registry).await;
    let old = registry.served_by(&program).await;
    every_kind_is_there(&registry, &old).await;
}

#[tokio::test]
async fn what_docker_registry_keeps_wharf_serves() {
    let Some(program) = tool::debian("docker-registry") else { return };
    let old = TestRegistry::foreign(&program).await;
    let Some(alice) = Containers::near(&old) else { return };
    push_every_kind(&alice, &old).await;
    let wharf = old.replica().await;
    every_kind_is_there(&old, &wharf).await;

    // And it goes on from there: in the old repository, on the old layers.
    let Some(bob) = Containers::near(&wharf) else { return };
    bob.skopeo(format!("copy docker://{0}/team/app:oci docker://{0}/team/app:newer", wharf.host())).await;
    let image = Image::of(vec![Layer::random(1000)]);
    wharf.user("carol").push("team/app", "newest", &image).await;
    assert_eq!(old.user("carol").pull_manifest("team/app", "newest").await, image.manifest);
    let expected = ["docker", "multi", "newer", "newest", "oci"];
    let mut tags = old.user("carol").tags("team/app").await;
    tags.sort();
    assert_eq!(tags, expected);
}

/// Pushes images in both formats, and one for several platforms.
async fn push_every_kind(alice: &Containers, registry: &TestRegistry) {
    let repository = format!("{}/team/app", registry.host());
    alice.lay_out("app", &Image::saying("hello", &alice.busybox));
    alice.skopeo(format!("copy oci:app:1 docker://{repository}:oci")).await;
    alice.skopeo(format!("copy --format v2s2 oci:app:1 docker://{repository}:docker")).await;
    alice.push_for_each(&["amd64", "arm64"], &format!("{repository}:multi")).await;
}

/// Compares what two registries on one folder serve, to the last byte of every blob, and runs an image of the second.
async fn every_kind_is_there(first: &TestRegistry, second: &TestRegistry) {
    let Some(bob) = Containers::near(second) else { return };
    let (here, there) = (first.user("bob"), second.user("bob"));
    for tag in ["docker", "multi", "oci"] {
        let manifest = here.pull_manifest("team/app", tag).await;
        assert_eq!(there.pull_manifest("team/app", tag).await, manifest);
        // skopeo checks every digest on the way.
        bob.skopeo(format!("copy --all docker://{}/team/app:{tag} dir:copy-of-{tag}", second.host())).await;
    }
    for tag in ["docker", "oci"] {
        assert_eq!(bob.run(&format!("{}/team/app:{tag}", second.host())).await, "hello");
    }
}
