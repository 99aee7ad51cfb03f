//! The one bridge between who may and what is kept: a permit for each kind of act, which nothing else can make.
//!
//! A repository `<namespace>/<image>` is the image stream of that name in that namespace, as in OpenShift's registry. To pull is to
//! `get` its `layers`, to push to `get` and `update` them. A name of one component lies in no namespace: it takes a cluster-wide right.
//!
//! Every no that somebody who is known gets is an event of the audit log; so is what is changed with a permit, which remembers who has
//! it, and by which binding. To read is no event: nobody asks which binding allows it.
//!
//! A right on image streams may be given in the group `image.openshift.io` or in the core group, where they once were: OpenShift's own
//! roles name both. A `SubjectAccessReview` asks about one group, so the second is asked about when the first says no.

pub mod rights;

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use auth::{Authorizer, Decision, Identity, ResourceAttributes};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use storage::backend::BackendError;
use storage::{AnyRepository, CatalogPage, Deleter, Reader, Registry, RepositoryName, Tag, Writer};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::api::error::ApiError;
use crate::audit::{Act, Asker, AuditLog, Deed, Witness};

/// How many repositories are looked at together where not all are shown.
const CATALOG_LOOK: usize = 1000;

/// How many of them are asked about at once: whoever is asked may be far away, and has more to do.
const CATALOG_QUESTIONS: usize = 16;

/// How many such lists are made at once for those who are known, and how many for all others. Each may look at every repository that
/// there is, to find none.
const CATALOGS: usize = 4;
const CATALOGS_OF_NOBODY: usize = 1;

/// How long somebody waits for others' lists.
const CATALOG_WAIT: Duration = Duration::from_secs(5);

/// Where permits are made. The registry behind it is reached in no other way.
#[derive(Clone, Debug)]
pub struct Gate {
    authorizer: Arc<dyn Authorizer>,
    registry: Registry,
    audit: AuditLog,
    catalogs: Arc<Catalogs>,
}

/// Turns to list what somebody may pull.
#[derive(Debug)]
struct Catalogs {
    of_known: Semaphore,
    of_nobody: Semaphore,
}

/// May read one repository.
#[derive(Debug)]
pub struct PullAccess(Reader);

/// May take blobs from one repository into another.
#[derive(Debug)]
pub struct MountAccess {
    reader: Reader,
    binding: Arc<str>,
}

/// May read all repositories.
#[derive(Debug)]
pub struct PullAnyAccess {
    repositories: AnyRepository,
    binding: Arc<str>,
}

/// May add to one repository.
#[derive(Debug)]
pub struct PushAccess {
    writer: Writer,
    grant: Grant,
}

/// May remove from one repository.
#[derive(Debug)]
pub struct DeleteAccess {
    deleter: Deleter,
    grant: Grant,
}

/// Who was allowed something, and by what.
#[derive(Debug)]
struct Grant {
    witness: Witness,
    binding: Arc<str>,
}

/// May list repositories: all, or those that the caller may pull.
#[derive(Debug)]
pub struct CatalogAccess {
    gate: Gate,
    /// Whose rights decide which are shown; none if all are.
    shown_to: Option<Identity>,
}

impl Gate {
    /// A gate to `registry` at which `authorizer` decides, and at which `audit` stands.
    pub fn new(authorizer: Arc<dyn Authorizer>, registry: Registry, audit: AuditLog) -> Self {
        let [of_known, of_nobody] = [CATALOGS, CATALOGS_OF_NOBODY].map(Semaphore::new);
        Self { authorizer, registry, audit, catalogs: Arc::new(Catalogs { of_known, of_nobody }) }
    }

    /// A permit to pull from `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if the caller may not, whether or not there is such a repository.
    pub async fn pull(&self, asker: Asker<'_>, repository: RepositoryName) -> Result<PullAccess, ApiError> {
        self.require(asker, Act::Pull, &repository, rights::pull(&repository)).await?;
        Ok(PullAccess(self.registry.reader(repository)))
    }

    /// A permit to push to `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if the caller may not, whether or not there is such a repository.
    pub async fn push(&self, asker: Asker<'_>, repository: RepositoryName) -> Result<PushAccess, ApiError> {
        let [get, update] = rights::push(&repository);
        self.require(asker, Act::Push, &repository, get).await?;
        let binding = self.demand(asker, Act::Push, &repository, update).await?;
        Ok(PushAccess { writer: self.registry.writer(repository), grant: self.grant(asker, binding) })
    }

    /// A permit to delete blobs and manifests of `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if the caller may neither delete the image stream nor, as OpenShift's pruner, all images.
    pub async fn delete(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
    ) -> Result<DeleteAccess, ApiError> {
        let [stream, images] = rights::delete(&repository);
        let binding = match self.decide(asker.caller, &images).await? {
            Some(binding) => binding,
            None => self.demand(asker, Act::Delete, &repository, stream).await?,
        };
        Ok(DeleteAccess { deleter: self.registry.deleter(repository), grant: self.grant(asker, binding) })
    }

    /// A permit to delete the tag `tag` of `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if the caller may not delete the image stream tag.
    pub async fn delete_tag(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
        tag: &Tag,
    ) -> Result<DeleteAccess, ApiError> {
        let name = rights::tag_name(&repository, tag);
        let wanted = rights::delete_tag(&repository, &name);
        let binding = self.demand(asker, Act::Delete, &repository, wanted).await?;
        Ok(DeleteAccess { deleter: self.registry.deleter(repository), grant: self.grant(asker, binding) })
    }

    /// A permit to take a blob from `repository`, if the caller may read there. Whoever may not is not told, and goes on without: so
    /// it is an event whoever asks.
    ///
    /// # Errors
    /// When it cannot be known whether they may.
    pub async fn mount_source(
        &self,
        asker: Asker<'_>,
        repository: RepositoryName,
    ) -> Result<Option<MountAccess>, ApiError> {
        let wanted = rights::pull(&repository);
        let Some(binding) = self.decide(asker.caller, &wanted).await? else {
            let missing = missing(asker.caller, &wanted);
            Witness::of(asker, &self.audit).denied(Act::Pull, &repository, &missing).await;
            return Ok(None);
        };
        Ok(Some(MountAccess { reader: self.registry.reader(repository), binding }))
    }

    /// A permit to list repositories: all of them with OpenShift's right to, and otherwise those that `caller` may pull.
    ///
    /// # Errors
    /// When it cannot be known which.
    pub async fn catalog(&self, caller: &Identity) -> Result<CatalogAccess, ApiError> {
        let sees_all = self.allows(caller, &rights::list()).await?;
        Ok(CatalogAccess { gate: self.clone(), shown_to: (!sees_all).then(|| caller.clone()) })
    }

    /// A permit to take a blob without naming the repository it lies in: only for whoever may pull from all of them.
    pub async fn any_repository(&self, caller: &Identity) -> Result<Option<PullAnyAccess>, ApiError> {
        let allowed = self.decide(caller, &rights::pull_everything()).await?;
        Ok(allowed.map(|binding| PullAnyAccess { repositories: self.registry.any_repository(), binding }))
    }

    /// What allows `act`, which takes the right that is `wanted`.
    async fn demand(
        &self,
        asker: Asker<'_>,
        act: Act,
        repository: &RepositoryName,
        wanted: ResourceAttributes<'_>,
    ) -> Result<Arc<str>, ApiError> {
        match self.decide(asker.caller, &wanted).await? {
            Some(binding) => Ok(binding),
            // In a box: what is allowed needs no room for it.
            None => Err(Box::pin(self.denial(asker, act, repository, wanted)).await),
        }
    }

    /// Goes on if something allows `act`, which takes the right that is `wanted`. What allows it is not told.
    async fn require(
        &self,
        asker: Asker<'_>,
        act: Act,
        repository: &RepositoryName,
        wanted: ResourceAttributes<'_>,
    ) -> Result<(), ApiError> {
        if self.allows(asker.caller, &wanted).await? {
            return Ok(());
        }
        Err(Box::pin(self.denial(asker, act, repository, wanted)).await)
    }

    /// The answer to whoever may not, once that is in the audit log.
    async fn denial(
        &self,
        asker: Asker<'_>,
        act: Act,
        repository: &RepositoryName,
        wanted: ResourceAttributes<'_>,
    ) -> ApiError {
        let missing = missing(asker.caller, &wanted);
        // Whoever showed nothing is asked to log in, and has not been told no.
        if !asker.caller.is_anonymous() {
            Witness::of(asker, &self.audit).denied(act, repository, &missing).await;
        }
        ApiError::Denied { act: missing }
    }

    /// What allows this, if anything does.
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Option<Arc<str>>, ApiError> {
        for wanted in rights::in_each_group(wanted) {
            match self.authorizer.decide(caller, &wanted).await {
                Ok(Decision::Allowed(binding)) => return Ok(Some(binding)),
                Ok(Decision::Denied) => {}
                Err(error) => return Err(ApiError::Unavailable(error.into())),
            }
        }
        Ok(None)
    }

    /// Whether anything allows this.
    async fn allows(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Result<bool, ApiError> {
        for wanted in rights::in_each_group(wanted) {
            match self.authorizer.allows(caller, &wanted).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => return Err(ApiError::Unavailable(error.into())),
            }
        }
        Ok(false)
    }

    fn grant(&self, asker: Asker<'_>, binding: Arc<str>) -> Grant {
        Grant { witness: Witness::of(asker, &self.audit), binding }
    }
}

/// What keeps `caller` from what is wanted, in Kubernetes' words.
fn missing(caller: &Identity, wanted: &ResourceAttributes<'_>) -> String {
    format!("User \"{}\" cannot {wanted}", caller.name)
}

impl CatalogAccess {
    /// Lists at most `limit` repositories after the name `after`.
    ///
    /// # Errors
    /// When the store fails, or it cannot be known what the caller may see; [`ApiError::TooManyRequests`] if too many others list.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<CatalogPage, ApiError> {
        let registry = &self.gate.registry;
        let Some(caller) = &self.shown_to else { return Ok(registry.catalog(after, limit).await?) };
        let _turn = self.gate.catalogs.turn(caller).await?;
        let mut shown = CatalogPage::default();
        let mut after = after.map(str::to_owned);
        loop {
            let page = registry.catalog(after.as_deref(), limit.max(CATALOG_LOOK)).await?;
            after = page.repositories.last().map(|last| last.as_str().to_owned());
            let judged = page.repositories.into_iter().map(|repository| async move {
                let may_pull = self.gate.allows(caller, &rights::pull(&repository)).await?;
                Ok::<_, ApiError>(may_pull.then_some(repository))
            });
            let mut judged = pin!(stream::iter(judged).buffered(CATALOG_QUESTIONS));
            while let Some(judged) = judged.try_next().await? {
                let Some(repository) = judged else { continue };
                if shown.repositories.len() == limit {
                    return Ok(CatalogPage { more: true, ..shown });
                }
                shown.repositories.push(repository);
            }
            if !page.more || limit == 0 {
                return Ok(shown);
            }
        }
    }
}

impl Catalogs {
    async fn turn(&self, caller: &Identity) -> Result<SemaphorePermit<'_>, ApiError> {
        let turns = if caller.is_anonymous() { &self.of_nobody } else { &self.of_known };
        let turn = timeout(CATALOG_WAIT, turns.acquire()).await;
        let turn = turn.map_err(|_| ApiError::TooManyRequests { retry_after: CATALOG_WAIT })?;
        turn.map_err(|closed| ApiError::Internal(closed.into()))
    }
}

impl MountAccess {
    /// What allows it.
    pub fn binding(&self) -> &str {
        &self.binding
    }
}

impl PullAnyAccess {
    /// What allows it.
    pub fn binding(&self) -> &str {
        &self.binding
    }
}

impl PushAccess {
    /// Puts into the audit log what was done with the permit: a push, or a mount.
    pub async fn was_used(&self, act: Act, deed: Deed<'_>) {
        self.grant.was_used(act, self.repository(), deed).await;
    }
}

impl DeleteAccess {
    /// Puts into the audit log what was deleted, if it `existed`. Where that is not known because the store failed, it may be gone.
    ///
    /// # Errors
    /// The store's failure.
    pub async fn was_used(
        &self,
        existed: Result<bool, BackendError>,
        deed: Deed<'_>,
    ) -> Result<bool, BackendError> {
        if !matches!(existed, Ok(false)) {
            let deed = Deed { failed: existed.is_err(), ..deed };
            self.grant.was_used(Act::Delete, self.repository(), deed).await;
        }
        existed
    }
}

impl Grant {
    async fn was_used(&self, act: Act, repository: &RepositoryName, deed: Deed<'_>) {
        self.witness.allowed(act, repository, &self.binding, deed).await;
    }
}

impl Deref for PullAccess {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.0
    }
}

impl Deref for MountAccess {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Deref for PullAnyAccess {
    type Target = AnyRepository;

    fn deref(&self) -> &AnyRepository {
        &self.repositories
    }
}

impl Deref for PushAccess {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl Deref for DeleteAccess {
    type Target = Deleter;

    fn deref(&self) -> &Deleter {
        &self.deleter
    }
}
