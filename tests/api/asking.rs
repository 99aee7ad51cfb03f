//! An API to ask, and what it answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auth::{Authorizer, Everyone};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use serde_json::{Value, json};
use storage::backend::Backend;
use storage::backend::around::Surrounded;
use storage::backend::bucket::Bucket;
use storage::backend::fault::Faults;
use storage::backend::volume::{Access, Durability, Volume, VolumeOptions};
use storage::{Algorithm, Digest, MissingReferences, Registry, RegistryOptions};
use tempfile::TempDir;
use tower::ServiceExt;
use wharf::access::Gate;
use wharf::api::location::Urls;
use wharf::api::page::PageSizes;
use wharf::api::{Api, ApiOptions};
use wharf::audit::AuditLog;
use wharf::config::{Deletion, ForeignUrls, Locations, Mode};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MIB: usize = 1 << 20;

/// The API over an empty registry, whose store fails when it is told to.
pub(crate) struct TestApi {
    api: Api,
    router: Router,
    backend: Arc<dyn Backend>,
    pub(crate) faults: Arc<Faults>,
    folder: Option<Arc<TempDir>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    question: String,
}

impl TestApi {
    pub(crate) fn on_a_volume() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = VolumeOptions { durability: Durability::Buffered, access: Access::ReadWrite };
        let volume = Volume::open(folder.path(), options).unwrap();
        Self { folder: Some(Arc::new(folder)), ..Self::over(Arc::new(volume)) }
    }

    pub(crate) fn in_a_bucket() -> Self {
        Self::over(Arc::new(Bucket::in_memory()))
    }

    fn over(store: Arc<dyn Backend>) -> Self {
        let faults = Arc::new(Faults::default());
        let backend: Arc<dyn Backend> = Arc::new(Surrounded::new(store, faults.clone()));
        Self::made(backend, faults, None, Arc::new(Everyone::new()), options())
    }

    /// The same registry behind another API, which remembers nothing of what this one did.
    pub(crate) fn with(&self, change: impl FnOnce(&mut ApiOptions)) -> Self {
        let mut options = options();
        change(&mut options);
        Self::made(
            self.backend.clone(),
            self.faults.clone(),
            self.folder.clone(),
            Arc::new(Everyone::new()),
            options,
        )
    }

    /// The same registry, where somebody else decides who may do what.
    pub(crate) fn guarded_by(&self, authorizer: Arc<dyn Authorizer>) -> Self {
        Self::made(self.backend.clone(), self.faults.clone(), self.folder.clone(), authorizer, options())
    }

    fn made(
        backend: Arc<dyn Backend>,
        faults: Arc<Faults>,
        folder: Option<Arc<TempDir>>,
        authorizer: Arc<dyn Authorizer>,
        options: ApiOptions,
    ) -> Self {
        let api = Api::new(gate(&backend, authorizer), None, options);
        Self { router: api.router(), api, backend, faults, folder }
    }

    /// The gate to the same registry at which somebody else decides.
    pub(crate) fn gate_of(&self, authorizer: Arc<dyn Authorizer>) -> Gate {
        gate(&self.backend, authorizer)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("this registry is on a volume").path()
    }

    /// Asks `GET /v2/…`, or whatever `question` is.
    pub(crate) async fn ask(&self, question: &str) -> Answer {
        self.send(question, &[], Body::empty()).await
    }

    pub(crate) async fn ask_with(&self, question: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(question, headers, Body::empty()).await
    }

    pub(crate) async fn send(
        &self,
        question: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let (method, target) = question.split_once(' ').expect("a question has a method and a target");
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(question, request.body(body.into()).expect("what is asked can be sent")).await
    }

    /// Sends a request that is called `question` when its answer is not the expected one.
    pub(crate) async fn answer(&self, question: &str, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: to_bytes(body, usize::MAX).await.expect("the answer comes whole"),
            question: question.to_owned(),
        }
    }

    /// Waits until everything is done that hung-up clients had asked for.
    pub(crate) async fn finish(&self) {
        assert_eq!(self.api.finish_mutations(Duration::from_secs(60)).await, 0);
    }

    /// Begins an upload, and says where.
    pub(crate) async fn begin_upload(&self, repository: &str) -> String {
        let begun = self.ask(&format!("POST /v2/{repository}/blobs/uploads/")).await.expect(202);
        begun.header("location").to_owned()
    }

    pub(crate) async fn push_blob(&self, repository: &str, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest::of(Algorithm::Sha256, &content);
        let question = format!("POST /v2/{repository}/blobs/uploads/?digest={digest}");
        self.send(&question, &[], content).await.expect(201);
        digest
    }

    pub(crate) async fn push(&self, repository: &str, reference: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string();
        let kind = manifest["mediaType"].as_str().unwrap();
        let question = format!("PUT /v2/{repository}/manifests/{reference}");
        self.send(&question, &[("content-type", kind)], bytes.clone()).await.expect(201);
        Digest::of(Algorithm::Sha256, bytes.as_bytes())
    }

    /// Pushes an artifact that differs from those with another note, blobs included.
    pub(crate) async fn push_noted(&self, repository: &str, reference: &str, note: &str) -> Digest {
        self.push_blob(repository, "{}").await;
        self.push(repository, reference, &noted(note)).await
    }
}

impl Answer {
    /// Makes sure that this is the status.
    pub(crate) fn expect(self, status: u16) -> Self {
        let Self { question, body, .. } = &self;
        assert_eq!(self.status, status, "{question}: {}", String::from_utf8_lossy(body));
        self
    }

    /// Makes sure that it was refused so.
    pub(crate) fn expect_refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.code(), code, "{}", answer.question);
        answer
    }

    /// The value of a header that must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.maybe_header(name).unwrap_or_else(|| panic!("{}: no {name}", self.question))
    }

    pub(crate) fn maybe_header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.question))
    }

    /// The code of the first failure.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.question);
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The question to which the `Link` leads, if there is one.
    pub(crate) fn next(&self) -> Option<String> {
        let link = self.maybe_header("link")?;
        let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        Some(format!("GET {target}"))
    }
}

/// A manifest that refers to a config of `{}`, and says `note`.
pub(crate) fn noted(note: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.note",
        "config": empty(),
        "layers": [],
        "annotations": { "note": note },
    })
}

/// The descriptor of `{}`.
pub(crate) fn empty() -> Value {
    descriptor("application/vnd.oci.empty.v1+json", &Digest::of(Algorithm::Sha256, b"{}"), 2)
}

pub(crate) fn descriptor(kind: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": kind, "digest": digest, "size": size })
}

/// Content in which no two places are alike.
pub(crate) fn content(length: usize) -> Bytes {
    (1..).flat_map(|word: u64| (word << 20 | 0xb10b).to_le_bytes()).take(length).collect()
}

/// Every file below a folder, with its content.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn gate(backend: &Arc<dyn Backend>, authorizer: Arc<dyn Authorizer>) -> Gate {
    Gate::new(authorizer, Registry::new(backend.clone(), RegistryOptions::default()), AuditLog::off())
}

fn options() -> ApiOptions {
    ApiOptions {
        mode: Mode::ReadWrite,
        deletion: Deletion::Allowed,
        manifest_limit_bytes: 4 * MIB,
        missing_references: MissingReferences::Refuse,
        foreign_urls: ForeignUrls::default(),
        catalog_pages: PageSizes { default: 100, most: 1000 },
        tag_pages: PageSizes { default: 1000, most: 1000 },
        urls: Urls { locations: Locations::Relative, prefix: String::new() },
        state_key: None,
    }
}
