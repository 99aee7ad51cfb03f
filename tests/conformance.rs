//! The two official conformance suites, unmodified, against a registry that was just started.
//!
//! Nothing may fail, and only choices between alternatives may be skipped, and what a version of the specification has not: those are
//! named here.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use crate::harness::{PaperCluster, TestRegistry, registry::in_a_bucket, tool};

#[tokio::test]
async fn the_older_suite_passes_in_all_four_categories() {
    the_older_suite_passes_as(&[], json!({})).await;
}

#[tokio::test]
async fn the_older_suite_passes_over_a_bucket() {
    the_older_suite_passes_as(&[], in_a_bucket()).await;
}

#[tokio::test]
async fn the_older_suite_passes_for_somebody_who_logs_in() {
    let (cluster, token) = cluster_of_a_tester();
    let login = [("OCI_USERNAME", "tester"), ("OCI_PASSWORD", &*token)];
    the_older_suite_passes_as(&login, cluster.settings()).await;
}

async fn the_older_suite_passes_as(login: &[(&str, &str)], settings: serde_json::Value) {
    let Some(suite) = tool::go("conformance-legacy") else { return };
    let registry = TestRegistry::with(settings).await;
    let somewhere = registry.workstation();
    let mut command = somewhere.command(&suite);
    command.envs([
        ("OCI_ROOT_URL", &*format!("http://{}", registry.host())),
        ("OCI_NAMESPACE", "conformance/older"),
        ("OCI_CROSSMOUNT_NAMESPACE", "conformance/other"),
        ("OCI_TEST_PULL", "1"),
        ("OCI_TEST_PUSH", "1"),
        ("OCI_TEST_CONTENT_DISCOVERY", "1"),
        ("OCI_TEST_CONTENT_MANAGEMENT", "1"),
        ("OCI_AUTOMATIC_CROSSMOUNT", "1"),
    ]);
    command.envs(login.iter().copied());
    somewhere.finish(command).await;

    let skipped = skipped_of(70, &somewhere.home().join("junit.xml"));
    let alternatives = [
        // The content is pushed, not there before.
        "Pull Setup Get tag name from environment",
        "Content Discovery Setup Populate registry with test tags (no push)",
        // What is mounted without saying from where is found, so there is no session.
        "Push Cross-Repository Blob Mount Cross-mounting of nonexistent blob should yield session id",
        "Push Cross-Repository Blob Mount Cross-mounting without from, and automatic content discovery disabled should return a 202",
    ];
    let alternatives = alternatives.map(|test| format!("[It] OCI Distribution Conformance Tests {test}"));
    assert_eq!(skipped, BTreeSet::from(alternatives));
}

#[tokio::test]
async fn the_newer_suite_passes_at_version_1_1() {
    passes_at("1.1", Sparse::Refused, json!({})).await;
}

#[tokio::test]
async fn the_newer_suite_passes_at_what_comes_after_1_1() {
    passes_at("dev", Sparse::Refused, json!({})).await;
}

#[tokio::test]
async fn the_newer_suite_passes_at_version_1_1_over_a_bucket() {
    passes_at("1.1", Sparse::Refused, in_a_bucket()).await;
}

#[tokio::test]
async fn the_newer_suite_passes_at_what_comes_after_1_1_over_a_bucket() {
    passes_at("dev", Sparse::Refused, in_a_bucket()).await;
}

#[tokio::test]
async fn the_newer_suite_passes_with_sparse_manifests_where_they_are_allowed() {
    passes_at("dev", Sparse::Accepted, json!({ "validation": { "disabled": true } })).await;
}

#[tokio::test]
async fn the_newer_suite_passes_for_somebody_who_logs_in() {
    let (cluster, token) = cluster_of_a_tester();
    let login = [("OCI_USERNAME", "tester"), ("OCI_PASSWORD", &*token)];
    passes_as(&login, "dev", Sparse::Refused, cluster.settings()).await;
}

/// A cluster in which one service account may do everything, and its token.
fn cluster_of_a_tester() -> (PaperCluster, String) {
    let cluster = PaperCluster::new();
    cluster.apply(
        "everything",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: everything}, \
         subjects: [{kind: ServiceAccount, name: tester, namespace: team}], \
         roleRef: {kind: ClusterRole, name: cluster-admin, apiGroup: rbac.authorization.k8s.io}}",
    );
    let token = cluster.token("team", "tester");
    (cluster, token)
}

/// Whether images may be pushed without their layers, and indexes without their images.
enum Sparse {
    Accepted,
    Refused,
}

async fn passes_at(version: &str, sparse: Sparse, settings: serde_json::Value) {
    passes_as(&[], version, sparse, settings).await;
}

async fn passes_as(login: &[(&str, &str)], version: &str, sparse: Sparse, settings: serde_json::Value) {
    let Some(suite) = tool::go("conformance") else { return };
    let registry = TestRegistry::with(settings).await;
    let somewhere = registry.workstation();
    let mut command = somewhere.command(&suite);
    command.envs([
        ("OCI_REGISTRY", &*registry.host()),
        ("OCI_TLS", "disabled"),
        ("OCI_REPO1", "conformance/newer"),
        ("OCI_REPO2", "conformance/other"),
        ("OCI_VERSION", version),
        ("OCI_DATA_SPARSE", if matches!(sparse, Sparse::Accepted) { "true" } else { "false" }),
        ("OCI_RESULTS_DIR", "results"),
        ("OCI_LOG", "warn"),
    ]);
    command.envs(login.iter().copied());
    somewhere.finish(command).await;
    let skipped = skipped_of(500, &somewhere.home().join("results/junit.xml"));
    // Giving up an upload came after 1.1.
    let algorithms: &[&str] = if version == "1.1" { &["sha256", "sha512"] } else { &[] };
    let cancel =
        |algorithm: &&str| format!("OCI Conformance Test/{algorithm} blobs/post cancel/blob-post-cancel");
    assert_eq!(skipped, algorithms.iter().map(cancel).collect::<BTreeSet<_>>());
}

/// The names of the tests in a JUnit report that were skipped. It must have `least` tests in all.
fn skipped_of(least: usize, report: &Path) -> BTreeSet<String> {
    let report = std::fs::read_to_string(report).expect("the suite leaves a report");
    let tests: Vec<_> = report.split("<testcase ").skip(1).collect();
    assert!(tests.len() >= least, "the report has {} tests", tests.len());
    // The older suite tells by an element, too; the newer one by nothing but this.
    let skipped = tests.into_iter().filter(|test| test.contains(r#"status="skipped""#));
    skipped.filter_map(|test| Some(test.split_once("name=\"")?.1.split_once('"')?.0.to_owned())).collect()
}
