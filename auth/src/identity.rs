//! Who is asking.

/// A caller, as Kubernetes names them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The user name, such as `system:serviceaccount:team:builder`.
    pub name: String,
    /// The groups, such as `system:authenticated`.
    pub groups: Vec<String>,
}

impl Identity {
    /// Whoever shows no credential.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }
}
