//! curl: what no other client does.

use crate::harness::{Layer, MIB, TestRegistry, Workstation, tool};

#[tokio::test]
async fn a_download_that_was_cut_is_carried_on() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(curl) = tool::debian("curl") else { return };
    let blob = Layer::random(3 * MIB);
    registry.user("alice").push_blob("team/files", blob.bytes()).await;
    machine.write("file", blob.first(MIB));
    let url = format!("http://{}/v2/team/files/blobs/{}", registry.host(), blob.digest());
    machine.run(&curl, ["-sSf", "-C", "-", "-o", "file", &url]).await;
    assert_eq!(machine.read("file"), blob.bytes());
}

#[tokio::test]
async fn a_blob_is_streamed_in_one_request_of_unknown_length() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(curl) = tool::debian("curl") else { return };
    let blob = Layer::random(3 * MIB);
    machine.write("file", blob.bytes());
    let begin = format!("http://{}/v2/team/files/blobs/uploads/?digest={}", registry.host(), blob.digest());
    let arguments = [
        "-sSf",
        "-X",
        "POST",
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "Content-Type: application/octet-stream",
    ];
    let arguments =
        arguments.into_iter().chain(["-H", "Expect: 100-continue", "-o", "answer", "-w", "%{http_code}"]);
    let status = machine.run(&curl, arguments.chain(["--data-binary", "@file", &begin])).await;
    assert_eq!(status, "201");
    assert_eq!(registry.user("bob").pull("team/files", blob.digest()).await, blob);
}

#[tokio::test]
async fn a_refused_upload_is_told_so_at_once() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(curl) = tool::debian("curl") else { return };
    machine.write("file", Layer::random(20 * MIB).bytes());
    let nowhere = format!("http://{}/v2/Team/files/blobs/uploads/", registry.host());
    for expectation in ["Expect: 100-continue", "Expect:"] {
        let arguments =
            ["-sS", "-o", "answer", "-w", "%{http_code}", "-H", expectation, "--data-binary", "@file"];
        let status = machine.run(&curl, arguments.into_iter().chain([&*nowhere])).await;
        assert_eq!(status, "400");
        let answer = String::from_utf8(machine.read("answer")).unwrap();
        assert!(answer.contains("NAME_INVALID"), "{answer}");
    }
}

#[tokio::test]
async fn each_version_of_http_and_tls_is_spoken() {
    let (registry, certificate) = TestRegistry::with_tls().await;
    let machine = Workstation::trusting(&registry.host(), &certificate);
    let Some(curl) = tool::debian("curl") else { return };
    let blob = Layer::random(3 * MIB);
    machine.write("file", blob.bytes());
    let url = format!("https://{}/v2/team/files/blobs", registry.host());
    let push = format!("{url}/uploads/?digest={}", blob.digest());
    let octets = "Content-Type: application/octet-stream";
    for (http, tls) in [("2", "1.3"), ("2", "1.2"), ("1.1", "1.3"), ("1.1", "1.2")] {
        let http_option = format!("--http{http}");
        let options = ["-sSf", "--cacert", "ca.crt", &http_option, "--tls-max", tls, "-w", "%{http_version}"];
        let pushing = ["-o", "answer", "-H", octets, "--data-binary", "@file", &push];
        assert_eq!(machine.run(&curl, options.iter().chain(&pushing)).await, http);
        let pulled = format!("{url}/{}", blob.digest());
        assert_eq!(machine.run(&curl, options.iter().chain(&["-o", "back", &pulled])).await, http);
        assert_eq!(machine.read("back"), blob.bytes());
    }
}
