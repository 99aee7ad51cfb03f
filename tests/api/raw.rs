//! Bytes on a socket that no HTTP library would send, to the real server.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;
use storage::{Algorithm, Digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::TestRegistry;

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends `bytes`, and reads all that is answered until the server hangs up.
async fn told(registry: &TestRegistry, bytes: impl AsRef<[u8]>) -> String {
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    connection.write_all(bytes.as_ref()).await.unwrap();
    rest_of(&mut connection).await
}

async fn rest_of(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("the server answers, and hangs up").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the answer contains `mark`.
async fn read_until(connection: &mut TcpStream, mark: &str) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(mark) {
            assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0, "the server hung up");
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server answers");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request whose client will hang up, with an empty line behind its headers.
fn request(line: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_next_client_served() {
    let registry = TestRegistry::start().await;
    let long = "x".repeat(300 << 10);
    let mut surprises = Vec::new();
    let many: String = (0..300).map(|index| format!("x-{index}: y\r\n")).collect();
    for (bytes, status) in [
        ("\0\0\0\0\r\n\r\n".to_owned(), "400"),
        ("\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n".to_owned(), "400"),
        ("GET\r\n\r\n".to_owned(), "400"),
        ("GET /v2/\r\n\r\n".to_owned(), "400"),
        ("GET /v2/ HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET /v2/ x HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("G\u{0}T /v2/ HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET /v2/ HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), "400"),
        (request("GET /v2/", &["host: other"]), "400"),
        (request("GET /v2/", &["no colon"]), "400"),
        (request("GET /v2/", &["nul: a\0b"]), "400"),
        (request("GET /v2/", &["bad name: x"]), "400"),
        (request("GET /v2/", &[&format!("long: {long}")]), "431"),
        (request("GET /v2/", &[&format!("{many}last: one")]), "431"),
        (request(&format!("GET /v2/{long}"), &[]), "431"),
        (request("PUT /v2/a/manifests/v1", &["content-length: -1"]), "400"),
        (request("PUT /v2/a/manifests/v1", &["content-length: many"]), "400"),
        (request("PUT /v2/a/manifests/v1", &["content-length: 1", "content-length: 2"]), "400"),
        (request("PUT /v2/a/manifests/v1", &["transfer-encoding: gzip"]), "400"),
    ] {
        let answer = told(&registry, &bytes).await;
        if !answer.starts_with(&format!("HTTP/1.1 {status} ")) {
            surprises.push(format!(
                "{:.80}: {:.30}",
                bytes.escape_debug().to_string(),
                answer.escape_debug()
            ));
        }
        assert!(told(&registry, request("GET /v2/", &[])).await.starts_with("HTTP/1.1 200 "));
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
    assert!(told(&registry, "GET /v2/ HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    let absolute = request("GET http://registry/v2/", &[]);
    assert!(told(&registry, absolute).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_broken_chunk_is_no_end_of_a_body() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let begun = alice.ask(hyper::Method::POST, "/v2/team/app/blobs/uploads/", &[], Bytes::new()).await;
    let location = begun.header("location").unwrap().to_owned();
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    for broken in [
        "5\r\nhello\r\nx\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let put = request(&format!("PUT {location}?digest={digest}"), &["transfer-encoding: chunked"]);
        let answer = told(&registry, format!("{put}{broken}")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{broken}: {answer}");
        alice.head(&format!("/v2/team/app/blobs/{digest}")).await.expect(StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_is_refused_is_refused_before_its_body_is_sent() {
    let registry = TestRegistry::start().await;
    let huge = ["content-length: 107374182400", "expect: 100-continue"];
    for (line, status) in [
        ("PUT /v2/team/app/manifests/v1", "413"),
        ("PUT /v2/TEAM/app/manifests/v1", "400"),
        ("PATCH /v2/team/app/blobs/uploads/123e4567-e89b-42d3-a456-426614174000", "404"),
        ("POST /v2/team/app/tags/list", "405"),
    ] {
        let answer = told(&registry, request(line, &huge)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        let answer = told(&registry, request(line, &huge[..1])).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let registry = TestRegistry::start().await;
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    let line = format!("POST /v2/team/app/blobs/uploads/?digest={digest}");
    let asked = request(&line, &["content-length: 5", "expect: 100-continue"]);
    connection.write_all(asked.as_bytes()).await.unwrap();
    let go_on = read_until(&mut connection, "\r\n\r\n").await;
    assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    connection.write_all(b"hello").await.unwrap();
    let answer = rest_of(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_on_can_read_why_it_was_refused() {
    let registry = TestRegistry::start().await;
    let mut connection = TcpStream::connect(registry.host()).await.unwrap();
    let body = vec![b' '; 8 << 20];
    let asked = request("PUT /v2/team/app/manifests/v1", &[&format!("content-length: {}", body.len())]);
    let (mut reader, mut writer) = connection.split();
    let send = async {
        writer.write_all(asked.as_bytes()).await.unwrap();
        // The server may stop taking it in at any time.
        let _ = writer.write_all(&body).await;
    };
    let receive = async {
        let mut answer = Vec::new();
        // A reset after the answer is no loss.
        let _ = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let ((), answer) = tokio::join!(send, receive);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with('}'), "{answer}");
}

#[tokio::test]
async fn answers_to_head_have_no_body_that_the_next_answer_would_follow() {
    let registry = TestRegistry::start().await;
    let digest = Digest::of(Algorithm::Sha256, b"missing");
    let heads = [
        format!("HEAD /v2/team/app/blobs/{digest}"),
        "HEAD /v2/team/app/manifests/v1".to_owned(),
        "HEAD /v2/team/app/tags/list".to_owned(),
        "HEAD /v2/".to_owned(),
        "HEAD /v2/_catalog".to_owned(),
        "HEAD /v2/team/app/blobs/uploads/".to_owned(),
    ];
    let asked: String = heads.iter().map(|line| format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    let answer = told(&registry, asked + &request("GET /v2/", &[])).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["404", "404", "404", "200", "200", "405", "200"], "{answer}");
    assert!(!answer.contains("errors"), "{answer}");
}

#[tokio::test]
async fn the_host_in_the_target_counts_whatever_the_header_says() {
    let registry = TestRegistry::with(json!({ "http": { "relativeurls": false } })).await;
    let uploads = "/v2/team/app/blobs/uploads/";
    let empty = &["content-length: 0"];
    let begun = told(&registry, request(&format!("POST http://named:81{uploads}"), empty)).await;
    assert!(begun.contains(&format!("\r\nlocation: http://named:81{uploads}")), "{begun}");
    let begun = told(&registry, request(&format!("POST {uploads}"), empty)).await;
    assert!(begun.contains(&format!("\r\nlocation: http://registry{uploads}")), "{begun}");
}

#[tokio::test]
async fn whatever_is_not_there_is_told_in_json() {
    let registry = TestRegistry::start().await;
    for (line, status) in [
        ("GET /", 200),
        ("GET /v1/search", 404),
        ("GET /favicon.ico", 404),
        ("BREW /v1/search", 404),
        ("POST /healthz", 405),
        ("DELETE /", 405),
    ] {
        let answer = told(&registry, request(line, &["content-length: 0"])).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        let is_json = answer.contains("\r\ncontent-type: application/json\r\n");
        assert_eq!(
            is_json && answer.contains("{\"errors\":[{\"code\":\"UNSUPPORTED\""),
            status != 200,
            "{answer}"
        );
        assert_eq!(answer.contains("\r\nallow: GET, HEAD\r\n"), status == 405, "{answer}");
    }
    let head = told(&registry, request("HEAD /v1/search", &[])).await;
    assert!(head.starts_with("HTTP/1.1 404 ") && head.ends_with("\r\n\r\n"), "{head}");
}
