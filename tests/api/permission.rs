//! Whoever decides cannot be asked, or is far away. What they decide is the table's, in `tests/authorization`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use auth::{AnyUser, AuthError, Authorizer, Decision, Identity, ResourceAttributes};
use storage::UploadId;
use storage::backend::Fault;
use storage::backend::fault::{Failure, Moment};
use tokio::sync::{Barrier, Semaphore};
use tokio::time::timeout;
use wharf::api::error::ApiError;

use super::asking::TestApi;

/// Somebody who cannot be asked.
#[derive(Debug)]
struct Away;

#[async_trait]
impl Authorizer for Away {
    async fn decide(&self, _: &Identity, _: &ResourceAttributes<'_>) -> Result<Decision, AuthError> {
        Err(AuthError::Unavailable("the API server cannot be reached".into()))
    }
}

/// Somebody who answers about no pull before several are asked about, and last about what was asked first.
#[derive(Debug)]
struct Far {
    several: Barrier,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

#[async_trait]
impl Authorizer for Far {
    async fn decide(&self, _: &Identity, wanted: &ResourceAttributes<'_>) -> Result<Decision, AuthError> {
        if wanted.verb != "get" || wanted.group.is_empty() {
            return Ok(Decision::Denied);
        }
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        self.several.wait().await;
        let number: usize = wanted.name.parse().unwrap();
        for _ in number..100 {
            tokio::task::yield_now().await;
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
        Ok(if number.is_multiple_of(2) { Decision::Allowed("the test".into()) } else { Decision::Denied })
    }
}

/// Somebody who tells nothing about nobody in particular before they may.
#[derive(Debug)]
struct Held(Semaphore);

#[async_trait]
impl Authorizer for Held {
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Decision, AuthError> {
        if caller.is_anonymous() && wanted.verb == "get" {
            self.0.acquire().await.unwrap().forget();
        }
        Ok(Decision::Denied)
    }
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

#[tokio::test]
async fn whoever_may_not_learns_nothing_from_how_long_it_takes() {
    let open = TestApi::on_a_volume();
    let digest = open.push_noted("team/app", "v1", "note").await;
    let closed = open.guarded_by(Arc::new(AnyUser::new()));
    // A store that were asked would answer 503.
    closed.faults.fail_from(0, Failure { fault: Fault::Unavailable, moment: Moment::Before });
    for repository in ["team/app", "team/absent"] {
        for question in [
            format!("GET /v2/{repository}/manifests/v1"),
            format!("HEAD /v2/{repository}/manifests/{digest}"),
            format!("GET /v2/{repository}/blobs/{digest}"),
            format!("GET /v2/{repository}/tags/list"),
            format!("GET /v2/{repository}/referrers/{digest}"),
            format!("PUT /v2/{repository}/manifests/v1"),
            format!("POST /v2/{repository}/blobs/uploads/?mount={digest}&from=team/app"),
            format!("PATCH /v2/{repository}/blobs/uploads/{}", UploadId::random()),
            format!("DELETE /v2/{repository}/manifests/v1"),
            format!("DELETE /v2/{repository}/blobs/{digest}"),
        ] {
            closed.ask(&question).await.expect(403);
        }
    }
    assert_eq!(closed.faults.heal(), [], "the store was asked");
}

#[tokio::test]
async fn a_catalog_asks_about_some_repositories_at_once_and_lists_them_in_order() {
    let open = TestApi::in_a_bucket();
    for number in 10..50 {
        open.push_noted(&format!("team/{number}"), "v1", "note").await;
    }
    let zero = AtomicUsize::default;
    let far = Arc::new(Far { several: Barrier::new(4), open: zero(), most_open: zero() });
    let asking = open.guarded_by(far.clone());
    let answer = timeout(Duration::from_secs(60), asking.ask("GET /v2/_catalog")).await;
    let shown = answer.expect("several are asked about at once").expect(200).json();
    let expected: Vec<_> = (10..50).step_by(2).map(|number| format!("team/{number}")).collect();
    assert_eq!(shown["repositories"], serde_json::json!(expected));
    assert!(far.most_open.load(Ordering::SeqCst) <= 16, "not all are asked about at once");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_nobody_lists_in_turn_and_holds_up_nobody_who_is_known() {
    let open = TestApi::in_a_bucket();
    open.push_noted("team/app", "v1", "note").await;
    let held = Arc::new(Held(Semaphore::new(0)));
    let gate = open.gate_of(held.clone());
    let list = async |caller: Identity| gate.catalog(&caller).await.unwrap().page(None, 10).await;
    let others = async {
        for _ in 0..10 {
            let listed = list(Identity::named("alice", Vec::new())).await.unwrap();
            assert!(listed.repositories.is_empty());
        }
        assert!(matches!(list(Identity::anonymous()).await, Err(ApiError::TooManyRequests { .. })));
        held.0.add_permits(100);
    };
    let (first, ()) = tokio::join!(list(Identity::anonymous()), others);
    assert!(first.unwrap().repositories.is_empty());
    assert!(list(Identity::anonymous()).await.is_ok());
}
