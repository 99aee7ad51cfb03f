//! What roles and bindings have in common: a policy keeps each under a name, in a namespace or in none.

use std::sync::Arc;

use super::{Binding, Bound, ByName, Policy, Role, Scope};
use crate::PolicyRule;

/// A namespace, if it lies in one, and what it is called there.
pub(crate) type Name = (Option<Arc<str>>, Arc<str>);

/// A role or a binding.
pub(crate) trait Entry: Send + Sized {
    /// What is kept of it.
    type Kept: PartialEq + 'static;

    /// Its name, and what is kept under it.
    fn apart(self) -> (Name, Self::Kept);
    /// All of its kind that lie in `scope`.
    fn all_in(scope: &Scope) -> &ByName<Self::Kept>;
    /// Adds it to `policy`, or changes it there.
    fn put(policy: &mut Policy, name: Name, kept: Self::Kept);
    /// Has `policy` forget it.
    fn remove(policy: &mut Policy, name: &Name);
}

impl Entry for Role {
    type Kept = Box<[PolicyRule]>;

    fn apart(self) -> (Name, Self::Kept) {
        ((self.namespace.map(Arc::from), self.name.into()), self.rules.into())
    }

    fn all_in(scope: &Scope) -> &ByName<Self::Kept> {
        &scope.roles
    }

    fn put(policy: &mut Policy, (namespace, name): Name, rules: Self::Kept) {
        policy.scope_mut(namespace.as_deref()).roles.insert(name, rules);
    }

    fn remove(policy: &mut Policy, (namespace, name): &Name) {
        policy.scope_mut(namespace.as_deref()).roles.remove(name);
        policy.forget_if_empty(namespace.as_deref());
    }
}

/// It is kept under its label.
impl Entry for Binding {
    type Kept = Arc<Bound>;

    fn apart(self) -> (Name, Self::Kept) {
        let namespace = self.namespace.as_deref().map(Arc::from);
        let bound = Bound::from(self);
        ((namespace, Arc::clone(&bound.label)), Arc::new(bound))
    }

    fn all_in(scope: &Scope) -> &ByName<Self::Kept> {
        &scope.bindings
    }

    fn put(policy: &mut Policy, (namespace, _): Name, bound: Self::Kept) {
        policy.add(namespace.as_deref(), bound);
    }

    fn remove(policy: &mut Policy, (namespace, label): &Name) {
        policy.unbind(namespace.as_deref(), label);
        policy.forget_if_empty(namespace.as_deref());
    }
}

impl Policy {
    /// Adds a role or a binding, or changes it.
    pub(crate) fn put<E: Entry>(&mut self, entry: E) {
        let (name, kept) = entry.apart();
        E::put(self, name, kept);
    }

    /// Forgets a role or a binding.
    pub(crate) fn remove<E: Entry>(&mut self, entry: E) {
        let (name, _) = entry.apart();
        E::remove(self, &name);
    }
}
