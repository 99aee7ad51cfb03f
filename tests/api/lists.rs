//! Tags, repositories and referrers, a page at a time.

use serde_json::{Value, json};

use super::super::asking::{Answer, INDEX, MIB, TestApi, descriptor, noted};
use super::start;

/// Follows the `Link`s from `question` on, and collects what stands under `member`.
async fn read_on(api: &TestApi, question: &str, member: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(question.to_owned());
    while let Some(question) = next {
        let page = api.ask(&question).await.expect(200);
        pages.push(page.json()[member].as_array().unwrap().clone());
        next = page.next();
    }
    pages
}

#[tokio::test]
async fn tags_come_in_byte_order_however_they_are_paged() {
    let api = start();
    let tags = ["1.0", "V1", "a", "v1", "v1-a", "v1.2", "v10", "v1_a"];
    for tag in tags.iter().rev() {
        api.push_noted("team/app", tag, "note").await;
    }
    for n in 1..=9 {
        let pages = read_on(&api, &format!("GET /v2/team/app/tags/list?n={n}"), "tags").await;
        assert_eq!(pages.len(), tags.len().div_ceil(n), "n={n}");
        assert_eq!(pages.concat(), tags, "n={n}");
    }
    let list = |query: &str| format!("GET /v2/team/app/tags/list?{query}");
    let page = |tags: &[&str]| json!({ "name": "team/app", "tags": tags });
    assert_eq!(api.ask(&list("last=v1")).await.json(), page(&["v1-a", "v1.2", "v10", "v1_a"]));
    assert_eq!(api.ask(&list("last=v1-&n=1")).await.json(), page(&["v1-a"]));
    assert_eq!(api.ask(&list("last=not%20a%20tag&n=1")).await.json(), page(&["v1"]));
    for query in ["n=0", "last=zzz", "n=0&last=a"] {
        let nothing = api.ask(&list(query)).await.expect(200);
        assert_eq!((nothing.json(), nothing.next()), (page(&[]), None), "{query}");
    }
    let all = api.ask(&list("n=1000000000000")).await.expect(200);
    assert_eq!((all.json(), all.next()), (page(&tags), None));
}

#[tokio::test]
async fn a_repository_that_was_never_pushed_to_is_not_known() {
    let api = start();
    api.ask("GET /v2/team/app/tags/list").await.expect_refused(404, "NAME_UNKNOWN");
    let is_empty = async |name: &str| {
        let empty = api.ask(&format!("GET /v2/{name}/tags/list")).await.expect(200);
        assert_eq!(empty.json(), json!({ "name": name, "tags": [] }));
    };
    let digest = api.push_noted("team/app", "v1", "note").await;
    api.ask("DELETE /v2/team/app/manifests/v1").await.expect(202);
    is_empty("team/app").await;
    api.ask(&format!("DELETE /v2/team/app/manifests/{digest}")).await.expect(202);
    is_empty("team/app").await;
    // What is under way to be an image is known, too.
    api.push_blob("team/begun", "a blob").await;
    is_empty("team/begun").await;
}

#[tokio::test]
async fn repositories_come_in_byte_order_however_they_are_paged() {
    let api = start();
    let names = ["a", "a-b", "a/b", "a/b/c", "a/blobs/uploads", "b", "tags/list", "x/manifests"];
    for name in names {
        api.push_noted(name, "v1", "note").await;
    }
    for n in 1..=9 {
        let pages = read_on(&api, &format!("GET /v2/_catalog?n={n}"), "repositories").await;
        assert_eq!(pages.concat(), names, "n={n}");
    }
    let rest = api.ask("GET /v2/_catalog?last=a/bb").await.expect(200);
    assert_eq!(rest.json(), json!({ "repositories": ["a/blobs/uploads", "b", "tags/list", "x/manifests"] }));
    assert_eq!(api.ask("GET /v2/_catalog?n=0").await.json(), json!({ "repositories": [] }));
    // Where to begin need not be a name, and is never a path.
    let long = "a".repeat(300);
    for last in ["..%2Fblobs%2F", "..%2F..%2F..%2F..%2Fproc%2F1", "%00", "%00%2Fa", "..%2Fwharf%2F"] {
        let all = api.ask(&format!("GET /v2/_catalog?last={last}")).await.expect(200);
        assert_eq!(all.json(), json!({ "repositories": names }), "{last}");
    }
    for last in [format!("a-b%2F{long}"), "a-b%2F..%2F..%2Fblobs".to_owned(), "a-b%00".to_owned()] {
        let rest = api.ask(&format!("GET /v2/_catalog?last={last}")).await.expect(200);
        assert_eq!(rest.json(), json!({ "repositories": names[2..] }), "{last}");
    }
    // What looks like another endpoint is a name.
    let tags = api.ask("GET /v2/a/blobs/uploads/tags/list").await.expect(200);
    assert_eq!(tags.json()["name"], "a/blobs/uploads");
}

#[tokio::test]
async fn referrers_are_listed_by_type_whatever_becomes_of_their_subject() {
    let api = start();
    let subject = api.push_noted("team/app", "v1", "subject").await;
    let about = |kind: &str, note: &str| {
        let mut manifest = noted(note);
        manifest["subject"] = descriptor("application/vnd.example", &subject, 2);
        manifest["artifactType"] = json!(kind);
        manifest
    };
    let reference =
        |manifest: &Value| storage::Digest::of(storage::Algorithm::Sha256, manifest.to_string().as_bytes());
    let (signature, sbom) = (about("example/signature", "one"), about("example/sbom+json", "two"));
    for manifest in [&signature, &sbom] {
        api.push("team/app", &reference(manifest).to_string(), manifest).await;
    }
    let question = format!("GET /v2/team/app/referrers/{subject}");
    let listed = |answer: Answer| {
        let mut digests: Vec<String> = answer.json()["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["digest"].as_str().unwrap().to_owned())
            .collect();
        digests.sort();
        digests
    };
    let expected = |manifests: &[&Value]| {
        let mut digests: Vec<_> = manifests.iter().map(|manifest| reference(manifest).to_string()).collect();
        digests.sort();
        digests
    };
    let all = api.ask(&question).await.expect(200);
    assert_eq!(all.header("content-type"), INDEX);
    assert_eq!(all.maybe_header("oci-filters-applied"), None);
    assert_eq!(all.json()["schemaVersion"], 2);
    assert_eq!(all.json()["mediaType"], INDEX);
    assert_eq!(listed(all), expected(&[&signature, &sbom]));

    let filtered = |query: &str| format!("{question}?{query}");
    for (query, manifests) in [
        ("artifactType=example/signature", vec![&signature]),
        ("artifactType=example%2Fsbom%2Bjson", vec![&sbom]),
        ("artifactType=example/sbom+json&artifactType=example/signature", vec![&sbom, &signature]),
        ("artifactType=example/other", vec![]),
    ] {
        let answer = api.ask(&filtered(query)).await.expect(200);
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        assert_eq!(listed(answer), expected(&manifests), "{query}");
    }

    api.ask(&format!("DELETE /v2/team/app/manifests/{subject}")).await.expect(202);
    api.ask(&format!("DELETE /v2/team/app/manifests/{}", reference(&sbom))).await.expect(202);
    assert_eq!(listed(api.ask(&question).await), expected(&[&signature]));
    let elsewhere = api.ask(&question.replace("team/app", "nobody/knows")).await.expect(200);
    assert_eq!(elsewhere.json()["manifests"], json!([]));
}

#[tokio::test]
async fn referrers_that_fit_are_one_page_and_more_are_linked() {
    let api = start();
    let subject = api.push_noted("team/app", "v1", "subject").await;
    let mut expected = Vec::new();
    for index in 0..6 {
        let mut manifest = noted(&format!("{index}{}", "x".repeat(MIB)));
        manifest["subject"] = descriptor("application/vnd.example", &subject, 2);
        let pushed = api.push("team/app", &format!("about{index}"), &manifest).await;
        expected.push(json!(pushed));
        let pages = read_on(&api, &format!("GET /v2/team/app/referrers/{subject}"), "manifests").await;
        assert_eq!(pages.len(), if index < 3 { 1 } else { 2 }, "{index}");
    }
    expected.sort_by_key(|digest| digest.as_str().unwrap().to_owned());
    let query = "artifactType=application/vnd.example.note&artifactType=other";
    let question = format!("GET /v2/team/app/referrers/{subject}?{query}");
    let listed: Vec<_> = read_on(&api, &question, "manifests").await.concat();
    assert_eq!(listed.iter().map(|entry| entry["digest"].clone()).collect::<Vec<_>>(), expected);
}
