//! All roles or bindings of one reach, replaced by others. What is the same is not touched, so that decisions wait for a moment
//! however many there are.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Binding, Bound, Policy, Rbac, Role, Scope};

/// Where objects lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// In the cluster: `ClusterRole`, `ClusterRoleBinding`.
    Cluster,
    /// In namespaces: `Role`, `RoleBinding`.
    Namespaces,
}

impl Rbac {
    /// From now on there are these roles of that reach and no others; all of the change is seen, or nothing.
    pub fn replace_roles(&self, reach: Reach, roles: Vec<Role>) {
        let named = |role: &Role| (role.namespace.clone().map(Arc::from), Arc::from(role.name.as_str()));
        let staying: HashSet<Name> = roles.iter().map(named).collect();
        let (gone, changed) = self.read(|policy| {
            let gone = policy.names(reach, |scope| scope.roles.keys(), &staying);
            let changed: Vec<_> = roles.into_iter().filter(|role| !policy.has_role_like(role)).collect();
            (gone, changed)
        });
        self.change(|policy| {
            gone.into_iter().for_each(|(namespace, name)| policy.remove_role(namespace.as_deref(), &name));
            changed.into_iter().for_each(|role| policy.put_role(role));
        });
    }

    /// From now on there are these bindings of that reach and no others; all of the change is seen, or nothing.
    pub fn replace_bindings(&self, reach: Reach, bindings: Vec<Binding>) {
        let bindings: Vec<(Option<Arc<str>>, Bound)> = bindings
            .into_iter()
            .map(|binding| (binding.namespace.clone().map(Arc::from), binding.into()))
            .collect();
        let named =
            |(namespace, bound): &(Option<Arc<str>>, Bound)| (namespace.clone(), Arc::clone(&bound.label));
        let staying: HashSet<Name> = bindings.iter().map(named).collect();
        let (gone, changed) = self.read(|policy| {
            let gone = policy.names(reach, |scope| scope.bindings.keys(), &staying);
            let is_new = |(namespace, bound): &(Option<Arc<str>>, Bound)| {
                !policy.has_binding_like(namespace.as_deref(), bound)
            };
            let changed: Vec<_> = bindings.into_iter().filter(is_new).collect();
            (gone, changed)
        });
        self.change(|policy| {
            for (namespace, label) in gone {
                policy.unbind(namespace.as_deref(), &label);
                policy.forget_if_empty(namespace.as_deref());
            }
            changed.into_iter().for_each(|(namespace, bound)| policy.add(namespace.as_deref(), bound));
        });
    }
}

/// A namespace, and what is called so in it.
type Name = (Option<Arc<str>>, Arc<str>);

impl Policy {
    fn scope(&self, namespace: Option<&str>) -> Option<&Scope> {
        namespace.map_or(Some(&self.cluster), |namespace| self.namespaces.get(namespace))
    }

    fn has_role_like(&self, role: &Role) -> bool {
        let scope = self.scope(role.namespace.as_deref());
        let known = scope.and_then(|scope| scope.roles.get(role.name.as_str()));
        known.is_some_and(|rules| **rules == *role.rules)
    }

    fn has_binding_like(&self, namespace: Option<&str>, bound: &Bound) -> bool {
        let known = self.scope(namespace).and_then(|scope| scope.bindings.get(&bound.label));
        known.is_some_and(|known| **known == *bound)
    }

    /// What is there of that reach and not among those `staying`.
    fn names<'a, I: Iterator<Item = &'a Arc<str>>>(
        &'a self,
        reach: Reach,
        names: impl Fn(&'a Scope) -> I,
        staying: &HashSet<Name>,
    ) -> Vec<Name> {
        let cluster = (reach == Reach::Cluster).then_some((None, &self.cluster));
        let namespaces = self.namespaces.iter().filter(|_| reach == Reach::Namespaces);
        let scopes = cluster.into_iter().chain(namespaces.map(|(namespace, scope)| (Some(namespace), scope)));
        let all = scopes.flat_map(|(namespace, scope)| {
            names(scope).map(move |name| (namespace.cloned(), Arc::clone(name)))
        });
        all.filter(|name| !staying.contains(name)).collect()
    }
}
