//! Referrers: the manifests of a repository that name another one as their subject.
//!
//! A link for each is the index. Beside it lies the descriptor that a list shows, copied from the manifest when that was pushed, so that
//! ten thousand of them list without reading ten thousand manifests; where it is missing, the manifest itself is read. What clients of
//! older registries stored under the fallback tag is listed with them.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{BackendError, Fault};
use crate::computing::computed;
use crate::digest::{Algorithm, Digest};
use crate::layout;
use crate::links;
use crate::manifest::{Manifest, ReferrerDescriptor};
use crate::manifests::LARGEST_MANIFEST_BYTES;
use crate::reference::Reference;
use crate::registry::{Reader, Writer};

/// So many are looked for at once.
const BATCH: usize = 1000;
/// So many bytes of their descriptors are read at once. One that is larger is read alone.
const READ_BYTES: u64 = 1 << 20;

/// The manifests that name a subject, in the order of their digests. They are read as they are asked for, and a part of them is in memory.
#[derive(Debug)]
pub struct Referrers {
    reader: Reader,
    subject: Digest,
    /// Where the links go on: those of an algorithm after a hash. `None` when there are no more.
    links: Option<(Algorithm, Option<String>)>,
    /// What the fallback tag lists, without what was reached already.
    fallback: BTreeMap<Digest, Arc<ReferrerDescriptor>>,
    /// Those that come next and whose manifests are there.
    found: VecDeque<Found>,
    /// Those that come before them, described.
    described: VecDeque<Arc<ReferrerDescriptor>>,
}

/// A referrer that is there.
#[derive(Debug)]
struct Found {
    digest: Digest,
    /// How it is shown, if that is known.
    descriptor: Option<Arc<ReferrerDescriptor>>,
    /// How many bytes must be read to know it.
    bytes: u64,
}

impl Reader {
    /// The descriptors of all manifests of this repository whose subject is `subject`, or of those after the digest `after`. The subject
    /// need not exist, nor the repository, nor `after`.
    pub async fn referrers(
        &self,
        subject: &Digest,
        after: Option<&Digest>,
    ) -> Result<Referrers, BackendError> {
        let mut fallback = self.fallback_referrers(subject).await?;
        fallback.retain(|digest, _| after.is_none_or(|after| digest > after));
        Ok(Referrers {
            reader: self.clone(),
            subject: *subject,
            links: Some(match after {
                Some(after) => (after.algorithm(), Some(after.hex().to_string())),
                None => (Algorithm::ALL[0], None),
            }),
            fallback,
            found: VecDeque::new(),
            described: VecDeque::new(),
        })
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
        /// Whoever could push could write anything into it. What is no descriptor hides none of the others.
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Descriptor(ReferrerDescriptor),
            Other(serde::de::IgnoredAny),
        }
        #[derive(serde::Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<Entry>,
        }
        computed("read", index.digest, index.bytes.len(), move || {
            let listed =
                serde_json::from_slice(&index.bytes).map(|index: Index| index.manifests).unwrap_or_default();
            let described = listed.into_iter().filter_map(|entry| match entry {
                Entry::Descriptor(descriptor) => Some((descriptor.digest, Arc::new(descriptor))),
                Entry::Other(_) => None,
            });
            described.collect()
        })
        .await
    }
}

impl Referrers {
    /// The next one. `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Arc<ReferrerDescriptor>>, BackendError> {
        loop {
            if let Some(descriptor) = self.described.pop_front() {
                return Ok(Some(descriptor));
            }
            if !self.found.is_empty() {
                self.describe().await?;
            } else if !self.find().await? {
                return Ok(None);
            }
        }
    }

    /// Looks for more of them, and says whether there was anything left to look through.
    async fn find(&mut self) -> Result<bool, BackendError> {
        let Some((algorithm, after)) = self.links.take() else { return Ok(false) };
        let Reader { repository, registry } = &self.reader;
        let folder = layout::referrers(repository, &self.subject, algorithm);
        let page = registry.backend.children(&folder, after.as_deref(), BATCH).await?;
        let linked = page.names.iter().filter_map(|hex| format!("{algorithm}:{hex}").parse().ok());
        let linked: Vec<Digest> = linked.collect();
        let last = page.into_next();

        let is_reached = |digest: &Digest| {
            digest.algorithm() == algorithm
                && last.as_ref().is_none_or(|last| digest.hex().to_string() <= *last)
        };
        let (reached, later): (BTreeMap<_, _>, _) =
            mem::take(&mut self.fallback).into_iter().partition(|(digest, _)| is_reached(digest));
        self.fallback = later;
        let mut listed: BTreeMap<_, _> =
            reached.into_iter().map(|(digest, descriptor)| (digest, Some(descriptor))).collect();
        listed.extend(linked.into_iter().map(|digest| (digest, None)));
        self.links = match last {
            Some(last) => Some((algorithm, Some(last))),
            None => Algorithm::ALL.into_iter().find(|next| *next > algorithm).map(|next| (next, None)),
        };

        // The index may know more than the truth: a manifest that distribution deleted or collected keeps its link here.
        let keys: Vec<_> = listed
            .keys()
            .flat_map(|digest| {
                [
                    layout::revision_link(repository, digest),
                    layout::blob(digest),
                    layout::referrer_descriptor(repository, &self.subject, digest),
                ]
            })
            .collect();
        let sizes = registry.backend.sizes(&keys).await?;
        for ((digest, descriptor), sizes) in listed.into_iter().zip(sizes.chunks_exact(3)) {
            if let [Some(link_bytes), Some(manifest_bytes), descriptor_bytes] = *sizes
                && links::may_have(link_bytes)
            {
                let bytes = descriptor_bytes.unwrap_or(manifest_bytes);
                self.found.push_back(Found { digest, descriptor, bytes });
            }
        }
        Ok(true)
    }

    /// Describes as many of those that were found as are read at once.
    async fn describe(&mut self) -> Result<(), BackendError> {
        let Reader { registry, .. } = &self.reader;
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) =
            self.found.pop_front_if(|next| group.is_empty() || bytes + next.bytes <= READ_BYTES)
        {
            bytes += next.bytes;
            group.push(next);
        }
        for found in &mut group {
            if found.descriptor.is_none() {
                found.descriptor = registry.caches.referrers.get(&found.digest);
            }
        }
        let unknown: Vec<Digest> =
            group.iter().filter(|found| found.descriptor.is_none()).map(|found| found.digest).collect();
        let mut kept = self.kept(&unknown).await?;
        for Found { digest, descriptor, .. } in group {
            let descriptor = match descriptor {
                Some(known) => known,
                None => {
                    let read = match kept.remove(&digest) {
                        Some(kept) => kept,
                        None => match self.read_manifest(&digest).await? {
                            Some(read) => read,
                            None => continue,
                        },
                    };
                    registry.caches.referrers.insert(digest, read.clone());
                    read
                }
            };
            self.described.push_back(descriptor);
        }
        Ok(())
    }

    /// The descriptors that are kept beside the links.
    async fn kept(
        &self,
        digests: &[Digest],
    ) -> Result<BTreeMap<Digest, Arc<ReferrerDescriptor>>, BackendError> {
        let Reader { repository, registry } = &self.reader;
        let key = |digest| layout::referrer_descriptor(repository, &self.subject, digest);
        let keys: Vec<_> = digests.iter().map(key).collect();
        let contents = registry.backend.read_many(&keys, LARGEST_MANIFEST_BYTES as u64).await?;
        let size = contents.iter().flatten().map(Bytes::len).sum();
        computed("read referrers of", self.subject, size, move || {
            // Something else was not written by us: then the manifest tells.
            let descriptors = contents
                .iter()
                .flatten()
                .filter_map(|content| serde_json::from_slice::<ReferrerDescriptor>(content).ok());
            descriptors.map(|descriptor| (descriptor.digest, Arc::new(descriptor))).collect()
        })
        .await
    }

    async fn read_manifest(&self, digest: &Digest) -> Result<Option<Arc<ReferrerDescriptor>>, BackendError> {
        let bytes =
            match self.reader.backend().read(&layout::blob(digest), LARGEST_MANIFEST_BYTES as u64).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(None),
                Err(error) if error.fault == Fault::TooLarge => return Ok(None),
                Err(error) => return Err(error),
            };
        let (subject, digest) = (self.subject, *digest);
        computed("read", digest, bytes.len(), move || {
            let manifest = Manifest::parse(None, &bytes).ok()?;
            let names_subject = manifest.subject().is_some_and(|named| named.digest == subject);
            names_subject.then(|| Arc::new(manifest.as_referrer(digest, bytes.len() as u64)))
        })
        .await
    }
}

impl Writer {
    /// Makes the manifest `digest` of `size_bytes` a referrer of its subject, if it has one.
    pub(crate) async fn link_referrer(
        &self,
        manifest: &Manifest,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<(), BackendError> {
        let Some(subject) = manifest.subject().map(|subject| subject.digest) else { return Ok(()) };
        let Reader { repository, registry } = &self.0;
        let descriptor = manifest.as_referrer(*digest, size_bytes);
        let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        let descriptor = computed("describe", digest, size, move || {
            serde_json::to_vec(&descriptor).expect("text and numbers have a form in JSON")
        });
        let descriptor = descriptor.await?;
        let key = layout::referrer_descriptor(repository, &subject, digest);
        let link = layout::referrer_link(repository, &subject, digest);
        let (described, linked) = tokio::join!(
            registry.backend.write(&key, descriptor.into()),
            links::write(&*registry.backend, &link, digest),
        );
        described.and(linked)
    }
}
