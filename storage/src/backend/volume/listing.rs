//! Sorted listings of folders. A large one is kept until its folder changes, so that paging through it reads it once.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::files;
use crate::backend::Page;

/// Bytes of names that are kept, over all folders.
const KEPT_BYTES: u64 = 32 << 20;
/// A folder with fewer names is read each time: that is as quick as to look whether it changed.
const WORTH_KEEPING: usize = 256;
/// A folder that changed this lately may change again within the same tick of the file system's clock, which would go unseen; and the
/// clock may be that of a file server.
const SETTLED: Duration = Duration::from_secs(2);

/// Listings that were read lately.
#[derive(Debug)]
pub(super) struct Listings(Cache<PathBuf, Arc<Listing>, ByNames>);

#[derive(Debug)]
struct Listing {
    state: FolderState,
    /// In byte order.
    names: Vec<Box<str>>,
}

/// What changes whenever an entry comes or goes.
#[derive(Debug, Eq, PartialEq)]
struct FolderState {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

#[derive(Clone, Debug)]
struct ByNames;

impl Weighter<PathBuf, Arc<Listing>> for ByNames {
    fn weight(&self, _: &PathBuf, listing: &Arc<Listing>) -> u64 {
        listing.names.iter().map(|name| (name.len() + size_of::<Box<str>>()) as u64).sum()
    }
}

impl Default for Listings {
    fn default() -> Self {
        Self(Cache::with_weighter(64, KEPT_BYTES, ByNames))
    }
}

impl Listings {
    /// The names in `folder` strictly after `after`, at most `limit`, in byte order. Names that are not UTF-8 are not ours.
    pub(super) fn page(&self, folder: &Path, after: Option<&str>, limit: usize) -> io::Result<Page> {
        let listing = match self.listing(folder) {
            Err(error) if files::is_absence(&error) => return Ok(Page::default()),
            listing => listing?,
        };
        let begin = after.map_or(0, |after| listing.names.partition_point(|name| **name <= *after));
        let end = begin.saturating_add(limit).min(listing.names.len());
        let names = listing.names[begin..end].iter().map(|name| String::from(&**name)).collect();
        Ok(Page { names, more: end < listing.names.len() })
    }

    fn listing(&self, folder: &Path) -> io::Result<Arc<Listing>> {
        let before = fs::metadata(folder)?;
        let state = FolderState::of(&before);
        if let Some(kept) = self.0.get(folder)
            && kept.state == state
        {
            return Ok(kept);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name.into_boxed_str());
            }
        }
        names.sort_unstable();
        let listing = Arc::new(Listing { state, names });
        let settled = before.modified().is_ok_and(|modified| modified < SystemTime::now() - SETTLED);
        // Settled before it was read, so that whatever came while it was read shows in a later time.
        if settled && listing.names.len() >= WORTH_KEEPING {
            self.0.insert(folder.to_owned(), listing.clone());
        }
        Ok(listing)
    }
}

impl FolderState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}
