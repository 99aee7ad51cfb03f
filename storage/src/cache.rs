//! What is remembered, and for how long: bytes by digest for as long as there is room, tags and memberships for a stated time.
//!
//! Nothing here is relied on to skip a write, and nothing negative is remembered: an absence is looked up each time.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter, Weighter};

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
    pub(crate) manifests: Counted<Digest, Arc<StoredManifest>, ByBytes>,
    /// Descriptors of manifests that have a subject, by that and the manifest's digest: of another subject it is no referrer.
    pub(crate) referrers: Counted<(Digest, Digest), Option<Arc<ReferrerDescriptor>>, ByBytes>,
    /// What a tag points at.
    pub(crate) tags: Lookups<(RepositoryName, Tag)>,
    /// What the link of a blob says.
    pub(crate) layers: Lookups<(RepositoryName, Digest)>,
    /// What the link of a manifest says.
    pub(crate) revisions: Lookups<(RepositoryName, Digest)>,
}

/// How a cache was used since it was made, and what it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheUse {
    /// What it remembers: `manifests`, `referrers`, `tags`, `layers` or `revisions`.
    pub name: &'static str,
    /// How often it had what was asked for.
    pub hits: u64,
    /// How often it had not, or only what was too old.
    pub misses: u64,
    /// How many things it holds.
    pub entries: u64,
    /// How many bytes that is, where its size is limited by them.
    pub bytes: Option<u64>,
}

/// A cache that counts how often it had what was asked for.
#[derive(Debug)]
pub(crate) struct Counted<K, V, W = UnitWeighter> {
    entries: Cache<K, V, W>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl<K: Eq + Hash, V: Clone, W: Weighter<K, V> + Clone> Counted<K, V, W> {
    fn new(entries: Cache<K, V, W>) -> Self {
        Self { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.get_if(key, |_| true)
    }

    fn get_if(&self, key: &K, is_good: impl FnOnce(&V) -> bool) -> Option<V> {
        let found = self.entries.get(key).filter(is_good);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.entries.insert(key, value);
    }

    fn usage(&self, name: &'static str) -> CacheUse {
        CacheUse {
            name,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.entries.len() as u64,
            bytes: None,
        }
    }
}

/// Links that were read lately.
#[derive(Debug)]
pub(crate) struct Lookups<K: Eq + Hash + Clone> {
    entries: Counted<K, (Digest, Instant)>,
    lifetime: Duration,
    /// Counts the changes made here, so that a slow reader does not put back what was changed while it read.
    changes: AtomicU64,
}

/// Weighs what is kept by its bytes, and what it costs to keep any.
#[derive(Clone, Debug)]
pub(crate) struct ByBytes;

const COST_BYTES: u64 = 256;

impl Weighter<Digest, Arc<StoredManifest>> for ByBytes {
    fn weight(&self, _: &Digest, manifest: &Arc<StoredManifest>) -> u64 {
        manifest.bytes.len() as u64 + COST_BYTES
    }
}

impl Weighter<(Digest, Digest), Option<Arc<ReferrerDescriptor>>> for ByBytes {
    fn weight(&self, _: &(Digest, Digest), descriptor: &Option<Arc<ReferrerDescriptor>>) -> u64 {
        const COST_OF_TWO_TEXTS: u64 = 64;
        let Some(descriptor) = descriptor else { return COST_BYTES };
        let annotations = descriptor.annotations.iter();
        let annotations =
            annotations.map(|(name, value)| (name.len() + value.len()) as u64 + COST_OF_TWO_TEXTS);
        let kinds = descriptor.media_type.len() + descriptor.artifact_type.as_ref().map_or(0, String::len);
        annotations.sum::<u64>() + kinds as u64 + COST_BYTES
    }
}

/// A cache of so many bytes, of things that mostly have so many.
fn by_bytes<K: Eq + Hash, V: Clone>(bytes: u64, typical: u64) -> Counted<K, V, ByBytes>
where
    ByBytes: Weighter<K, V>,
{
    // What is larger than one of its shards is not kept at all, and by itself it makes four for each processor.
    const SHARD_BYTES: u64 = 8 << 20;
    let shards = 1 << (bytes / SHARD_BYTES).max(1).ilog2().min(8);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(usize::try_from(bytes / typical).unwrap_or(usize::MAX))
        .weight_capacity(bytes)
        .shards(shards)
        .build()
        .expect("what must be told is told");
    Counted::new(Cache::with_options(options, ByBytes, Default::default(), DefaultLifecycle::default()))
}

impl Caches {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        let entries = options.lookup_cache_entries;
        Self {
            manifests: by_bytes(options.manifest_cache_bytes, 2048),
            referrers: by_bytes(options.manifest_cache_bytes / 4, 512),
            tags: Lookups::new(entries, options.tag_lifetime),
            layers: Lookups::new(entries, options.membership_lifetime),
            revisions: Lookups::new(entries, options.membership_lifetime),
        }
    }

    /// How each was used.
    pub(crate) fn usage(&self) -> [CacheUse; 5] {
        [
            CacheUse { bytes: Some(self.manifests.entries.weight()), ..self.manifests.usage("manifests") },
            CacheUse { bytes: Some(self.referrers.entries.weight()), ..self.referrers.usage("referrers") },
            self.tags.entries.usage("tags"),
            self.layers.entries.usage("layers"),
            self.revisions.entries.usage("revisions"),
        ]
    }
}

impl<K: Eq + Hash + Clone> Lookups<K> {
    fn new(entries: usize, lifetime: Duration) -> Self {
        Self { entries: Counted::new(Cache::new(entries)), lifetime, changes: AtomicU64::new(0) }
    }

    /// What was remembered under `key`, if it is recent enough.
    pub(crate) fn get(&self, key: &K) -> Option<Digest> {
        let is_recent = |(_, read_at): &(Digest, Instant)| read_at.elapsed() < self.lifetime;
        self.entries.get_if(key, is_recent).map(|(digest, _)| digest)
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
            self.entries.entries.remove(&key);
        }
    }

    /// Forgets `key`. To be called after its link was written or removed.
    pub(crate) fn forget(&self, key: &K) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.entries.entries.remove(key);
    }
}

/// The moment a reading began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadingSince(u64, Instant);

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::digest::Algorithm;
    use crate::manifest::MediaType;

    const MIB: u64 = 1 << 20;

    fn caches(manifest_cache_bytes: u64) -> Caches {
        Caches::new(&RegistryOptions { manifest_cache_bytes, ..RegistryOptions::default() })
    }

    #[test]
    fn a_manifest_of_any_allowed_size_is_kept_on_a_machine_of_any_size() {
        let caches = caches(32 * MIB);
        for number in 0..64_u8 {
            let digest = Digest::of(Algorithm::Sha256, &[number]);
            let bytes = Bytes::from(vec![number; 4 << 20]);
            let manifest = StoredManifest { digest, media_type: MediaType::OciManifest, bytes };
            caches.manifests.insert(digest, Arc::new(manifest));
            assert!(caches.manifests.get(&digest).is_some());
        }
        let [manifests, ..] = caches.usage();
        assert!(manifests.bytes.unwrap() <= 32 * MIB && manifests.entries >= 4, "{manifests:?}");
        // That is not what it makes by itself of many processors.
        assert_eq!(caches.manifests.entries.num_shards(), 4);
    }

    #[test]
    fn descriptors_with_large_annotations_take_no_more_memory_than_is_theirs() {
        let caches = caches(32 * MIB);
        let subject = Digest::of(Algorithm::Sha256, b"subject");
        for number in 0..100_u8 {
            let descriptor = ReferrerDescriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: Digest::of(Algorithm::Sha256, &[number]),
                size: MIB,
                artifact_type: None,
                annotations: [("note".to_owned(), "x".repeat(1 << 20))].into(),
            };
            caches.referrers.insert((subject, descriptor.digest), Some(Arc::new(descriptor)));
        }
        let [_, referrers, ..] = caches.usage();
        assert!(referrers.bytes.unwrap() <= 8 * MIB && referrers.entries < 8, "{referrers:?}");
    }
}
