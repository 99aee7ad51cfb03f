//! Images of many layers, and of many bytes.

use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, MIB, TestRegistry},
};

#[tokio::test]
async fn an_image_of_100_layers_runs() {
    let registry = TestRegistry::start().await;
    let Some(alice) = Containers::near(&registry) else { return };
    let names: Vec<_> = (0..98).map(|number| format!("layers/{number}")).collect();
    let more = names.iter().map(|name| Layer::of_files([(name.as_str(), name.as_bytes())])).collect();
    let image = Image::saying_amid("on top of it all", &alice.busybox, more);
    alice.lay_out("app", &image);
    let there = format!("{}/team/layers:100", registry.host());
    alice.skopeo(format!("copy oci:app:1 docker://{there}")).await;

    assert_eq!(alice.run(&there).await, "on top of it all");
    let files = alice.podman(format!("run --rm --network none {there} /bin/busybox ls /layers")).await;
    assert_eq!(files.lines().count(), 98);
}

#[tokio::test]
async fn an_image_of_several_hundred_mib_comes_back_whole() {
    let registry = TestRegistry::start().await;
    let Some(alice) = Containers::near(&registry) else { return };
    let content = Layer::random(300 * MIB).bytes();
    let layer = Layer::of_files([("data", &*content)]);
    drop(content);
    let image = Image::saying_amid("large", &alice.busybox, vec![layer]);
    alice.lay_out("app", &image);
    let there = format!("{}/team/large:1", registry.host());
    // As it is: nobody wants to wait for random bytes to be compressed.
    alice.skopeo(format!("copy --preserve-digests oci:app:1 docker://{there}")).await;

    assert_eq!(alice.run(&there).await, "large");
    let pulled = alice.podman(format!("image inspect --format {{{{.Digest}}}} {there}")).await;
    assert_eq!(pulled.trim(), image.digest().to_string());
}
