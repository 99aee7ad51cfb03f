//! buildah: images built layer by layer, and for several platforms.

use serde_json::Value;

use crate::{clients::containers::Containers, harness::TestRegistry};

#[tokio::test]
async fn an_image_for_several_platforms_is_pulled_for_each() {
    let registry = TestRegistry::start().await;
    let Some(alice) = Containers::near(&registry) else { return };
    let there = format!("{}/team/multi:1", registry.host());
    alice.push_for_each(&["amd64", "arm64"], &there).await;
    alice.podman("rmi --all --force").await;

    for architecture in ["arm64", "amd64"] {
        alice.podman(format!("pull --arch {architecture} {there}")).await;
        let pulled = alice.podman(format!("image inspect {there}")).await;
        assert_eq!(serde_json::from_str::<Value>(&pulled).unwrap()[0]["Architecture"], architecture);
    }
}

#[tokio::test]
async fn a_new_layer_goes_on_what_the_registry_has() {
    let registry = TestRegistry::start().await;
    let Some(alice) = Containers::near(&registry) else { return };
    let (base, app) = (format!("{}/team/base:1", registry.host()), format!("{}/team/app:1", registry.host()));
    alice.build(&base, "of the base", "").await;
    alice.buildah(format!("push {base}")).await;
    alice.podman("rmi --all --force").await;

    alice.machine.write("message", "of the application");
    let container = alice.buildah(format!("from {base}")).await;
    alice.buildah(format!("copy {} message /message", container.trim())).await;
    alice.buildah(format!("commit --rm {} {app}", container.trim())).await;
    alice.buildah(format!("push {app}")).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&app).await, "of the application");
    assert_eq!(alice.run(&base).await, "of the base");
}
