//! What whoever reads the log can tell of a request.

use std::{
    io::{PipeReader, Read, pipe},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    process::Command,
    time::timeout,
};

use crate::harness::{
    Image, Layer, PaperCluster, TestRegistry, paper_cluster::binding, registry::overlay, secrets, until,
    wharf,
};

#[tokio::test]
async fn a_line_of_the_access_log_names_what_was_asked_for_and_by_whom() {
    let registry = TestRegistry::start().await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(1000)]);
    alice.push("team/app", "1", &image).await;
    let digest = image.layers[0].digest().to_string();
    let id = [("x-request-id", "pull-1")];
    let path = format!("/v2/team/app/blobs/{digest}");
    alice.ask(Method::GET, &path, &id, Bytes::new()).await.expect(StatusCode::OK);

    let line = registry.log_line(&[("target", "access"), ("request.id", "pull-1")]).await;
    assert_eq!(line["http.method"], "GET");
    assert_eq!(line["http.route"], "/v2/{name}/blobs/{digest}");
    assert_eq!(line["http.path"], path);
    assert_eq!(line["http.status"], 200);
    assert_eq!(line["repository"], "team/app");
    assert_eq!(line["digest"], digest);
    assert_eq!(line["caller.name"], "system:anonymous");
    assert_eq!(line["sent_bytes"], 1000);
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_failure_is_logged_with_the_request_it_belongs_to() {
    let registry = TestRegistry::with(json!({ "log": { "accesslog": { "disabled": true } } })).await;
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", Bytes::from_static(b"{}")).await;
    // A link to itself cannot be read, and is not the same as nothing.
    let blob = registry.blob(&digest);
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&blob, &blob).unwrap();
    let id = [("x-request-id", "pull-2")];
    let path = format!("/v2/team/app/blobs/{digest}");
    let answer = alice.ask(Method::GET, &path, &id, Bytes::new()).await;
    assert!(answer.status.is_server_error(), "{answer:?}");

    let line = registry.log_line(&[("message", "request failed")]).await;
    let span = &line["span"];
    assert_eq!(line["level"], "ERROR");
    assert_eq!(span["request.id"], "pull-2");
    assert_eq!(span["http.method"], "GET");
    assert_eq!(span["http.route"], "/v2/{name}/blobs/{digest}");
    assert_eq!(span["repository"], "team/app");
    assert_eq!(span["digest"], digest.to_string());
    assert_eq!(span["caller.name"], "system:anonymous");
}

#[tokio::test]
async fn an_error_is_logged_with_what_caused_it() {
    // An address at which nobody listens.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    nobody.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = nobody.local_addr().unwrap().as_socket().unwrap();
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let contents = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "none", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "none", "context": { "cluster": "none", "user": "" } }],
        "current-context": "none",
    });
    serde_json::to_writer(&kubeconfig, &contents).unwrap();
    for format in ["json", "text"] {
        let kubernetes = json!({ "kubeconfig": kubeconfig.path() });
        let settings = json!({ "log": { "formatter": format }, "auth": { "kubernetes": kubernetes } });
        let registry = TestRegistry::with(settings).await;
        let line = registry.line_with("the API server is not heard").await;
        assert!(line.contains("cannot reach the API server"), "{line}");
        assert!(line.contains("Connection refused"), "{line}");
    }
}

#[tokio::test]
async fn every_line_carries_the_configured_fields() {
    let fields = json!({ "service": "registry", "environment": "test \"2\"", "replica": 3 });
    let registry = TestRegistry::with(json!({ "log": { "fields": fields } })).await;
    registry.user("alice").get("/v2/").await.expect(StatusCode::OK);
    for message in ["request", "stopping"] {
        if message == "stopping" {
            registry.ask_to_stop();
        }
        let line = registry.log_line(&[("message", message)]).await;
        assert_eq!(line["service"], "registry");
        assert_eq!(line["environment"], "test \"2\"");
        assert_eq!(line["replica"], "3");
    }

    let registry = TestRegistry::with(json!({ "log": { "formatter": "text", "fields": fields } })).await;
    let line = registry.line_with("listening on").await;
    assert!(line.ends_with(r#" environment="test \"2\"" replica="3" service="registry""#), "{line}");
}

#[tokio::test]
async fn lines_say_where_they_come_from_if_that_is_asked_for() {
    let registry = TestRegistry::with(json!({ "log": { "reportcaller": true } })).await;
    let line = registry.log_line(&[("level", "INFO")]).await;
    assert!(line["filename"].as_str().unwrap().ends_with(".rs") && line["line_number"].is_u64(), "{line}");
}

#[tokio::test]
async fn what_people_log_in_with_is_in_no_log() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "robot", "system:image-puller"));
    let users = tempfile::NamedTempFile::new().unwrap();
    // What `htpasswd -Bbn -C 4 alice a-long-passphrase-of-alice` prints.
    let alice = "alice:$2y$04$k5H76wVm1ovwExxADDexE.h4yegwQ29E3tmXz.B7B26GPq2ot02xm\n";
    std::fs::write(&users, alice).unwrap();
    let password = "a-long-passphrase-of-alice";
    secrets::keep(password);
    let good = cluster.token("team", "robot");
    let expired = cluster.token_with("team", "robot", &json!({ "exp": 1_700_000_000 }));
    let unknown = PaperCluster::new().token("team", "robot");
    for format in ["json", "text"] {
        let log = json!({ "log": { "level": "debug", "formatter": format }, "auth": { "htpasswd": { "path": users.path() } } });
        let mut settings = cluster.settings();
        overlay(&mut settings, &log);
        let registry = TestRegistry::with(settings).await;
        let someone = registry.user("someone");
        for secret in [&*good, &*expired, &*unknown, password] {
            let basic = |user: &str, password: &str| {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
            };
            let tags = "/v2/team/app/tags/list";
            for (path, shown) in [
                (tags.to_owned(), format!("Bearer {secret}")),
                (tags.to_owned(), basic("alice", secret)),
                // As people mistake it.
                (tags.to_owned(), basic(secret, "")),
                (tags.to_owned(), basic(secret, secret)),
                (tags.to_owned(), secret.to_owned()),
                (tags.to_owned(), format!("Token {secret}")),
                (tags.to_owned(), format!("Basic {secret}")),
                ("/token?service=registry".to_owned(), basic("alice", secret)),
                (format!("/token?account=alice&password={secret}"), basic("alice", secret)),
                (format!("{tags}?access_token={secret}&n=x{secret}"), format!("Bearer {good}")),
            ] {
                let headers = [("authorization", &*shown), ("cookie", &*shown)];
                someone.ask(Method::GET, &path, &headers, Bytes::new()).await;
            }
            let form = format!("grant_type=password&username=alice&password={secret}");
            someone.ask(Method::POST, "/token", &[], form.into()).await;
            let form = format!("grant_type=refresh_token&refresh_token={secret}&service={secret}");
            someone.ask(Method::POST, "/token", &[], form.into()).await;
        }
        // That nothing of it was written, the end of the registry sees to; that something was, this.
        registry.line_with("credential refused").await;
    }
}

#[tokio::test]
async fn a_server_whose_log_nobody_reads_goes_on_answering_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("registry.sock");
    let ask = async |path: &str| {
        let mut connection = UnixStream::connect(&socket).await.ok()?;
        let words = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        connection.write_all(words.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = connection.read_to_string(&mut answer);
        timeout(Duration::from_secs(30), read).await.expect("it is answered").unwrap();
        Some(answer)
    };
    for is_read_in_the_end in [true, false] {
        let (log, input) = pipe().unwrap();
        let mut server = Command::new(wharf::path())
            .arg("serve")
            .current_dir(folder.path())
            .env("REGISTRY_HTTP_ADDR", &socket)
            .env("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true")
            .stderr(input)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until(async || ask("/healthz").await.is_some()).await;
        // Each leaves a line that is longer than most.
        let long = format!("/v2/{}", "long".repeat(12_000));
        for _ in 0..100 {
            ask(&long).await.unwrap();
        }
        assert!(ask("/healthz").await.unwrap().ends_with("alive\n"));
        let metrics = ask("/metrics").await.unwrap();
        let lost = metrics.lines().find_map(|line| line.strip_prefix("wharf_log_lines_lost_total "));
        assert!(lost.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");

        let reader = |mut log: PipeReader| {
            std::thread::spawn(move || {
                let mut lines = String::new();
                log.read_to_string(&mut lines).unwrap();
                lines
            })
        };
        let (reader, _unread) =
            if is_read_in_the_end { (Some(reader(log)), None) } else { (None, Some(log)) };
        let id = server.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(id, Signal::TERM).unwrap();
        let stopped = timeout(Duration::from_secs(30), server.wait()).await.expect("it stops").unwrap();
        assert!(stopped.success(), "{stopped}");
        if let Some(reader) = reader {
            let lines = reader.join().unwrap();
            let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.last().unwrap()["message"], "stopped");
        }
    }
}

/// A token that is no JSON Web Token, so that it is the API server's to know.
const OPAQUE: &str = "sha256~echoed-by-an-api-server-that-is-not-well";

/// A file by which a registry finds an API server whose answers repeat the tokens that it was asked about.
async fn echoing_api_server() -> tempfile::NamedTempFile {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = async |review: Bytes| {
        let review: Value = serde_json::from_slice(&review).unwrap();
        let token = review["spec"]["token"].clone();
        let name = token.as_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
        let failure =
            |message: &str| json!({ "kind": "Status", "status": "Failure", "code": 403, "message": message });
        let (status, answer) = match name.as_str() {
            "beside" => (StatusCode::CREATED, json!({ "spec": review["spec"], "status": "unclear" })),
            "alone" => (StatusCode::CREATED, token),
            "page" => (StatusCode::BAD_GATEWAY, json!([review])),
            "reason" => (StatusCode::FORBIDDEN, failure(&format!("cannot judge {token}"))),
            _ => (StatusCode::CREATED, json!({ "spec": review["spec"], "status": { "error": token } })),
        };
        (status, answer.to_string())
    };
    let router = Router::new().route("/apis/authentication.k8s.io/v1/tokenreviews", post(echo));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let file = tempfile::NamedTempFile::new().unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        "users": [{ "name": "it", "user": {} }],
    });
    serde_json::to_writer(&file, &kubeconfig).unwrap();
    file
}

#[tokio::test]
async fn an_api_server_that_repeats_a_token_has_it_in_no_log() {
    let kubeconfig = echoing_api_server().await;
    secrets::keep(OPAQUE);
    // At the others nothing says when it is ready, and there is less of each.
    for level in ["debug", "info"] {
        let kubernetes = json!({ "kubeconfig": kubeconfig.path() });
        let settings = json!({ "log": { "level": level }, "auth": { "kubernetes": kubernetes } });
        let registry = TestRegistry::with(settings).await;
        let someone = registry.user("someone");
        for (how, status) in [
            ("beside", StatusCode::SERVICE_UNAVAILABLE),
            ("alone", StatusCode::SERVICE_UNAVAILABLE),
            ("page", StatusCode::SERVICE_UNAVAILABLE),
            ("reason", StatusCode::SERVICE_UNAVAILABLE),
            ("error", StatusCode::UNAUTHORIZED),
        ] {
            let headers = [("authorization", &*format!("Bearer {OPAQUE}-{how}")), ("x-request-id", how)];
            let answer = someone.ask(Method::GET, "/v2/", &headers, Bytes::new()).await;
            assert_eq!(answer.status, status, "{how}: {answer:?}");
        }
        // What it printed is looked through when it ends.
    }
}
