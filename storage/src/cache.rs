//! What is remembered, and for how long: bytes by digest for as long as there is room, tags and memberships for a stated time.
//!
//! Nothing here is relied on to skip a write, and nothing negative is remembered: an absence is looked up each time.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::digest::Digest;
use crate::manifest::ReferrerDescriptor;
use crate::manifests::StoredManifest;
use crate::registry::RegistryOptions;
use crate::repository_name::RepositoryName;
use crate::tag::Tag;

/// The caches of one registry.
#[derive(Debug)]
pub(crate) struct Caches {
    /// Manifests by digest. Whether a repository holds one is another question.
    pub(crate) manifests: Cache<Digest, Arc<StoredManifest>, ByBytes>,
    /// Descriptors of manifests that have a subject, by the manifest's digest.
    pub(crate) referrers: Cache<Digest, Arc<ReferrerDescriptor>>,
    /// What a tag points at.
    pub(crate) tags: Lookups<(RepositoryName, Tag)>,
    /// What the link of a blob says.
    pub(crate) layers: Lookups<(RepositoryName, Digest)>,
    /// What the link of a manifest says.
    pub(crate) revisions: Lookups<(RepositoryName, Digest)>,
}

/// Links that were read lately.
#[derive(Debug)]
pub(crate) struct Lookups<K: Eq + Hash + Clone> {
    entries: Cache<K, (Digest, Instant)>,
    lifetime: Duration,
    /// Counts the changes made here, so that a slow reader does not put back what was changed while it read.
    changes: AtomicU64,
}

/// Weighs a manifest by its bytes, and what it costs to keep any.
#[derive(Clone, Debug)]
pub(crate) struct ByBytes;

impl Weighter<Digest, Arc<StoredManifest>> for ByBytes {
    fn weight(&self, _: &Digest, manifest: &Arc<StoredManifest>) -> u64 {
        manifest.bytes.len() as u64 + 256
    }
}

impl Caches {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        const TYPICAL_MANIFEST_BYTES: u64 = 2048;
        let typical =
            usize::try_from(options.manifest_cache_bytes / TYPICAL_MANIFEST_BYTES).unwrap_or(usize::MAX);
        let entries = options.lookup_cache_entries;
        Self {
            manifests: Cache::with_weighter(typical, options.manifest_cache_bytes, ByBytes),
            referrers: Cache::new(entries),
            tags: Lookups::new(entries, options.tag_lifetime),
            layers: Lookups::new(entries, options.membership_lifetime),
            revisions: Lookups::new(entries, options.membership_lifetime),
        }
    }
}

impl<K: Eq + Hash + Clone> Lookups<K> {
    fn new(entries: usize, lifetime: Duration) -> Self {
        Self { entries: Cache::new(entries), lifetime, changes: AtomicU64::new(0) }
    }

    /// What was remembered under `key`, if it is recent enough.
    pub(crate) fn get(&self, key: &K) -> Option<Digest> {
        let (digest, read_at) = self.entries.get(key)?;
        (read_at.elapsed() < self.lifetime).then_some(digest)
    }

    /// To be called before a link is read that will be handed to [`Lookups::remember`].
    pub(crate) fn before_reading(&self) -> ReadingSince {
        ReadingSince(self.changes.load(Ordering::Acquire), Instant::now())
    }

    /// Remembers what a link said, unless something has changed since the reading began.
    pub(crate) fn remember(&self, key: K, digest: Digest, since: ReadingSince) {
        if self.changes.load(Ordering::Acquire) != since.0 {
            return;
        }
        self.entries.insert(key.clone(), (digest, since.1));
        if self.changes.load(Ordering::Acquire) != since.0 {
            self.entries.remove(&key);
        }
    }

    /// Forgets `key`. To be called after its link was written or removed.
    pub(crate) fn forget(&self, key: &K) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.entries.remove(key);
    }
}

/// The moment a reading began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadingSince(u64, Instant);
