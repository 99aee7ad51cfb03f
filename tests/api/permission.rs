//! What is asked of whoever decides, and what their no does not tell.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use auth::{AuthError, Authorizer, Decision, Identity, ResourceAttributes};
use storage::{Algorithm, Digest};

use super::asking::TestApi;

/// Somebody who decides by a list of what is allowed, and remembers what was asked.
#[derive(Debug, Default)]
struct Listed {
    allowed: Vec<&'static str>,
    /// Whether what is allowed is allowed in the core group only.
    in_core_group: bool,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Authorizer for Listed {
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Decision, AuthError> {
        assert_eq!(*caller, Identity::anonymous());
        let ResourceAttributes { verb, group, resource, subresource, namespace, name } = wanted;
        let separator = if subresource.is_empty() { "" } else { "/" };
        let act = format!("{verb} {resource}{separator}{subresource} {namespace}:{name}");
        let group_counts = match *group {
            "image.openshift.io" => !self.in_core_group,
            "" => self.in_core_group,
            other => panic!("asked about the group {other}"),
        };
        let allowed = group_counts && self.allowed.iter().any(|allowed| *allowed == act);
        self.asked.lock().unwrap().push(act);
        Ok(if allowed { Decision::Allowed("the test".into()) } else { Decision::Denied })
    }
}

/// Somebody who cannot be asked.
#[derive(Debug)]
struct Away;

#[async_trait]
impl Authorizer for Away {
    async fn decide(&self, _: &Identity, _: &ResourceAttributes<'_>) -> Result<Decision, AuthError> {
        Err(AuthError::Unavailable("the API server cannot be reached".into()))
    }
}

const ID: &str = "123e4567-e89b-42d3-a456-426614174000";

#[tokio::test]
async fn each_request_takes_the_right_that_openshift_asks_for() {
    let api = TestApi::on_a_volume();
    let digest = Digest::of(Algorithm::Sha256, b"");
    let pull = &["get imagestreams/layers team:app/web"][..];
    let push = &["get imagestreams/layers team:app/web", "update imagestreams/layers team:app/web"][..];
    let delete = &["delete imagestreams team:app/web", "delete images :"][..];
    for (question, needed) in [
        ("GET /v2/".to_owned(), &[][..]),
        ("GET /v2/_oci/ext/discover".to_owned(), &[]),
        ("GET /v2/team/app/web/_oci/ext/discover".to_owned(), pull),
        ("GET /v2/team/app/web/tags/list".to_owned(), pull),
        (format!("GET /v2/team/app/web/referrers/{digest}"), pull),
        (format!("GET /v2/team/app/web/blobs/{digest}"), pull),
        (format!("HEAD /v2/team/app/web/blobs/{digest}"), pull),
        ("GET /v2/team/app/web/manifests/v1".to_owned(), pull),
        ("PUT /v2/team/app/web/manifests/v1".to_owned(), push),
        ("POST /v2/team/app/web/blobs/uploads/".to_owned(), push),
        (format!("GET /v2/team/app/web/blobs/uploads/{ID}"), push),
        (format!("PATCH /v2/team/app/web/blobs/uploads/{ID}"), push),
        (format!("PUT /v2/team/app/web/blobs/uploads/{ID}"), push),
        (format!("DELETE /v2/team/app/web/blobs/uploads/{ID}"), push),
        (format!("DELETE /v2/team/app/web/blobs/{digest}"), delete),
        (format!("DELETE /v2/team/app/web/manifests/{digest}"), delete),
        ("DELETE /v2/team/app/web/manifests/v1".to_owned(), &["delete imagestreamtags team:app/web:v1"]),
        ("GET /v2/alone/tags/list".to_owned(), &["get imagestreams/layers :alone"]),
    ] {
        // For a deletion one of the two is enough; a push needs both, and a no to the first ends it.
        let either = needed == delete;
        for (count, missing) in needed.iter().enumerate() {
            let allowed = if either { vec![] } else { needed[..count].to_vec() };
            let authorizer = Arc::new(Listed { allowed, ..Listed::default() });
            let refused = api.guarded_by(authorizer.clone()).ask(&question).await.expect(403);
            if !question.starts_with("HEAD") {
                assert_eq!(refused.code(), "DENIED");
            }
            let asked = authorizer.asked.lock().unwrap().clone();
            assert!(asked.contains(&missing.to_string()), "{question} asked {asked:?}");
        }
        let enough = if either { vec![vec![needed[0]], vec![needed[1]]] } else { vec![needed.to_vec()] };
        for allowed in enough {
            for in_core_group in [false, true] {
                let authorizer =
                    Arc::new(Listed { allowed: allowed.clone(), in_core_group, ..Listed::default() });
                let answer = api.guarded_by(authorizer.clone()).ask(&question).await;
                assert_ne!(answer.status, 403, "{question}");
                let asked = authorizer.asked.lock().unwrap().clone();
                assert!(asked.iter().all(|act| needed.contains(&act.as_str())), "{question} asked {asked:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_denial_tells_nothing_of_what_is_there() {
    let open = TestApi::on_a_volume();
    let manifest = open.push_noted("team/there", "v1", "note").await;
    let blob = open.push_blob("team/there", "content").await;
    let upload = open.begin_upload("team/there").await;
    let closed = open.guarded_by(Arc::new(Listed::default()));
    for question in [
        "GET /v2/team/there/tags/list".to_owned(),
        "GET /v2/team/there/manifests/v1".to_owned(),
        format!("GET /v2/team/there/manifests/{manifest}"),
        format!("GET /v2/team/there/blobs/{blob}"),
        format!("HEAD /v2/team/there/blobs/{blob}"),
        format!("GET /v2/team/there/referrers/{manifest}"),
        format!("GET {upload}"),
        format!("PATCH {upload}"),
        format!("DELETE {upload}"),
        format!("DELETE /v2/team/there/blobs/{blob}"),
        "DELETE /v2/team/there/manifests/v1".to_owned(),
    ] {
        let there = closed.ask(&question).await.expect(403);
        let absent = closed.ask(&question.replace("team/there", "team/where")).await;
        // The name that was asked for comes back, and nothing else tells them apart.
        let body = String::from_utf8_lossy(&absent.body).replace("where", "there");
        assert_eq!(
            (there.status, &there.headers, String::from_utf8_lossy(&there.body).as_ref()),
            (absent.status, &absent.headers, &*body)
        );
    }
    open.ask(&format!("GET {upload}")).await.expect(204);
}

#[tokio::test]
async fn the_catalog_shows_what_the_caller_may_pull_or_with_openshifts_right_all() {
    let open = TestApi::on_a_volume();
    for repository in ["other/app", "team/app", "team/base"] {
        open.push_noted(repository, "v1", "note").await;
    }
    for (allowed, seen) in [
        (&[][..], r#"{"repositories":[]}"#),
        (&["get imagestreams/layers team:app"], r#"{"repositories":["team/app"]}"#),
        (&["list imagestreams :"], r#"{"repositories":["other/app","team/app","team/base"]}"#),
    ] {
        let authorizer = Arc::new(Listed { allowed: allowed.to_vec(), ..Listed::default() });
        let answer = open.guarded_by(authorizer).ask("GET /v2/_catalog").await.expect(200);
        assert_eq!(String::from_utf8_lossy(&answer.body), seen);
    }
}

#[tokio::test]
async fn a_mount_takes_the_right_to_pull_what_is_mounted() {
    let open = TestApi::on_a_volume();
    let blob = open.push_blob("secret/app", "content").await;
    let push = ["get imagestreams/layers team:app", "update imagestreams/layers team:app"];
    let with = |also: &[&'static str]| {
        let allowed = [&push[..], also].concat();
        open.guarded_by(Arc::new(Listed { allowed, ..Listed::default() }))
    };
    let (from, anywhere) = (
        format!("POST /v2/team/app/blobs/uploads/?mount={blob}&from=secret/app"),
        format!("POST /v2/team/app/blobs/uploads/?mount={blob}"),
    );
    let missing = from.replace(&blob.to_string(), &Digest::of(Algorithm::Sha256, b"missing").to_string());
    for question in [&from, &anywhere, &missing] {
        let begun = with(&[]).ask(question).await.expect(202);
        assert!(begun.header("location").starts_with("/v2/team/app/blobs/uploads/"));
    }
    with(&["get imagestreams/layers secret:app"]).ask(&anywhere).await.expect(202);
    open.ask(&format!("HEAD /v2/team/app/blobs/{blob}")).await.expect(404);
    with(&["get imagestreams/layers secret:app"]).ask(&from).await.expect(201);
    open.ask(&format!("DELETE /v2/team/app/blobs/{blob}")).await.expect(202);
    with(&["get imagestreams/layers :"]).ask(&anywhere).await.expect(201);
}

#[tokio::test]
async fn who_cannot_be_asked_is_neither_a_yes_nor_a_no() {
    let api = TestApi::on_a_volume().guarded_by(Arc::new(Away));
    for question in ["GET /v2/team/app/tags/list", "POST /v2/team/app/blobs/uploads/", "GET /v2/_catalog"] {
        let answer = api.ask(question).await.expect_refused(503, "UNAVAILABLE");
        assert!(answer.maybe_header("retry-after").is_some());
        assert!(!String::from_utf8_lossy(&answer.body).contains("API server"));
    }
}
