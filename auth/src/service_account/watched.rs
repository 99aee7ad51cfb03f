//! The service accounts that a cluster has, by their names and uids.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use crossbeam_utils::sync::ShardedLock;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::core::PartialObjectMeta;
use quick_cache::sync::Cache;

use super::{Account, Accounts, Standing};
use crate::Upkeep;
use crate::cluster::{Cluster, Contact, Listener};

/// How many accounts that went are remembered. Of others the API server has to be asked.
const REMEMBERED_GONE: usize = 10_000;

/// Which service accounts there are, as far as the cluster's word counts.
#[derive(Debug)]
pub struct WatchedAccounts {
    cluster: Cluster,
    heard: Arc<Heard>,
}

#[derive(Debug)]
struct Heard {
    uids: ShardedLock<Uids>,
    /// The uids of accounts that went. None comes back; and the API server itself may take some seconds to forget their tokens.
    gone: Cache<Box<str>, ()>,
}

/// The uid of each account, by its full name.
type Uids = HashMap<Box<str>, Box<str>>;

impl WatchedAccounts {
    /// The accounts of `cluster`, and what keeps them current.
    pub fn watch(cluster: &Cluster) -> (Self, Upkeep) {
        let heard = Arc::new(Heard { uids: ShardedLock::default(), gone: Cache::new(REMEMBERED_GONE) });
        let upkeep = cluster.watch("service accounts", Hearing(Arc::clone(&heard)));
        (Self { cluster: cluster.clone(), heard }, upkeep)
    }
}

impl Accounts for WatchedAccounts {
    fn standing(&self, account: &Account<'_>) -> Standing {
        let is_there = self.heard.is_there(account);
        if !is_there && self.heard.went(account) {
            return Standing::Gone;
        }
        match self.cluster.contact() {
            Contact::Current | Contact::Silent(_) if is_there => Standing::Current,
            Contact::Current => Standing::Unheard,
            // It may have come since somebody was heard of, or made again.
            Contact::Silent(_) | Contact::Lost(_) => Standing::Unknown,
        }
    }

    fn is_gone(&self, account: &Account<'_>) -> bool {
        !self.heard.is_there(account) && self.heard.went(account)
    }
}

impl Heard {
    fn is_there(&self, account: &Account<'_>) -> bool {
        let uids = self.uids.read().unwrap_or_else(PoisonError::into_inner);
        uids.get(account.full_name).is_some_and(|uid| **uid == *account.uid)
    }

    fn went(&self, account: &Account<'_>) -> bool {
        self.gone.get(account.uid).is_some()
    }
}

/// Hears which accounts there are. What goes is noted before it is forgotten, so that it is unheard of at no moment.
#[derive(Clone)]
struct Hearing(Arc<Heard>);

impl Hearing {
    fn look<T>(&self, look: impl FnOnce(&Uids) -> T) -> T {
        look(&self.0.uids.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Uids) -> T) -> T {
        change(&mut self.0.uids.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_gone(&self, uids: impl IntoIterator<Item = Box<str>>) {
        uids.into_iter().for_each(|uid| self.0.gone.insert(uid, ()));
    }
}

impl Listener for Hearing {
    type Object = PartialObjectMeta<ServiceAccount>;
    type Item = (Box<str>, Box<str>);

    fn read(object: Self::Object) -> Self::Item {
        let text = |text: Option<String>| text.unwrap_or_default();
        let metadata = object.metadata;
        let full_name = format!("{}:{}", text(metadata.namespace), text(metadata.name));
        (full_name.into(), text(metadata.uid).into())
    }

    fn all(&mut self, items: Vec<Self::Item>) {
        let all: Uids = items.into_iter().collect();
        let gone: Vec<Box<str>> = self.look(|uids| {
            let gone = uids.iter().filter(|(name, uid)| all.get(*name) != Some(*uid));
            gone.map(|(_, uid)| uid.clone()).collect()
        });
        self.note_gone(gone);
        // What was there is dropped after the lock is.
        let _old = self.change(|uids| std::mem::replace(uids, all));
    }

    fn put(&mut self, (name, uid): Self::Item) {
        self.note_gone(self.look(|uids| uids.get(&name).filter(|old| **old != uid).cloned()));
        self.change(|uids| uids.insert(name, uid));
    }

    fn remove(&mut self, (name, uid): Self::Item) {
        self.note_gone([uid]);
        self.change(|uids| uids.remove(&name));
    }
}
