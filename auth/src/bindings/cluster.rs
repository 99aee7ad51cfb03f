//! The roles and bindings that a cluster has, watched.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use k8s_openapi::api::rbac::v1 as objects;
use kube::api::{ListParams, ObjectMeta, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::cluster::{About, Cluster, ClusterError, Listener, Lost};
use crate::rbac::{Binding, Entry, Rbac, Reach, Role, RoleKind, RoleRef, Subject};
use crate::{
    AccessReviews, AuthError, Authorizer, Decision, Identity, NoRandomness, PolicyRule, ResourceAttributes,
    Upkeep,
};

/// What the authority says besides of a caller whose token is restricted, as OpenShift's may be. No binding knows of that.
const SCOPES: &str = "scopes.authorization.openshift.io";

/// How long reading everything once may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Decides by the roles and bindings of a cluster, as far as its word counts. About callers whose token is restricted to some
/// acts the cluster itself is asked.
#[derive(Debug)]
pub struct WatchedBindings {
    cluster: Cluster,
    rbac: Arc<Rbac>,
    reviews: AccessReviews,
}

/// Why the roles and bindings of a cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The account that asks lacks a right.
    #[error(
        "this account may not list and watch {0} (deploy/rbac/registry.yaml has the rights that it takes)"
    )]
    Forbidden(&'static str, #[source] ClusterError),
    /// The API server does not tell them.
    #[error("{0} cannot be read")]
    Untold(&'static str, #[source] ClusterError),
    /// It began to, and did not come to the end.
    #[error(transparent)]
    Unfinished(#[from] Lost),
}

impl WatchedBindings {
    /// The bindings of `cluster`, and what keeps them current.
    ///
    /// # Errors
    /// Without randomness.
    pub fn watch(cluster: &Cluster) -> Result<(Self, Vec<Upkeep>), NoRandomness> {
        let reviews = AccessReviews::new(cluster.clone())?;
        let rbac = Arc::new(Rbac::default());
        let upkeep = Self::follow(cluster, &rbac);
        Ok((Self { cluster: cluster.clone(), rbac, reviews }, upkeep))
    }

    /// Keeps `rbac` what the cluster has.
    fn follow(cluster: &Cluster, rbac: &Arc<Rbac>) -> Vec<Upkeep> {
        vec![
            follow::<objects::ClusterRole>(cluster, rbac),
            follow::<objects::Role>(cluster, rbac),
            follow::<objects::ClusterRoleBinding>(cluster, rbac),
            follow::<objects::RoleBinding>(cluster, rbac),
        ]
    }

    /// Who decides about what `caller` wants.
    fn decider(&self, caller: &Identity) -> Result<&dyn Authorizer, AuthError> {
        if is_restricted(caller) {
            return Ok(&self.reviews);
        }
        self.cluster.ensure_known().map_err(|lost| AuthError::Unavailable(lost.into()))?;
        Ok(&*self.rbac)
    }

    /// Decides by the roles and bindings that `cluster` has now.
    ///
    /// # Errors
    /// [`ReadError`]: at once if they may not be read or nobody answers, and after half a minute if that takes longer.
    pub async fn read(cluster: &Cluster) -> Result<Arc<Rbac>, ReadError> {
        // A watch tries again for ever, and only the log hears why. Whoever waits for an answer wants to know it.
        try_to_follow::<objects::ClusterRole>(cluster).await?;
        try_to_follow::<objects::Role>(cluster).await?;
        try_to_follow::<objects::ClusterRoleBinding>(cluster).await?;
        try_to_follow::<objects::RoleBinding>(cluster).await?;
        let rbac = Arc::new(Rbac::default());
        let upkeep = Self::follow(cluster, &rbac);
        let all_read = async {
            while cluster.ensure_known().is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = join_all(upkeep.iter().map(Upkeep::begin)) => {}
            () = all_read => {}
            () = tokio::time::sleep(READ_TIMEOUT) => {}
        }
        cluster.ensure_known()?;
        Ok(rbac)
    }
}

#[async_trait]
impl Authorizer for WatchedBindings {
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Decision, AuthError> {
        self.decider(caller)?.decide(caller, wanted).await
    }

    async fn allows(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Result<bool, AuthError> {
        self.decider(caller)?.allows(caller, wanted).await
    }
}

/// Whether the token that somebody showed is restricted to some acts, so that bindings say too much.
pub fn is_restricted(caller: &Identity) -> bool {
    caller.extra.contains_key(SCOPES)
}

/// Watches all objects of one kind.
fn follow<K: Kind>(cluster: &Cluster, rbac: &Arc<Rbac>) -> Upkeep {
    cluster.watch(K::NAME, Heard::<K>(Arc::clone(rbac), PhantomData))
}

/// Finds out whether all objects of one kind may be listed and watched, and can be.
async fn try_to_follow<K: Kind>(cluster: &Cluster) -> Result<(), ReadError> {
    begin_to_follow::<K>(cluster).await.map_err(|error| match error {
        error @ ClusterError::Refused { code: 403, .. } => ReadError::Forbidden(K::NAME, error),
        error => ReadError::Untold(K::NAME, error),
    })
}

/// Lists one, and begins to watch all from there on, so that nothing is told a second time.
async fn begin_to_follow<K: Kind>(cluster: &Cluster) -> Result<(), ClusterError> {
    let api: Api<K> = Api::all(cluster.client());
    let (page, watching) = (ListParams::default().limit(1), WatchParams::default().timeout(1));
    let one = cluster.ask(About::Somebody, || api.list(&page)).await?;
    let version = one.metadata.resource_version.unwrap_or_default();
    cluster.ask(About::Somebody, || api.watch(&watching, &version)).await.map(drop)
}

/// A kind of object of role-based access control.
trait Kind: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + Send + 'static {
    /// What it means.
    type Meaning: Entry + From<Self>;
    /// What messages call all of them.
    const NAME: &'static str;
    const REACH: Reach;
}

impl Kind for objects::ClusterRole {
    type Meaning = Role;
    const NAME: &'static str = "cluster roles";
    const REACH: Reach = Reach::Cluster;
}

impl Kind for objects::Role {
    type Meaning = Role;
    const NAME: &'static str = "roles";
    const REACH: Reach = Reach::Namespaces;
}

impl Kind for objects::ClusterRoleBinding {
    type Meaning = Binding;
    const NAME: &'static str = "cluster role bindings";
    const REACH: Reach = Reach::Cluster;
}

impl Kind for objects::RoleBinding {
    type Meaning = Binding;
    const NAME: &'static str = "role bindings";
    const REACH: Reach = Reach::Namespaces;
}

/// Puts what is heard of one kind into the policy.
#[derive(Clone)]
struct Heard<K>(Arc<Rbac>, PhantomData<fn(K)>);

impl<K: Kind> Listener for Heard<K> {
    type Object = K;
    type Item = K::Meaning;

    fn read(object: K) -> K::Meaning {
        object.into()
    }

    fn all(&mut self, items: Vec<K::Meaning>) {
        self.0.replace_all(K::REACH, items);
    }

    fn put(&mut self, item: K::Meaning) {
        self.0.change(|policy| policy.put(item));
    }

    fn remove(&mut self, item: K::Meaning) {
        self.0.change(|policy| policy.remove(item));
    }
}

impl From<objects::ClusterRole> for Role {
    /// The rules of an aggregated role have been written by the cluster.
    fn from(role: objects::ClusterRole) -> Self {
        Self { namespace: None, name: name(role.metadata), rules: rules(role.rules) }
    }
}

impl From<objects::Role> for Role {
    fn from(role: objects::Role) -> Self {
        let namespace = Some(namespace(&role.metadata));
        Self { namespace, name: name(role.metadata), rules: rules(role.rules) }
    }
}

impl From<objects::ClusterRoleBinding> for Binding {
    fn from(binding: objects::ClusterRoleBinding) -> Self {
        Self::of(None, name(binding.metadata), binding.role_ref, binding.subjects)
    }
}

impl From<objects::RoleBinding> for Binding {
    fn from(binding: objects::RoleBinding) -> Self {
        let namespace = Some(namespace(&binding.metadata));
        Self::of(namespace, name(binding.metadata), binding.role_ref, binding.subjects)
    }
}

impl Binding {
    fn of(
        namespace: Option<String>,
        name: String,
        role: objects::RoleRef,
        subjects: Option<Vec<objects::Subject>>,
    ) -> Self {
        let kind = match role.kind.as_str() {
            "Role" => Some(RoleKind::Role),
            "ClusterRole" => Some(RoleKind::ClusterRole),
            _ => None,
        };
        // What binds something else than a role grants nothing, like what binds it to nobody.
        let subjects = subjects.filter(|_| kind.is_some()).into_iter().flatten().filter_map(|subject| {
            match subject.kind.as_str() {
                "User" => Some(Subject::User(subject.name)),
                "Group" => Some(Subject::Group(subject.name)),
                "ServiceAccount" => {
                    Some(Subject::ServiceAccount { namespace: subject.namespace, name: subject.name })
                }
                _ => None,
            }
        });
        let role = RoleRef { kind: kind.unwrap_or(RoleKind::ClusterRole), name: role.name };
        Self { namespace, name, role, subjects: subjects.collect() }
    }
}

/// One without a namespace, which no API server tells of, must not count in all of them: so it counts in none.
fn namespace(metadata: &ObjectMeta) -> String {
    metadata.namespace.clone().unwrap_or_default()
}

fn name(metadata: ObjectMeta) -> String {
    metadata.name.unwrap_or_default()
}

/// A rule about URLs is one without resources: nobody asks a registry about them.
fn rules(rules: Option<Vec<objects::PolicyRule>>) -> Vec<PolicyRule> {
    let list = Option::unwrap_or_default;
    let rules = rules.into_iter().flatten().map(|rule| PolicyRule {
        verbs: rule.verbs,
        api_groups: list(rule.api_groups),
        resources: list(rule.resources),
        resource_names: list(rule.resource_names),
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::Policy;

    #[test]
    fn a_role_binding_without_a_namespace_counts_nowhere() {
        let binding = serde_json::json!({
            "metadata": { "name": "pullers" },
            "subjects": [{ "kind": "User", "name": "ann" }],
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "puller" },
        });
        let rule = PolicyRule {
            verbs: vec!["get".to_owned()],
            api_groups: vec!["".to_owned()],
            resources: vec!["imagestreams/layers".to_owned()],
            resource_names: Vec::new(),
        };
        let role = Role { namespace: None, name: "puller".to_owned(), rules: vec![rule] };
        let ann = Identity { name: "ann".to_owned(), ..Identity::default() };
        let may = |binding: Binding, namespace| {
            let (verb, resource, subresource) = ("get", "imagestreams", "layers");
            let wanted =
                ResourceAttributes { verb, group: "", resource, subresource, namespace, name: "app" };
            Policy::new([role.clone()], [binding]).decide(&ann, &wanted) != Decision::Denied
        };
        let lost: objects::RoleBinding = serde_json::from_value(binding.clone()).unwrap();
        let everywhere: objects::ClusterRoleBinding = serde_json::from_value(binding).unwrap();
        for namespace in ["", "team", "default"] {
            assert!(!may(lost.clone().into(), namespace), "{namespace:?}");
            assert!(may(everywhere.clone().into(), namespace), "{namespace:?}");
        }
    }

    #[test]
    fn a_role_that_opens_urls_too_is_not_advised() {
        let images = serde_json::json!({
            "apiGroups": ["image.openshift.io"], "resources": ["images"], "verbs": ["list"],
        });
        let urls = serde_json::json!({ "nonResourceURLs": ["/metrics"], "verbs": ["get"] });
        let (verb, group, resource) = ("list", "image.openshift.io", "images");
        let wanted = ResourceAttributes { verb, group, resource, subresource: "", namespace: "", name: "" };
        let is_advised = |rules: &[&serde_json::Value]| {
            let role = serde_json::json!({ "metadata": { "name": "lister" }, "rules": rules });
            let role: objects::ClusterRole = serde_json::from_value(role).unwrap();
            Policy::new([role.into()], []).remedy(&Identity::default(), &[wanted]).is_some()
        };
        assert!(is_advised(&[&images]));
        assert!(!is_advised(&[&images, &urls]));
    }
}
