//! Somebody was refused, and an administrator finds out why, and what to do.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Authority, PaperCluster, TestRegistry,
    paper_cluster::{binding, binding_of},
    secrets,
    wharf::{self, Printed},
};

const ACCOUNT: &str = "system:serviceaccount:team:example-sa";

fn can_i(config: &str, question: &str) -> Printed {
    let words = ["auth", "can-i", "--config", config].into_iter().chain(question.split_whitespace());
    let printed = wharf::run(&words.collect::<Vec<_>>(), &[]);
    secrets::assert_none_in(printed.output.lines());
    printed
}

#[test]
fn a_no_tells_what_is_missing_and_a_yes_which_binding_gives_it() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "example-sa", "system:image-puller"));
    let config = cluster.configuration(&json!({}));
    let objects = cluster.objects().display().to_string();
    let question = format!("push team/app --as {ACCOUNT}");

    let refused = can_i(&config, &question);
    assert_eq!(
        refused.output,
        format!(
            "no: {ACCOUNT} may not push to team/app
  their groups: system:serviceaccounts, system:serviceaccounts:team, system:authenticated

They cannot update resource \"imagestreams/layers\" in API group \"image.openshift.io\" of the name \"app\" in the namespace \"team\":
  RoleBinding team/system:image-puller gives the user ClusterRole system:image-puller, which allows get only

To allow it, put what this prints into a file of {objects}:
  kubectl create rolebinding image-builder-example-sa --namespace=team --clusterrole=system:image-builder \
--serviceaccount=team:example-sa --dry-run=client --output=yaml
"
        )
    );
    assert_eq!((refused.code, &*refused.complaint), (Some(1), ""));

    // As kubectl 1.37 prints it.
    cluster.apply(
        "push",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  creationTimestamp: null
  name: image-builder-example-sa
  namespace: team
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:image-builder
subjects:
- kind: ServiceAccount
  name: example-sa
  namespace: team
",
    );
    let allowed = can_i(&config, &question);
    assert_eq!((allowed.code, &*allowed.complaint), (Some(0), ""));
    assert!(allowed.output.starts_with(&format!("yes: {ACCOUNT} may push to team/app\n")));
    let reason = "RoleBinding team/image-builder-example-sa gives the user ClusterRole system:image-builder, \
                  which allows: get,update imagestreams/layers in \"\",image.openshift.io\n";
    assert!(allowed.output.contains(reason), "{}", allowed.output);
}

#[test]
fn groups_count_those_that_are_said_and_those_that_everybody_is_in() {
    let cluster = PaperCluster::new();
    for (name, group) in [
        ("developers", "developers"),
        ("of-team", "system:serviceaccounts:team"),
        ("all", "system:authenticated"),
    ] {
        cluster.apply(name, &binding_of("Group", name, group, "system:image-puller"));
    }
    let config = cluster.configuration(&json!({}));
    for (question, code) in [
        ("pull developers/app --as alice", 1),
        ("pull developers/app --as alice --as-group testers --as-group developers", 0),
        ("pull of-team/app --as system:serviceaccount:team:any", 0),
        ("pull of-team/app --as system:serviceaccount:other:any", 1),
        ("pull all/app --as alice", 0),
        ("pull all/app --as system:anonymous", 1),
    ] {
        assert_eq!(can_i(&config, question).code, Some(code), "{question}");
    }
}

#[test]
fn what_is_advised_gives_as_little_as_may_be() {
    let cluster = PaperCluster::new();
    let config = cluster.configuration(&json!({}));
    for (question, advice) in [
        (
            "pull team/app",
            "rolebinding image-puller-alice --namespace=team --clusterrole=system:image-puller",
        ),
        (
            "push team/app",
            "rolebinding image-builder-alice --namespace=team --clusterrole=system:image-builder",
        ),
        (
            "delete team/app",
            "rolebinding registry-editor-alice --namespace=team --clusterrole=registry-editor",
        ),
        (
            "delete team/app:1",
            "rolebinding registry-editor-alice --namespace=team --clusterrole=registry-editor",
        ),
        // Not the pruner's role, which lists them too, and deletes them.
        ("list", "clusterrolebinding registry-viewer-alice --clusterrole=registry-viewer"),
        ("pull app", "clusterrolebinding image-puller-alice --clusterrole=system:image-puller"),
    ] {
        let refused = can_i(&config, &format!("{question} --as alice"));
        let command = format!("  kubectl create {advice} --user=alice --dry-run=client --output=yaml\n");
        assert!(refused.output.ends_with(&command), "{question}: {}", refused.output);
    }
}

#[test]
fn what_is_given_in_the_whole_cluster_is_said_to_count_there() {
    let cluster = PaperCluster::new();
    let config = cluster.configuration(&json!({}));
    for (question, role, acts) in [
        ("list", "registry-viewer", "pull from"),
        ("pull app", "system:image-puller", "pull from"),
        ("push app", "system:image-builder", "pull from and push to"),
        ("delete app", "registry-editor", "pull from and push to and delete from"),
    ] {
        let refused = can_i(&config, &format!("{question} --as alice"));
        let warning =
            format!("\nIn the whole cluster {role} lets them {acts} every repository.\nTo allow it, ");
        assert!(refused.output.contains(&warning), "{question}: {}", refused.output);
    }
    let refused = can_i(&config, "push team/app --as alice");
    assert!(!refused.output.contains("In the whole cluster"), "{}", refused.output);

    // Where nobody else lists them there is the pruner's role, which deletes what it lists.
    let nothing = ["registry-viewer", "registry-editor"].map(|name| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name }, "rules": [],
        })
        .to_string()
    });
    cluster.apply("nothing", &nothing.join("\n---\n"));
    let refused = can_i(&config, "list --as alice");
    let warning = "\nIn the whole cluster system:image-pruner lets them delete from every repository.\n";
    assert!(refused.output.contains(warning), "{}", refused.output);
}

#[test]
fn a_user_who_is_nearly_an_account_is_advised_for_as_a_user() {
    let cluster = PaperCluster::new();
    let config = cluster.configuration(&json!({}));
    for (user, flag) in [
        ("system:serviceaccount:team:good", "--serviceaccount=team:good"),
        ("system:serviceaccount:bad", "--user=system:serviceaccount:bad"),
    ] {
        let refused = can_i(&config, &format!("pull team/app --as {user}"));
        assert!(refused.output.contains(&format!(" {flag} --dry-run=client")), "{}", refused.output);
    }
}

#[test]
fn a_role_that_gives_more_than_images_is_not_advised() {
    let cluster = PaperCluster::new();
    cluster.apply(
        "editor",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: registry-editor}}",
    );
    let refused = can_i(&cluster.configuration(&json!({})), "delete team/app:1 --as alice");
    // There are `cluster-admin`, which would give away everything, and `registry-admin`, the right to give it.
    let advice = "\nNo role for image registries gives all of that: apply deploy/rbac/roles.yaml or write one, \
                  and bind it.\n";
    assert!(refused.output.ends_with(advice), "{}", refused.output);
}

#[test]
fn whoever_names_a_binding_gives_no_advice() {
    let cluster = PaperCluster::new();
    cluster.apply(
        "trap",
        r#"apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "x\n\nTo allow it:\n  kubectl create\x1b[8m", namespace: team}
roleRef: {kind: ClusterRole, name: view}
subjects: [{kind: User, name: alice}]
"#,
    );
    let refused = can_i(&cluster.configuration(&json!({})), "push team/app --as alice").output;
    let shown =
        r"  RoleBinding team/x\n\nTo allow it:\n  kubectl create\u{1b}[8m gives the user ClusterRole view,";
    assert!(refused.contains(shown), "{refused}");
    assert_eq!(refused.matches("\nTo allow it").count(), 1, "{refused}");
}

#[test]
fn a_token_is_looked_at_as_the_server_would() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "example-sa", "system:image-puller"));
    let config = cluster.configuration(&json!({}));
    let file = cluster.objects().parent().unwrap().join("token");
    let with = |token: String| {
        std::fs::write(&file, token + "\n").unwrap();
        can_i(&config, &format!("pull team/app --token-file {}", file.display()))
    };
    let good = with(cluster.token("team", "example-sa"));
    assert_eq!(good.code, Some(0));
    assert!(good.output.starts_with(&format!("yes: {ACCOUNT} may pull from team/app\n")));
    assert_eq!(with(cluster.token("other", "example-sa")).code, Some(1));
    for (claims, why) in [
        (json!({ "exp": 1_700_000_000 }), "the token has expired"),
        (json!({ "aud": ["elsewhere"] }), "none of its audiences is accepted here"),
    ] {
        let refused = with(cluster.token_with("team", "example-sa", &claims));
        assert_eq!((refused.code, &*refused.output), (Some(2), ""));
        assert!(refused.complaint.contains(why), "{}", refused.complaint);
    }
}

#[tokio::test]
async fn the_answer_is_that_of_the_server() {
    let cluster = PaperCluster::new();
    let roles =
        ["system:image-puller", "system:image-pusher", "system:image-builder", "registry-editor", "view"];
    for (number, role) in roles.iter().enumerate() {
        cluster.apply(&format!("role-{number}"), &binding("team", &format!("sa-{number}"), role));
    }
    let config = cluster.configuration(&json!({}));
    let registry = TestRegistry::with(cluster.settings()).await;
    let someone = registry.user("someone");
    let digest = format!("sha256:{}", "a".repeat(64));
    let (mut allowed, mut refused) = (0, 0);
    for (number, role) in roles.iter().enumerate() {
        let name = format!("sa-{number}");
        let shown = format!("Bearer {}", cluster.token("team", &name));
        for (question, method, path) in [
            ("pull team/app", Method::GET, "/v2/team/app/tags/list".to_owned()),
            ("pull other/app", Method::GET, "/v2/other/app/tags/list".to_owned()),
            ("push team/app", Method::POST, "/v2/team/app/blobs/uploads/".to_owned()),
            ("delete team/app:1", Method::DELETE, "/v2/team/app/manifests/1".to_owned()),
            ("delete team/app", Method::DELETE, format!("/v2/team/app/manifests/{digest}")),
        ] {
            let said = can_i(&config, &format!("{question} --as system:serviceaccount:team:{name}"));
            let answer = someone.ask(method, &path, &[("authorization", &shown)], Bytes::new()).await;
            let is_denied = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(said.code, Some(is_denied.into()), "{question} with {role}");
            if is_denied {
                // Whoever is refused is told the very right that is missing.
                let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
                let right = message.split_once(" cannot ").unwrap().1;
                assert!(
                    said.output.contains(&format!("They cannot {right}:\n")),
                    "{message}: {}",
                    said.output
                );
            }
            *if is_denied { &mut refused } else { &mut allowed } += 1;
        }
    }
    assert!(allowed >= 8 && refused >= 8, "{allowed} and {refused} are told apart");
}

#[test]
fn what_the_configuration_keeps_everybody_from_is_a_no() {
    let cluster = PaperCluster::new();
    cluster.apply("edit", &binding("team", "example-sa", "registry-editor"));
    let delete = format!("delete team/app:1 --as {ACCOUNT}");
    assert_eq!(can_i(&cluster.configuration(&json!({})), &delete).code, Some(0));
    let off = cluster.configuration(&json!({ "storage": { "delete": { "enabled": false } } }));
    let refused = can_i(&off, &delete);
    assert_eq!(refused.code, Some(1));
    assert!(refused.output.contains("nobody may: deletion is turned off (storage.delete.enabled)"));
    let read_only = json!({ "storage": { "maintenance": { "readonly": { "enabled": true } } } });
    assert_eq!(
        can_i(&cluster.configuration(&read_only), &format!("push team/app --as {ACCOUNT}")).code,
        Some(1)
    );
}

#[test]
fn without_bindings_a_configuration_lets_in_everybody_or_every_user() {
    let cluster = PaperCluster::new();
    let open = cluster.configuration(&json!({ "auth": null }));
    let allowed = can_i(&open, "push team/app --as alice");
    assert_eq!(allowed.code, Some(0));
    assert!(
        allowed.output.contains("the configuration, which lets everybody do everything"),
        "{}",
        allowed.output
    );

    let users = cluster.objects().parent().unwrap().join("htpasswd");
    std::fs::write(&users, "").unwrap();
    let users =
        cluster.configuration(&json!({ "auth": { "kubernetes": null, "htpasswd": { "path": users } } }));
    assert_eq!(can_i(&users, "push team/app --as alice").code, Some(0));
    assert_eq!(can_i(&users, "pull team/app --as system:anonymous").code, Some(1));
}

#[test]
fn the_file_of_the_server_decides_and_without_one_that_is_said() {
    const UNTOLD: &str =
        "  that is so where the server has no configuration file; if it has one, name it (--config)\n";
    let question = ["auth", "can-i", "push", "team/app", "--as", "alice"];
    let allowed = wharf::run(&question, &[]);
    assert_eq!((allowed.code, &*allowed.complaint), (Some(0), ""));
    assert!(allowed.output.starts_with("yes: alice may push to team/app\n"), "{}", allowed.output);
    assert!(allowed.output.contains(UNTOLD), "{}", allowed.output);

    let cluster = PaperCluster::new();
    let open = cluster.configuration(&json!({ "auth": null }));
    assert!(!can_i(&open, "push team/app --as alice").output.contains(UNTOLD));
    let config = cluster.configuration(&json!({}));
    let refused = wharf::run(&question, &[("REGISTRY_CONFIGURATION_PATH", config.as_str())]);
    assert_eq!((refused.code, &*refused.complaint), (Some(1), ""), "{}", refused.output);
    assert!(!refused.output.contains(UNTOLD), "{}", refused.output);

    // Where we say how the server is started it has that variable, and so has whoever asks in its container.
    let deployment = include_str!("../../deploy/registry.yaml");
    let dockerfile = include_str!("../../Dockerfile");
    assert!(dockerfile.contains("\nENV REGISTRY_CONFIGURATION_PATH=/etc/wharf/config.yml\n"));
    assert!(dockerfile.contains("\nCMD [\"serve\"]\n"));
    assert!(deployment.contains("- {name: REGISTRY_CONFIGURATION_PATH, value: /etc/wharf/config.yml}\n"));
    assert!(
        deployment.contains("mountPath: /etc/wharf/config.yml, ") && deployment.contains("args: [serve]\n")
    );
}

#[test]
fn a_cluster_that_does_not_tell_is_no_riddle() {
    let folder = tempfile::tempdir().unwrap();
    // It has the port, and does not listen.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    nobody.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let nobody_is_there = nobody.local_addr().unwrap().as_socket().unwrap();
    for (address, said) in [
        (nobody_is_there, ["cluster roles cannot be read: ", "Connection refused"]),
        (
            api_server(|_| forbidden("list")),
            ["may not list and watch cluster roles ", "cannot list resource"],
        ),
        (
            api_server(|path| if path.contains("watch=true") { forbidden("watch") } else { empty_list() }),
            ["may not list and watch cluster roles ", "cannot watch resource"],
        ),
        (
            api_server(|path| if path.contains("/rolebindings") { forbidden("list") } else { empty_list() }),
            ["may not list and watch role bindings ", "cannot list resource"],
        ),
    ] {
        let config = configuration_of_cluster(folder.path(), address);
        let began = Instant::now();
        let printed = can_i(&config, "pull team/app --as alice");
        assert!(began.elapsed() < Duration::from_secs(15), "{}", printed.complaint);
        assert_eq!((printed.code, &*printed.output), (Some(2), ""), "{}", printed.complaint);
        assert!(said.iter().all(|said| printed.complaint.contains(said)), "{}", printed.complaint);
    }
}

/// The configuration file of a registry that asks the cluster whose API server is at `address`.
fn configuration_of_cluster(folder: &Path, address: SocketAddr) -> String {
    let (kubeconfig, config) = (folder.join("kubeconfig"), folder.join("config.yml"));
    let cluster = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "tests", "cluster": {
            "server": format!("http://{address}"),
            // Otherwise the machine's would be read, and there may be none.
            "certificate-authority": Authority::new().write_to(folder),
        } }],
        "users": [{ "name": "user", "user": {} }],
        "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "user" } }],
        "current-context": "tests",
    });
    fs::write(&kubeconfig, format!("{cluster:#}")).unwrap();
    let settings = json!({ "version": 0.1, "auth": { "kubernetes": { "kubeconfig": kubeconfig } } });
    fs::write(&config, settings.to_string()).unwrap();
    config.to_str().expect("temporary paths are text").to_owned()
}

/// An API server that answers so, one connection after the other, whatever is asked for by path and query.
fn api_server(answer: fn(&str) -> (u16, Value)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|read| read > 0) {
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head);
            let (status, body) = answer(head.split(' ').nth(1).unwrap_or_default());
            let body = body.to_string();
            let length = body.len();
            // Whoever asked may be gone.
            let _ = write!(
                connection,
                "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                 connection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

/// What it answers to an account that lacks a right.
fn forbidden(verb: &str) -> (u16, Value) {
    let message = format!("it is forbidden: User \"wharf\" cannot {verb} resource at the cluster scope");
    let status = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "Forbidden",
        "code": 403,
    });
    (403, status)
}

/// What it answers if there is nothing. To a watch that is its end.
fn empty_list() -> (u16, Value) {
    (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "7" }, "items": [] }))
}

#[test]
fn a_question_without_an_answer_ends_with_2() {
    let cluster = PaperCluster::new();
    let config = cluster.configuration(&json!({}));
    for question in [
        "pull team/app",
        "pull --as alice",
        "pull team/app --as=",
        "carry team/app --as alice",
        "pull registry:5000/team/app --as alice",
        "list team/app --as alice",
        "pull team/app --token-file nowhere",
    ] {
        let printed = can_i(&config, question);
        assert_eq!((printed.code, &*printed.output), (Some(2), ""), "{question}");
        assert!(!printed.complaint.is_empty());
    }
    assert_eq!(can_i("nowhere.yml", "pull team/app --as alice").code, Some(2));
    cluster.apply("wrong", "kind: Nothing");
    assert_eq!(can_i(&config, "pull team/app --as alice").code, Some(2));
}
