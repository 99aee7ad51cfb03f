//! Whoever decides cannot be asked. What they decide is the table's, in `tests/authorization`.

use std::sync::Arc;

use async_trait::async_trait;
use auth::{AuthError, Authorizer, Decision, Identity, ResourceAttributes};

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

#[tokio::test]
async fn who_cannot_be_asked_is_neither_a_yes_nor_a_no() {
    let api = TestApi::on_a_volume().guarded_by(Arc::new(Away));
    for question in ["GET /v2/team/app/tags/list", "POST /v2/team/app/blobs/uploads/", "GET /v2/_catalog"] {
        let answer = api.ask(question).await.expect_refused(503, "UNAVAILABLE");
        assert!(answer.maybe_header("retry-after").is_some());
        assert!(!String::from_utf8_lossy(&answer.body).contains("API server"));
    }
}
