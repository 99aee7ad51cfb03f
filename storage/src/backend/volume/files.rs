//! The few ways in which a volume touches files and folders, each durable when it returns unless it says otherwise. All of it blocks.
//!
//! What is put somewhere is durable when the [`Way`] to it is synced, too: whoever put it there does that, for all folders at once.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::listing::Listings;
use super::{Durability, sync};
use crate::layout;

/// What a crash left in the staging folder is removed when it is this old: no write takes so long.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// A folder that others keep removing is made again this often before giving up.
const ATTEMPTS: usize = 8;

/// The files below a root.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Which folder the root was when it was opened.
    opened: Option<RootId>,
    durability: Durability,
    /// Folders to which the way from the root was synced by this process.
    reached: Cache<PathBuf, FolderId>,
    listings: Listings,
}

/// Which folder it was: one that is removed and made again is another.
type FolderId = (u64, u64, Option<SystemTime>);

/// The same without the device, which may have another number once it was mounted again.
type RootId = (u64, Option<SystemTime>);

/// The folders by whose entries something is found, without those that are known to have reached the disk.
#[derive(Debug, Default)]
#[must_use = "until it is synced, a crash may take what it leads to"]
pub(super) struct Way {
    /// Each with what it is, if the way to it is not known to have reached the disk: then the folder above it comes next.
    folders: Vec<(PathBuf, Option<FolderId>)>,
}

impl Way {
    /// The folders to be synced, in any order.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(|(folder, _)| folder.as_path())
    }
}

/// What reading a small file gave.
pub(super) enum Read {
    /// There is no such file.
    Absent,
    /// All of it.
    Bytes(Bytes),
    /// It has more bytes than were allowed.
    TooLarge,
}

impl Files {
    pub(super) fn new(root: PathBuf, durability: Durability) -> Self {
        const REMEMBERED: usize = 4096;
        Self { root, opened: None, durability, reached: Cache::new(REMEMBERED), listings: Listings::new() }
    }

    /// Remembers which folder the root is. To be called after the first write: by that, one of a container's image is
    /// copied.
    pub(super) fn remember_root(&mut self) -> io::Result<()> {
        self.opened = Some(self.root_id()?);
        Ok(())
    }

    fn root_id(&self) -> io::Result<RootId> {
        let root = fs::metadata(&self.root)?;
        Ok((root.ino(), root.created().ok()))
    }

    /// The path of a key or folder.
    pub(super) fn path(&self, place: &str) -> PathBuf {
        self.root.join(place)
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn listings(&self) -> &Listings {
        &self.listings
    }

    #[cfg(test)]
    pub(super) fn listings_mut(&mut self) -> &mut Listings {
        &mut self.listings
    }

    /// Puts `bytes` at `path`, atomically.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<Way> {
        let (staged, file) = self.stage()?;
        let written = file
            .write_all_at(bytes, 0)
            .and_then(|()| sync(&file, self.durability))
            .and_then(|()| self.rename(&staged, path));
        if written.is_err() {
            // What cannot be removed now is swept later.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    /// Moves a synced file to `to`, in place of what is there, making the folders that lead there.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<Way> {
        self.place(from, to, || fs::rename(from, to))
    }

    /// Puts the file at `from` to `to` in the way that `put` does.
    fn place(&self, from: &Path, to: &Path, put: impl Fn() -> io::Result<()>) -> io::Result<Way> {
        let parent = parent(to)?;
        let mut attempts = 0;
        loop {
            match put() {
                Ok(()) => {
                    self.listings.changed(to);
                    return self.way_into(parent);
                }
                // The folder is not there yet, or somebody who found it empty has just removed it.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && attempts < ATTEMPTS
                        && from.try_exists()? =>
                {
                    attempts += 1;
                    self.make_folder(parent)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a folder and those above it, below the root; not durably. A root that has gone is not made anew: its
    /// volume may be back any time, and hide what was put in its place.
    pub(super) fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let above = parent(folder)?;
        if above == self.root {
            self.ensure_root()?;
        }
        let mut attempts = 0;
        loop {
            match fs::create_dir(folder) {
                Ok(()) => {
                    self.listings.changed(folder);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                // The folder above is not there yet, or somebody who found it empty has just removed it.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && attempts < ATTEMPTS
                        && above != self.root =>
                {
                    attempts += 1;
                    self.make_folder(above)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The way from the root to what was put into a folder, whoever made that: they may not have synced it, or not yet.
    pub(super) fn way_into(&self, folder: &Path) -> io::Result<Way> {
        let mut way = Way::default();
        if self.durability == Durability::Buffered {
            return Ok(way);
        }
        let mut folder = folder;
        loop {
            let unreached = self.unreached(folder)?;
            way.folders.push((folder.to_owned(), unreached));
            if unreached.is_none() {
                return Ok(way);
            }
            folder = parent(folder)?;
        }
    }

    /// Which folder it is, if the way to it is not known to have reached the disk. None if nothing leads there any more.
    fn unreached(&self, folder: &Path) -> io::Result<Option<FolderId>> {
        if folder == self.root {
            return Ok(None);
        }
        let found = match fs::metadata(folder) {
            Err(error) if is_absence(&error) => return Ok(None),
            found => found?,
        };
        let id = (found.dev(), found.ino(), found.created().ok());
        Ok((self.reached.get(folder) != Some(id)).then_some(id))
    }

    /// Syncs a way, folder by folder.
    pub(super) fn sync_way(&self, way: Way) -> io::Result<()> {
        way.folders().try_for_each(|folder| self.sync_folder(folder))?;
        self.way_is_synced(way);
        Ok(())
    }

    /// To be told when every folder of a way has been synced: the next way through them is shorter.
    pub(super) fn way_is_synced(&self, way: Way) {
        for (folder, unreached) in way.folders {
            if let Some(id) = unreached {
                self.reached.insert(folder, id);
            }
        }
    }

    /// Removes a file, and says whether there was one.
    pub(super) fn delete(&self, path: &Path) -> io::Result<bool> {
        match fs::remove_file(path) {
            Ok(()) => {
                self.listings.changed(path);
                self.sync_folder(parent(path)?).map(|()| true)
            }
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a file if it is still the one that is open as `seen`, and says whether it was.
    ///
    /// No call compares and removes at once. So the file is moved to where nobody else finds it, and moved back if it is another one,
    /// unless one that is newer still has taken its place: no write is lost. For that instant there seems to be no file, and a crash within
    /// it leaves the file in the staging folder.
    pub(super) fn delete_if(&self, path: &Path, seen: &File) -> io::Result<bool> {
        // What is open keeps its number.
        let seen = seen.metadata()?;
        let is_seen = |it: &fs::Metadata| (it.dev(), it.ino()) == (seen.dev(), seen.ino());
        match fs::symlink_metadata(path) {
            Err(error) if is_absence(&error) => return Ok(false),
            Err(error) => return Err(error),
            Ok(there) if !is_seen(&there) => return Ok(false),
            Ok(_) => {}
        }
        let aside = self.path(layout::staging().as_str()).join(Uuid::new_v4().to_string());
        match fs::rename(path, &aside) {
            Err(error) if is_absence(&error) && !path.try_exists()? => return Ok(false),
            moved => moved?,
        }
        self.listings.changed(path);
        let deleted = is_seen(&fs::symlink_metadata(&aside)?);
        if !deleted {
            let way = self.place(&aside, path, || match fs::hard_link(&aside, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                // Where there are no hard links.
                Err(_) => fs::rename(&aside, path),
                put => put,
            })?;
            self.sync_way(way)?;
        }
        remove(&aside)?;
        self.sync_folder(parent(path)?)?;
        Ok(deleted)
    }

    /// Removes a folder in which there is nothing but empty folders; any other stays.
    pub(super) fn delete_empty(&self, folder: &Path) -> io::Result<()> {
        if self.prune(folder)? { self.sync_folder(parent(folder)?) } else { Ok(()) }
    }

    /// Removes a folder in which there is nothing but empty folders, and says whether it was one; not durably.
    fn prune(&self, folder: &Path) -> io::Result<bool> {
        let entries = match fs::read_dir(folder) {
            Err(error) if is_absence(&error) => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.prune(&entry.path())?;
            }
        }
        match fs::remove_dir(folder) {
            Ok(()) => {
                self.listings.changed(folder);
                Ok(true)
            }
            Err(error) if is_absence(&error) || is_not_empty(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a folder and all that is in it.
    pub(super) fn delete_folder(&self, path: &Path) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            match fs::remove_dir_all(path) {
                Ok(()) => {
                    self.listings.changed(path);
                    return self.sync_folder(parent(path)?);
                }
                Err(error) if is_absence(&error) => return Ok(()),
                // Somebody wrote into it meanwhile.
                Err(error) if is_not_empty(&error) && attempts < ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the folders above `path` in which nothing is left, below `top`; not durably. Whoever is about to put
    /// something into one of them makes it again.
    pub(super) fn remove_empty_above(&self, path: &Path, top: &Path) {
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != top) {
            if fs::remove_dir(folder).is_err() {
                return;
            }
            // The next one may get its number.
            self.reached.remove(folder);
            self.listings.changed(folder);
        }
    }

    /// Makes the entries of a folder durable. A folder that has gone meanwhile has none.
    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if self.durability == Durability::Buffered {
            return Ok(());
        }
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    /// Looks into the root, and whether it is the one that was opened: a volume that is unmounted leaves a folder.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.ensure_root()?;
        fs::read_dir(&self.root)?.next().transpose().map(drop)
    }

    fn ensure_root(&self) -> io::Result<()> {
        let what = match self.root_id() {
            Ok(root) if self.opened.is_none_or(|opened| opened == root) => return Ok(()),
            Ok(_) => "another folder than at the start",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "no folder any more",
            Err(error) => return Err(error),
        };
        let root = self.root.display();
        Err(io::Error::other(format!(
            "at {root} there is {what}: is the volume mounted? If it was replaced, restart"
        )))
    }

    /// Writes a file and removes it. Some stores say only when it is synced that they have no room for it.
    pub(super) fn probe_writing(&self) -> io::Result<()> {
        let (staged, file) = self.stage()?;
        let written = file.write_all_at(b"probe", 0).and_then(|()| sync(&file, self.durability));
        // NFS keeps what is removed while it is open.
        drop(file);
        written.and(fs::remove_file(&staged))
    }

    /// Removes what crashes left in the staging folder. What cannot be removed stays for the next time.
    pub(super) fn sweep_staging(&self) {
        const AT_MOST: usize = 100_000;
        let Ok(entries) = fs::read_dir(self.path(layout::staging().as_str())) else { return };
        let deadline = SystemTime::now() - STALE;
        for entry in entries.flatten().take(AT_MOST) {
            if entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|modified| modified < deadline)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A new file that nobody else has, to be renamed into its place.
    fn stage(&self) -> io::Result<(PathBuf, File)> {
        let folder = self.path(layout::staging().as_str());
        let path = folder.join(Uuid::new_v4().to_string());
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folder(&folder)?;
                File::create_new(&path).map(|file| (path, file))
            }
            created => created.map(|file| (path, file)),
        }
    }
}

/// Opens a file and tells its size. `None` when there is no such file.
pub(super) fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Read> {
    let Some((file, size)) = open(path)? else { return Ok(Read::Absent) };
    if size > limit {
        return Ok(Read::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    // Distribution writes in place: the file may have grown since.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() as u64 > limit { Read::TooLarge } else { Read::Bytes(bytes.into()) })
}

/// The size of a file. `None` when there is no such file.
pub(super) fn size(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file if there is one; not durably.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_absence(&error) => Ok(()),
        removed => removed,
    }
}

/// Whether an error says that there is nothing at a path.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether an error says that a folder cannot be removed because something is in it; POSIX has two words for that.
fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a parent"))
}
