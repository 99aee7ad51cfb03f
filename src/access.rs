//! The one bridge between who may and what is kept: a permit for each kind of act, which nothing else can make.
//!
//! A repository `<namespace>/<image>` is the image stream of that name in that namespace, as in OpenShift's registry. To pull is to
//! `get` its `layers`, to push to `get` and `update` them. A name of one component lies in no namespace: it takes a cluster-wide right.
//!
//! A right on image streams may be given in the group `image.openshift.io` or in the core group, where they once were: OpenShift's own
//! roles name both. A `SubjectAccessReview` asks about one group, so the second is asked about when the first says no.

pub mod rights;

use std::ops::Deref;
use std::sync::Arc;

use auth::{Authorizer, Decision, Identity, ResourceAttributes};
use storage::{AnyRepository, CatalogPage, Deleter, Reader, Registry, RepositoryName, Tag, Writer};

use crate::api::error::ApiError;

/// How many repositories are looked at together where not all are shown.
const CATALOG_LOOK: usize = 1000;

/// Where permits are made. The registry behind it is reached in no other way.
#[derive(Clone, Debug)]
pub struct Gate {
    authorizer: Arc<dyn Authorizer>,
    registry: Registry,
}

/// May read one repository.
#[derive(Debug)]
pub struct PullAccess(Reader);

/// May add to one repository.
#[derive(Debug)]
pub struct PushAccess(Writer);

/// May remove from one repository.
#[derive(Debug)]
pub struct DeleteAccess(Deleter);

/// May list repositories: all, or those that the caller may pull.
#[derive(Debug)]
pub struct CatalogAccess {
    gate: Gate,
    /// Whose rights decide which are shown; none if all are.
    shown_to: Option<Identity>,
}

impl Gate {
    /// A gate to `registry` at which `authorizer` decides.
    pub fn new(authorizer: Arc<dyn Authorizer>, registry: Registry) -> Self {
        Self { authorizer, registry }
    }

    /// A permit to pull from `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if `caller` may not, whether or not there is such a repository.
    pub async fn pull(&self, caller: &Identity, repository: RepositoryName) -> Result<PullAccess, ApiError> {
        self.demand(caller, rights::pull(&repository)).await?;
        Ok(PullAccess(self.registry.reader(repository)))
    }

    /// A permit to push to `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if `caller` may not, whether or not there is such a repository.
    pub async fn push(&self, caller: &Identity, repository: RepositoryName) -> Result<PushAccess, ApiError> {
        for right in rights::push(&repository) {
            self.demand(caller, right).await?;
        }
        Ok(PushAccess(self.registry.writer(repository)))
    }

    /// A permit to delete blobs and manifests of `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if `caller` may neither delete the image stream nor, as OpenShift's pruner, all images.
    pub async fn delete(
        &self,
        caller: &Identity,
        repository: RepositoryName,
    ) -> Result<DeleteAccess, ApiError> {
        let [stream, images] = rights::delete(&repository);
        if !self.allows(caller, images).await? {
            self.demand(caller, stream).await?;
        }
        Ok(DeleteAccess(self.registry.deleter(repository)))
    }

    /// A permit to delete the tag `tag` of `repository`.
    ///
    /// # Errors
    /// [`ApiError::Denied`] if `caller` may not delete the image stream tag.
    pub async fn delete_tag(
        &self,
        caller: &Identity,
        repository: RepositoryName,
        tag: &Tag,
    ) -> Result<DeleteAccess, ApiError> {
        let name = rights::tag_name(&repository, tag);
        self.demand(caller, rights::delete_tag(&repository, &name)).await?;
        Ok(DeleteAccess(self.registry.deleter(repository)))
    }

    /// A permit to list repositories: all of them with OpenShift's right to, and otherwise those that `caller` may pull.
    ///
    /// # Errors
    /// When it cannot be known which.
    pub async fn catalog(&self, caller: &Identity) -> Result<CatalogAccess, ApiError> {
        let sees_all = self.allows(caller, rights::list()).await?;
        Ok(CatalogAccess { gate: self.clone(), shown_to: (!sees_all).then(|| caller.clone()) })
    }

    /// A permit to take a blob without naming the repository it lies in: only for whoever may pull from all of them.
    pub async fn any_repository(&self, caller: &Identity) -> Result<Option<AnyRepository>, ApiError> {
        let allowed = self.allows(caller, rights::pull_everything()).await?;
        Ok(allowed.then(|| self.registry.any_repository()))
    }

    async fn demand(&self, caller: &Identity, wanted: ResourceAttributes<'_>) -> Result<(), ApiError> {
        if self.allows(caller, wanted).await? {
            return Ok(());
        }
        Err(ApiError::Denied { act: format!("User \"{}\" cannot {wanted}", caller.name) })
    }

    async fn allows(&self, caller: &Identity, wanted: ResourceAttributes<'_>) -> Result<bool, ApiError> {
        for wanted in rights::in_each_group(wanted) {
            match self.authorizer.decide(caller, &wanted).await {
                Ok(Decision::Allowed(_)) => return Ok(true),
                Ok(Decision::Denied) => {}
                Err(error) => return Err(ApiError::Unavailable(error.into())),
            }
        }
        Ok(false)
    }
}

impl CatalogAccess {
    /// Lists at most `limit` repositories after the name `after`.
    ///
    /// # Errors
    /// When the store fails, or it cannot be known what the caller may see.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<CatalogPage, ApiError> {
        let registry = &self.gate.registry;
        let Some(caller) = &self.shown_to else { return Ok(registry.catalog(after, limit).await?) };
        let mut shown = CatalogPage::default();
        let mut after = after.map(str::to_owned);
        loop {
            let page = registry.catalog(after.as_deref(), limit.max(CATALOG_LOOK)).await?;
            for repository in page.repositories {
                after = Some(repository.as_str().to_owned());
                if !self.gate.allows(caller, rights::pull(&repository)).await? {
                    continue;
                }
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

impl Deref for PullAccess {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.0
    }
}

impl Deref for PushAccess {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.0
    }
}

impl Deref for DeleteAccess {
    type Target = Deleter;

    fn deref(&self) -> &Deleter {
        &self.0
    }
}
