//! Role-based access control, decided here instead of by the API server, with the same answers.
//!
//! All grants add up and nothing denies, so that any order of evaluation gives the same answer. An act in a namespace is
//! allowed by the bindings of the cluster and of that namespace, any other act by those of the cluster alone.
//!
//! The group `system:masters` means nothing by itself. The API server lets it do everything before it looks at any
//! binding; here it may do what a binding says, such as the `cluster-admin` that every cluster has. So an identity that
//! wrongly carries the group, from a tokens file or a certificate's `O`, gains nothing that no binding gives it.

mod entry;
mod explanation;
mod objects;
mod replacement;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use crossbeam_utils::sync::ShardedLock;
use smallvec::SmallVec;

pub use explanation::{Explanation, Grant, Lack, OneLine, Remedy, Shortfall};
pub use objects::{Binding, Role, RoleKind, RoleRef, Subject};

pub(crate) use entry::Entry;
pub(crate) use replacement::Reach;

use crate::{AuthError, Authorizer, Decision, Identity, PolicyRule, ResourceAttributes};

/// Decides by a [`Policy`] that may change at any time. Each decision sees one state of it.
///
/// Every request reads it on every thread, and it seldom changes: threads lock it each by a word of its own, as one that all write
/// would go from CPU to CPU.
#[derive(Debug, Default)]
pub struct Rbac(ShardedLock<Policy>);

impl Rbac {
    /// Decides by `policy` until it is changed.
    pub fn new(policy: Policy) -> Self {
        Self(ShardedLock::new(policy))
    }

    /// Decides by `policy` from now on.
    pub fn replace(&self, policy: Policy) {
        // What was there is dropped after the lock is, since that takes a while.
        let _old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), policy);
    }

    /// Changes the policy in place; decisions wait meanwhile, and see all of the change or nothing.
    pub fn change(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Looks at the policy.
    pub fn read<T>(&self, look: impl FnOnce(&Policy) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Decision, AuthError> {
        Ok(self.read(|policy| policy.decide(caller, wanted)))
    }

    async fn allows(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Result<bool, AuthError> {
        Ok(self.read(|policy| policy.allows(caller, wanted)))
    }
}

/// All roles and bindings, found by whom they name. Each object can be put and removed by itself, in any order.
#[derive(Debug, Default)]
pub struct Policy {
    cluster: Scope,
    namespaces: ByName<Scope>,
    /// What bindings grant. There are many bindings and few roles: in one place they are at hand.
    granted: HashSet<Arc<RoleRef>>,
}

/// Looked up for each request. This hasher is quicker than the standard library's, and no defence against somebody who may name
/// objects and knows the seed it drew when the process began; nothing that the registry says tells them.
type ByName<T> = HashMap<Arc<str>, T, foldhash::fast::RandomState>;

/// What lies in one namespace, or in none.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    roles: ByName<Box<[PolicyRule]>>,
    /// By their label.
    bindings: ByName<Arc<Bound>>,
    users: ByName<Mentions>,
    groups: ByName<Mentions>,
}

/// The bindings that name somebody: mostly one.
type Mentions = SmallVec<[Mention; 1]>;

/// A binding that names somebody, and what it grants, so that a decision need not go on to the binding.
#[derive(Debug)]
struct Mention {
    role: Arc<RoleRef>,
    bound: Arc<Bound>,
}

/// A binding, ready to be found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Bound {
    /// What a decision calls it, such as `RoleBinding team/pullers`.
    label: Arc<str>,
    role: Arc<RoleRef>,
    subjects: Box<[Holder]>,
}

/// Whom a binding names: a service account is the user of that name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holder {
    User(Arc<str>),
    Group(Arc<str>),
}

/// A binding that names a caller, and the name that it knows them by.
#[derive(Clone, Copy, Debug)]
struct Naming<'a> {
    mention: &'a Mention,
    /// Where its `Role` is looked for; a `ClusterRoleBinding` to a `Role` finds none.
    roles: Option<&'a Scope>,
    group: Option<&'a str>,
}

impl Policy {
    /// A policy of these objects; the last of two that have the same name counts.
    pub fn new(roles: impl IntoIterator<Item = Role>, bindings: impl IntoIterator<Item = Binding>) -> Self {
        let mut policy = Self::default();
        roles.into_iter().for_each(|role| policy.put_role(role));
        bindings.into_iter().for_each(|binding| policy.put_binding(binding));
        policy
    }

    /// Decides about one act of one caller.
    pub fn decide(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Decision {
        let allowing = self.find_allowing(caller, wanted);
        allowing.map_or(Decision::Denied, |bound| Decision::Allowed(Arc::clone(&bound.label)))
    }

    /// Tells whether a caller may do something. Unlike [`Policy::decide`] it writes to no memory that other threads use: each label
    /// has a count of those who hold it.
    pub fn allows(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> bool {
        self.find_allowing(caller, wanted).is_some()
    }

    /// Adds a role, or changes it.
    pub fn put_role(&mut self, role: Role) {
        self.put(role);
    }

    /// Adds a binding, or changes it.
    pub fn put_binding(&mut self, binding: Binding) {
        self.put(binding);
    }

    fn add(&mut self, namespace: Option<&str>, mut bound: Arc<Bound>) {
        self.unbind(namespace, &bound.label);
        let role = self.shared(&bound.role);
        Arc::make_mut(&mut bound).role = Arc::clone(&role);
        let scope = self.scope_mut(namespace);
        for subject in &bound.subjects {
            scope.named_by(subject).push(Mention { role: Arc::clone(&role), bound: Arc::clone(&bound) });
        }
        scope.bindings.insert(Arc::clone(&bound.label), bound);
    }

    /// The reference to that role that all bindings share.
    fn shared(&mut self, role: &Arc<RoleRef>) -> Arc<RoleRef> {
        if let Some(granted) = self.granted.get(role) {
            return Arc::clone(granted);
        }
        self.granted.insert(Arc::clone(role));
        Arc::clone(role)
    }

    /// The scope may be empty afterwards.
    fn unbind(&mut self, namespace: Option<&str>, label: &str) {
        let scope = self.scope_mut(namespace);
        let Some(bound) = scope.bindings.remove(label) else { return };
        for subject in &bound.subjects {
            let bindings = scope.named_by(subject);
            bindings.retain(|mention| !Arc::ptr_eq(&mention.bound, &bound));
            if bindings.is_empty() {
                match subject {
                    Holder::User(name) => scope.users.remove(name),
                    Holder::Group(name) => scope.groups.remove(name),
                };
            }
        }
        // What names somebody is gone, so that nobody holds it any more than this binding and `granted`.
        if Arc::strong_count(&bound.role) == 2 {
            self.granted.remove(&bound.role);
        }
    }

    fn scope_mut(&mut self, namespace: Option<&str>) -> &mut Scope {
        match namespace {
            None => &mut self.cluster,
            Some(namespace) => self.namespaces.entry(namespace.into()).or_default(),
        }
    }

    fn forget_if_empty(&mut self, namespace: Option<&str>) {
        if let Some(namespace) = namespace
            && self.namespaces.get(namespace).is_some_and(Scope::is_empty)
        {
            self.namespaces.remove(namespace);
        }
    }

    /// Tells whether there is a role for a binding in `namespace` to grant.
    pub(crate) fn has_role(&self, namespace: Option<&str>, role: &RoleRef) -> bool {
        let scope = match (role.kind, namespace) {
            (RoleKind::ClusterRole, _) => Some(&self.cluster),
            (RoleKind::Role, namespace) => namespace.and_then(|namespace| self.namespaces.get(namespace)),
        };
        scope.is_some_and(|scope| scope.roles.contains_key(role.name.as_str()))
    }

    /// Looks at the bindings that name `caller` and count in `namespace`, those of the cluster first, and finds something in one of
    /// them.
    fn find_naming<'a, T>(
        &'a self,
        caller: &'a Identity,
        namespace: &str,
        mut find: impl FnMut(Naming<'a>) -> Option<T>,
    ) -> Option<T> {
        let mut find_in = |scope: &'a Scope, roles| {
            scope.find_naming(caller, |mention, group| find(Naming { mention, roles, group }))
        };
        find_in(&self.cluster, None).or_else(|| {
            // What concerns no namespace is granted for the whole cluster or not at all.
            let local = self.namespaces.get(namespace).filter(|_| !namespace.is_empty())?;
            find_in(local, Some(local))
        })
    }

    /// The first binding that allows an act.
    fn find_allowing<'a>(
        &'a self,
        caller: &'a Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Option<&'a Bound> {
        self.find_naming(caller, wanted.namespace, |naming| {
            let mut rules = self.rules(&naming)?.iter();
            rules.any(|rule| rule.allows(wanted)).then_some(&*naming.mention.bound)
        })
    }

    /// What the binding grants, if its role is there.
    fn rules<'a>(&'a self, naming: &Naming<'a>) -> Option<&'a [PolicyRule]> {
        let role = &naming.mention.role;
        let roles = match role.kind {
            RoleKind::ClusterRole => &self.cluster.roles,
            RoleKind::Role => &naming.roles?.roles,
        };
        roles.get(role.name.as_str()).map(|rules| &**rules)
    }
}

impl Scope {
    /// Finds something in a binding that names `caller`, as the user or by a group.
    fn find_naming<'a, T>(
        &'a self,
        caller: &'a Identity,
        mut find: impl FnMut(&'a Mention, Option<&'a str>) -> Option<T>,
    ) -> Option<T> {
        let of_user = self.users.get(caller.name.as_str());
        of_user.into_iter().flatten().find_map(|mention| find(mention, None)).or_else(|| {
            caller.groups.iter().find_map(|group| {
                self.groups.get(group.as_str())?.iter().find_map(|mention| find(mention, Some(group)))
            })
        })
    }

    fn named_by(&mut self, subject: &Holder) -> &mut Mentions {
        match subject {
            Holder::User(name) => self.users.entry(Arc::clone(name)).or_default(),
            Holder::Group(name) => self.groups.entry(Arc::clone(name)).or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.bindings.is_empty()
    }
}

impl From<Binding> for Bound {
    fn from(binding: Binding) -> Self {
        let label = binding.label().into();
        let namespace = binding.namespace.as_deref();
        let mut subjects: Vec<Holder> = Vec::with_capacity(binding.subjects.len());
        for subject in binding.subjects {
            subjects.extend(match subject {
                Subject::User(name) => Some(Holder::User(name.into())),
                Subject::Group(name) => Some(Holder::Group(name.into())),
                // One that lies nowhere is nobody.
                Subject::ServiceAccount { namespace: own, name } => own
                    .as_deref()
                    .filter(|own| !own.is_empty())
                    .or(namespace)
                    .map(|namespace| Holder::User(service_account(namespace, &name).into())),
            });
        }
        subjects.sort_unstable();
        subjects.dedup();
        Self { label, role: Arc::new(binding.role), subjects: subjects.into() }
    }
}

fn service_account(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

#[cfg(test)]
mod tests;
