//! Roles and bindings as they are meant, wherever they were read.

use std::fmt;

use crate::PolicyRule;

/// A `Role`, or a `ClusterRole` whose aggregation has been carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Role {
    /// Where it lies; a `ClusterRole` lies nowhere.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What it allows. A rule about URLs is one without resources: nobody asks a registry about them.
    pub rules: Vec<PolicyRule>,
}

/// A `RoleBinding`, or a `ClusterRoleBinding`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// Where it lies and what it is limited to; a `ClusterRoleBinding` is limited to nothing.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What it grants.
    pub role: RoleRef,
    /// Whom it grants that.
    pub subjects: Vec<Subject>,
}

/// The role that a binding grants. It need not be there: until it is, the binding grants nothing.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RoleRef {
    /// Which of the two.
    pub kind: RoleKind,
    /// The role's name.
    pub name: String,
}

/// Where the role of a binding is looked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RoleKind {
    /// In the namespace of the binding.
    Role,
    /// In the cluster.
    ClusterRole,
}

/// Whom a binding names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The user of exactly this name, who may be a service account.
    User(String),
    /// Everybody in this group.
    Group(String),
    /// A service account.
    ServiceAccount {
        /// Where it lies; unless it says so, where the binding does.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

impl Binding {
    /// What it is called in decisions and messages, such as `RoleBinding team/pullers`.
    pub fn label(&self) -> String {
        label(self.namespace.as_deref(), &self.name)
    }
}

pub(super) fn label(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("RoleBinding {namespace}/{name}"),
        None => format!("ClusterRoleBinding {name}"),
    }
}

impl fmt::Display for RoleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RoleKind::Role => "Role",
            RoleKind::ClusterRole => "ClusterRole",
        };
        write!(formatter, "{kind} {}", self.name)
    }
}
