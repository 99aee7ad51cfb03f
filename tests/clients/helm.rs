//! helm: charts as artifacts.

use crate::harness::{TestRegistry, tool};

#[tokio::test]
async fn a_chart_comes_back_as_it_was_packaged() {
    let registry = TestRegistry::start().await;
    let machine = registry.workstation();
    let Some(helm) = tool::go("helm") else { return };
    let helm = async |line: &str| {
        machine.run(&helm, line.replace("HOST", &registry.host()).split_whitespace()).await
    };
    helm("create shop").await;
    helm("package shop").await;
    helm("package shop --version 0.2.0+build1").await;
    helm("push --plain-http shop-0.1.0.tgz oci://HOST/charts").await;
    helm("push --plain-http shop-0.2.0+build1.tgz oci://HOST/charts").await;

    std::fs::create_dir(machine.home().join("back")).unwrap();
    for version in ["0.1.0", "0.2.0+build1"] {
        helm(&format!("pull --plain-http oci://HOST/charts/shop --version {version} -d back")).await;
        let package = format!("shop-{version}.tgz");
        assert_eq!(machine.read(format!("back/{package}")), machine.read(package));
    }
    let chart = helm("show chart --plain-http oci://HOST/charts/shop --version 0.1.0").await;
    assert!(chart.contains("name: shop"), "{chart}");
    // Without a version, helm lists the tags and takes the newest release.
    let manifests = helm("template --plain-http shop oci://HOST/charts/shop").await;
    assert!(manifests.contains("kind: Deployment"), "{manifests}");
    assert_eq!(registry.user("alice").tags("charts/shop").await, ["0.1.0", "0.2.0_build1"]);
}
