//! All roles or bindings of one reach, replaced by others. What is the same is not touched, so that decisions wait for a moment
//! however many there are.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Entry, Name};
use super::{Policy, Rbac};

/// Where objects lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// In the cluster: `ClusterRole`, `ClusterRoleBinding`.
    Cluster,
    /// In namespaces: `Role`, `RoleBinding`.
    Namespaces,
}

impl Rbac {
    /// From now on there are these roles, or these bindings, of that reach and no others; all of the change is seen, or nothing.
    pub(crate) fn replace_all<E: Entry>(&self, reach: Reach, entries: Vec<E>) {
        let there: HashMap<Name, E::Kept> = entries.into_iter().map(E::apart).collect();
        let (gone, changed) = self.read(|policy| {
            let gone: Vec<Name> = policy.names::<E>(reach).filter(|name| !there.contains_key(name)).collect();
            let is_new = |(name, kept): &(Name, E::Kept)| policy.kept::<E>(name) != Some(kept);
            let changed: Vec<_> = there.into_iter().filter(is_new).collect();
            (gone, changed)
        });
        self.change(|policy| {
            gone.iter().for_each(|name| E::remove(policy, name));
            changed.into_iter().for_each(|(name, kept)| E::put(policy, name, kept));
        });
    }
}

impl Policy {
    fn kept<E: Entry>(&self, (namespace, name): &Name) -> Option<&E::Kept> {
        let scope =
            namespace.as_ref().map_or(Some(&self.cluster), |namespace| self.namespaces.get(namespace));
        E::all_in(scope?).get(name)
    }

    fn names<E: Entry>(&self, reach: Reach) -> impl Iterator<Item = Name> {
        let cluster = (reach == Reach::Cluster).then_some((None, &self.cluster));
        let namespaces = self.namespaces.iter().filter(move |_| reach == Reach::Namespaces);
        let scopes = cluster.into_iter().chain(namespaces.map(|(namespace, scope)| (Some(namespace), scope)));
        scopes.flat_map(|(namespace, scope)| {
            E::all_in(scope).keys().map(move |name| (namespace.cloned(), Arc::clone(name)))
        })
    }
}
