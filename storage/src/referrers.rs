//! Referrers: the manifests of a repository that name another one as their subject.
//!
//! A link for each is the index; the descriptors that a listing shows are copied from the manifests and remembered, in memory and in
//! one object beside the links, so that ten thousand of them list without reading ten thousand manifests. What clients of older
//! registries stored under the fallback tag is listed with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{BackendError, Fault};
use crate::digest::{Algorithm, Digest};
use crate::layout;
use crate::manifest::{Manifest, ReferrerDescriptor};
use crate::reference::Reference;
use crate::registry::Reader;

/// The remembered descriptors of one subject may take this much; what does not fit is read from the manifests.
const DESCRIPTORS_LIMIT_BYTES: u64 = 64 << 20;
/// With this many descriptors newly read from manifests, remembering them again is worth a write.
const WORTH_REMEMBERING: usize = 16;

impl Reader {
    /// The descriptors of all manifests of this repository whose subject is `subject`, in the order of their digests. The subject need
    /// not exist, nor the repository.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Arc<ReferrerDescriptor>>, BackendError> {
        let mut known = self.fallback_referrers(subject).await?;
        let mut linked = BTreeSet::new();
        for algorithm in Algorithm::ALL {
            linked.extend(self.referrer_links(subject, algorithm).await?);
        }
        known.retain(|digest, _| !linked.contains(digest));
        let listed: Vec<Digest> = linked.iter().chain(known.keys()).copied().collect();
        // The index may know more than the truth: a manifest that distribution deleted or collected keeps its link here.
        let revisions: Vec<_> =
            listed.iter().map(|digest| layout::revision_link(&self.repository, digest)).collect();
        let sizes = self.backend().sizes(&revisions).await?;
        let held: Vec<Digest> = listed
            .into_iter()
            .zip(sizes)
            .filter(|(_, size)| size.is_some_and(|size| size > 0))
            .map(|(d, _)| d)
            .collect();
        let mut found = self.describe(subject, &held, known).await?;
        found.sort_unstable_by_key(|descriptor| descriptor.digest);
        Ok(found)
    }

    /// The digests of one algorithm that are linked to `subject`.
    async fn referrer_links(
        &self,
        subject: &Digest,
        algorithm: Algorithm,
    ) -> Result<Vec<Digest>, BackendError> {
        const BATCH: usize = 10_000;
        let folder = layout::referrer_links(&self.repository, subject, algorithm);
        let mut digests = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.backend().children(&folder, after.as_deref(), BATCH).await?;
            digests.extend(
                page.names.iter().filter_map(|hex| format!("{algorithm}:{hex}").parse::<Digest>().ok()),
            );
            after = page.into_next();
            if after.is_none() {
                return Ok(digests);
            }
        }
    }

    /// The descriptors of `digests`: from memory, then from what was remembered in the store, then from the manifests themselves.
    async fn describe(
        &self,
        subject: &Digest,
        digests: &[Digest],
        mut known: BTreeMap<Digest, Arc<ReferrerDescriptor>>,
    ) -> Result<Vec<Arc<ReferrerDescriptor>>, BackendError> {
        let cache = &self.registry.caches.referrers;
        let mut found = Vec::with_capacity(digests.len());
        let mut unknown = Vec::new();
        for digest in digests {
            match known.remove(digest).or_else(|| cache.get(digest)) {
                Some(descriptor) => found.push(descriptor),
                None => unknown.push(*digest),
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let mut remembered = self.remembered_descriptors(subject).await?;
        let mut read = 0;
        for digest in unknown {
            let descriptor = match remembered.remove(&digest) {
                Some(descriptor) => descriptor,
                None => match self.read_descriptor(subject, &digest).await? {
                    Some(descriptor) => {
                        read += 1;
                        descriptor
                    }
                    None => continue,
                },
            };
            cache.insert(digest, descriptor.clone());
            found.push(descriptor);
        }
        if read >= WORTH_REMEMBERING {
            self.remember_descriptors(subject, &found).await;
        }
        Ok(found)
    }

    async fn read_descriptor(
        &self,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Arc<ReferrerDescriptor>>, BackendError> {
        let limit = self.registry.options.manifest_limit_bytes;
        let bytes = match self.backend().read(&layout::blob(digest), limit).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.fault == Fault::TooLarge => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(manifest) = Manifest::parse(None, &bytes) else { return Ok(None) };
        let names_subject = manifest.subject().is_some_and(|named| named.digest == *subject);
        Ok(names_subject.then(|| Arc::new(manifest.as_referrer(*digest, bytes.len() as u64))))
    }

    async fn remembered_descriptors(
        &self,
        subject: &Digest,
    ) -> Result<BTreeMap<Digest, Arc<ReferrerDescriptor>>, BackendError> {
        let key = layout::referrer_descriptors(&self.repository, subject);
        let bytes = match self.backend().read(&key, DESCRIPTORS_LIMIT_BYTES).await {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) if error.fault == Fault::TooLarge => Bytes::new(),
            Err(error) => return Err(error),
        };
        // Something else than a list was not written by us, or torn: then nothing is remembered.
        let descriptors: Vec<ReferrerDescriptor> = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(descriptors.into_iter().map(|descriptor| (descriptor.digest, Arc::new(descriptor))).collect())
    }

    async fn remember_descriptors(&self, subject: &Digest, descriptors: &[Arc<ReferrerDescriptor>]) {
        let list: Vec<&ReferrerDescriptor> = descriptors.iter().map(|descriptor| &**descriptor).collect();
        let Ok(bytes) = serde_json::to_vec(&list) else { return };
        let key = layout::referrer_descriptors(&self.repository, subject);
        // Whoever asked has their answer already: a store that cannot be written to only makes the next one slower.
        if let Err(error) = self.backend().write(&key, bytes.into()).await {
            tracing::debug!(%subject, error = &error as &dyn std::error::Error, "referrers not remembered");
        }
    }

    /// What the fallback tag of `subject` lists, by digest.
    async fn fallback_referrers(
        &self,
        subject: &Digest,
    ) -> Result<BTreeMap<Digest, Arc<ReferrerDescriptor>>, BackendError> {
        // The algorithm is cut to 32 characters and the encoded part to 64, see "Referrers Tag Schema" in the distribution spec.
        let hex = subject.hex().to_string();
        let Ok(tag) = format!("{}-{}", subject.algorithm(), &hex[..64]).parse() else {
            return Ok(BTreeMap::new());
        };
        let Some(index) = self.manifest(&Reference::Tag(tag)).await? else { return Ok(BTreeMap::new()) };
        #[derive(serde::Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<ReferrerDescriptor>,
        }
        let listed =
            serde_json::from_slice(&index.bytes).map(|index: Index| index.manifests).unwrap_or_default();
        Ok(listed.into_iter().map(|descriptor| (descriptor.digest, Arc::new(descriptor))).collect())
    }
}
