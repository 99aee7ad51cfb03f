//! Who showed what to this thread lately, word for word: found without a lock, without taking apart what was shown, and without
//! touching memory that other threads write.
//!
//! It only repeats what was found out for all threads, for as long as that counts.

use std::cell::RefCell;
use std::sync::Arc;

use quick_cache::unsync::Cache;

use super::verdicts::Term;
use crate::Identity;
use crate::keyed_hash::Hash;

/// How many a thread remembers.
const REMEMBERED: usize = 500;

/// How large an identity may be that is remembered. Larger ones are found where all threads find them.
const MAX_BYTES: usize = 2048;

thread_local! {
    /// What all [`super::Authenticators`] know: each has a key of its own, so that no hash of one is another's.
    static SHOWN: RefCell<Cache<Hash, (Arc<Identity>, Term)>> = RefCell::new(Cache::new(REMEMBERED));
}

/// Who showed what has this keyed hash, and how long that counts, or counted.
pub(super) fn recall(hash: &Hash) -> Option<(Arc<Identity>, Term)> {
    SHOWN.with_borrow(|shown| shown.get(hash).cloned())
}

/// Remembers who showed something.
pub(super) fn remember(hash: Hash, identity: &Identity, term: Term) {
    if bytes(identity) <= MAX_BYTES {
        // A copy of this thread's own: whoever uses an `Arc` writes to it.
        let identity = Arc::new(identity.clone());
        SHOWN.with_borrow_mut(|shown| shown.insert(hash, (identity, term)));
    }
}

/// Remembers no longer that it was good.
pub(super) fn forget(hash: &Hash) {
    SHOWN.with_borrow_mut(|shown| shown.remove(hash));
}

/// About what a copy takes.
fn bytes(identity: &Identity) -> usize {
    let Identity { name, uid, groups, extra } = identity;
    let of_list = |list: &[String]| list.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>();
    let of_extra = extra.iter().map(|(key, values)| size_of::<String>() + key.len() + of_list(values));
    name.len() + uid.as_ref().map_or(0, String::len) + of_list(groups) + of_extra.sum::<usize>()
}
