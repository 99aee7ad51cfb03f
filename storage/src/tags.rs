//! Tags: names that point at manifests, listed in byte order.

use crate::backend::BackendError;
use crate::digest::Digest;
use crate::layout;
use crate::links;
use crate::registry::{Deleter, Reader, Writer};
use crate::tag::Tag;

/// Some of the tags of a repository.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TagPage {
    /// The tags, in byte order.
    pub tags: Vec<Tag>,
    /// Whether more follow the last of these.
    pub more: bool,
}

/// The tags that went with a manifest: how many, and the names of the first of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeletedTags {
    named: Vec<Tag>,
    count: usize,
}

impl DeletedTags {
    /// How many are named: any number may point at one manifest.
    pub const MOST_NAMED: usize = 100;

    /// The names of the first, in the order in which they went: that of their bytes, and after those any that were pushed meanwhile.
    pub fn named(&self) -> &[Tag] {
        &self.named
    }

    /// How many went, named or not. One that is not named, and was pushed and went again meanwhile, is counted twice.
    pub fn count(&self) -> usize {
        self.count
    }

    fn add(&mut self, tag: &Tag) {
        // It was pushed again after it went.
        if self.named.contains(tag) {
            return;
        }
        self.count += 1;
        if self.named.len() < Self::MOST_NAMED {
            self.named.push(tag.clone());
        }
    }
}

impl Reader {
    /// Lists at most `limit` tags strictly after `after`, which need not be a tag. `None` when the repository does not exist.
    pub async fn tags(&self, after: Option<&str>, limit: usize) -> Result<Option<TagPage>, BackendError> {
        let folder = layout::tags(&self.repository);
        let mut page = TagPage::default();
        let mut after = after.map(str::to_owned);
        // One more than asked for is looked at, to know whether more follow.
        while page.tags.len() <= limit {
            let found = self
                .backend()
                .recent_children(&folder, after.as_deref(), limit + 1 - page.tags.len())
                .await?;
            let names: Vec<Tag> = found.names.iter().filter_map(|name| name.parse().ok()).collect();
            page.tags.extend(self.without_torn(names).await?);
            after = found.into_next();
            if after.is_none() {
                break;
            }
        }
        page.more = page.tags.len() > limit;
        page.tags.truncate(limit);
        if page.tags.is_empty() && !self.exists().await? {
            return Ok(None);
        }
        Ok(Some(page))
    }

    /// Whether this repository has, or in a folder had, a manifest or a blob. In a bucket nothing is left of manifests that were deleted.
    pub async fn exists(&self) -> Result<bool, BackendError> {
        let repository = layout::repository(&self.repository);
        for folder in [layout::manifests(&repository), layout::layers(&repository)] {
            if !self.backend().children(&folder, None, 1).await?.names.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a tag points at, whether or not such a manifest is there.
    pub(crate) async fn tagged(&self, tag: &Tag) -> Result<Option<Digest>, BackendError> {
        match self.registry.caches.tags.get(&(self.repository.clone(), tag.clone())) {
            Some(digest) => Ok(Some(digest)),
            // In a box: what is remembered needs no room for it.
            None => Box::pin(self.tagged_now(tag)).await,
        }
    }

    /// The same, looked up in the store.
    pub(crate) async fn tagged_now(&self, tag: &Tag) -> Result<Option<Digest>, BackendError> {
        let tags = &self.registry.caches.tags;
        let since = tags.before_reading();
        let digest = links::read(self.backend(), &layout::tag_link(&self.repository, tag)).await?;
        match digest {
            Some(digest) => tags.remember((self.repository.clone(), tag.clone()), digest, since),
            None => self.forget_tag(tag),
        }
        Ok(digest)
    }

    /// To be called after the link of a tag was written or removed, or may have been.
    fn forget_tag(&self, tag: &Tag) {
        self.registry.caches.tags.forget(&(self.repository.clone(), tag.clone()));
    }

    /// Leaves out the tags of which a crash left a folder, but no link, or no whole one.
    async fn without_torn(&self, tags: Vec<Tag>) -> Result<Vec<Tag>, BackendError> {
        let links: Vec<_> = tags.iter().map(|tag| layout::tag_link(&self.repository, tag)).collect();
        let sizes = self.backend().sizes(&links).await?;
        Ok(tags
            .into_iter()
            .zip(sizes)
            .filter_map(|(tag, size)| size.filter(|size| links::may_have(*size)).map(|_| tag))
            .collect())
    }
}

impl Writer {
    /// Remembers that a tag points at a manifest, before it does.
    pub(crate) async fn remember_tag(&self, tag: &Tag, digest: &Digest) -> Result<(), BackendError> {
        let link = layout::tag_history_link(self.repository(), tag, digest);
        links::write(self.0.backend(), &link, digest).await
    }

    /// Points a tag at a manifest that is there.
    pub(crate) async fn point_tag(&self, tag: &Tag, digest: &Digest) -> Result<(), BackendError> {
        let repository = self.repository();
        let written = links::write(self.0.backend(), &layout::tag_link(repository, tag), digest).await;
        // Also after a failure: it may have moved.
        self.0.forget_tag(tag);
        written
    }
}

impl Deleter {
    /// Removes a tag, not what it points at, and says whether it was there.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<bool, BackendError> {
        // The link goes first: without it there is no tag, whatever a crash leaves of the rest.
        let existed = self.0.backend().delete(&layout::tag_link(&self.0.repository, tag)).await;
        // Also after a failure: the link may be gone.
        self.0.forget_tag(tag);
        let existed = existed?;
        self.tidy(tag).await?;
        Ok(existed)
    }

    /// Removes every tag that points at `digest`, and adds it to those that are `gone`. One that is pushed meanwhile, even to the same
    /// digest, stays. After a failure the last of those may still be there.
    pub(crate) async fn delete_tags_of(
        &self,
        digest: &Digest,
        whose: TagsOf,
        gone: &mut DeletedTags,
    ) -> Result<(), BackendError> {
        const BATCH: usize = 1000;
        let backend = self.0.backend();
        let folder = layout::tags(&self.0.repository);
        let mut after = None;
        loop {
            let found = backend.children(&folder, after.as_deref(), BATCH).await?;
            let tags: Vec<Tag> = found.names.iter().filter_map(|name| name.parse().ok()).collect();
            let links: Vec<_> = tags.iter().map(|tag| layout::tag_link(&self.0.repository, tag)).collect();
            let contents = backend.read_many(&links, links::LIMIT_BYTES).await?;
            for ((tag, link), content) in tags.iter().zip(&links).zip(contents) {
                if content.as_deref().and_then(links::parse).as_ref() != Some(digest) {
                    continue;
                }
                // Time has passed since it was read with the others. Opened before it is read again, it is known by what was opened.
                while let Some(seen) = backend.open(link).await?
                    && links::read(backend, link).await? == Some(*digest)
                {
                    if whose == TagsOf::NoManifest && self.0.revision(digest).await?.is_some() {
                        return Ok(());
                    }
                    let deleted = backend.delete_if(link, &seen).await;
                    self.0.forget_tag(tag);
                    if matches!(deleted, Ok(false)) {
                        continue;
                    }
                    // Also after a failure: the link may be gone.
                    gone.add(tag);
                    deleted?;
                    self.tidy(tag).await?;
                    break;
                }
            }
            after = found.into_next();
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes what is left of a tag whose link is gone. The link of somebody who pushes it meanwhile stays.
    async fn tidy(&self, tag: &Tag) -> Result<(), BackendError> {
        let Reader { repository, registry } = &self.0;
        registry.backend.delete_folder(&layout::tag_history(repository, tag)).await?;
        registry.backend.delete_empty(&layout::tag(repository, tag)).await
    }
}

/// Which of the tags that point at a digest are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TagsOf {
    /// All of them.
    Any,
    /// Those that lead nowhere: none, once the repository holds such a manifest (again).
    NoManifest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_goes_twice_is_named_and_counted_once() {
        let tags = |range: std::ops::Range<usize>| -> Vec<Tag> {
            range.map(|number| format!("v{number:03}").parse().unwrap()).collect()
        };
        let mut gone = DeletedTags::default();
        let (first, pushed_again, more) = (tags(0..3), tags(1..2), tags(3..200));
        for tag in first.iter().chain(&pushed_again).chain(&more).chain(&first) {
            gone.add(tag);
        }
        assert_eq!(gone.named(), tags(0..DeletedTags::MOST_NAMED));
        assert_eq!(gone.count(), 200);
    }
}
