//! Uploads: begun, sent in one piece or in many, resumed, finished, cancelled, or spared by a mount.

pub mod state;

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use storage::backend::{BackendError, Fault, UploadStatus};
use storage::{Algorithm, Digest, FinishError, ReceiveError, RepositoryName, Upload, UploadId};
use tokio::time::Instant;

use crate::access::PushAccess;
use crate::api::endpoint::Endpoint;
use crate::api::error::{ApiError, UPLOAD_UUID, UploadEnd};
use crate::api::location::Base;
use crate::api::query::Query;
use crate::api::{Api, created};
use crate::audit::{Act, Asker, Deed};

/// How long a request waits for the one that still holds its upload: a client that was cut off is often back before the server has
/// noticed, and must neither be refused nor be told an end that is about to move.
const TAKE_OVER: Duration = Duration::from_secs(1);
/// How often it looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One upload under way, and the permit to go on with it.
pub(super) struct Target {
    api: Api,
    base: Base,
    access: PushAccess,
    id: UploadId,
    /// The offset for which the client's URL was made, if it says so.
    claimed: Option<u64>,
}

/// `POST /v2/<name>/blobs/uploads/`: a mount, a blob in one piece, or the beginning of an upload.
pub(super) async fn begin_upload(
    api: &Api,
    access: PushAccess,
    asker: Asker<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    let request = asker.request;
    let query = Query::of(&request.uri);
    let base = api.0.options.urls.base(request);
    let mounted: Option<Digest> = query.first("mount").and_then(|digest| digest.parse().ok());
    let access = match mounted {
        Some(digest) => {
            match mount_blob(api, &base, access, asker, query.first("from").as_deref(), digest).await? {
                Mounted::Yes(response) => return Ok(response),
                Mounted::No(access) => access,
            }
        }
        None => access,
    };
    let digest = query
        .first("digest")
        .map(|digest| digest.parse::<Digest>())
        .transpose()
        .map_err(ApiError::DigestInvalid)?;
    let algorithm = match (digest, query.first("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(hint)) => hint.parse().map_err(ApiError::DigestInvalid)?,
        // What could not be mounted is what is uploaded instead.
        (None, None) => mounted.map_or(Algorithm::Sha256, |digest| digest.algorithm()),
    };
    let whole = match digest {
        Some(digest) => Some((Chunk::of(request, body)?, digest)),
        None => None,
    };
    let api = api.clone();
    api.clone()
        .mutate(async move {
            let id = access.begin_upload(algorithm).await?;
            let target = Target { api, base, access, id, claimed: None };
            match whole {
                Some((chunk, digest)) => target.receive_whole(chunk, digest).await,
                None => Ok(target.answer(StatusCode::ACCEPTED, 0)),
            }
        })
        .await
}

/// `PATCH <location>`: appends a chunk, or all there is.
pub(super) async fn append_chunk(target: Target, chunk: Chunk) -> Result<Response, ApiError> {
    let mut upload = target.receive(chunk, None).await?;
    match upload.keep().await {
        Ok(size) => Ok(target.answer(StatusCode::ACCEPTED, size)),
        Err(error) => Err(target.failure(error).await),
    }
}

/// What the last request to an upload says that it is the blob of.
pub(super) fn claimed_digest(request: &Parts) -> Result<Digest, ApiError> {
    let digest = Query::of(&request.uri).first("digest").ok_or(ApiError::DigestMissing)?;
    digest.parse().map_err(ApiError::DigestInvalid)
}

/// `PUT <location>?digest=<digest>`: appends the last chunk, if any, and makes the upload a blob.
pub(super) async fn finish_upload(
    target: Target,
    chunk: Chunk,
    digest: Digest,
) -> Result<Response, ApiError> {
    let upload = target.receive(chunk, Some(digest)).await?;
    target.finish(upload, digest).await
}

/// `GET` and `HEAD <location>`: how far an upload has come.
pub(super) async fn upload_status(target: Target) -> Result<Response, ApiError> {
    let is_busy = |status: &Result<UploadStatus, _>| status.as_ref().is_ok_and(|status| status.busy);
    let status = in_turn(|| target.status(), is_busy).await?;
    Ok(target.answer(StatusCode::NO_CONTENT, status.checkpoint.offset()))
}

/// `DELETE <location>`: forgets an upload.
pub(super) async fn cancel_upload(target: Target) -> Result<Response, ApiError> {
    target.open().await?.cancel().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

enum Mounted {
    Yes(Response),
    /// An ordinary upload follows, with the permit that is still good for it.
    No(PushAccess),
}

/// Gives the repository a blob that another one has. What cannot be mounted, for whatever reason, is uploaded: the answer must
/// not tell whether a repository that the caller may not read has it.
async fn mount_blob(
    api: &Api,
    base: &Base,
    access: PushAccess,
    asker: Asker<'_>,
    from: Option<&str>,
    digest: Digest,
) -> Result<Mounted, ApiError> {
    let gate = &api.0.gate;
    let source = match from.map(str::parse::<RepositoryName>) {
        None => None,
        Some(Err(_)) => return Ok(Mounted::No(access)),
        Some(Ok(from)) => match gate.mount_source(asker, from).await? {
            Some(source) => Some(source),
            None => return Ok(Mounted::No(access)),
        },
    };
    let anywhere = match source {
        Some(_) => None,
        None => gate.any_repository(asker.caller).await?,
    };
    let base = base.clone();
    api.mutate(async move {
        let (mounted, from_binding) = match (&source, &anywhere) {
            (Some(source), _) => (access.mount(source, &digest).await, Some(source.binding())),
            (None, Some(anywhere)) => {
                (access.mount_from_any(anywhere, &digest).await, Some(anywhere.binding()))
            }
            (None, None) => (Ok(false), None),
        };
        if let Ok(false) = mounted {
            return Ok(Mounted::No(access));
        }
        let from = source.as_ref().map(|source| source.repository());
        let failed = mounted.is_err();
        let deed = Deed { digest: Some(&digest), from, from_binding, failed, ..Deed::default() };
        access.was_used(Act::Mount, deed).await;
        mounted?;
        let blob = Endpoint::Blob { repository: access.repository().clone(), digest };
        Ok(Mounted::Yes(created(&base, &blob, &digest)))
    })
    .await
}

impl Target {
    /// Names an upload by its id and, if the URL carries one and there is a key to check it, its state.
    pub(super) fn new(
        api: &Api,
        access: PushAccess,
        id: UploadId,
        request: &Parts,
    ) -> Result<Self, ApiError> {
        let claimed = match (&api.0.options.state_key, Query::of(&request.uri).first("_state")) {
            (Some(key), Some(state)) => {
                Some(key.check(&state, access.repository(), id).map_err(ApiError::UploadStateInvalid)?)
            }
            _ => None,
        };
        Ok(Self { api: api.clone(), base: api.0.options.urls.base(request), access, id, claimed })
    }

    /// Opens the upload for writing.
    async fn open(&self) -> Result<Upload, ApiError> {
        let is_busy = |opened: &Result<_, BackendError>| opened.as_ref().is_err_and(is_busy);
        match in_turn(|| self.access.resume_upload(self.id), is_busy).await {
            Ok(Some(upload)) => Ok(upload),
            Ok(None) => Err(ApiError::UploadUnknown),
            Err(error) if self::is_busy(&error) => Err(ApiError::UploadBusy),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in a blob in one piece. Its client does not know the upload, so nothing of it is kept unless it becomes a blob.
    async fn receive_whole(&self, chunk: Chunk, digest: Digest) -> Result<Response, ApiError> {
        let finished = match self.receive(chunk, Some(digest)).await {
            Ok(upload) => self.finish(upload, digest).await,
            Err(error) => Err(error),
        };
        // If it cannot be forgotten either, it is purged like any other.
        if finished.is_err()
            && let Ok(upload) = self.open().await
            && let Err(error) = upload.cancel().await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "upload not forgotten");
        }
        finished
    }

    /// Opens the upload and takes in a chunk, which must begin where the upload ends, if it says where it begins. What is `expected` is
    /// known when it is the last one.
    async fn receive(&self, chunk: Chunk, expected: Option<Digest>) -> Result<Upload, ApiError> {
        let Chunk { body, range } = chunk;
        let length = body.size_hint().exact();
        let mut upload = match self.open().await {
            Err(ApiError::UploadBusy) => return Err(self.overtaken().await),
            opened => opened?,
        };
        let begin = upload.offset();
        let out_of_order = || ApiError::ChunkOutOfOrder(self.end_at(begin));
        if self.claimed.is_some_and(|claimed| claimed != begin) {
            return Err(out_of_order());
        }
        if let Some(range) = &range {
            if range.first != begin || range.last < range.first {
                return Err(out_of_order());
            }
            if length.is_some_and(|length| length != range.size()) {
                return Err(ApiError::SizeInvalid);
            }
        }
        if let Some(digest) = expected {
            upload.expect(digest.algorithm());
        }
        match upload.receive(body.into_data_stream()).await {
            Ok(()) => {}
            Err(ReceiveError::Body(error)) => return Err(ApiError::of_body(error)),
            Err(ReceiveError::Backend(error)) => return Err(self.failure(error).await),
        }
        // A connection that is torn down may look like the end of a body.
        let announced = length.or(range.map(|range| range.size()));
        if announced.is_some_and(|announced| announced != upload.offset() - begin) {
            return Err(ApiError::SizeInvalid);
        }
        Ok(upload)
    }

    async fn finish(&self, upload: Upload, digest: Digest) -> Result<Response, ApiError> {
        let deed = Deed { digest: Some(&digest), size_bytes: Some(upload.offset()), ..Deed::default() };
        match upload.finish(&digest).await {
            Ok(()) => {
                self.access.was_used(Act::Push, deed).await;
                let blob = Endpoint::Blob { repository: self.access.repository().clone(), digest };
                Ok(created(&self.base, &blob, &digest))
            }
            Err(FinishError::DigestMismatch { expected, .. }) => {
                Err(ApiError::DigestMismatch { claimed: expected })
            }
            Err(FinishError::Backend(error)) => {
                if !is_busy(&error) {
                    self.access.was_used(Act::Push, Deed { failed: true, ..deed }).await;
                }
                Err(self.failure(error).await)
            }
        }
    }

    /// The answer to a failure of the store.
    async fn failure(&self, error: BackendError) -> ApiError {
        if is_busy(&error) { self.overtaken().await } else { error.into() }
    }

    /// The answer to a chunk while another request writes to the upload: it does not continue where that one will end.
    async fn overtaken(&self) -> ApiError {
        match self.status().await {
            Ok(status) => ApiError::ChunkOutOfOrder(self.end_at(status.checkpoint.offset())),
            Err(error) => error,
        }
    }

    /// How far the upload has come now.
    async fn status(&self) -> Result<UploadStatus, ApiError> {
        self.access.upload(self.id).await?.ok_or(ApiError::UploadUnknown)
    }

    fn end_at(&self, size_bytes: u64) -> UploadEnd {
        let repository = self.access.repository().clone();
        let state = self.api.0.options.state_key.as_ref().map(|key| {
            let state = key.issue(&repository, self.id, size_bytes);
            format!("_state={}", utf8_percent_encode(&state, NON_ALPHANUMERIC))
        });
        let endpoint = Endpoint::Upload { repository, id: self.id };
        UploadEnd { id: self.id, location: self.base.location(&endpoint, state.as_deref()), size_bytes }
    }

    fn answer(&self, status: StatusCode, size_bytes: u64) -> Response {
        let end = self.end_at(size_bytes);
        let range = HeaderValue::try_from(end.range()).expect("numbers are visible ASCII characters");
        let id =
            HeaderValue::try_from(self.id.to_string()).expect("an id is made of visible ASCII characters");
        (status, [(header::LOCATION, end.location), (header::RANGE, range), (UPLOAD_UUID, id)])
            .into_response()
    }
}

/// Asks again while the answer is that another request holds the upload, for as long as that is waited for.
async fn in_turn<T, F: Future<Output = T>>(ask: impl Fn() -> F, is_busy: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + TAKE_OVER;
    loop {
        let answer = ask().await;
        if !is_busy(&answer) || Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_busy(error: &BackendError) -> bool {
    error.fault == Fault::Busy
}

/// What a request brings of a blob.
pub(super) struct Chunk {
    body: Body,
    range: Option<ChunkRange>,
}

impl Chunk {
    /// The chunk in a request's body.
    pub(super) fn of(request: &Parts, body: Body) -> Result<Self, ApiError> {
        Ok(Self { body, range: ChunkRange::of(&request.headers)? })
    }
}

/// Where a chunk says that it belongs: `Content-Range` in the specification's own form, without a unit, both ends inclusive.
struct ChunkRange {
    first: u64,
    last: u64,
}

impl ChunkRange {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        value
            .to_str()
            .ok()
            .and_then(|text| text.split_once('-'))
            .and_then(|(first, last)| Some(Self { first: number(first)?, last: number(last)? }))
            .map(Some)
            .ok_or(ApiError::ContentRangeInvalid)
    }

    /// How many bytes that is; only of a range that does not end before it begins.
    fn size(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}
