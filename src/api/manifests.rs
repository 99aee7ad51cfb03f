//! Manifests: pulled and pushed by tag or digest, and deleted.

use std::hash::{BuildHasher, RandomState};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use storage::backend::BackendError;
use storage::{
    Algorithm, DeleteManifestError, Digest, Manifest, ManifestError, PutManifestError, Reference,
    RepositoryName, StoredManifest, Tag,
};
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::access::{DeleteAccess, Gate, PullAccess, PushAccess};
use crate::api::conditions::{Conditions, Outcome};
use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::api::{Api, created, digest_value, names_of};
use crate::audit::{Act, Asker, Deed};

/// How much of each manifest is taken in whatever others are: what a connection may hold in any case.
const SMALL_BYTES: usize = 64 << 10;

/// How long the rest of a larger one may wait until there is room for it, and how long it may then take to arrive, since others wait.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// When to come back if there was no room.
const COME_BACK_AFTER: Duration = Duration::from_secs(5);

/// Memory for manifests that are being pushed.
#[derive(Debug)]
pub(super) struct Room {
    /// A permit for each [`SMALL_BYTES`].
    permits: Arc<Semaphore>,
    limit_bytes: usize,
}

impl Room {
    /// Room for as many manifests as large as the limit.
    const LARGEST: usize = 16;

    pub(super) fn new(limit_bytes: usize) -> Self {
        let permits = Arc::new(Semaphore::new(Self::LARGEST * limit_bytes.div_ceil(SMALL_BYTES)));
        Self { permits, limit_bytes }
    }

    /// Reads a manifest whole, or not at all when it says that it is too large. What is returned beside it is to be held as long as
    /// it is.
    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
        let too_large = || ApiError::ManifestTooLarge { limit_bytes: self.limit_bytes as u64 };
        let length = body.size_hint();
        if length.lower() > self.limit_bytes as u64 {
            return Err(too_large());
        }
        let mut body = Limited::new(body, self.limit_bytes);
        let expected = length.exact().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        let (mut read, mut room) = (BytesMut::with_capacity(expected.min(SMALL_BYTES)), None);
        let mut deadline = None;
        loop {
            let frame = match deadline {
                None => body.frame().await,
                Some(deadline) => {
                    timeout_at(deadline, body.frame()).await.map_err(|_| ApiError::BodyTimeout)?
                }
            };
            let data = match frame.transpose().map_err(|error| error.downcast::<LengthLimitError>()) {
                Ok(Some(frame)) => frame.into_data().unwrap_or_default(),
                Ok(None) => break,
                Err(Ok(_)) => return Err(too_large()),
                Err(Err(error)) => return Err(ApiError::of_body(error)),
            };
            if room.is_none() && read.len() + data.len() > SMALL_BYTES {
                room = Some(self.of(length.exact()).await?);
                deadline = Some(Instant::now() + ARRIVES_WITHIN);
                read.reserve(expected.saturating_sub(read.len()));
            }
            read.extend_from_slice(&data);
        }
        if length.exact().is_some_and(|length| length != read.len() as u64) {
            return Err(ApiError::SizeInvalid);
        }
        Ok((read.freeze(), room))
    }

    /// Room for a manifest of this length, or for the largest if it does not say. All at once: many that each had some of theirs would
    /// wait for each other.
    async fn of(&self, length: Option<u64>) -> Result<OwnedSemaphorePermit, ApiError> {
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(self.limit_bytes);
        let permits = u32::try_from(length.div_ceil(SMALL_BYTES)).unwrap_or(u32::MAX);
        let room = timeout(ARRIVES_WITHIN, Arc::clone(&self.permits).acquire_many_owned(permits)).await;
        let room = room.map_err(|_| ApiError::TooManyRequests { retry_after: COME_BACK_AFTER })?;
        room.map_err(|closed| ApiError::Internal(closed.into()))
    }
}

/// How many tags one push may set.
const MOST_TAGS: usize = 100;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Whose turn it is to change a manifest of a repository that must be as it was. Repositories may share one.
#[derive(Debug, Default)]
pub(super) struct Turns {
    each: [Arc<Mutex<()>>; 32],
    places: RandomState,
}

impl Turns {
    fn of(&self, repository: &RepositoryName) -> Arc<Mutex<()>> {
        let [place, ..] = self.places.hash_one(repository).to_ne_bytes();
        self.each[usize::from(place) % self.each.len()].clone()
    }
}

/// What must be so for a manifest to be put or deleted, if anything must. Of two who depend on the same and come at the same moment, one
/// succeeds; both may if they come to different replicas.
pub(super) struct Precondition(Option<Dependence>);

struct Dependence {
    access: PullAccess,
    reference: Reference,
    conditions: Conditions,
    turn: Arc<Mutex<()>>,
}

impl Precondition {
    /// Takes it out of a request; whoever depends on what is there must be allowed to see it.
    pub(super) async fn of(
        gate: &Gate,
        turns: &Turns,
        asker: Asker<'_>,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Self, ApiError> {
        let conditions = Conditions::of(&asker.request.headers);
        if !conditions.are_on_change() {
            return Ok(Self(None));
        }
        let access = gate.pull(asker, repository.clone()).await?;
        let (reference, turn) = (reference.clone(), turns.of(repository));
        Ok(Self(Some(Dependence { access, reference, conditions, turn })))
    }

    /// Makes sure that it is so. Others who depend on something wait until what is returned is dropped.
    async fn check(&self) -> Result<Option<MutexGuard<'_, ()>>, ApiError> {
        let Some(Dependence { access, reference, conditions, turn }) = &self.0 else { return Ok(None) };
        let turn = turn.lock().await;
        let current = access.held_manifest(reference).await?.map(|manifest| name_of(reference, &manifest));
        if conditions.allow_change(current.as_ref()) {
            Ok(Some(turn))
        } else {
            Err(ApiError::PreconditionFailed)
        }
    }
}

/// `GET` and `HEAD /v2/<name>/manifests/<reference>`: a manifest, whatever `Accept` says: a client that asked for something else
/// can tell from the type, and nothing better could be sent.
pub(super) async fn pull_manifest(
    access: PullAccess,
    reference: Reference,
    request: &Parts,
) -> Result<Response, ApiError> {
    let found = if request.method == Method::HEAD {
        Box::pin(access.held_manifest(&reference)).await?
    } else {
        access.manifest(&reference).await?
    };
    let Some(manifest) = found else {
        let repository = access.repository().clone();
        return Err(ApiError::ManifestUnknown { repository, reference: reference.to_string() });
    };
    let digest = name_of(&reference, &manifest);
    let names = names_of(&digest);
    match Conditions::of(&request.headers).outcome(&digest) {
        Outcome::Perform => {}
        Outcome::NotModified => return Ok((StatusCode::NOT_MODIFIED, names).into_response()),
        Outcome::Failed => return Err(ApiError::PreconditionFailed),
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(manifest.media_type.as_str())),
        (header::CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len())),
    ];
    Ok((headers, names, Body::from(manifest.bytes.clone())).into_response())
}

/// What was asked for by a digest is called by that digest, even where the store knows it by another one.
fn name_of(reference: &Reference, manifest: &StoredManifest) -> Digest {
    match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => manifest.digest,
    }
}

/// `PUT /v2/<name>/manifests/<reference>`, by a digest with several `?tag=` if wanted.
pub(super) async fn put_manifest(
    api: &Api,
    access: PushAccess,
    precondition: Precondition,
    reference: Reference,
    request: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let query = Query::of(&request.uri);
    let (claimed, tags) = match reference {
        // regctl names the digest of a manifest of another algorithm so.
        Reference::Tag(tag) => (query.first("digest").map(|digest| digest.parse()).transpose(), vec![tag]),
        Reference::Digest(digest) => {
            let tags =
                query.all("tag").take(MOST_TAGS + 1).map(|tag| tag.parse().map_err(ApiError::TagInvalid));
            (Ok(Some(digest)), tags.collect::<Result<Vec<Tag>, _>>()?)
        }
    };
    let claimed: Option<Digest> = claimed.map_err(ApiError::DigestInvalid)?;
    if tags.len() > MOST_TAGS {
        return Err(ApiError::TooManyTags { most: MOST_TAGS });
    }
    let kind = request
        .headers
        .get(header::CONTENT_TYPE)
        .map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    let base = api.0.options.urls.base(request);
    let (bytes, room) = api.0.room.read(body).await?;

    let api = api.clone();
    api.clone()
        .mutate(async move {
            let _room = room;
            let (manifest, digest, bytes) = parse(kind, bytes, claimed).await?;
            let size_bytes = bytes.len() as u64;
            check_urls(&api, &manifest)?;
            let _turn = precondition.check().await?;
            let missing_references = api.0.options.missing_references.clone();
            let kept = match access.put_manifest(&manifest, bytes, &digest, &tags, missing_references).await {
                Err(PutManifestError::Missing(digests)) => {
                    return Err(ApiError::ManifestBlobUnknown(digests));
                }
                Err(PutManifestError::Backend(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            let deed = Deed {
                digest: Some(&digest),
                tags: &tags,
                media_type: Some(manifest.media_type().as_str()),
                size_bytes: Some(size_bytes),
                failed: kept.is_err(),
                ..Deed::default()
            };
            access.was_used(Act::Push, deed).await;
            kept?;
            let repository = access.repository().clone();
            let endpoint = Endpoint::Manifest { repository, reference: Reference::Digest(digest) };
            let mut response = created(&base, &endpoint, &digest);
            let headers = response.headers_mut();
            if let Some(subject) = manifest.subject() {
                headers.insert(OCI_SUBJECT, digest_value(&subject.digest));
            }
            for tag in &tags {
                let tag =
                    HeaderValue::try_from(tag.as_str()).expect("a tag is made of visible ASCII characters");
                headers.append(OCI_TAG, tag);
            }
            Ok(response)
        })
        .await
}

/// `DELETE /v2/<name>/manifests/<digest>`: removes a manifest, and the tags that point at it.
pub(super) async fn delete_manifest(
    access: DeleteAccess,
    precondition: Precondition,
    digest: Digest,
) -> Result<Response, ApiError> {
    let _turn = precondition.check().await?;
    let (existed, gone) = match access.delete_manifest(&digest).await {
        Ok(gone) => (Ok(gone.is_some()), gone.unwrap_or_default()),
        Err(DeleteManifestError { tags, source }) => (Err(source), tags),
    };
    let (tags, tag_count) = (gone.named(), Some(gone.count()));
    let deed = Deed { digest: Some(&digest), tags, tag_count, ..Deed::default() };
    deleted(&access, existed, &digest.to_string(), deed).await
}

/// `DELETE /v2/<name>/manifests/<tag>`: removes a tag, and nothing else.
pub(super) async fn delete_tag(
    access: DeleteAccess,
    precondition: Precondition,
    tag: Tag,
) -> Result<Response, ApiError> {
    let _turn = precondition.check().await?;
    let existed = access.delete_tag(&tag).await;
    let deed = Deed { tags: slice::from_ref(&tag), ..Deed::default() };
    deleted(&access, existed, tag.as_str(), deed).await
}

async fn deleted(
    access: &DeleteAccess,
    existed: Result<bool, BackendError>,
    reference: &str,
    deed: Deed<'_>,
) -> Result<Response, ApiError> {
    if access.was_used(existed, deed).await? {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let repository = access.repository().clone();
    Err(ApiError::ManifestUnknown { repository, reference: reference.to_owned() })
}

/// Hashes and reads a manifest, which may be megabytes, where that holds nobody up.
async fn parse(
    kind: Option<String>,
    bytes: Bytes,
    claimed: Option<Digest>,
) -> Result<(Manifest, Digest, Bytes), ApiError> {
    tokio::task::spawn_blocking(move || {
        let digest = Digest::of(claimed.map_or(Algorithm::Sha256, |claimed| claimed.algorithm()), &bytes);
        if let Some(claimed) = claimed.filter(|claimed| *claimed != digest) {
            return Err(ApiError::DigestMismatch { claimed });
        }
        let manifest = Manifest::parse(kind.as_deref(), &bytes).map_err(ApiError::ManifestInvalid)?;
        Ok((manifest, digest, bytes))
    })
    .await
    .map_err(|error| ApiError::Internal(error.into()))?
}

/// Refuses a descriptor that says its content lies where the operator does not want it to lie.
fn check_urls(api: &Api, manifest: &Manifest) -> Result<(), ApiError> {
    let descriptors = manifest.config().into_iter().chain(manifest.layers()).chain(manifest.children());
    match descriptors
        .flat_map(|descriptor| &descriptor.urls)
        .find(|url| !api.0.options.foreign_urls.accept(url))
    {
        None => Ok(()),
        Some(_) => Err(ApiError::ManifestInvalid(ManifestError::Member {
            member: "urls".to_owned(),
            problem: "names a place that this registry's configuration does not allow",
        })),
    }
}
