//! A kubelet asks how to log in, for a pod that has nothing but its service account.

use std::fs;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{PaperCluster, TestRegistry, paper_cluster::binding, wharf};

fn request(image: &str, token: Option<&str>) -> String {
    let mut request = json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": image,
    });
    if let Some(token) = token {
        request["serviceAccountToken"] = token.into();
    }
    request.to_string()
}

#[tokio::test]
async fn a_kubelet_logs_in_with_what_it_is_told() {
    let cluster = PaperCluster::new();
    cluster.apply("pull", &binding("team", "default", "system:image-puller"));
    let registry = TestRegistry::with(cluster.settings()).await;
    let (host, token) = (registry.host(), cluster.token("team", "default"));
    let asked = request(&format!("{host}/team/app"), Some(&token));
    let told = wharf::run_on(&["credential-provider"], &[], &asked);
    assert_eq!((told.code, &*told.complaint), (Some(0), ""));
    let told: Value = serde_json::from_str(&told.output).unwrap();
    assert_eq!(
        told,
        json!({
            "kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "Registry",
            "cacheDuration": "1m",
            "auth": { &*host: { "username": "serviceaccount", "password": token } },
        })
    );

    let login = &told["auth"][&*host];
    let shown = format!("{}:{}", login["username"].as_str().unwrap(), login["password"].as_str().unwrap());
    let shown = format!("Basic {}", BASE64_STANDARD.encode(shown));
    let someone = registry.user("kubelet");
    for (repository, status) in [("team/app", StatusCode::NOT_FOUND), ("other/app", StatusCode::FORBIDDEN)] {
        let path = format!("/v2/{repository}/manifests/1");
        someone.ask(Method::GET, &path, &[("authorization", &shown)], Bytes::new()).await.expect(status);
    }
}

#[test]
fn for_a_pod_without_a_token_there_is_nothing() {
    let told = wharf::run_on(&["credential-provider"], &[], &request("registry.example.com/team/app", None));
    assert_eq!(told.code, Some(0));
    let told: Value = serde_json::from_str(&told.output).unwrap();
    assert_eq!((&told["auth"], &told["cacheDuration"]), (&Value::Null, &json!("0s")));
}

#[test]
fn what_is_no_request_is_an_error_that_does_not_repeat_it() {
    let token = PaperCluster::new().token("team", "default");
    let good = request("registry.example.com/team/app", Some(&token));
    for asked in [
        String::new(),
        token.clone(),
        json!(token).to_string(),
        good.replace("/v1", "/v1alpha1"),
        good.replace("\"registry.example.com/team/app\"", &format!("[\"{token}\"]")),
        request("app", Some(&token)),
    ] {
        // That the complaint holds no token, `run_on` sees to.
        let told = wharf::run_on(&["credential-provider"], &[], &asked);
        assert_eq!((told.code, &*told.output), (Some(1), ""), "{asked}");
        assert!(!told.complaint.is_empty());
    }
}

#[test]
fn the_kubelets_and_the_clusters_files_are_about_the_same_audience() {
    let file =
        |path: &str| fs::read_to_string(format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let has = |path: &str, line: &str| file(path).lines().any(|other| other.trim() == line);
    assert!(has("kubelet/credential-provider.yaml", "serviceAccountTokenAudience: wharf-registry"));
    assert!(has("kubelet/credential-provider.yaml", "cacheType: Token"));
    assert!(has("rbac/credential-provider.yaml", "resources: [wharf-registry]"));
}
