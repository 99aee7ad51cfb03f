//! The service accounts that a cluster has, by their names and uids.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::core::PartialObjectMeta;

use super::{Account, Accounts, Standing};
use crate::Upkeep;
use crate::cluster::{Cluster, Contact, Listener};

/// Which service accounts there are, as far as the cluster's word counts.
#[derive(Debug)]
pub struct WatchedAccounts {
    cluster: Cluster,
    uids: Arc<RwLock<Uids>>,
}

/// The uid of each account, by namespace and name as one text.
type Uids = HashMap<Box<str>, Box<str>>;

impl WatchedAccounts {
    /// The accounts of `cluster`, and what keeps them current.
    pub fn watch(cluster: &Cluster) -> (Self, Upkeep) {
        let uids = Arc::default();
        let upkeep = cluster.watch("service accounts", Heard(Arc::clone(&uids)));
        (Self { cluster: cluster.clone(), uids }, upkeep)
    }
}

impl Accounts for WatchedAccounts {
    fn standing(&self, account: &Account<'_>) -> Standing {
        if let Contact::Lost(_) = self.cluster.contact() {
            return Standing::Unknown;
        }
        let uids = self.uids.read().unwrap_or_else(PoisonError::into_inner);
        match uids.get(key(account.namespace, account.name).as_str()) {
            Some(uid) if **uid == *account.uid => Standing::Current,
            Some(_) => Standing::Gone,
            // It may have come since.
            None if self.cluster.contact() != Contact::Current => Standing::Unknown,
            None => Standing::Gone,
        }
    }
}

#[derive(Clone)]
struct Heard(Arc<RwLock<Uids>>);

impl Heard {
    fn change<T>(&self, change: impl FnOnce(&mut Uids) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Listener for Heard {
    type Object = PartialObjectMeta<ServiceAccount>;
    type Item = (Box<str>, Box<str>);

    fn read(object: Self::Object) -> Self::Item {
        let text = |text: Option<String>| text.unwrap_or_default();
        let metadata = object.metadata;
        (key(&text(metadata.namespace), &text(metadata.name)).into(), text(metadata.uid).into())
    }

    fn all(&mut self, items: Vec<Self::Item>) {
        let all = items.into_iter().collect();
        // What was there is dropped after the lock is.
        let _old = self.change(|uids| std::mem::replace(uids, all));
    }

    fn put(&mut self, (name, uid): Self::Item) {
        self.change(|uids| uids.insert(name, uid));
    }

    fn remove(&mut self, (name, _): Self::Item) {
        self.change(|uids| uids.remove(&name));
    }
}

/// Neither part has a slash.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
