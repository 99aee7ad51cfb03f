//! Service accounts that log in with their tokens, and push and pull as far as role bindings say so.

use std::path::Path;

use super::new_team;
use crate::{
    clients::{
        containerd::containerd,
        containerd_2::Node,
        containers::Containers,
        team::{Account, BUILDER, PULLER, Team, assert_denied},
    },
    harness::{Image, Layer, Workstation, tool},
};

/// Runs a program whose `config.json` is that of the stranger, who must be refused, then that of the member. Returns what it
/// told the stranger.
async fn is_for_members(team: &Team, machine: &Workstation, program: &Path, line: &str) -> String {
    machine.write("docker/config.json", team.config(&team.stranger));
    let refused = machine.run_in_vain(program, team.words(line)).await;
    assert_denied(&refused);
    machine.write("docker/config.json", team.config(&team.member));
    machine.run(program, team.words(line)).await;
    refused
}

#[tokio::test]
async fn a_service_account_pushes_and_pulls_as_far_as_bindings_say_so() {
    let Some(team) = new_team().await else { return };
    let Some(alice) = Containers::near(&team.registry) else { return };
    let (host, image) = (team.registry.host(), team.image());
    let Account { name, token } = &team.member;

    let wrong = alice.podman_in_vain(format!("login -u {name} -p {token}x {host}")).await;
    assert!(wrong.contains("invalid username/password"), "{wrong}");
    alice.podman(format!("login -u {name} -p {token} {host}")).await;
    alice.build(&image, "for the team", "").await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert_denied(&refused);

    team.bind(PULLER).await;
    let refused = alice.podman_in_vain(format!("push {image}")).await;
    assert_denied(&refused);

    team.bind(BUILDER).await;
    alice.podman(format!("push {image}")).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "for the team");

    team.unbind(BUILDER).await;
    team.unbind(PULLER).await;
    alice.podman("rmi --all --force").await;
    let refused = alice.podman_in_vain(format!("pull {image}")).await;
    team.assert_told_why(&team.member, &refused);

    // Where nobody in particular may pull, nobody has to log in.
    let Some(bob) = Containers::near(&team.registry) else { return };
    let refused = bob.podman_in_vain(format!("pull {image}")).await;
    assert!(refused.contains("unauthorized") || refused.contains("authentication required"), "{refused}");
    team.open().await;
    assert_eq!(bob.run(&image).await, "for the team");
}

#[tokio::test]
async fn crane_and_cosign_log_in_by_a_config_json() {
    let Some(team) = new_team().await else { return };
    let machine = team.registry.workstation();
    let (Some(crane), Some(cosign)) = (tool::go("crane"), tool::go("cosign")) else { return };
    team.bind(BUILDER).await;
    let image = Image::of(vec![Layer::of_files([("data", b"data".as_slice())])]);
    image.write_layout(&machine.home().join("layout"), "1");
    let run = async |program, line: &str| is_for_members(&team, &machine, program, line).await;
    let pull = "pull --format oci TEAM/app:1 back";
    run(&crane, "push layout TEAM/app:1").await;
    team.assert_told_why(&team.stranger, &run(&crane, pull).await);

    for line in [
        "generate-key-pair",
        "signing-config create --out signing.json",
        "trusted-root create --out root.json",
    ] {
        machine.run(&cosign, line.split_whitespace()).await;
    }
    let app = format!("TEAM/app@{}", image.digest());
    let sign = "sign -y --key cosign.key --signing-config signing.json --trusted-root root.json";
    team.assert_told_why(&team.stranger, &run(&cosign, &format!("{sign} {app}")).await);
    let verify = format!("verify --key cosign.pub --insecure-ignore-tlog {app}");
    run(&cosign, &verify).await;

    // The member's login, which was good until now.
    team.unbind(BUILDER).await;
    team.assert_told_why(&team.member, &machine.run_in_vain(&crane, team.words(pull)).await);
    assert_denied(&machine.run_in_vain(&cosign, team.words(&verify)).await);
}

#[tokio::test]
async fn oras_and_helm_log_in_by_themselves() {
    let Some(team) = new_team().await else { return };
    let machine = team.registry.workstation();
    let (Some(oras), Some(helm)) = (tool::go("oras"), tool::go("helm")) else { return };
    team.bind(BUILDER).await;
    machine.write("note.txt", "read me");
    machine.run(&helm, ["create", "shop"]).await;
    machine.run(&helm, ["package", "shop"]).await;
    std::fs::create_dir(machine.home().join("back")).unwrap();
    let host = team.registry.host();
    let log_in = async |account: &Account| {
        let login = ["login", "--plain-http", "-u", account.name, "-p", &account.token, &host];
        machine.run(&oras, login).await;
        machine.run(&helm, ["registry"].into_iter().chain(login)).await;
    };
    let pushes = [
        (&oras, "push --plain-http TEAM/art:1 note.txt"),
        (&helm, "push --plain-http shop-0.1.0.tgz oci://TEAM"),
    ];
    let pulls = [
        (&oras, "pull --plain-http TEAM/art:1 -o back"),
        (&helm, "pull --plain-http oci://TEAM/shop --version 0.1.0 -d back"),
    ];

    log_in(&team.stranger).await;
    for (program, push) in pushes {
        assert_denied(&machine.run_in_vain(program, team.words(push)).await);
    }
    for (program, pull) in pulls {
        team.assert_told_why(&team.stranger, &machine.run_in_vain(program, team.words(pull)).await);
    }

    log_in(&team.member).await;
    for (program, line) in pushes.into_iter().chain(pulls) {
        machine.run(program, team.words(line)).await;
    }
    // It shows its login only when it is asked to.
    let listed = machine.run(&oras, ["repo", "ls", "--plain-http", &host]).await;
    assert_eq!(listed, format!("{0}/art\n{0}/shop\n", team.namespace));
    assert_eq!(machine.read("back/note.txt"), b"read me");
    assert_eq!(machine.read("back/shop-0.1.0.tgz"), machine.read("shop-0.1.0.tgz"));

    team.unbind(BUILDER).await;
    for (program, pull) in pulls {
        team.assert_told_why(&team.member, &machine.run_in_vain(program, team.words(pull)).await);
    }
}

#[tokio::test]
async fn skopeo_podman_and_buildah_log_in_by_the_files_of_secrets() {
    let Some(team) = new_team().await else { return };
    let Some(alice) = Containers::near(&team.registry) else { return };
    team.bind(BUILDER).await;
    let image = team.image();
    alice.lay_out("app", &Image::saying("for the team", &alice.busybox));
    let push = format!("copy oci:app:1 docker://{image}");
    // kubectl's, named on the command line.
    let push_with_secret = push.replace("copy", "copy --dest-authfile secret");
    let inspect_with_secret = format!("inspect --authfile secret docker://{image}");
    let pull_with_secret = format!("pull --authfile secret {image}");
    alice.machine.write("secret", team.dockerconfigjson(&team.stranger));
    assert_denied(&alice.skopeo_in_vain(&push_with_secret).await);
    team.assert_told_why(&team.stranger, &alice.skopeo_in_vain(&inspect_with_secret).await);
    team.assert_told_why(&team.stranger, &alice.buildah_in_vain(&pull_with_secret).await);
    alice.machine.write("secret", team.dockerconfigjson(&team.member));
    alice.skopeo(&push_with_secret).await;
    alice.skopeo(&inspect_with_secret).await;
    alice.buildah(&pull_with_secret).await;
    alice.buildah(format!("push --authfile secret {image} docker://{image}-again")).await;

    // OpenShift's, where it is looked for at home.
    alice.machine.write(".dockercfg", team.dockercfg(&team.stranger).to_string());
    assert_denied(&alice.skopeo_in_vain(&push).await);
    alice.machine.write(".dockercfg", team.dockercfg(&team.member).to_string());
    alice.skopeo(&push).await;
    alice.podman("rmi --all --force").await;
    assert_eq!(alice.run(&image).await, "for the team");

    team.unbind(BUILDER).await;
    alice.podman("rmi --all --force").await;
    team.assert_told_why(&team.member, &alice.skopeo_in_vain(&inspect_with_secret).await);
    team.assert_told_why(&team.member, &alice.buildah_in_vain(&pull_with_secret).await);
}

#[tokio::test]
async fn nodes_log_in_with_what_the_kubelet_gives_them() {
    let Some(team) = new_team().await else { return };
    let Some(busybox) = tool::debian("busybox") else { return };
    let Some(skopeo) = tool::debian("skopeo") else { return };
    let Some(node) = Node::near(&team.registry.host()).await else { return };
    let Some((ctr, machine, _containerd)) = containerd(&team.registry).await else { return };
    team.bind(BUILDER).await;
    let image = team.image();
    Image::saying("for the team", &busybox).write_layout(&machine.home().join("app"), "1");
    machine.write("secret", team.dockerconfigjson(&team.member));
    let copy = format!("copy --dest-authfile secret oci:app:1 docker://{image}");
    machine.run(&skopeo, copy.split_whitespace()).await;

    let login = |account: &Account| format!("{}:{}", account.name, account.token);
    let socket = machine.home().join("containerd.sock").display().to_string();
    let older = |line: String| {
        [vec!["-a".to_owned(), socket.clone()], line.split_whitespace().map(str::to_owned).collect()].concat()
    };
    let pull = |account: &Account| format!("images pull --plain-http --user {} {image}", login(account));
    let push = |account: &Account| {
        format!("images push --plain-http --user {} {image}-again {image}", login(account))
    };
    assert_denied(&machine.run_in_vain(&ctr, older(pull(&team.stranger))).await);
    machine.run(&ctr, older(pull(&team.member))).await;
    assert_denied(&machine.run_in_vain(&ctr, older(push(&team.stranger))).await);
    machine.run(&ctr, older(push(&team.member))).await;

    team.assert_told_why(&team.stranger, &node.ctr_in_vain(pull(&team.stranger)).await);
    node.ctr(pull(&team.member)).await;
    assert_denied(&node.ctr_in_vain(push(&team.stranger)).await);
    node.ctr(push(&team.member)).await;
    // What a kubelet gets is what the pod's event says.
    let crictl_pull = |account: &Account| format!("pull --creds {} {image}", login(account));
    team.assert_told_why(&team.stranger, &node.crictl_in_vain(crictl_pull(&team.stranger)).await);
    node.crictl(crictl_pull(&team.member)).await;

    // That an image is on a node is no right to it.
    team.unbind(BUILDER).await;
    assert_denied(&machine.run_in_vain(&ctr, older(pull(&team.member))).await);
    team.assert_told_why(&team.member, &node.ctr_in_vain(pull(&team.member)).await);
    team.assert_told_why(&team.member, &node.crictl_in_vain(crictl_pull(&team.member)).await);
}
