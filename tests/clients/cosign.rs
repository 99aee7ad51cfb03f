//! cosign, offline: signatures and attestations that verify, where the newer one and the older one put them.

use crate::harness::{Image, Layer, TestRegistry, Workstation, tool};

/// Someone with a key, an image to sign, and no network but the registry.
struct Signer {
    machine: Workstation,
    cosign: std::path::PathBuf,
    /// The image, by digest.
    image: String,
}

impl Signer {
    async fn near(registry: &TestRegistry) -> Option<Self> {
        let image = Image::of(vec![Layer::random(1000)]);
        registry.user("alice").push("team/app", "1", &image).await;
        let image = format!("{}/team/app@{}", registry.host(), image.digest());
        let signer = Self { machine: registry.workstation(), cosign: tool::go("cosign")?, image };
        signer.machine.write("predicate.json", r#"{"spdxVersion":"SPDX-2.3","name":"app"}"#);
        signer.run("generate-key-pair").await;
        signer.run("signing-config create --out signing.json").await;
        signer.run("trusted-root create --out root.json").await;
        Some(signer)
    }

    async fn run(&self, line: &str) -> String {
        let line = line.replace("IMAGE", &self.image);
        let line = line
            .replace("SIGNING", "-y --key cosign.key --signing-config signing.json --trusted-root root.json");
        self.machine.run(&self.cosign, line.split_whitespace()).await
    }

    async fn run_in_vain(&self, line: &str) -> String {
        let line = line.replace("IMAGE", &self.image);
        self.machine.run_in_vain(&self.cosign, line.split_whitespace()).await
    }
}

const TAGGING: &str =
    "-y --key cosign.key --new-bundle-format=false --use-signing-config=false --tlog-upload=false";
const VERIFY: &str = "verify --key cosign.pub --insecure-ignore-tlog IMAGE";
const VERIFY_ATTESTATION: &str =
    "verify-attestation --key cosign.pub --insecure-ignore-tlog --type spdxjson IMAGE";

#[tokio::test]
async fn signatures_and_attestations_verify() {
    let registry = TestRegistry::start().await;
    let Some(signer) = Signer::near(&registry).await else { return };
    signer.run_in_vain(VERIFY).await;
    signer.run("sign SIGNING IMAGE").await;
    signer.run("attest SIGNING --type spdxjson --predicate predicate.json IMAGE").await;

    signer.run(VERIFY).await;
    signer.run(VERIFY_ATTESTATION).await;
    // They are found as referrers: nothing was tagged.
    assert_eq!(registry.user("bob").tags("team/app").await, ["1"]);
    let tree = signer.run("tree IMAGE").await;
    assert!(tree.contains("https://sigstore.dev/cosign/sign/v1"), "{tree}");
}

#[tokio::test]
async fn signatures_and_attestations_under_tags_verify() {
    let registry = TestRegistry::start().await;
    let Some(signer) = Signer::near(&registry).await else { return };
    signer.run(&format!("sign {TAGGING} IMAGE")).await;
    signer.run(&format!("attest {TAGGING} --type spdxjson --predicate predicate.json IMAGE")).await;

    signer.run(&format!("{VERIFY} --new-bundle-format=false")).await;
    signer.run(&format!("{VERIFY_ATTESTATION} --new-bundle-format=false")).await;
    let tags = registry.user("bob").tags("team/app").await;
    assert!(
        tags.iter().any(|tag| tag.ends_with(".sig")) && tags.iter().any(|tag| tag.ends_with(".att")),
        "{tags:?}"
    );
    signer.run("save IMAGE --dir saved").await;
    let elsewhere = format!("{}/restored/app:1", registry.host());
    signer.run(&format!("load --dir saved {elsewhere}")).await;
    signer.run(&format!("{VERIFY} --new-bundle-format=false").replace("IMAGE", &elsewhere)).await;
    signer.run("clean -f IMAGE").await;
    signer.run_in_vain(&format!("{VERIFY} --new-bundle-format=false")).await;
}
