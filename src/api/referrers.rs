//! The list of manifests that have a subject.

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use storage::{Digest, MediaType};

use crate::access::PullAccess;
use crate::api::Api;
use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::page::next_link;
use crate::api::query::Query;

/// A list that fits is never cut: containerd, and crane before long, read one page only. Nor do they read more than this.
const PAGE_BYTES: usize = 4 << 20;

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET /v2/<name>/referrers/<digest>`: an index of the manifests whose subject that is, all of them or those of some types.
pub(super) async fn list_referrers(
    api: &Api,
    access: PullAccess,
    subject: Digest,
    request: &Parts,
) -> Result<Response, ApiError> {
    let query = Query::of(&request.uri);
    let wanted: Vec<_> = query.all("artifactType").collect();
    let last = query.first("last").and_then(|last| last.parse::<Digest>().ok());

    let mut body = Vec::from(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
    );
    let begin = body.len();
    let mut shown = None;
    let mut next = None;
    let mut referrers = access.referrers(&subject, last.as_ref()).await?;
    while let Some(descriptor) = referrers.next().await? {
        let is_wanted = wanted.is_empty()
            || descriptor.artifact_type.as_deref().is_some_and(|kind| wanted.iter().any(|it| it == kind));
        if !is_wanted {
            continue;
        }
        let entry = serde_json::to_vec(&*descriptor).map_err(|error| ApiError::Internal(error.into()))?;
        if shown.is_some() && body.len() + entry.len() + 3 > PAGE_BYTES {
            next = shown;
            break;
        }
        if body.len() > begin {
            body.push(b',');
        }
        body.extend(entry);
        shown = Some(descriptor.digest);
    }
    body.extend_from_slice(b"]}");

    let kind = HeaderValue::from_static(MediaType::OciIndex.as_str());
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    let headers = response.headers_mut();
    if !wanted.is_empty() {
        headers.insert(OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = next {
        let last = last.to_string();
        let parameters: Vec<_> =
            wanted.iter().map(|kind| ("artifactType", &**kind)).chain([("last", last.as_str())]).collect();
        let list = Endpoint::Referrers { repository: access.repository().clone(), subject };
        headers.insert(header::LINK, next_link(api.0.options.urls.path(), &list, &parameters));
    }
    Ok(response)
}
