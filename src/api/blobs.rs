//! Blobs: pulled whole, by ranges or not at all, and deleted.

pub mod range;

use std::ops::Range;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use storage::backend::Content;
use storage::{Blob, Digest};

use self::range::{Multipart, Selection};
use crate::access::{DeleteAccess, PullAccess};
use crate::api::conditions::{Conditions, Outcome};
use crate::api::error::ApiError;
use crate::api::names_of;
use crate::audit::Deed;
use crate::server::{FileBody, SendfileQueue};

const OCTETS: &str = "application/octet-stream";

/// Content that is named by its digest never changes. Only the client may keep it: permission is judged at each request.
const CACHE_FOREVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// `GET /v2/<name>/blobs/<digest>`: one blob, whole or by range.
pub(super) async fn pull_blob(
    access: PullAccess,
    digest: Digest,
    request: &Parts,
) -> Result<Response, ApiError> {
    let blob = access.blob(&digest).await?.ok_or(ApiError::BlobUnknown(digest))?;
    let conditions = Conditions::of(&request.headers);
    match conditions.outcome(&digest) {
        Outcome::Perform => {}
        Outcome::NotModified => return Ok(not_modified(&digest)),
        Outcome::Failed => return Err(ApiError::PreconditionFailed),
    }
    let content = Sender { blob, queue: request.extensions.get().cloned() };
    let size = content.blob.size;
    let mut response = match conditions.select(&digest, size) {
        Selection::Whole => described(StatusCode::OK, OCTETS, size, content.range(0..size)),
        Selection::One(range) => {
            let bytes = range.start()..range.end();
            let mut response =
                described(StatusCode::PARTIAL_CONTENT, OCTETS, range.size_bytes(), content.range(bytes));
            response.headers_mut().insert(header::CONTENT_RANGE, ascii(range.content_range(size)));
            response
        }
        Selection::Several(ranges) => {
            let parts = Multipart::new(ranges, size, OCTETS);
            let (kind, length) = (parts.content_type(), parts.content_length());
            described(StatusCode::PARTIAL_CONTENT, &kind, length, content.multipart(parts))
        }
        Selection::Unsatisfiable => return Err(ApiError::RangeUnsatisfiable { size_bytes: size }),
    };
    add_identity(&mut response, &digest);
    Ok(response)
}

/// `HEAD /v2/<name>/blobs/<digest>`: whether a blob is there, and how large it is.
pub(super) async fn head_blob(
    access: PullAccess,
    digest: Digest,
    request: &Parts,
) -> Result<Response, ApiError> {
    let size = access.blob_size(&digest).await?.ok_or(ApiError::BlobUnknown(digest))?;
    match Conditions::of(&request.headers).outcome(&digest) {
        Outcome::Perform => {}
        Outcome::NotModified => return Ok(not_modified(&digest)),
        Outcome::Failed => return Err(ApiError::PreconditionFailed),
    }
    let mut response = described(StatusCode::OK, OCTETS, size, Body::empty());
    add_identity(&mut response, &digest);
    Ok(response)
}

/// `DELETE /v2/<name>/blobs/<digest>`: takes a blob out of the repository.
pub(super) async fn delete_blob(access: DeleteAccess, digest: Digest) -> Result<Response, ApiError> {
    let existed = access.delete_blob(&digest).await;
    if access.was_used(existed, Deed { digest: Some(&digest), ..Deed::default() }).await? {
        Ok(StatusCode::ACCEPTED.into_response())
    } else {
        Err(ApiError::BlobUnknown(digest))
    }
}

/// A blob, and the way to its client.
struct Sender {
    blob: Blob,
    queue: Option<SendfileQueue>,
}

impl Sender {
    fn range(&self, bytes: Range<u64>) -> Body {
        match &self.blob.content {
            Content::File(file) => Body::new(FileBody::new(file.clone(), bytes, self.queue.as_ref())),
            Content::Remote(ranges) => Body::from_stream(ranges.stream(bytes)),
        }
    }

    /// Each part's head, then its bytes, and a tail behind the last one.
    fn multipart(self, parts: Multipart) -> Body {
        let tail = Body::from(parts.tail());
        // Each is made when it is its turn: there may be a thousand.
        let bodies = (0..parts.parts().len()).flat_map(move |index| {
            let range = parts.parts()[index];
            [Body::from(parts.head(index)), self.range(range.start()..range.end())]
        });
        Body::from_stream(stream::iter(bodies.chain([tail])).flat_map(BodyExt::into_data_stream))
    }
}

fn described(status: StatusCode, kind: &str, length: u64, body: Body) -> Response {
    let headers =
        [(header::CONTENT_TYPE, ascii(kind.to_owned())), (header::CONTENT_LENGTH, HeaderValue::from(length))];
    (status, headers, body).into_response()
}

fn add_identity(response: &mut Response, digest: &Digest) {
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, CACHE_FOREVER);
    headers.extend(names_of(digest));
}

fn not_modified(digest: &Digest) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    add_identity(&mut response, digest);
    response
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("numbers and media types are visible ASCII characters")
}
