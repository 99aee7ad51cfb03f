//! The registry as its callers see it: permits to one repository each, over a backend that nobody else can name.
//!
//! [`Registry`] is held by whoever decides about permission. What it hands out ([`Reader`], [`Writer`], [`Deleter`]) can reach one
//! repository, for one kind of act; their methods live with the nouns: `blobs`, `uploads`, `manifests`, `tags`, `referrers`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::backend::{Backend, BackendError};
use crate::cache::{CacheUse, Caches};
use crate::repository_name::RepositoryName;
use crate::uploads::BATCH_BYTES;

/// How a registry behaves where the layout leaves a choice.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Bytes of manifests that are kept in memory, and a quarter as many of what lists of referrers show of them.
    pub manifest_cache_bytes: u64,
    /// How many tags and memberships are remembered, each.
    pub lookup_cache_entries: usize,
    /// For how long a tag is answered from memory: what another replica writes is seen after this at the latest.
    pub tag_lifetime: Duration,
    /// For how long it is taken from memory that a repository holds a blob or manifest.
    pub membership_lifetime: Duration,
    /// Bytes that have arrived and are not yet written, over all uploads together. A MiB is the least.
    pub upload_buffer_bytes: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            manifest_cache_bytes: 32 << 20,
            lookup_cache_entries: 100_000,
            tag_lifetime: Duration::from_secs(1),
            membership_lifetime: Duration::from_secs(10),
            upload_buffer_bytes: 8 << 20,
        }
    }
}

/// All repositories over one backend. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) caches: Caches,
    /// One permit a byte that may wait in memory to be written.
    pub(crate) upload_budget: Arc<Semaphore>,
    /// How many permits there are.
    pub(crate) upload_buffer_bytes: usize,
    pub(crate) open_uploads: Arc<AtomicU64>,
}

/// May read one repository.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) registry: Arc<Inner>,
    pub(crate) repository: RepositoryName,
}

/// May add to one repository, and read what it needs to know for that.
#[derive(Clone, Debug)]
pub struct Writer(pub(crate) Reader);

/// May remove from one repository.
#[derive(Clone, Debug)]
pub struct Deleter(pub(crate) Reader);

/// May take any blob of the registry, whichever repository holds it.
#[derive(Clone, Debug)]
pub struct AnyRepository(());

impl Registry {
    /// A registry over `backend`.
    pub fn new(backend: Arc<dyn Backend>, options: RegistryOptions) -> Self {
        let caches = Caches::new(&options);
        // With less than one batch no upload could begin.
        let upload_buffer_bytes = options.upload_buffer_bytes.clamp(BATCH_BYTES, Semaphore::MAX_PERMITS);
        let upload_budget = Arc::new(Semaphore::new(upload_buffer_bytes));
        let open_uploads = Arc::default();
        Self(Arc::new(Inner { backend, caches, upload_budget, upload_buffer_bytes, open_uploads }))
    }

    /// A permit to read `repository`, which need not exist.
    pub fn reader(&self, repository: RepositoryName) -> Reader {
        Reader { registry: self.0.clone(), repository }
    }

    /// A permit to add to `repository`, which need not exist.
    pub fn writer(&self, repository: RepositoryName) -> Writer {
        Writer(self.reader(repository))
    }

    /// A permit to remove from `repository`, which need not exist.
    pub fn deleter(&self, repository: RepositoryName) -> Deleter {
        Deleter(self.reader(repository))
    }

    /// A permit to take any blob without naming where it lies.
    pub fn any_repository(&self) -> AnyRepository {
        AnyRepository(())
    }

    /// How each of the caches was used until now.
    pub fn cache_usage(&self) -> [CacheUse; 5] {
        self.0.caches.usage()
    }

    /// Makes sure that the backend can be read. Nothing is written.
    pub async fn probe(&self) -> Result<(), BackendError> {
        self.0.backend.probe().await
    }

    /// Makes sure that the backend takes what is written.
    pub async fn probe_writing(&self) -> Result<(), BackendError> {
        self.0.backend.probe_writing().await
    }
}

impl Reader {
    /// The repository that this permit is for.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.registry.backend
    }
}

impl Writer {
    /// The repository that this permit is for.
    pub fn repository(&self) -> &RepositoryName {
        &self.0.repository
    }
}

impl Deleter {
    /// The repository that this permit is for.
    pub fn repository(&self) -> &RepositoryName {
        &self.0.repository
    }
}
