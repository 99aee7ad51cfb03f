//! Client certificates: the name is the user, the organizations are the groups, as Kubernetes reads them.
//!
//! The authorities that the registry trusts for its clients need not be the cluster's own. What only Kubernetes says of somebody
//! (`system:masters`, a node, a service account) is therefore not believed of a certificate: such a group is left out, such a
//! user is refused.

use std::sync::Arc;

use async_trait::async_trait;

use crate::identity::is_reserved;
use crate::{Authenticated, AuthenticationError, Authenticator, Credential, Identity};

/// Knows whom a client certificate names. The TLS handshake has verified its signature and its times.
#[derive(Clone, Copy, Debug)]
pub struct Certificates;

#[async_trait]
impl Authenticator for Certificates {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        let Credential::Certificate { common_name, organizations } = credential else { return Ok(None) };
        if common_name.is_empty() {
            return Err(AuthenticationError::Rejected(
                "the client certificate has no common name".to_owned(),
            ));
        }
        if is_reserved(common_name) {
            let problem = "the client certificate names a user of Kubernetes itself (`system:`)";
            return Err(AuthenticationError::Rejected(problem.to_owned()));
        }
        let groups = organizations.iter().filter(|group| !group.is_empty() && !is_reserved(group));
        let identity =
            Identity { name: common_name.clone(), groups: groups.cloned().collect(), ..Identity::default() };
        Ok(Some(Authenticated::new(Arc::new(identity))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    async fn of(common_name: &str, organizations: &[&str]) -> Result<Identity, String> {
        let organizations = organizations.iter().map(|&group| group.to_owned()).collect();
        let credential = Credential::Certificate { common_name: common_name.to_owned(), organizations };
        match Certificates.identify(&credential).await {
            Ok(known) => Ok((*known.unwrap().identity).clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn a_certificate_says_who_and_of_which_groups() {
        let alice = of("alice", &["developers", "testers"]).await.unwrap();
        assert_eq!(
            (alice.name.as_str(), alice.groups.as_slice()),
            ("alice", ["developers", "testers"].map(str::to_owned).as_slice())
        );
        assert_eq!(alice.uid, None);
        let token = Credential::Token(Secret::new("alice"));
        assert_eq!(Certificates.identify(&token).await.unwrap(), None);
    }

    #[tokio::test]
    async fn nobody_becomes_a_master_a_node_or_an_account_by_a_certificate() {
        let groups = ["system:masters", "kubeadm:cluster-admins", "system:nodes", "", "system:authenticated"];
        assert_eq!(of("kubernetes-admin", &groups).await.unwrap().groups, ["kubeadm:cluster-admins"]);
        for name in
            ["system:node:worker-2", "system:serviceaccount:team:builder", "system:admin", "system:", ""]
        {
            assert!(of(name, &["developers"]).await.is_err(), "{name}");
        }
    }
}
