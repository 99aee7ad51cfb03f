//! Bodies that are refused before they have come: whoever goes on sending hears why, and is neither kept waiting nor reset.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::harness::{Layer, MIB, PaperCluster, TestRegistry, User, Workstation, registry::overlay, tool};

/// More than fits into any buffer on the way.
const BODY_BYTES: usize = 20 * MIB;

/// A request that is refused whatever its body is, and by which registry.
struct Refusal {
    settings: Value,
    method: &'static str,
    path: &'static str,
    status: StatusCode,
    code: &'static str,
}

/// Every kind of them.
fn refusals(cluster: &PaperCluster) -> [Refusal; 4] {
    let upload = "/v2/team/app/blobs/uploads/0b9cf1a4-0d3f-4d1c-9f0a-8f1c5b7d2e11";
    let begin = "/v2/team/app/blobs/uploads/?digest=sha256:\
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let reading = json!({ "storage": { "maintenance": { "readonly": { "enabled": true } } } });
    [
        (json!({}), "PUT", "/v2/team/app/manifests/1", StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        (json!({}), "PATCH", upload, StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        (cluster.settings(), "POST", begin, StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        (reading, "POST", begin, StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
    ]
    .map(|(mut settings, method, path, status, code)| {
        overlay(&mut settings, &json!({ "http": { "h2c": { "enabled": true } } }));
        Refusal { settings, method, path, status, code }
    })
}

#[tokio::test]
async fn curl_hears_why_its_body_is_refused_by_every_http() {
    let Some(curl) = tool::debian("curl") else { return };
    let cluster = PaperCluster::new();
    let body = Layer::random(BODY_BYTES);
    for Refusal { settings, method, path, status, code } in refusals(&cluster) {
        // One that is only read from finds its folder.
        let store = TestRegistry::start().await;
        let plain = store.replica_with(settings.clone()).await;
        let (by_tls, certificate) = store.tls_replica_with(settings).await;
        let machine = Workstation::trusting(&by_tls.host(), &certificate);
        machine.write("body", body.bytes());
        let (plain, by_tls) = (format!("http://{}", plain.host()), format!("https://{}", by_tls.host()));
        for (host, option, version) in [
            (&plain, "--http1.1", "1.1"),
            (&plain, "--http2-prior-knowledge", "2"),
            (&by_tls, "--http1.1", "1.1"),
            (&by_tls, "--http2", "2"),
        ] {
            // As it is, curl waits a second for leave to send so much.
            for expectation in ["Expect:", "Expect: 100-continue"] {
                let url = format!("{host}{path}");
                let story = format!("{method} {url} {option} {expectation}");
                let options = ["-sS", "--cacert", "ca.crt", "--max-time", "60", option, "-X", method];
                let body = ["-H", "Content-Type: application/octet-stream", "--data-binary", "@body"];
                let answer = ["-H", expectation, "-o", "answer", "-w", "%{http_code} %{http_version}", &url];
                let printed = machine.run(&curl, options.iter().chain(&body).chain(&answer)).await;
                assert_eq!(printed, format!("{} {version}", status.as_u16()), "{story}");
                let answer: Value = serde_json::from_slice(&machine.read("answer")).unwrap();
                assert_eq!(answer["errors"][0]["code"], code, "{story}");
            }
        }
    }
}

#[tokio::test]
async fn who_sends_all_of_a_refused_body_first_hears_why_in_the_end() {
    let cluster = PaperCluster::new();
    for refusal in refusals(&cluster) {
        let store = TestRegistry::start().await;
        let plain = store.replica_with(refusal.settings.clone()).await;
        let (by_tls, certificate) = store.tls_replica_with(refusal.settings.clone()).await;
        sends_all_and_hears_why(&plain.user("alice"), &plain.host(), &refusal).await;
        let alice = by_tls.user("alice").trusting(&certificate);
        sends_all_and_hears_why(&alice, &by_tls.host(), &refusal).await;
    }
}

async fn sends_all_and_hears_why(user: &User, host: &str, refusal: &Refusal) {
    let Refusal { method, path, status, code, .. } = refusal;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/octet-stream\r\n\
         content-length: {BODY_BYTES}\r\nconnection: close\r\n\r\n"
    );
    let exchange = async {
        let mut connection = user.connect().await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&Layer::random(BODY_BYTES).bytes()).await.unwrap();
        connection.flush().await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(Duration::from_secs(60), exchange).await.expect("nobody is kept waiting");
    assert!(answer.starts_with(&format!("HTTP/1.1 {} ", status.as_u16())), "{method} {path}: {answer}");
    assert!(answer.contains(code), "{method} {path}: {answer}");
}
