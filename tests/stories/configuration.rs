//! An operator tries a configuration before the server meets it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Image, Layer, PaperCluster, TestRegistry, wharf};

fn write(folder: &Path, content: &str) -> String {
    let path = folder.join("config.yml");
    std::fs::write(&path, content).expect("the folder is writable");
    path.to_str().expect("temporary paths are text").to_owned()
}

#[test]
fn a_wrong_configuration_is_refused_with_file_key_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "version: 0.1\nhttp:\n  adr: :5000\nlog: {level: loud}\n");
    for arguments in [vec!["config", "check", &file], vec!["serve", &file]] {
        let printed = wharf::run(&arguments, &[]);
        assert_eq!(printed.code, Some(1));
        assert_eq!(
            printed.complaint,
            format!(
                "{file}:4: log.level: \"loud\" is not one of error, warn, warning, info, debug; try \"debug\"\n\
                 {file}:3: http.adr: there is no such key; did you mean \"http.addr\"?\n"
            )
        );
    }
}

#[test]
fn a_key_without_effect_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "version: 0.1\nredis: {addr: 'redis:6379'}\n");
    let printed = wharf::run(&["config", "check", &file], &[]);
    assert_eq!(printed.code, Some(0));
    assert!(printed.output.starts_with(&format!("warning: {file}:2: redis: ")));
}

#[test]
fn what_holds_is_shown_with_its_origin_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "version: 0.1\nhttp: {addr: ':5000', secret: hunter2}\nauth: none\n");
    let environment = [("REGISTRY_CONFIGURATION_PATH", file.as_str()), ("REGISTRY_LOG_LEVEL", "debug")];
    let printed = wharf::run(&["config", "show"], &environment);
    let shown = &printed.output;
    let line = |key: &str| shown.lines().find(|line| line.starts_with(&format!("{key}: "))).unwrap();
    assert!(line("http.addr").ends_with(&format!("# {file}:2")));
    assert!(line("log.level").contains("debug") && line("log.level").ends_with("# REGISTRY_LOG_LEVEL"));
    assert!(line("catalog.maxentries").ends_with("# default"));
    assert!(line("http.secret").contains("[hidden]") && !shown.contains("hunter2"));
}

#[test]
fn a_variable_that_names_no_file_is_as_good_as_none() {
    let printed = wharf::run(&["config", "show"], &[("REGISTRY_CONFIGURATION_PATH", "")]);
    assert!(printed.output.contains("storage.filesystem.rootdirectory: data "));
}

#[tokio::test]
async fn lists_are_as_long_and_answers_say_what_the_configuration_has() {
    let registry = TestRegistry::with(json!({
        "catalog": { "maxentries": 2 }, "tags": { "maxtags": 3 },
        "http": { "headers": { "X-Content-Type-Options": ["nosniff"] } },
    }))
    .await;
    let alice = registry.user("alice");
    let image = Image::of(vec![Layer::random(10)]);
    for name in ["a", "b", "c", "d"] {
        alice.push(&format!("team/{name}"), "1", &image).await;
        alice.push("team/app", name, &image).await;
    }
    for (path, member, length) in
        [("/v2/_catalog?n=100", "repositories", 2), ("/v2/team/app/tags/list?n=100", "tags", 3)]
    {
        let page = alice.get(path).await.expect(StatusCode::OK);
        assert_eq!(page.json()[member].as_array().unwrap().len(), length, "{path}");
        assert!(page.header("link").is_some(), "{path}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn an_open_registry_says_so() {
    let registry = TestRegistry::start().await;
    let warning = "nobody has to log in: whoever can connect may push, pull and delete";
    registry.log_line(&[("level", "WARN"), ("message", warning)]).await;
}

#[test]
fn nobody_serves_the_world_by_leaving_a_line_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "version: 0.1\nhttp: {addr: ':5000'}\nstorage: {inmemory: {}}\n");
    for arguments in [&["serve", &file][..], &["config", "check", &file]] {
        let refused = wharf::run(arguments, &[]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.complaint.starts_with(&format!("{file}:1: auth: it is missing")),
            "{}",
            refused.complaint
        );
        assert!(
            refused.complaint.contains("write \"auth: none\" (REGISTRY_AUTH=none)"),
            "{}",
            refused.complaint
        );
    }
    let said = wharf::run(&["config", "check", &file], &[("REGISTRY_AUTH", "none")]);
    assert_eq!(said.code, Some(0), "{}", said.complaint);
}

#[tokio::test]
async fn clients_are_told_what_a_password_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("htpasswd");
    std::fs::write(&users, "").unwrap();
    let htpasswd = json!({ "path": users, "realm": "our images" });
    let registry = TestRegistry::with(json!({ "auth": { "htpasswd": htpasswd } })).await;
    let refused = registry.user("someone").get("/v2/").await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"our images\""));
}

#[test]
fn what_lies_where_a_socket_should_be_stays_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("tls.key"), "a key").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    symlink(at("tls.key"), at("link")).unwrap();
    for (name, kind) in [("tls.key", "a file"), ("folder", "a folder"), ("link", "a symbolic link")] {
        let path = at(name);
        // Whatever becomes of this one, the server does not start: there is no place for the second.
        for places in [
            json!({ "addr": path, "listeners": [{ "addr": at("none/wharf.sock") }] }),
            json!({ "listeners": [{ "addr": path }, { "addr": at("none/wharf.sock") }] }),
        ] {
            let configuration = json!({ "version": 0.1, "http": places, "storage": { "inmemory": {} } });
            let refused = wharf::run(&["serve", &write(folder.path(), &configuration.to_string())], &[]);
            assert_eq!(refused.code, Some(1));
            let complaint = format!(
                "cannot listen on {path}: {kind} is there, and no socket; name another path, or remove it\n"
            );
            assert!(refused.complaint.ends_with(&complaint), "{}", refused.complaint);
        }
    }
    assert_eq!(std::fs::read_to_string(at("link")).unwrap(), "a key");
}

#[tokio::test]
async fn tokens_are_good_for_as_long_as_the_configuration_says() {
    let cluster = PaperCluster::new();
    let mut settings = cluster.settings();
    let kubernetes = &mut settings["auth"]["kubernetes"];
    kubernetes["longesttokenage"] = json!("1h");
    kubernetes["tokenlifetime"] = json!("10m");
    let registry = TestRegistry::with(settings).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ask = async |path: &str, age_minutes: u64| {
        let made = now - age_minutes * 60;
        let claims = json!({ "iat": made, "nbf": made, "exp": now + 24 * 3600 });
        let shown = format!("Bearer {}", cluster.token_with("team", "robot", &claims));
        registry.user("robot").ask(Method::GET, path, &[("authorization", &shown)], Bytes::new()).await
    };
    ask("/v2/", 120).await.expect(StatusCode::UNAUTHORIZED);
    ask("/v2/", 30).await.expect(StatusCode::OK);
    assert_eq!(ask("/token", 30).await.expect(StatusCode::OK).json()["expires_in"], 600);
}
