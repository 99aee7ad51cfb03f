//! What an auditor reads: who did what and by which binding, and who was refused.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::ioctl_fionread,
};
use serde_json::{Value, json};
use storage::{Algorithm, Digest};
use tokio::task::JoinSet;

use crate::harness::{
    Authority, Image, Layer, PaperCluster, TestRegistry, User,
    paper_cluster::{binding, binding_of},
};

/// A registry that obeys the cluster and writes its audit log into a file of the folder.
async fn audited(cluster: &PaperCluster, folder: &Path) -> TestRegistry {
    let mut settings = cluster.settings();
    settings["log"] = json!({ "fields": { "site": "here" }, "audit": { "path": folder.join("audit.log") } });
    TestRegistry::with(settings).await
}

/// The events of the file, each of which is there once its request was answered.
fn events(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("audit.log")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn last(folder: &Path) -> Value {
    events(folder).pop().expect("there are events")
}

/// Asks with a token and a request id, as somebody whose program has a name.
async fn ask(user: &User, token: &str, method: Method, path: &str, body: &[u8]) -> StatusCode {
    let shown = format!("Bearer {token}");
    let headers = [
        ("authorization", &*shown),
        ("x-request-id", "ticket-7"),
        ("content-type", "application/vnd.oci.image.manifest.v1+json"),
    ];
    user.ask(method, path, &headers, Bytes::copy_from_slice(body)).await.status
}

/// Compares the members that a test names.
#[track_caller]
fn assert_says(event: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&event[name], value, "{name} of {event}");
    }
}

#[tokio::test]
async fn pushes_mounts_and_deletions_name_who_what_and_the_binding() {
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    for role in ["system:image-builder", "registry-editor"] {
        cluster.apply(role, &binding("team", "robot", role));
    }
    let robot = "system:serviceaccount:team:robot";
    cluster.apply("elsewhere", &binding_of("User", "elsewhere", robot, "system:image-builder"));
    let registry = audited(&cluster, folder).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));
    let image = Image::of(vec![Layer::random(1000)]);
    let layer = image.layers[0].digest().to_string();

    let path = format!("/v2/team/app/blobs/uploads/?digest={layer}");
    let bytes = image.layers[0].first(1000);
    assert_eq!(ask(&robot, &token, Method::POST, &path, &bytes).await, StatusCode::CREATED);
    let pushed = last(folder);
    assert_says(
        &pushed,
        &json!({
            "target": "audit", "decision": "allowed", "act": "push", "repository": "team/app", "digest": layer,
            "size_bytes": 1000,
            "caller.name": "system:serviceaccount:team:robot",
            "caller.uid": "uid of team/robot",
            "caller.groups": ["system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"],
            "client.address": "127.0.0.1", "http.user_agent": "wharf-tests (robot)", "request.id": "ticket-7",
            "http.method": "POST", "site": "here", "missing": null,
        }),
    );
    let when = pushed["timestamp"].as_str().unwrap();
    assert!(when.len() == "2026-08-23T10:00:00.123Z".len() && when.ends_with('Z'), "{when}");
    // Either binding allows it.
    let bindings = ["RoleBinding team/system:image-builder", "RoleBinding team/registry-editor"];
    assert!(bindings.contains(&pushed["binding"].as_str().unwrap()), "{pushed}");

    let mount = format!("/v2/elsewhere/copy/blobs/uploads/?mount={layer}&from=team/app");
    assert_eq!(ask(&robot, &token, Method::POST, &mount, b"").await, StatusCode::CREATED);
    let mounted = last(folder);
    let expected = json!({
        "act": "mount", "repository": "elsewhere/copy", "from": "team/app", "digest": layer,
        "binding": "RoleBinding elsewhere/system:image-builder",
    });
    assert_says(&mounted, &expected);
    assert!(bindings.contains(&mounted["from_binding"].as_str().unwrap()), "{mounted}");

    let config = "{}";
    let path =
        format!("/v2/team/app/blobs/uploads/?digest={}", Digest::of(Algorithm::Sha256, config.as_bytes()));
    assert_eq!(ask(&robot, &token, Method::POST, &path, config.as_bytes()).await, StatusCode::CREATED);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(Algorithm::Sha256, config.as_bytes()), "size": config.len(),
        },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 1000 }],
    })
    .to_string();
    let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes()).to_string();
    let path = "/v2/team/app/manifests/v1";
    assert_eq!(ask(&robot, &token, Method::PUT, path, manifest.as_bytes()).await, StatusCode::CREATED);
    assert_says(
        &last(folder),
        &json!({
            "act": "push", "repository": "team/app", "digest": digest, "tags": ["v1"], "size_bytes": manifest.len(),
            "media_type": "application/vnd.oci.image.manifest.v1+json",
        }),
    );

    assert_eq!(ask(&robot, &token, Method::DELETE, path, b"").await, StatusCode::ACCEPTED);
    let deleted = json!({
        "decision": "allowed", "act": "delete", "tags": ["v1"], "tag_count": null, "digest": null,
        "binding": "RoleBinding team/registry-editor",
    });
    assert_says(&last(folder), &deleted);
    // Tags that go with their manifest are named too.
    let by_digest = format!("/v2/team/app/manifests/{digest}");
    let tagged = format!("{by_digest}?tag=v2&tag=v3");
    assert_eq!(ask(&robot, &token, Method::PUT, &tagged, manifest.as_bytes()).await, StatusCode::CREATED);
    for (path, gone, tags, count) in [
        (by_digest, &digest, json!(["v2", "v3"]), json!(2)),
        (format!("/v2/team/app/blobs/{layer}"), &layer, Value::Null, Value::Null),
    ] {
        assert_eq!(ask(&robot, &token, Method::DELETE, &path, b"").await, StatusCode::ACCEPTED);
        let deleted = json!({
            "act": "delete", "repository": "team/app", "digest": gone, "tags": tags, "tag_count": count,
        });
        assert_says(&last(folder), &deleted);
    }
    // What was not there was not deleted, and what is read is for the access log.
    let count = events(folder).len();
    assert_eq!(ask(&robot, &token, Method::DELETE, path, b"").await, StatusCode::NOT_FOUND);
    assert_eq!(ask(&robot, &token, Method::GET, path, b"").await, StatusCode::NOT_FOUND);
    assert_eq!(events(folder).len(), count);
}

#[tokio::test]
async fn what_the_store_failed_at_is_written_down_as_it_may_have_been_done() {
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    for role in ["system:image-builder", "registry-editor"] {
        cluster.apply(role, &binding("team", "robot", role));
    }
    let registry = audited(&cluster, folder).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));
    let image = Image::of(vec![]);
    let config = Layer::from_bytes(image.config.clone()).digest();
    let path = format!("/v2/team/app/blobs/uploads/?digest={config}");
    assert_eq!(ask(&robot, &token, Method::POST, &path, &image.config).await, StatusCode::CREATED);

    // One of two tags cannot be written, nor removed: a folder lies where its link should.
    let tags = registry.data().join("repositories/team/app/_manifests/tags");
    fs::create_dir_all(tags.join("b/current/link/in the way")).unwrap();
    let digest = image.digest();
    let path = format!("/v2/team/app/manifests/{digest}?tag=a&tag=b");
    assert!(ask(&robot, &token, Method::PUT, &path, &image.manifest).await.is_server_error());
    assert_says(
        &last(folder),
        &json!({
            "message": "failed", "decision": "allowed", "act": "push", "digest": digest.to_string(),
            "tags": ["a", "b"], "failed": true,
        }),
    );
    let path = "/v2/team/app/manifests/b";
    assert!(ask(&robot, &token, Method::DELETE, path, b"").await.is_server_error());
    assert_says(
        &last(folder),
        &json!({ "message": "failed", "decision": "allowed", "act": "delete", "tags": ["b"], "failed": true }),
    );
    let path = "/v2/team/app/manifests/a";
    assert_eq!(ask(&robot, &token, Method::PUT, path, &image.manifest).await, StatusCode::CREATED);
    assert_says(&last(folder), &json!({ "message": "done", "tags": ["a"], "failed": null }));

    // What goes is moved to a folder first, and that is none.
    fs::remove_dir_all(tags.join("b")).unwrap();
    let staging = registry.data().with_file_name("wharf").join("staging");
    fs::rename(&staging, staging.with_file_name("away")).unwrap();
    fs::write(&staging, "").unwrap();
    let path = format!("/v2/team/app/manifests/{digest}");
    assert!(ask(&robot, &token, Method::DELETE, &path, b"").await.is_server_error());
    assert_says(
        &last(folder),
        &json!({ "act": "delete", "digest": digest.to_string(), "tags": ["a"], "tag_count": 1, "failed": true }),
    );
}

#[tokio::test]
async fn who_may_not_or_shows_what_is_not_good_is_written_down() {
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    cluster.apply("pull", &binding("team", "robot", "system:image-puller"));
    cluster.apply("push", &binding("mine", "owner", "system:image-builder"));
    cluster.apply("open", &binding_of("Group", "public", "system:unauthenticated", "system:image-builder"));
    let registry = audited(&cluster, folder).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));

    assert_eq!(
        ask(&robot, &token, Method::DELETE, "/v2/team/app/manifests/v1", b"").await,
        StatusCode::FORBIDDEN
    );
    assert_says(
        &last(folder),
        &json!({
            "decision": "denied", "act": "delete", "repository": "team/app", "tags": ["v1"], "binding": null,
            "caller.name": "system:serviceaccount:team:robot", "http.method": "DELETE", "request.id": "ticket-7",
            "missing": "User \"system:serviceaccount:team:robot\" cannot delete resource \"imagestreamtags\" in API group \
                        \"image.openshift.io\" of the name \"app:v1\" in the namespace \"team\"",
        }),
    );
    assert_eq!(
        ask(&robot, &token, Method::POST, "/v2/team/app/blobs/uploads/", b"").await,
        StatusCode::FORBIDDEN
    );
    assert_says(&last(folder), &json!({ "decision": "denied", "act": "push", "repository": "team/app" }));
    // Who may not even read is kept from just what they asked for.
    for (method, path, act) in [(Method::GET, "tags/list", "pull"), (Method::POST, "blobs/uploads/", "push")]
    {
        let path = format!("/v2/secret/app/{path}");
        assert_eq!(ask(&robot, &token, method, &path, b"").await, StatusCode::FORBIDDEN);
        assert_says(&last(folder), &json!({ "decision": "denied", "act": act, "repository": "secret/app" }));
    }

    // The client sees an upload begin; the auditor sees who reached for what they may not read.
    let blob = Digest::of(Algorithm::Sha256, b"secret");
    let mount = format!("/v2/mine/app/blobs/uploads/?mount={blob}&from=secret/app");
    let owner = cluster.token("mine", "owner");
    assert_eq!(ask(&robot, &owner, Method::POST, &mount, b"").await, StatusCode::ACCEPTED);
    assert_says(&last(folder), &json!({ "decision": "denied", "act": "pull", "repository": "secret/app" }));

    // Also of those who may push without logging in.
    let mount = mount.replace("/v2/mine/", "/v2/public/");
    robot.ask(Method::POST, &mount, &[], Bytes::new()).await.expect(StatusCode::ACCEPTED);
    let reached = json!({
        "decision": "denied", "act": "pull", "repository": "secret/app", "caller.name": "system:anonymous",
    });
    assert_says(&last(folder), &reached);

    let bad = PaperCluster::new().token("team", "robot");
    for path in ["/v2/team/app/tags/list", "/token"] {
        assert_eq!(ask(&robot, &bad, Method::GET, path, b"").await, StatusCode::UNAUTHORIZED);
        let refused = last(folder);
        let expected = json!({
            "decision": "refused", "act": "login", "http.path": path, "caller.name": null,
            "client.address": "127.0.0.1", "request.id": "ticket-7",
        });
        assert_says(&refused, &expected);
        assert_eq!(refused["reason"], "the token's signature is not valid");
    }
    let password = format!("Basic {}", BASE64_STANDARD.encode("hunter1:hunter2"));
    let shown = [("authorization", &*password)];
    let count = events(folder).len();
    robot.ask(Method::GET, "/v2/", &shown, Bytes::new()).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(events(folder).len(), count + 1);

    // Whoever shows nothing is asked to log in. Every login begins so.
    for path in ["/v2/", "/v2/team/app/tags/list"] {
        robot.get(path).await.expect(StatusCode::UNAUTHORIZED);
    }
    assert_eq!(events(folder).len(), count + 1);

    let all = fs::read_to_string(folder.join("audit.log")).unwrap();
    for secret in [&token, &owner, &bad, "hunter1", "hunter2"] {
        for part in secret.split('.') {
            assert!(!all.contains(part), "a part of {secret} is in the log");
        }
    }
}

#[tokio::test]
async fn below_a_prefix_events_have_the_path_that_was_asked_for() {
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    let mut settings = cluster.settings();
    settings["log"] = json!({ "audit": { "path": folder.path().join("audit.log") } });
    settings["http"] = json!({ "prefix": "/images" });
    let registry = TestRegistry::with(settings).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));
    let bad = PaperCluster::new().token("team", "robot");
    for (token, path, status) in [
        (&token, "/images/v2/team/app/tags/list", StatusCode::FORBIDDEN),
        (&bad, "/images/v2/team/app/tags/list", StatusCode::UNAUTHORIZED),
        (&bad, "/images/token", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(&robot, token, Method::GET, path, b"").await, status);
        assert_says(&last(folder.path()), &json!({ "http.path": path }));
    }
}

#[tokio::test]
async fn without_a_file_of_their_own_events_are_among_the_other_lines() {
    let registry = TestRegistry::with(json!({ "log": { "fields": { "site": "here" } } })).await;
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", Bytes::from_static(b"{}")).await.to_string();
    let event = registry.log_line(&[("target", "audit"), ("act", "push"), ("digest", &digest)]).await;
    assert_says(
        &event,
        &json!({ "caller.name": "system:anonymous", "site": "here", "binding": "the configuration, which lets everybody do everything" }),
    );
}

#[tokio::test]
async fn the_file_goes_on_where_it_is_looked_for_and_a_lost_disk_loses_nothing() {
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let registry = audited(&cluster, &logs).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));
    let denied = async |path: &str| {
        assert_eq!(ask(&robot, &token, Method::GET, path, b"").await, StatusCode::FORBIDDEN);
    };
    denied("/v2/team/one/tags/list").await;
    fs::rename(logs.join("audit.log"), logs.join("audit.log.1")).unwrap();
    denied("/v2/team/two/tags/list").await;
    assert_eq!(events(&logs).len(), 1);
    assert_eq!(last(&logs)["repository"], "team/two");

    fs::rename(&logs, folder.path().join("away")).unwrap();
    denied("/v2/team/three/tags/list").await;
    registry.log_line(&[("target", "audit"), ("repository", "team/three")]).await;
    fs::create_dir(&logs).unwrap();
    denied("/v2/team/four/tags/list").await;
    assert_eq!(last(&logs)["repository"], "team/four");
}

#[tokio::test]
async fn a_slow_disk_holds_up_those_who_are_written_down_and_nobody_else() {
    const MANY: usize = 200;
    let (cluster, folder) = (PaperCluster::new(), tempfile::tempdir().unwrap());
    // A pipe that is not emptied is a disk that does not write; it holds the events of some of them.
    let path = folder.path().join("audit.log");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let registry = audited(&cluster, folder.path()).await;
    let (robot, token) = (registry.user("robot"), cluster.token("team", "robot"));
    let mut denials = JoinSet::new();
    for number in 0..MANY {
        let (robot, token) = (robot.clone(), token.clone());
        denials.spawn(async move {
            ask(&robot, &token, Method::GET, &format!("/v2/team/{number}/tags/list"), b"").await
        });
    }
    while ioctl_fionread(&pipe).unwrap() < 48 << 10 {
        tokio::task::yield_now().await;
    }
    // More than enough for all of them to be answered, if they did not wait.
    for _ in 0..50 {
        robot.get("/healthz").await.expect(StatusCode::OK);
        assert_eq!(ask(&robot, &token, Method::GET, "/v2/", b"").await, StatusCode::OK);
    }
    let mut answered = 0;
    while denials.try_join_next().is_some() {
        answered += 1;
    }
    assert!(answered < MANY, "nobody waited");

    let read = move || -> Vec<Value> {
        let lines = BufReader::new(pipe).lines().take(MANY);
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    };
    let events = tokio::task::spawn_blocking(read).await.unwrap();
    let about: HashSet<_> = events.iter().map(|event| event["repository"].as_str().unwrap()).collect();
    assert_eq!(about.len(), MANY);
    while let Some(status) = denials.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn it_can_be_turned_off_and_is_not_begun_where_it_cannot_be_written() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    // A file, where a folder is needed.
    let file = authority.write_to(folder.path());
    let configuration = |audit: &Value| {
        let path = folder.path().join("config.json");
        let settings = json!({ "version": 0.1, "storage": "inmemory", "log": { "audit": audit } });
        fs::write(&path, settings.to_string()).unwrap();
        path
    };
    let path = configuration(&json!({ "path": file.join("audit.log") }));
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_wharf")).arg("serve").arg(path).output().unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the audit log cannot be written"),
        "{output:?}"
    );

    let registry = TestRegistry::with(json!({ "log": { "audit": { "disabled": true } } })).await;
    registry.user("alice").push_blob("team/app", Bytes::from_static(b"{}")).await;
    registry.ask_to_stop();
    let log = registry.log_until("stopped").await;
    assert!(!log.iter().any(|line| line.contains("\"audit\"")), "{log:?}");
}
