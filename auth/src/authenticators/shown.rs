//! Who showed what to this thread lately, word for word: found without a lock, without reading what was shown, and without
//! touching memory that other threads write.
//!
//! It only repeats what is remembered for all threads, for as long as that counts.

use std::cell::RefCell;
use std::sync::Arc;

use quick_cache::unsync::Cache;

use super::verdicts::Term;
use crate::Identity;
use crate::keyed_hash::Hash;

/// How many a thread remembers, in half a KiB each.
const REMEMBERED: usize = 1000;

thread_local! {
    /// What all [`super::Authenticators`] know: each has a key of its own, so that no hash of one is another's.
    static SHOWN: RefCell<Cache<Hash, (Arc<Identity>, Term)>> = RefCell::new(Cache::new(REMEMBERED));
}

/// Who showed what has this keyed hash, and how long that counts.
pub(super) fn recall(hash: &Hash) -> Option<(Arc<Identity>, Term)> {
    SHOWN.with_borrow(|shown| shown.get(hash).cloned())
}

/// Remembers who showed something.
pub(super) fn remember(hash: Hash, identity: &Identity, term: Term) {
    // A copy of this thread's own: whoever uses an `Arc` writes to it.
    let identity = Arc::new(identity.clone());
    SHOWN.with_borrow_mut(|shown| shown.insert(hash, (identity, term)));
}
