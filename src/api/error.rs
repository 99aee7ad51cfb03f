//! Failures as clients see them: status, code of the distribution specification, JSON body, headers.
//!
//! Statuses, codes, messages and details are API. The message of a 5xx is a fixed text; what caused it stands in
//! [`ApiError::source`](std::error::Error::source) and goes to the log, which finds the error in the answer's extensions.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use storage::backend::{BackendError, Fault};
use storage::{Digest, DigestError, ManifestError, RepositoryName, RepositoryNameError, TagError, UploadId};

use crate::api::uploads::state::StateError;

/// The header that names an upload, as CNCF distribution has it.
pub const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// What clients are told to wait when it is not known how long something lasts.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a request is not answered as it wished to be.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The path is not one of the API's.
    #[error("the API has no such path")]
    NoSuchEndpoint,
    /// The request names no host, or several (RFC 9112 §3.2).
    #[error("the request must have one Host header")]
    HostUnclear,
    /// The endpoint does not know the method.
    #[error("the method is not allowed here")]
    MethodNotAllowed {
        /// The methods it knows.
        allow: String,
    },
    /// Deletion is turned off in the configuration.
    #[error("deletion is turned off")]
    DeletionDisabled {
        /// The methods that are left.
        allow: String,
    },
    /// The registry is in read-only mode.
    #[error("the registry is read-only")]
    ReadOnly {
        /// The methods that are left.
        allow: String,
    },

    /// The name of the repository does not follow the grammar.
    #[error("the repository name is not valid")]
    NameInvalid(#[source] RepositoryNameError),
    /// There is no such repository.
    #[error("the repository is not known to the registry")]
    NameUnknown(RepositoryName),
    /// `n` is no number.
    #[error("the number of results, n, must be 0 or more")]
    PaginationNumberInvalid(String),

    /// What should be a digest is not one, or not of an algorithm that is served.
    #[error("the digest is not valid")]
    DigestInvalid(#[source] DigestError),
    /// The parameter `digest` is needed to finish an upload.
    #[error("the digest is missing")]
    DigestMissing,
    /// The content has another digest than the client says.
    #[error("the digest does not match the content")]
    DigestMismatch {
        /// What the client says.
        claimed: Digest,
    },

    /// The repository does not hold the blob.
    #[error("the blob is not known to the repository")]
    BlobUnknown(Digest),
    /// None of the ranges that are asked for lies within the blob.
    #[error("the range lies outside the blob")]
    RangeUnsatisfiable {
        /// The size of the blob.
        size_bytes: u64,
    },

    /// There is no such upload under way.
    #[error("the upload is not known to the repository")]
    UploadUnknown,
    /// The `_state` of the upload's URL is not one that was given out for it.
    #[error("the URL of the upload is not valid")]
    UploadStateInvalid(#[source] StateError),
    /// The chunk does not begin where the upload ends, or another request is writing to the upload.
    #[error("the chunk does not continue the upload")]
    ChunkOutOfOrder(UploadEnd),
    /// Another request is writing to the upload.
    #[error("another request is writing to the upload")]
    UploadBusy,
    /// `Content-Range` is not of the form `<first>-<last>`.
    #[error("the Content-Range is not <first>-<last>")]
    ContentRangeInvalid,
    /// `Content-Range` and `Content-Length`, or the body, tell different sizes.
    #[error("the size of the chunk is not what its headers say")]
    SizeInvalid,

    /// The repository does not hold the manifest.
    #[error("the manifest is not known to the repository")]
    ManifestUnknown {
        /// The repository.
        repository: RepositoryName,
        /// The tag or digest that was asked for.
        reference: String,
    },
    /// The manifest names blobs or manifests that the repository does not hold.
    #[error("the manifest refers to content that is not known to the repository")]
    ManifestBlobUnknown(Vec<Digest>),
    /// The manifest is larger than allowed.
    #[error("the manifest is too large")]
    ManifestTooLarge {
        /// What is allowed.
        limit_bytes: u64,
    },
    /// The manifest is not one, or not one that is accepted.
    #[error("the manifest is not valid: {0}")]
    ManifestInvalid(ManifestError),
    /// What should be a tag is not one.
    #[error("the tag is not valid")]
    TagInvalid(#[source] TagError),
    /// One push sets more tags than allowed.
    #[error("a push may set {most} tags at most")]
    TooManyTags {
        /// What is allowed.
        most: usize,
    },

    /// What a change depends on by `If-Match` or `If-None-Match` is not so.
    #[error("the manifest that is there is not what the request depends on")]
    PreconditionFailed,

    /// The caller has to log in, or the credentials are wrong.
    #[error("authentication is required")]
    Unauthorized {
        /// How to log in.
        challenge: HeaderValue,
    },
    /// The caller may not do this, whether or not it is there to be done. The message says what is missing, since it is all that
    /// containerd, and so the event of a pod, shows.
    #[error("the requested access is denied: {act}")]
    Denied {
        /// Who may not do what, in the words of Kubernetes.
        act: String,
    },
    /// The caller, or everyone together, asks too much.
    #[error("there are too many requests")]
    TooManyRequests {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The client stopped sending.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body ended early, or was not well-formed.
    #[error("the body did not arrive whole")]
    BodyIncomplete(#[source] Box<dyn Error + Send + Sync>),

    /// Something that the registry relies on cannot be reached for now.
    #[error("the registry cannot do this for now; try again")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The store failed.
    #[error("{}", of_fault(.0.fault))]
    Storage(#[source] BackendError),
    /// Anything else.
    #[error("the registry failed; its log says why")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

/// Where an upload stands, told to a client that sent something else. It saves the client from asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UploadEnd {
    /// The upload's id.
    pub id: UploadId,
    /// The URL to carry on at.
    pub location: HeaderValue,
    /// How many bytes are kept.
    pub size_bytes: u64,
}

impl UploadEnd {
    /// The value of `Range`, which uploads spell without a unit. An upload of nothing is `0-0` as well: the
    /// specification leaves it open, and docker fails on `0--1`.
    pub fn range(&self) -> String {
        format!("0-{}", self.size_bytes.saturating_sub(1))
    }
}

/// The codes of the distribution specification, and those that CNCF distribution has beside them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the specification tells what each means")]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl ApiError {
    /// The only place where a failure gets its status and its code from the distribution spec.
    pub fn status_and_code(&self) -> (StatusCode, ErrorCode) {
        match self {
            Self::NoSuchEndpoint => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            Self::HostUnclear => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            Self::DeletionDisabled { .. } => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            Self::ReadOnly { .. } => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),

            Self::NameInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            Self::NameUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            Self::PaginationNumberInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::PaginationNumberInvalid),

            Self::DigestInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            Self::DigestMissing => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            Self::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),

            Self::BlobUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            Self::RangeUnsatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid),

            Self::UploadUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
            Self::UploadStateInvalid(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadInvalid),
            Self::ChunkOutOfOrder(_) => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid),
            Self::UploadBusy => (StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid),
            Self::ContentRangeInvalid => (StatusCode::BAD_REQUEST, ErrorCode::RangeInvalid),
            Self::SizeInvalid => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),

            Self::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            Self::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestBlobUnknown),
            // MANIFEST_INVALID would make podman try again in another format.
            Self::ManifestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
            Self::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
            Self::TagInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::TagInvalid),
            Self::TooManyTags { .. } => (StatusCode::URI_TOO_LONG, ErrorCode::SizeInvalid),

            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, ErrorCode::Unknown),

            Self::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
            Self::Denied { .. } => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, ErrorCode::Unknown),
            Self::BodyIncomplete(_) => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),

            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
            Self::Storage(error) => match error.fault {
                Fault::Full => (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unavailable),
                Fault::Denied | Fault::Busy | Fault::Unavailable => {
                    (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
                }
                Fault::TooLarge => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
            },
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
        }
    }

    /// The error that reading a request's body gave.
    pub fn of_body(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = error.into();
        if is_timeout(&*error) { Self::BodyTimeout } else { Self::BodyIncomplete(error) }
    }

    /// What the body tells beside code and message: an element each, of which there is at least one.
    fn details(&self) -> Vec<Option<Value>> {
        let detail = match self {
            Self::ManifestBlobUnknown(missing) if !missing.is_empty() => {
                return missing.iter().map(|digest| Some(json!(digest.to_string()))).collect();
            }
            Self::NameUnknown(name) => json!({ "name": name.as_str() }),
            Self::PaginationNumberInvalid(n) => json!({ "n": n }),
            Self::BlobUnknown(digest) => json!(digest.to_string()),
            Self::DigestMismatch { claimed } => json!(claimed.to_string()),
            Self::RangeUnsatisfiable { size_bytes } => json!({ "size": size_bytes }),
            Self::ManifestUnknown { repository, reference } if reference.contains(':') => {
                json!({ "Name": repository.as_str(), "Revision": reference })
            }
            Self::ManifestUnknown { reference, .. } => json!({ "Tag": reference }),
            Self::ManifestTooLarge { limit_bytes } => json!({ "limit": limit_bytes }),
            Self::NameInvalid(error) => json!(error.to_string()),
            Self::DigestInvalid(error) => json!(error.to_string()),
            Self::TagInvalid(error) => json!(error.to_string()),
            _ => return vec![None],
        };
        vec![Some(detail)]
    }

    /// The headers that belong to the failure, beside those that every answer has.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let text =
            |value: String| HeaderValue::try_from(value).expect("numbers, methods and ids are visible ASCII");
        match self {
            Self::MethodNotAllowed { allow }
            | Self::DeletionDisabled { allow }
            | Self::ReadOnly { allow } => {
                vec![(header::ALLOW, text(allow.clone()))]
            }
            Self::RangeUnsatisfiable { size_bytes } => {
                vec![(header::CONTENT_RANGE, text(format!("bytes */{size_bytes}")))]
            }
            Self::ChunkOutOfOrder(end) => vec![
                (header::LOCATION, end.location.clone()),
                (header::RANGE, text(end.range())),
                (UPLOAD_UUID, text(end.id.to_string())),
            ],
            Self::Unauthorized { challenge } => vec![(header::WWW_AUTHENTICATE, challenge.clone())],
            Self::TooManyRequests { retry_after } => vec![(header::RETRY_AFTER, whole_seconds(*retry_after))],
            Self::Unavailable(_) | Self::Storage(_) => {
                vec![(header::RETRY_AFTER, whole_seconds(RETRY_AFTER))]
            }
            _ => vec![],
        }
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        Self::Storage(error)
    }
}

/// Whether at the bottom of an error something was waited for too long.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |error| (**error).source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// What a client is told of a failure of the store.
fn of_fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Full => "the registry's storage is full: nothing was stored; free some space and push again",
        Fault::Denied => "the registry may not do that in its storage; its log says why",
        Fault::Busy | Fault::Unavailable => "the registry's storage failed; try again",
        Fault::TooLarge => "the registry failed; its log says why",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            errors: Vec<Entry>,
        }
        #[derive(Serialize)]
        struct Entry {
            code: &'static str,
            message: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<Value>,
        }

        let (status, code) = self.status_and_code();
        let entry = |detail| Entry { code: code.as_str(), message: self.to_string(), detail };
        let body = Body { errors: self.details().into_iter().map(entry).collect() };
        let body = serde_json::to_vec(&body).expect("codes and text always become JSON");
        let mut response = (status, body).into_response();
        // Nothing may follow the type: docker reads the body only if it is exactly this.
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers());
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl ErrorCode {
    /// The code as it stands in a body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// `Retry-After` counts whole seconds.
fn whole_seconds(duration: Duration) -> HeaderValue {
    HeaderValue::from(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use storage::Algorithm;

    use super::*;

    fn digest(content: &str) -> Digest {
        Digest::of(Algorithm::Sha256, content.as_bytes())
    }

    async fn body(response: Response) -> Value {
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
    }

    fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_failure_is_one_json_object_with_its_code() {
        let blob = digest("blob");
        let response = ApiError::BlobUnknown(blob).into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(
            body(response).await,
            json!({ "errors": [{
                "code": "BLOB_UNKNOWN",
                "message": "the blob is not known to the repository",
                "detail": blob.to_string(),
            }] })
        );
    }

    #[tokio::test]
    async fn each_missing_digest_is_an_error_of_its_own() {
        let (one, two) = (digest("one"), digest("two"));
        let errors =
            body(ApiError::ManifestBlobUnknown(vec![one, two]).into_response()).await["errors"].take();
        let told: Vec<_> =
            errors.as_array().unwrap().iter().map(|error| (&error["code"], &error["detail"])).collect();
        let (code, one, two) =
            (json!("MANIFEST_BLOB_UNKNOWN"), json!(one.to_string()), json!(two.to_string()));
        assert_eq!(told, [(&code, &one), (&code, &two)]);
    }

    #[tokio::test]
    async fn what_broke_inside_is_not_told() {
        let cause = || std::io::Error::other("/var/lib/secret: broken");
        let of_storage = |operation, kind: io::ErrorKind| {
            ApiError::from(BackendError::io(operation, "/var/lib/secret", kind.into()))
        };
        let full = "the registry's storage is full: nothing was stored; free some space and push again";
        let denied = "the registry may not do that in its storage; its log says why";
        let later = "the registry cannot do this for now; try again";
        let failed = "the registry failed; its log says why";
        for (error, status, code, message, retry_after) in [
            (ApiError::Unavailable(cause().into()), 503, "UNAVAILABLE", later, Some("5")),
            (of_storage("write", io::ErrorKind::StorageFull), 507, "UNAVAILABLE", full, Some("5")),
            (of_storage("write", io::ErrorKind::PermissionDenied), 503, "UNAVAILABLE", denied, Some("5")),
            (of_storage("read", io::ErrorKind::PermissionDenied), 503, "UNAVAILABLE", denied, Some("5")),
            (ApiError::Internal(cause().into()), 500, "UNKNOWN", failed, None),
        ] {
            let response = error.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(header(&response, "retry-after"), retry_after);
            let told = response.extensions().get::<Arc<ApiError>>().unwrap();
            assert!(told.source().unwrap().to_string().contains("/var/lib/secret"));
            let body = body(response).await;
            assert_eq!(body["errors"][0]["code"], code);
            assert_eq!(body["errors"][0]["message"], message);
            assert!(!body.to_string().contains("secret"), "{body}");
        }
    }

    #[test]
    fn a_failure_brings_the_headers_that_help() {
        let id: UploadId = "123e4567-e89b-42d3-a456-426614174000".parse().unwrap();
        let location = HeaderValue::from_static("/v2/a/blobs/uploads/123e4567-e89b-42d3-a456-426614174000");
        let end = UploadEnd { id, location: location.clone(), size_bytes: 22 };
        let response = ApiError::ChunkOutOfOrder(end.clone()).into_response();
        assert_eq!(response.status(), 416);
        assert_eq!(header(&response, "location"), location.to_str().ok());
        assert_eq!(header(&response, "range"), Some("0-21"));
        assert_eq!(header(&response, "docker-upload-uuid"), Some("123e4567-e89b-42d3-a456-426614174000"));
        assert_eq!(UploadEnd { size_bytes: 0, ..end }.range(), "0-0");

        let response = ApiError::MethodNotAllowed { allow: "GET, HEAD".to_owned() }.into_response();
        assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, Some("GET, HEAD")));

        let response = ApiError::RangeUnsatisfiable { size_bytes: 7 }.into_response();
        assert_eq!(
            (response.status().as_u16(), header(&response, "content-range")),
            (416, Some("bytes */7"))
        );

        let challenge = HeaderValue::from_static("Basic realm=\"wharf\"");
        let response = ApiError::Unauthorized { challenge }.into_response();
        assert_eq!(header(&response, "www-authenticate"), Some("Basic realm=\"wharf\""));

        let response = ApiError::TooManyRequests { retry_after: Duration::from_millis(1500) }.into_response();
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("2")));
    }

    #[tokio::test]
    async fn a_detail_says_what_was_asked_for() {
        let repository: RepositoryName = "team/app".parse().unwrap();
        let unknown = |reference: &str| ApiError::ManifestUnknown {
            repository: repository.clone(),
            reference: reference.to_owned(),
        };
        for (error, detail) in [
            (ApiError::NameUnknown(repository.clone()), json!({ "name": "team/app" })),
            (unknown("v1"), json!({ "Tag": "v1" })),
            (unknown("sha256:ab"), json!({ "Name": "team/app", "Revision": "sha256:ab" })),
            (ApiError::PaginationNumberInvalid("-1".to_owned()), json!({ "n": "-1" })),
            (
                ApiError::DigestInvalid("x".parse::<Digest>().unwrap_err()),
                json!("malformed digest: it is written <algorithm>:<hex>"),
            ),
        ] {
            assert_eq!(body(error.into_response()).await["errors"][0]["detail"], detail);
        }
    }
}
