//! Who is asking.

use std::collections::BTreeMap;

/// A caller, as Kubernetes names them: what a `TokenReview` answers and a `SubjectAccessReview` takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The user name, such as `system:serviceaccount:team:builder`.
    pub name: String,
    /// What tells this user from an earlier one of the same name, where the authority knows it.
    pub uid: Option<String>,
    /// The groups, such as `system:authenticated`.
    pub groups: Vec<String>,
    /// What else the authority says of them, such as the scopes of an OpenShift token.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Whoever shows no credential.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    /// Whether it is nobody in particular, who may become somebody by logging in.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }
}

const ANONYMOUS: &str = "system:anonymous";

/// Whether a name is one that only Kubernetes gives, such as `system:masters` or that of a service account. Files and
/// certificates that are not the cluster's own must not say it of anybody.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("system:")
}
