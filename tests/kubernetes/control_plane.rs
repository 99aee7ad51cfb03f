//! The cluster itself: that it is a real one, which the other stories take for granted.

use hyper::Method;
use serde_json::json;

use crate::harness::{
    Cluster,
    cluster::{ISSUER, user_token},
    paper_cluster::binding,
    until, wharf,
};

const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn everybody_is_who_their_token_says() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let namespace = cluster.namespace("who").await;
    cluster
        .apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: robot, namespace: {namespace}}}}}"
        ))
        .await;
    let robot = format!("system:serviceaccount:{namespace}:robot");
    let token = cluster.token(&namespace, "robot", ISSUER).await;
    for (token, name) in [(&token, &*robot), (&user_token("alice"), "alice")] {
        let review = cluster.with_token(token).post(WHO_AM_I, &json!({})).await;
        assert_eq!(review["status"]["userInfo"]["username"], name);

        let kubeconfig = cluster.kubeconfig(token);
        let kubeconfig = kubeconfig.to_str().unwrap();
        let name_only = "-o=jsonpath={.status.userInfo.username}";
        assert_eq!(cluster.kubectl(["--kubeconfig", kubeconfig, "auth", "whoami", name_only]).await, name);
    }
}

#[tokio::test]
async fn a_role_binding_is_obeyed_and_no_longer_when_it_is_gone() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let namespace = cluster.namespace("bound").await;
    let account = format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: robot, namespace: {namespace}}}}}"
    );
    cluster.apply(&format!("{account}\n---\n{}", binding(&namespace, "robot", "view"))).await;
    let token = cluster.token(&namespace, "robot", ISSUER).await;
    let robot = cluster.with_token(&token);
    let config_maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let answers = async |status: u16| {
        robot.try_to(Method::GET, &config_maps, None).await.is_ok_and(|(answer, _)| answer == status)
    };
    until(async || answers(200).await).await;
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    cluster.admin().delete(&format!("{bindings}/view")).await;
    until(async || answers(403).await).await;
}

#[tokio::test]
async fn what_we_ship_is_taken_as_it_is() {
    let Some(cluster) = Cluster::shared() else { return };
    let cluster = cluster.await;
    let shipped = [
        include_str!("../../deploy/registry.yaml"),
        include_str!("../../deploy/rbac/registry.yaml"),
        include_str!("../../deploy/rbac/roles.yaml"),
    ];
    cluster.apply(&shipped.join("\n---\n")).await;
    let admin = cluster.admin();
    let path = "/apis/apps/v1/namespaces/wharf/deployments/wharf";
    until(async || admin.get(path).await["status"]["observedGeneration"] == 1).await;
    let spec = admin.get(path).await["spec"]["template"]["spec"].clone();
    let settings = &admin.get("/api/v1/namespaces/wharf/configmaps/wharf").await["data"]["config.yml"];

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yml");
    std::fs::write(&file, settings.as_str().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let checked = wharf::run(&["config", "check", file], &[]);
    assert_eq!((checked.code, &*checked.complaint), (Some(0), ""), "{}", checked.output);
    let shown = wharf::run(&["config", "show", file], &[]).output;
    let drain = shown.lines().find_map(|line| line.strip_prefix("http.draintimeout: ")).expect(&shown);
    let drain: i64 = drain.split('s').next().unwrap().parse().unwrap();
    assert!(spec["terminationGracePeriodSeconds"].as_i64() > Some(drain), "{drain}");
    cluster.kubectl(["delete", "deployment", "wharf", "-n", "wharf"]).await;
}

#[tokio::test]
async fn an_api_server_that_was_killed_comes_back_where_it_was() {
    let Some(cluster) = Cluster::start() else { return };
    let mut cluster = cluster.await;
    let namespace = cluster.namespace("kept").await;
    let (admin, path) = (cluster.admin(), format!("/api/v1/namespaces/{namespace}"));
    cluster.kill_api_server();
    assert!(admin.try_to(Method::GET, &path, None).await.is_err());
    cluster.start_api_server().await;
    assert_eq!(admin.get(&path).await["status"]["phase"], "Active");
}
