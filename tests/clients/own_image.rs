//! Wharf's own image: what the Dockerfile makes of the program is an image like any other, and a registry.

use std::{fs, os::unix::fs::MetadataExt};

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{
    clients::containers::Containers,
    harness::{Image, Layer, TestRegistry, User, process::Process, registry::address_in, tool},
};

/// How long a container may live, should the test that started it die: in seconds.
const LIFETIME: u32 = 120;

#[tokio::test]
async fn wharf_serves_from_the_image_that_it_served() {
    let registry = TestRegistry::start().await;
    let Some(program) = tool::static_wharf() else { return };
    let Some(alice) = Containers::near(&registry) else { return };
    // What the first stage leaves for the last one. Its base image would have to be fetched, so only the last is built.
    let stage = alice.machine.home().join("stage");
    for folder in ["image/var/lib/registry", "image/etc/wharf"] {
        fs::create_dir_all(stage.join(folder)).unwrap();
    }
    fs::copy(program, stage.join("image/wharf")).unwrap();
    fs::write(stage.join("image/etc/wharf/config.yml"), include_str!("../../deploy/image.yml")).unwrap();
    let stages = include_str!("../../Dockerfile");
    let last = &stages[stages.rfind("FROM scratch\n").expect("the last stage begins with nothing")..];
    alice.machine.write("Dockerfile", last);
    let image = format!("{}/wharf/wharf:1", registry.host());
    alice.buildah(format!("bud --isolation chroot --build-context build=stage --tag {image} .")).await;
    alice.podman(format!("push {image}")).await;
    alice.podman("rmi --all --force").await;

    alice.podman(format!("pull {image}")).await;
    let about: Value = serde_json::from_str(&alice.podman(format!("image inspect {image}")).await).unwrap();
    let config = &about[0]["Config"];
    assert_eq!(config["User"], "1000:1000");
    assert_eq!(config["ExposedPorts"], json!({ "5000/tcp": {} }));
    assert_eq!(config["Volumes"], json!({ "/var/lib/registry": {} }));
    // Any other variable would count more than the file that somebody mounts. buildah adds a PATH.
    let variables = config["Env"].as_array().unwrap().iter().filter_map(Value::as_str);
    let variables: Vec<_> = variables.filter(|variable| !variable.starts_with("PATH=")).collect();
    assert_eq!(variables, ["REGISTRY_CONFIGURATION_PATH=/etc/wharf/config.yml"]);
    assert_eq!(config["Cmd"], json!(["serve"]));

    // On the machine's own network, so on a port that is free.
    let run = format!(
        "run --rm --read-only --timeout {LIFETIME} --network host --env REGISTRY_HTTP_ADDR=127.0.0.1:0 --env REGISTRY_AUTH=none \
         --volume images:/var/lib/registry {image}"
    );
    let (container, address) = Process::start(alice.podman_command(run).into_std(), address_in).await;
    let bob = User::new("bob", address);
    bob.get("/healthz").await.expect(StatusCode::OK);
    let pushed = Image::of(vec![Layer::random(300_000)]);
    bob.push("team/app", "1", &pushed).await;
    assert_eq!(bob.pull("team/app", pushed.layers[0].digest()).await, pushed.layers[0]);
    let volume = alice.podman("volume inspect --format {{.Mountpoint}} images").await;
    let kept = fs::metadata(format!("{}/docker/registry/v2/blobs", volume.trim())).unwrap();
    assert_eq!((kept.uid(), kept.gid()), (1000, 1000));
    // SIGTERM reaches the server, which ends well.
    container.stop().await;
}
