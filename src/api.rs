//! The OCI Distribution API: from a request to the one handler that answers it.
//!
//! A path is read by [`Endpoint`], which knows the methods it has; the [`Gate`] gives the permit that the handler works with. What changes
//! the registry runs as a task of its own (`Api::mutate`): a client that hangs up, or a server that stops, lets it finish.

pub mod blobs;
mod catalog;
pub mod conditions;
pub mod endpoint;
pub mod error;
pub mod location;
mod manifests;
pub mod page;
pub mod query;
mod referrers;
mod tags;
pub mod uploads;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any_service;
use bytes::Bytes;
use storage::{Digest, MissingReferences, Reference, RepositoryName, UploadId};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower::service_fn;
use tracing::Instrument;

use self::endpoint::{Endpoint, PathError, Right};
use self::error::ApiError;
use self::location::{Base, Urls};
use self::manifests::{Precondition, Room, Turns};
use self::page::PageSizes;
use self::uploads::Chunk;
use self::uploads::state::StateKey;
use crate::access::Gate;
use crate::audit::Asker;
use crate::config::{Deletion, ForeignUrls, Mode};
use crate::login::challenge::{Called, Reason};
use crate::login::{Caller, Login};
use crate::server::Particulars;

/// What every answer says of the protocol, as CNCF distribution does.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

/// How the API behaves where the specification leaves a choice.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Whether anything may be written.
    pub mode: Mode,
    /// Whether manifests and blobs may be deleted.
    pub deletion: Deletion,
    /// The size in bytes above which a manifest is refused.
    pub manifest_limit_bytes: usize,
    /// What a manifest refers to must be there; how strictly.
    pub missing_references: MissingReferences,
    /// Which descriptors may say that their content lies elsewhere.
    pub foreign_urls: ForeignUrls,
    /// How long a page of the catalog may be.
    pub catalog_pages: PageSizes,
    /// How long a page of tags may be.
    pub tag_pages: PageSizes,
    /// How the URLs in answers are written.
    pub urls: Urls,
    /// What the state in the URLs of uploads is signed with, if they are to carry one.
    pub state_key: Option<StateKey>,
}

/// The API over one registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    /// Without it everybody is nobody in particular, whatever they show.
    login: Option<Login>,
    options: ApiOptions,
    mutations: TaskTracker,
    turns: Turns,
    room: Room,
}

impl Api {
    /// The API over what lies behind `gate`, for those whom `login` knows.
    pub fn new(gate: Gate, login: Option<Login>, options: ApiOptions) -> Self {
        let (mutations, turns) = (TaskTracker::new(), Turns::default());
        let room = Room::new(options.manifest_limit_bytes);
        Self(Arc::new(Inner { gate, login, options, mutations, turns, room }))
    }

    /// The routes, all below `/v2`, which lies below the configured prefix.
    pub fn router(&self) -> Router {
        let api = self.clone();
        // A service, not a handler: that one would have another future around this, which is made for each request.
        let service = any_service(service_fn(move |request: Request| {
            let (api, (parts, body)) = (api.clone(), request.into_parts());
            async move { Ok::<_, Infallible>(api.answer(&parts, body).await) }
        }));
        let router = Router::new()
            .route("/v2", service.clone())
            .route("/v2/", service.clone())
            .route("/v2/{*rest}", service);
        match self.0.options.urls.prefix.as_str() {
            "" => router,
            prefix => Router::new().nest(prefix, router),
        }
    }

    /// Waits for every change that is under way, but not for long, and tells how many are still not finished. New ones are still
    /// taken: stop the listeners first.
    pub async fn finish_mutations(&self, longest: Duration) -> usize {
        self.0.mutations.close();
        // Whether it was in time, the number tells.
        let _ = timeout(longest, self.0.mutations.wait()).await;
        self.0.mutations.len()
    }

    /// Runs a change to its end, whether or not its client waits for it.
    fn mutate<T, C>(&self, change: C) -> impl Future<Output = Result<T, ApiError>> + use<T, C>
    where
        T: Send + 'static,
        C: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        // Begun here, so that no request, not even one for something else, has room for a change in its own future.
        let change = self.0.mutations.spawn(change.in_current_span());
        async { change.await.map_err(|error| ApiError::Internal(error.into()))? }
    }

    /// Refuses what the configuration turns off.
    fn check_mode(&self, endpoint: &Endpoint, method: &Method, right: Right) -> Result<(), ApiError> {
        let changes = match right {
            Right::Login | Right::Catalog | Right::Pull => false,
            Right::Push | Right::Delete => !matches!(*method, Method::GET | Method::HEAD),
        };
        if changes && self.0.options.mode == Mode::ReadOnly {
            let reads = endpoint.right(&Method::GET).is_some();
            return Err(ApiError::ReadOnly { allow: if reads { "GET, HEAD" } else { "" }.to_owned() });
        }
        if right == Right::Delete && self.0.options.deletion == Deletion::Refused {
            let left = endpoint.allow().replace(", DELETE", "");
            return Err(ApiError::DeletionDisabled { allow: left });
        }
        Ok(())
    }

    /// Answers any request below `/v2`.
    async fn answer(&self, request: &Parts, body: Body) -> Response {
        let mut response = self.admit(request, body).await.unwrap_or_else(IntoResponse::into_response);
        let (name, value) = API_VERSION;
        response.headers_mut().insert(name, value);
        response
    }

    /// Finds out who asks, and asks whoever may not, and is nobody in particular, to log in.
    async fn admit(&self, request: &Parts, body: Body) -> Result<Response, ApiError> {
        let endpoint = Endpoint::parse(request.uri.path());
        let Some(login) = &self.0.login else {
            return self.route(&Caller::anonymous(), endpoint, request, body).await;
        };
        let caller = login.caller(request).await?;
        let is_nobody = caller.identity.is_anonymous();
        let answer = match &endpoint {
            // Otherwise every login would seem to succeed, and a client that logs in when it is asked to would be shown what anybody is.
            Ok(Endpoint::Base | Endpoint::Catalog) if is_nobody && !caller.showed_credential => None,
            _ => Some(self.route(&caller, endpoint, request, body).await),
        };
        match answer {
            Some(answer) if !(is_nobody && matches!(answer, Err(ApiError::Denied { .. }))) => answer,
            Some(_) | None => {
                let endpoint = Endpoint::parse(request.uri.path());
                let scope = endpoint.ok().and_then(|endpoint| endpoint.scope(&request.method));
                let reason = scope.as_deref().map_or(Reason::Missing, Reason::Scope);
                Err(login.unauthorized(&Called::by(request), reason))
            }
        }
    }

    /// Has the endpoint's handler answer, with the permit that it takes. A pull is what is asked for most: all else that has a long
    /// future has it in a box, so that a pull needs no room for it.
    async fn route(
        &self,
        caller: &Caller,
        endpoint: Result<Endpoint, PathError>,
        request: &Parts,
        body: Body,
    ) -> Result<Response, ApiError> {
        let method = &request.method;
        let particulars = request.extensions.get::<Arc<Particulars>>();
        let endpoint = endpoint.map_err(|error| error.answer_to(method))?;
        if let Some(particulars) = particulars {
            particulars.is_about(&endpoint);
        }
        let right =
            endpoint.right(method).ok_or_else(|| ApiError::MethodNotAllowed { allow: endpoint.allow() })?;
        self.check_mode(&endpoint, method, right)?;

        let gate = &self.0.gate;
        if let Some(particulars) = particulars {
            particulars.is_by(&caller.identity);
        }
        let asker = Asker { caller: &caller.identity, request };
        match (endpoint, method.as_str()) {
            (Endpoint::Base, _) => Ok(json("{}")),
            (Endpoint::Extensions { repository: None }, _) => Ok(json(r#"{"extensions":[]}"#)),
            (Endpoint::Extensions { repository: Some(name) }, _) => {
                gate.pull(asker, name).await?;
                Ok(json(r#"{"extensions":[]}"#))
            }
            (Endpoint::Catalog, _) => {
                let access = gate.catalog(asker.caller).await?;
                Box::pin(catalog::list_repositories(self, access, request)).await
            }
            (Endpoint::Tags { repository }, _) => {
                tags::list_tags(self, gate.pull(asker, repository).await?, request).await
            }
            (Endpoint::Referrers { repository, subject }, _) => {
                let access = gate.pull(asker, repository).await?;
                Box::pin(referrers::list_referrers(self, access, subject, request)).await
            }
            (Endpoint::Blob { repository, digest }, "GET") => {
                blobs::pull_blob(gate.pull(asker, repository).await?, digest, request).await
            }
            (Endpoint::Blob { repository, digest }, "HEAD") => {
                blobs::head_blob(gate.pull(asker, repository).await?, digest, request).await
            }
            (Endpoint::Manifest { repository, reference }, "GET" | "HEAD") => {
                manifests::pull_manifest(gate.pull(asker, repository).await?, reference, request).await
            }

            (Endpoint::Blob { repository, digest }, _) => {
                Box::pin(self.delete_blob(asker, repository, digest)).await
            }
            (Endpoint::Manifest { repository, reference }, "PUT") => {
                Box::pin(self.put_manifest(asker, repository, reference, body)).await
            }
            (Endpoint::Manifest { repository, reference }, _) => {
                Box::pin(self.delete_manifest(asker, repository, reference)).await
            }
            (Endpoint::Uploads { repository }, _) => {
                Box::pin(self.begin_upload(asker, repository, body)).await
            }
            (Endpoint::Upload { repository, id }, _) => {
                Box::pin(self.go_on(asker, repository, id, body)).await
            }
        }
    }

    async fn delete_blob(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        digest: Digest,
    ) -> Result<Response, ApiError> {
        let access = self.0.gate.delete(asker, repository).await?;
        self.mutate(blobs::delete_blob(access, digest)).await
    }

    async fn put_manifest(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        reference: Reference,
        body: Body,
    ) -> Result<Response, ApiError> {
        let gate = &self.0.gate;
        let access = gate.push(asker, repository).await?;
        let precondition =
            Precondition::of(gate, &self.0.turns, asker, access.repository(), &reference).await?;
        manifests::put_manifest(self, access, precondition, reference, asker.request, body).await
    }

    /// Deletes a manifest, or a tag.
    async fn delete_manifest(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        reference: Reference,
    ) -> Result<Response, ApiError> {
        let gate = &self.0.gate;
        let access = match &reference {
            Reference::Tag(tag) => gate.delete_tag(asker, repository, tag).await?,
            Reference::Digest(_) => gate.delete(asker, repository).await?,
        };
        let precondition =
            Precondition::of(gate, &self.0.turns, asker, access.repository(), &reference).await?;
        match reference {
            Reference::Tag(tag) => self.mutate(manifests::delete_tag(access, precondition, tag)).await,
            Reference::Digest(digest) => {
                self.mutate(manifests::delete_manifest(access, precondition, digest)).await
            }
        }
    }

    async fn begin_upload(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        body: Body,
    ) -> Result<Response, ApiError> {
        let access = self.0.gate.push(asker, repository).await?;
        uploads::begin_upload(self, access, asker, body).await
    }

    /// Goes on with an upload, ends it, or tells how far it has come.
    async fn go_on(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        id: UploadId,
        body: Body,
    ) -> Result<Response, ApiError> {
        let request = asker.request;
        let upload = uploads::Target::new(self, self.0.gate.push(asker, repository).await?, id, request)?;
        match request.method.as_str() {
            "PATCH" => {
                let chunk = Chunk::of(request, body)?;
                self.mutate(uploads::append_chunk(upload, chunk)).await
            }
            "PUT" => {
                let digest = uploads::claimed_digest(request)?;
                let chunk = Chunk::of(request, body)?;
                self.mutate(uploads::finish_upload(upload, chunk, digest)).await
            }
            "DELETE" => self.mutate(uploads::cancel_upload(upload)).await,
            _ => uploads::upload_status(upload).await,
        }
    }
}

/// Has a router answer as the API does where it has no such path or method.
pub fn with_errors(router: Router) -> Router {
    let allow = "GET, HEAD"; // Beside the API there is nothing that takes anything.
    router.fallback(|| async { ApiError::NoSuchEndpoint.into_response() }).method_not_allowed_fallback(
        move || async move { ApiError::MethodNotAllowed { allow: allow.to_owned() }.into_response() },
    )
}

/// An answer that is JSON.
fn json(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// The answer to what made something that has a digest.
fn created(base: &Base, endpoint: &Endpoint, digest: &Digest) -> Response {
    let headers = [(header::LOCATION, base.location(endpoint, None)), (CONTENT_DIGEST, digest_value(digest))];
    (StatusCode::CREATED, headers).into_response()
}

/// The header that says which content an answer is about.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A digest of sha512 in quotes.
const LONGEST_NAME: usize = "sha512:".len() + 128 + 2;

/// The two headers that name content, its digest in quotes and without, in one piece of memory.
fn names_of(digest: &Digest) -> [(HeaderName, HeaderValue); 2] {
    // With room for all of it, as it is written for each request.
    let mut quoted = String::with_capacity(LONGEST_NAME);
    // Writing to a string does not fail.
    let _ = write!(quoted, "\"{digest}\"");
    let quoted = Bytes::from(quoted);
    let bare = quoted.slice(1..quoted.len() - 1);
    let value = |text: Bytes| {
        HeaderValue::from_maybe_shared(text).expect("a digest is made of visible ASCII characters")
    };
    [(header::ETAG, value(quoted)), (CONTENT_DIGEST, value(bare))]
}

fn digest_value(digest: &Digest) -> HeaderValue {
    HeaderValue::try_from(digest.to_string()).expect("a digest is made of visible ASCII characters")
}
