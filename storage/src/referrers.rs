//! Referrers: the manifests of a repository that name another one as their subject.
//!
//! A link for each is the index. Beside it lies the descriptor that a list shows, copied from the manifest when that was pushed, so that
//! ten thousand of them list without reading ten thousand manifests; where it is missing, the manifest itself is read. What clients of
//! older registries listed under the fallback tag is listed with them, if the manifest itself names the subject, and as that describes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::BackendError;
use crate::computing::computed;
use crate::digest::{Algorithm, Digest};
use crate::layout::{self, Key};
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
    fallback: BTreeSet<Digest>,
    /// Those that come next and whose manifests are there.
    found: VecDeque<Found>,
    /// Those that come before them, described.
    described: VecDeque<Arc<ReferrerDescriptor>>,
}

/// How each is shown, or that it is no referrer of the subject.
type Described = BTreeMap<Digest, Option<Arc<ReferrerDescriptor>>>;

/// A manifest that is linked or listed, and there.
#[derive(Debug)]
struct Found {
    digest: Digest,
    /// Whether its descriptor is kept, too.
    has_descriptor: bool,
    /// How many bytes must be read to know how it is shown.
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
        fallback.retain(|digest| after.is_none_or(|after| digest > after));
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

    /// What the fallback tag of `subject` lists. It need not name the subject, nor be there.
    async fn fallback_referrers(&self, subject: &Digest) -> Result<BTreeSet<Digest>, BackendError> {
        // The algorithm is cut to 32 characters and the encoded part to 64, see "Referrers Tag Schema" in the distribution spec.
        let hex = subject.hex().to_string();
        let Ok(tag) = format!("{}-{}", subject.algorithm(), &hex[..64]).parse() else {
            return Ok(BTreeSet::new());
        };
        let Some(index) = self.manifest(&Reference::Tag(tag)).await? else { return Ok(BTreeSet::new()) };
        /// Whoever could push could write anything into it. What has no digest hides none of the others.
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Listed { digest: Digest },
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
            let digests = listed.into_iter().filter_map(|entry| match entry {
                Entry::Listed { digest } => Some(digest),
                Entry::Other(_) => None,
            });
            digests.collect()
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
        let (mut reached, later): (BTreeSet<_>, _) =
            mem::take(&mut self.fallback).into_iter().partition(is_reached);
        self.fallback = later;
        reached.extend(linked);
        self.links = match last {
            Some(last) => Some((algorithm, Some(last))),
            None => Algorithm::ALL.into_iter().find(|next| *next > algorithm).map(|next| (next, None)),
        };

        // The index may know more than the truth: a manifest that distribution deleted or collected keeps its link here.
        let keys: Vec<_> = reached
            .iter()
            .flat_map(|digest| {
                [
                    layout::revision_link(repository, digest),
                    layout::blob(digest),
                    layout::referrer_descriptor(repository, &self.subject, digest),
                ]
            })
            .collect();
        let sizes = registry.backend.sizes(&keys).await?;
        for (digest, sizes) in reached.into_iter().zip(sizes.chunks_exact(3)) {
            if let [Some(link_bytes), Some(manifest_bytes), descriptor_bytes] = *sizes
                && links::may_have(link_bytes)
            {
                let bytes = descriptor_bytes.unwrap_or(manifest_bytes);
                self.found.push_back(Found { digest, has_descriptor: descriptor_bytes.is_some(), bytes });
            }
        }
        Ok(true)
    }

    /// Describes as many of those that were found as are read at once.
    async fn describe(&mut self) -> Result<(), BackendError> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) =
            self.found.pop_front_if(|next| group.is_empty() || bytes + next.bytes <= READ_BYTES)
        {
            bytes += next.bytes;
            group.push(next);
        }
        let cache = &self.reader.registry.caches.referrers;
        let mut described = BTreeMap::new();
        let (mut kept, mut others) = (Vec::new(), Vec::new());
        for Found { digest, has_descriptor, .. } in group {
            match cache.get(&(self.subject, digest)) {
                Some(descriptor) => {
                    described.insert(digest, descriptor);
                }
                None if has_descriptor => kept.push(digest),
                None => others.push(digest),
            }
        }
        let mut read = self.read_descriptors(&kept).await?;
        read.extend(self.read_manifests(&others).await?);
        // One by one: they are as large as manifests may be, and were counted as the descriptors that they lack.
        for torn in kept {
            if !read.contains_key(&torn) {
                read.extend(self.read_manifests(&[torn]).await?);
            }
        }
        for (digest, descriptor) in read {
            cache.insert((self.subject, digest), descriptor.clone());
            described.insert(digest, descriptor);
        }
        self.described.extend(described.into_values().flatten());
        Ok(())
    }

    /// The descriptors that are kept beside the links. Something else was not written by us: then the manifest tells.
    async fn read_descriptors(&self, digests: &[Digest]) -> Result<Described, BackendError> {
        let key = |digest| layout::referrer_descriptor(&self.reader.repository, &self.subject, digest);
        let keys = digests.iter().map(key).collect();
        let describe = |digest: Digest, content: &Bytes| {
            let kept: ReferrerDescriptor = serde_json::from_slice(content).ok()?;
            (kept.digest == digest).then_some(Some(kept))
        };
        self.read(digests, keys, describe).await
    }

    /// How the manifests describe themselves that name the subject. What is none, or a torn one, may be pushed again.
    async fn read_manifests(&self, digests: &[Digest]) -> Result<Described, BackendError> {
        let subject = self.subject;
        let keys = digests.iter().map(layout::blob).collect();
        let describe = move |digest: Digest, content: &Bytes| {
            let manifest = Manifest::parse(None, content).ok()?;
            let names_subject = manifest.subject().is_some_and(|named| named.digest == subject);
            Some(names_subject.then(|| manifest.as_referrer(digest, content.len() as u64)))
        };
        self.read(digests, keys, describe).await
    }

    /// What `describe` makes of the objects at `keys`, one for each of `digests`. Those of which it makes nothing are left out.
    async fn read(
        &self,
        digests: &[Digest],
        keys: Vec<Key>,
        describe: impl Fn(Digest, &Bytes) -> Option<Option<ReferrerDescriptor>> + Send + 'static,
    ) -> Result<Described, BackendError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let contents = self.reader.backend().read_many(&keys, LARGEST_MANIFEST_BYTES as u64).await?;
        let size = contents.iter().flatten().map(Bytes::len).sum();
        let digests = digests.to_vec();
        computed("read referrers of", self.subject, size, move || {
            let read = digests.into_iter().zip(contents);
            let described = read
                .filter_map(|(digest, content)| Some((digest, describe(digest, &content?)?.map(Arc::new))));
            described.collect()
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
