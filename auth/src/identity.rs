//! Who is asking.

use std::collections::BTreeMap;

use crate::Account;

/// The group of everybody who is somebody, and that of all others.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The name of all others.
const ANONYMOUS: &str = "system:anonymous";

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
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Whoever has this name and is in `groups`, and in those that Kubernetes puts everybody of such a name in.
    pub fn named(name: impl Into<String>, groups: Vec<String>) -> Self {
        let mut identity = Self { name: name.into(), ..Self::default() };
        if identity.name == ANONYMOUS {
            identity.groups.push(UNAUTHENTICATED.to_owned());
        } else if let Some(account) = Account::of(&identity) {
            let of_namespace = format!("system:serviceaccounts:{}", account.namespace());
            identity.groups = vec!["system:serviceaccounts".to_owned(), of_namespace];
        }
        identity.groups.extend(groups);
        identity.join_everybody();
        identity
    }

    /// Adds the group of everybody who is somebody, as the API server does.
    pub(crate) fn join_everybody(&mut self) {
        let is_marked = self.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
        if !is_marked && self.name != ANONYMOUS {
            self.groups.push(AUTHENTICATED.to_owned());
        }
    }

    /// Whether both are the same user, whatever groups they are in.
    pub(crate) fn is_same_user_as(&self, other: &Self) -> bool {
        (&self.name, &self.uid) == (&other.name, &other.uid)
    }

    /// Whether it is nobody in particular, who may become somebody by logging in.
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }
}

/// Whether a name is one that only Kubernetes gives, such as `system:masters` or that of a service account. Files and
/// certificates that are not the cluster's own must not say it of anybody.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("system:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_tells_the_groups_that_go_with_it() {
        for (name, given, groups) in [
            ("alice", vec![], vec!["system:authenticated"]),
            ("alice", vec!["admins"], vec!["admins", "system:authenticated"]),
            ("alice", vec!["system:authenticated"], vec!["system:authenticated"]),
            ("system:anonymous", vec![], vec!["system:unauthenticated"]),
            (
                "system:serviceaccount:team:robot",
                vec!["extra"],
                vec![
                    "system:serviceaccounts",
                    "system:serviceaccounts:team",
                    "extra",
                    "system:authenticated",
                ],
            ),
        ] {
            let given = given.into_iter().map(str::to_owned).collect();
            assert_eq!(Identity::named(name, given).groups, groups, "{name}");
        }
    }
}
