//! Sorted listings of folders. A large one is kept, so that paging through it reads it once, also while names come and go.
//!
//! That nothing changed shows only in a folder that has been quiet: two changes within one tick of a clock leave the same time. So a
//! listing of a folder that others change is believed for a moment, to whom that is enough, and what this process changed is added.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
/// How long [`View::Recent`] may miss what other processes changed.
const RECENT: Duration = Duration::from_secs(1);
/// So many changes of this process are remembered; if more come within [`RECENT`], folders are read again.
const CHANGES: usize = 4096;

/// Listings that were read lately, and what this process changed lately.
#[derive(Debug)]
pub(super) struct Listings {
    kept: Cache<PathBuf, Arc<Listing>, ByNames>,
    changes: Mutex<Changes>,
    recent: Duration,
}

/// Which changes of a folder must be seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum View {
    /// All of them.
    Now,
    /// Those of this process, and those of others once they are [`RECENT`] old.
    Recent,
}

#[derive(Debug)]
struct Listing {
    /// Before it was read.
    began: Instant,
    state: FolderState,
    /// Whether the folder was settled before it was read, so that whatever came since shows in another state.
    settled: bool,
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

/// Paths that this process made or removed.
#[derive(Debug)]
struct Changes {
    /// None is missing that is not older.
    complete_since: Instant,
    /// When each was done by, the oldest first.
    paths: VecDeque<(Instant, PathBuf)>,
}

#[derive(Clone, Debug)]
struct ByNames;

impl Weighter<PathBuf, Arc<Listing>> for ByNames {
    fn weight(&self, _: &PathBuf, listing: &Arc<Listing>) -> u64 {
        listing.names.iter().map(|name| (name.len() + size_of::<Box<str>>()) as u64).sum()
    }
}

impl Listings {
    pub(super) fn new() -> Self {
        Self {
            kept: Cache::with_weighter(64, KEPT_BYTES, ByNames),
            changes: Mutex::new(Changes { complete_since: Instant::now(), paths: VecDeque::new() }),
            recent: RECENT,
        }
    }

    /// To be told of each path that this process made or removed, before anybody is told that it did.
    pub(super) fn changed(&self, path: &Path) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some((at, _)) = changes.paths.front() {
            if changes.paths.len() >= CHANGES {
                changes.complete_since = *at;
            } else if now.duration_since(*at) <= self.recent {
                break;
            }
            changes.paths.pop_front();
        }
        changes.paths.push_back((now, path.to_owned()));
    }

    /// The names in `folder` strictly after `after`, at most `limit`, in byte order. Names that are not UTF-8 are not ours.
    pub(super) fn page(
        &self,
        folder: &Path,
        after: Option<&str>,
        limit: usize,
        view: View,
    ) -> io::Result<Page> {
        let listing = match self.listing(folder, view) {
            Err(error) if files::is_absence(&error) => return Ok(Page::default()),
            listing => listing?,
        };
        let changed = self.changed_since(listing.began, folder);
        let begin = after.map_or(0, |after| listing.names.partition_point(|name| **name <= *after));
        let one_more = limit.saturating_add(1);
        let unchanged = listing.names[begin..].iter().map(|name| &**name);
        let mut names: Vec<String> =
            unchanged.filter(|name| !changed.contains(*name)).take(one_more).map(String::from).collect();
        let follows = |name: &String| after.is_none_or(|after| name.as_str() > after);
        let is_there = |name: &String| fs::symlink_metadata(folder.join(name)).is_ok();
        names.extend(changed.into_iter().filter(follows).filter(is_there).take(one_more));
        names.sort_unstable();
        let more = names.len() > limit;
        names.truncate(limit);
        Ok(Page { names, more })
    }

    /// The names in `folder` of which something was done by this process since a listing began.
    fn changed_since(&self, began: Instant, folder: &Path) -> BTreeSet<String> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = changes.paths.iter().rev().take_while(|(at, _)| *at >= began);
        let here = lately.filter(|(_, path)| path.parent() == Some(folder));
        here.filter_map(|(_, path)| path.file_name()?.to_str().map(str::to_owned)).collect()
    }

    fn listing(&self, folder: &Path, view: View) -> io::Result<Arc<Listing>> {
        let began = Instant::now();
        let before = fs::metadata(folder)?;
        let state = FolderState::of(&before);
        if let Some(kept) = self.kept.get(folder)
            && (kept.settled && kept.state == state || view == View::Recent && self.is_recent(&kept, &state))
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
        let settled = before.modified().is_ok_and(|modified| modified < SystemTime::now() - SETTLED);
        let listing = Arc::new(Listing { began, state, settled, names });
        if listing.names.len() >= WORTH_KEEPING {
            self.kept.insert(folder.to_owned(), listing.clone());
        }
        Ok(listing)
    }

    fn is_recent(&self, kept: &Listing, state: &FolderState) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.state.device, kept.state.inode) == (state.device, state.inode)
            && kept.began.elapsed() < self.recent
            && kept.began > changes.complete_since
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::volume::{Durability, files::Files};

    const HOUR: Duration = Duration::from_secs(60 * 60);

    /// A folder of a thousand names, and two processes that use it.
    struct Shared {
        root: tempfile::TempDir,
        here: Files,
        there: Files,
    }

    impl Shared {
        fn new(recent: Duration) -> Self {
            let root = tempfile::tempdir().unwrap();
            let [here, there] = [(), ()].map(|()| {
                let mut files = Files::new(root.path().to_owned(), Durability::Buffered);
                files.listings_mut().recent = recent;
                files
            });
            (0..1000)
                .for_each(|number| there.make_folder(&root.path().join(format!("t{number:03}"))).unwrap());
            Self { root, here, there }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        /// The first two names after `after`.
        fn seen(&self, by: &Files, after: &str, view: View) -> Vec<String> {
            by.listings().page(self.root.path(), Some(after), 2, view).unwrap().names
        }
    }

    #[test]
    fn a_folder_that_keeps_changing_is_read_once_and_what_was_done_here_is_seen() {
        let shared = Shared::new(HOUR);
        let Shared { here, there, .. } = &shared;
        assert_eq!(shared.seen(here, "t500", View::Recent), ["t501", "t502"]);
        // What only reading the folder shows tells whether it was read.
        there.make_folder(&shared.path("t500-there")).unwrap();
        for number in 0..10 {
            here.make_folder(&shared.path(&format!("t100-{number}"))).unwrap();
            assert_eq!(shared.seen(here, "t500", View::Recent), ["t501", "t502"]);
        }
        assert_eq!(shared.seen(here, "t100-8", View::Recent), ["t100-9", "t101"]);
        here.delete_empty(&shared.path("t101")).unwrap();
        here.delete_empty(&shared.path("t100-9")).unwrap();
        here.make_folder(&shared.path("t100-9")).unwrap();
        assert_eq!(shared.seen(here, "t100-8", View::Recent), ["t100-9", "t102"]);
        // A listing of which others changed what this process changed before.
        let way = here.write(&shared.path("t100-a"), b"x").unwrap();
        here.sync_way(way).unwrap();
        there.delete(&shared.path("t100-a")).unwrap();
        assert_eq!(shared.seen(here, "t100-9", View::Recent), ["t102", "t103"]);
    }

    #[test]
    fn what_others_did_is_seen_at_once_by_who_must_and_in_time_by_who_only_looks() {
        for (recent, view) in [(HOUR, View::Now), (Duration::ZERO, View::Recent)] {
            let shared = Shared::new(recent);
            let Shared { here, there, .. } = &shared;
            for (by, other) in [(here, there), (there, here), (here, there)] {
                shared.seen(by, "t500", view);
                other.make_folder(&shared.path("t500-other")).unwrap();
                assert_eq!(shared.seen(by, "t500", view), ["t500-other", "t501"]);
                other.delete_empty(&shared.path("t500-other")).unwrap();
                assert_eq!(shared.seen(by, "t500", view), ["t501", "t502"]);
            }
        }
    }

    #[test]
    fn more_changes_than_are_remembered_lose_none() {
        let shared = Shared::new(HOUR);
        shared.seen(&shared.here, "t500", View::Recent);
        shared.here.make_folder(&shared.path("t500-a")).unwrap();
        (0..CHANGES).for_each(|_| shared.here.listings().changed(&shared.path("elsewhere")));
        assert_eq!(shared.seen(&shared.here, "t500", View::Recent), ["t500-a", "t501"]);
    }
}
