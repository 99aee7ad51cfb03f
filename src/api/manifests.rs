//! Manifests: pulled and pushed by tag or digest, and deleted.

use std::slice;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use storage::{
    Algorithm, Digest, Manifest, ManifestError, PutManifestError, Reference, RepositoryName, StoredManifest,
    Tag,
};

use crate::access::{DeleteAccess, Gate, PullAccess, PushAccess};
use crate::api::conditions::Conditions;
use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::api::{Api, created, digest_value, names_of};
use crate::audit::{Act, Asker, Deed};

/// How many tags one push may set.
const MOST_TAGS: usize = 100;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// What must be so for a manifest to be put or deleted, if anything must. It is looked at just before: of two who depend on the same and
/// come at the same moment, both may succeed.
pub(super) struct Precondition(Option<(PullAccess, Reference, Conditions)>);

impl Precondition {
    /// Takes it out of a request; whoever depends on what is there must be allowed to see it.
    pub(super) async fn of(
        gate: &Gate,
        asker: Asker<'_>,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Self, ApiError> {
        let conditions = Conditions::of(&asker.request.headers);
        if !conditions.are_on_change() {
            return Ok(Self(None));
        }
        let access = gate.pull(asker, repository.clone()).await?;
        Ok(Self(Some((access, reference.clone(), conditions))))
    }

    async fn check(&self) -> Result<(), ApiError> {
        let Some((access, reference, conditions)) = &self.0 else { return Ok(()) };
        let current = access.manifest(reference).await?.map(|manifest| name_of(reference, &manifest));
        if conditions.allow_change(current.as_ref()) { Ok(()) } else { Err(ApiError::PreconditionFailed) }
    }
}

/// `GET` and `HEAD /v2/<name>/manifests/<reference>`: a manifest, whatever `Accept` says: a client that asked for something else
/// can tell from the type, and nothing better could be sent.
pub(super) async fn pull_manifest(
    access: PullAccess,
    reference: Reference,
    request: &Parts,
) -> Result<Response, ApiError> {
    let found = match &reference {
        Reference::Digest(digest) if request.method == Method::HEAD => access.held_manifest(digest).await?,
        reference => access.manifest(reference).await?,
    };
    let Some(manifest) = found else {
        let repository = access.repository().clone();
        return Err(ApiError::ManifestUnknown { repository, reference: reference.to_string() });
    };
    let digest = name_of(&reference, &manifest);
    let names = names_of(&digest);
    if Conditions::of(&request.headers).not_modified(&digest) {
        return Ok((StatusCode::NOT_MODIFIED, names).into_response());
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
    let bytes = read_manifest(body, api.0.options.manifest_limit_bytes).await?;

    let api = api.clone();
    api.clone()
        .mutate(async move {
            let (manifest, digest, bytes) = parse(kind, bytes, claimed).await?;
            let size_bytes = bytes.len() as u64;
            check_urls(&api, &manifest)?;
            precondition.check().await?;
            access
                .put_manifest(&manifest, bytes, &digest, &tags, api.0.options.missing_references.clone())
                .await
                .map_err(|error| match error {
                    PutManifestError::Missing(digests) => ApiError::ManifestBlobUnknown(digests),
                    PutManifestError::Backend(error) => error.into(),
                })?;
            let deed = Deed {
                digest: Some(&digest),
                tags: &tags,
                media_type: Some(manifest.media_type().as_str()),
                size_bytes: Some(size_bytes),
                ..Deed::default()
            };
            access.was_used(Act::Push, deed).await;
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
    precondition.check().await?;
    let existed = access.delete_manifest(&digest).await?;
    let deed = Deed { digest: Some(&digest), ..Deed::default() };
    deleted(&access, existed, &digest.to_string(), deed).await
}

/// `DELETE /v2/<name>/manifests/<tag>`: removes a tag, and nothing else.
pub(super) async fn delete_tag(
    access: DeleteAccess,
    precondition: Precondition,
    tag: Tag,
) -> Result<Response, ApiError> {
    precondition.check().await?;
    let existed = access.delete_tag(&tag).await?;
    let deed = Deed { tags: slice::from_ref(&tag), ..Deed::default() };
    deleted(&access, existed, tag.as_str(), deed).await
}

async fn deleted(
    access: &DeleteAccess,
    existed: bool,
    reference: &str,
    deed: Deed<'_>,
) -> Result<Response, ApiError> {
    if existed {
        access.was_used(deed).await;
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let repository = access.repository().clone();
    Err(ApiError::ManifestUnknown { repository, reference: reference.to_owned() })
}

/// Reads a manifest whole, or not at all when it says that it is too large.
async fn read_manifest(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::ManifestTooLarge { limit_bytes: limit as u64 };
    let length = body.size_hint();
    if length.lower() > limit as u64 {
        return Err(too_large());
    }
    let read = Limited::new(body, limit).collect().await.map_err(|error| {
        match error.downcast::<LengthLimitError>() {
            Ok(_) => too_large(),
            Err(error) => ApiError::of_body(error),
        }
    })?;
    let bytes = read.to_bytes();
    if length.exact().is_some_and(|length| length != bytes.len() as u64) {
        return Err(ApiError::SizeInvalid);
    }
    Ok(bytes)
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
