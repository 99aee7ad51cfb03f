//! Clients that are slow, greedy or wrong, and those beside them who are not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Image, Layer, MIB, TestRegistry, user::Upload};

/// Before anything is given up where nothing is configured.
const SOON: Duration = Duration::from_secs(20);

/// Says something on a connection of its own, and returns all that comes back until the registry closes it.
async fn say(registry: &TestRegistry, words: &str) -> String {
    let mut connection = connect(registry).await;
    connection.write_all(words.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("the registry closes, and does not reset");
    String::from_utf8(answer).unwrap()
}

/// Begins to send three bytes of an upload; the request is under way, and waits for them.
async fn runs(registry: &TestRegistry, upload: &Upload) -> TcpStream {
    let mut connection = connect(registry).await;
    let words = format!(
        "PATCH {} HTTP/1.1\r\nhost: registry\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
        upload.location()
    );
    connection.write_all(words.as_bytes()).await.unwrap();
    // It has its turn once it is asked for its body.
    let mut go_on = [0; 12];
    connection.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100");
    connection
}

async fn connect(registry: &TestRegistry) -> TcpStream {
    let address: SocketAddr = registry.host().parse().unwrap();
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn a_thousand_slow_clients_do_not_stop_a_fast_one() {
    let registry = TestRegistry::start().await;
    let mut slow = Vec::new();
    for number in 0..1000 {
        let mut connection = connect(&registry).await;
        // Half of them never finish their headers, half their body.
        let words = if number % 2 == 0 {
            "GET /v2/ HTTP/1.1\r\nhost: registry\r\nx-slow: "
        } else {
            "POST /v2/slow/app/blobs/uploads/?digest=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a HTTP/1.1\r\n\
             host: registry\r\ncontent-length: 1000000\r\n\r\n{"
        };
        connection.write_all(words.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    let image = Image::of(vec![Layer::random(100_000)]);
    // Long before the slow ones are given up.
    timeout(Duration::from_secs(15), async {
        registry.user("alice").push("team/app", "1", &image).await;
        assert_eq!(registry.user("bob").pull_manifest("team/app", "1").await, image.manifest);
    })
    .await
    .expect("they are not waited for");
}

#[tokio::test]
async fn a_pull_that_nobody_reads_on_is_given_up() {
    let patient = TestRegistry::start().await;
    // More than the buffers of two sockets hold.
    let digest = patient.user("alice").push_blob("team/app", Layer::random(24 * MIB).bytes()).await;
    let limits = json!({ "http": { "limits": { "idlebodytimeout": "300ms" } } });
    let registry = patient.replica_with(limits).await;
    let mut idle = connect(&registry).await;
    let words =
        format!("GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nhost: registry\r\nx-request-id: idle\r\n\r\n");
    idle.write_all(words.as_bytes()).await.unwrap();
    let ended = timeout(SOON, registry.log_line(&[("target", "access"), ("request.id", "idle")]));
    let ended = ended.await.expect("it is given up");
    assert!(ended["sent_bytes"].as_u64() < Some(24 * MIB as u64), "{ended}");
    // What still comes is less than all, however the connection ends.
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.starts_with(b"HTTP/1.1 200 ") && rest.len() < 24 * MIB);
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_and_an_upload_keeps_what_came() {
    let registry = TestRegistry::with(json!({ "http": { "limits": { "idlebodytimeout": "300ms" } } })).await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    let words = format!(
        "PATCH {} HTTP/1.1\r\nhost: registry\r\ncontent-length: 100\r\n\r\nno more than this",
        upload.location()
    );
    let answer = timeout(SOON, say(&registry, &words)).await.expect("it is given up");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(alice.upload_end(&upload).await, "no more than this".len());
}

#[tokio::test]
async fn headers_that_do_not_end_are_given_up() {
    let registry = TestRegistry::with(json!({ "http": { "limits": { "headertimeout": "300ms" } } })).await;
    let answer = timeout(SOON, say(&registry, "GET /v2/ HTTP/1.1\r\nhost: registry\r\nx-slow: "));
    let answer = answer.await.expect("they are given up");
    assert!(!answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn headers_that_are_too_long_are_refused() {
    let registry = TestRegistry::start().await;
    let words = format!("GET /v2/ HTTP/1.1\r\nhost: registry\r\nx-long: {}\r\n\r\n", "x".repeat(200_000));
    let answer = say(&registry, &words).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_manifest_that_is_too_large_is_refused_before_it_is_sent() {
    let registry = TestRegistry::start().await;
    let words = "PUT /v2/team/app/manifests/1 HTTP/1.1\r\nhost: registry\r\nexpect: 100-continue\r\n\
                 content-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: 5000000\r\nconnection: close\r\n\r\n";
    let answer = say(&registry, words).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "no 100 comes first: {answer}");
    assert!(answer.contains("SIZE_INVALID"), "{answer}");
}

#[tokio::test]
async fn a_client_that_keeps_sending_reads_why_it_was_refused() {
    let registry = TestRegistry::start().await;
    let mut words =
        "PUT /v2/team/app/manifests/1 HTTP/1.1\r\nhost: registry\r\ncontent-length: 6000000\r\n\r\n"
            .to_owned();
    words.push_str(&"x".repeat(6_000_000));
    let answer = say(&registry, &words).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{}", &answer[..answer.len().min(200)]);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_back() {
    let limits =
        json!({ "http": { "limits": { "requests": { "write": { "maxrunning": 1, "maxinqueue": 0 } } } } });
    let registry = TestRegistry::with(limits).await;
    let alice = registry.user("alice");
    let upload = alice.begin_upload("team/app").await;
    let mut first = runs(&registry, &upload).await;

    let words = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nhost: registry\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let refused = say(&registry, words).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("TOOMANYREQUESTS") && refused.contains("retry-after: "), "{refused}");
    // Reading is counted apart, and health not at all.
    alice.get("/v2/").await.expect(hyper::StatusCode::OK);
    alice.get("/readyz").await.expect(hyper::StatusCode::OK);
    first.write_all(b"abc").await.unwrap();
    let mut answer = Vec::new();
    first.shutdown().await.unwrap();
    first.read_to_end(&mut answer).await.unwrap();
    assert_eq!(alice.upload_end(&upload).await, 3);
}

#[tokio::test]
async fn a_request_waits_in_the_queue_for_its_turn_if_there_is_room() {
    let limits =
        json!({ "http": { "limits": { "requests": { "write": { "maxrunning": 1, "maxinqueue": 1 } } } } });
    let registry = TestRegistry::with(limits).await;
    let upload = registry.user("alice").begin_upload("team/app").await;
    let mut running = runs(&registry, &upload).await;

    // Of two more one waits, and the other is refused at once.
    let words = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nhost: registry\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (mut one, mut other) = (Box::pin(say(&registry, words)), Box::pin(say(&registry, words)));
    let (refused, waits) = tokio::select! {
        refused = &mut one => (refused, other),
        refused = &mut other => (refused, one),
    };
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    running.write_all(b"abc").await.unwrap();
    let served = waits.await;
    assert!(served.starts_with("HTTP/1.1 202 "), "{served}");
}

#[tokio::test]
async fn a_request_whose_turn_does_not_come_in_time_is_told_to_come_back() {
    let write = json!({ "maxrunning": 1, "maxinqueue": 1, "maxwaitinqueue": "100ms" });
    let registry =
        TestRegistry::with(json!({ "http": { "limits": { "requests": { "write": write } } } })).await;
    let upload = registry.user("alice").begin_upload("team/app").await;
    let _running = runs(&registry, &upload).await;
    let words = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nhost: registry\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let refused = say(&registry, words).await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after: "), "{refused}");
}

#[tokio::test]
async fn health_is_answered_when_all_connections_are_taken() {
    let registry = TestRegistry::with(json!({ "http": { "limits": { "connections": 2 } } })).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: registry\r\n\r\n");
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut connection = connect(&registry).await;
        connection.write_all(ask("/v2/").as_bytes()).await.unwrap();
        connection.read_u8().await.unwrap();
        taken.push(connection);
    }
    for path in ["/", "/healthz", "/readyz"] {
        let answer = say(&registry, &ask(path)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let refused = say(&registry, &ask("/v2/")).await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("TOOMANYREQUESTS"), "{refused}");
    // One that leaves makes room.
    drop(taken.pop());
    while registry.user("alice").get("/v2/").await.status != hyper::StatusCode::OK {}
}
