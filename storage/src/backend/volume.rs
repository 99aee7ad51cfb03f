//! A backend in a folder: a PVC, an NFS mount, a local disk.
//!
//! Keys are paths. An object appears by a rename, after its bytes were synced; the folder it appears in, and those above that may not have
//! reached the disk, are synced before the answer, all at once. Every call works on threads of the blocking pool; a runtime thread never
//! waits for a disk.

mod files;
mod listing;
mod stage;
mod syncing;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use self::files::Files;
use self::listing::View;
use self::stage::VolumeStage;
use self::syncing::Syncing;
use super::{Backend, BackendError, Content, Fault, Object, Page, Stage, UploadStatus};
use crate::digest::Algorithm;
use crate::layout::{self, Folder, Key, UploadKey};

/// A folder that keeps a registry. Cheap to clone; any number of processes may share the folder.
#[derive(Clone, Debug)]
pub struct Volume {
    files: Arc<Files>,
}

/// How a volume is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolumeOptions {
    /// What a crash of the machine may take.
    pub durability: Durability,
    /// Whether anything will be written.
    pub access: Access,
}

/// What a crash of the machine may take. A crash of the process alone takes nothing either way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// Nothing that was acknowledged: files and folders are synced first.
    #[default]
    Synced,
    /// What the kernel had not written yet.
    Buffered,
}

/// Whether anything will be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// The folder must be writable.
    #[default]
    ReadWrite,
    /// The folder need not be writable.
    ReadOnly,
}

/// Why a folder cannot keep a registry.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It is not there, and neither is what it would be made in: probably a volume that is not mounted.
    #[error(
        "{0} does not exist and cannot be made, because its parent does not exist either: is the volume mounted?"
    )]
    Missing(PathBuf),
    /// It is something else.
    #[error("{0} is not a folder")]
    NotAFolder(PathBuf),
    /// The file system is mounted read-only.
    #[error(
        "{0} is on a file system that is mounted read-only: mount it writable, or set storage.maintenance.readonly"
    )]
    ReadOnly(PathBuf),
    /// This process may not use it.
    #[error("user {user} may not {act} {path}: change its owner or mode, or run as another user")]
    Forbidden {
        /// The folder, or what lies in it.
        path: PathBuf,
        /// What was tried, as a verb.
        act: &'static str,
        /// The user id of this process.
        user: u32,
    },
    /// It failed in some other way.
    #[error("cannot use {path}")]
    Io {
        /// The folder, or what lies in it.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl Volume {
    /// Opens the folder `root`, which is made if its parent exists, and makes sure that it can be used as `options` say. Blocks.
    ///
    /// # Errors
    /// Says which folder cannot be used, and why.
    pub fn open(root: impl Into<PathBuf>, options: VolumeOptions) -> Result<Self, VolumeError> {
        let root = root.into();
        match std::fs::metadata(&root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(VolumeError::NotAFolder(root)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && options.access == Access::ReadWrite => {
                make_root(&root, options.durability)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VolumeError::Missing(root)),
            Err(error) => return Err(VolumeError::of("look into", &root, error)),
        }
        if !root.join(layout::repositories().as_str()).exists() {
            let folder = root.display();
            match options.access {
                // Right for the first start; after that, it is what a volume looks like that is not mounted.
                Access::ReadWrite => tracing::info!(
                    %folder,
                    "the folder holds no registry yet; if it should, see whether its volume is mounted"
                ),
                Access::ReadOnly => tracing::warn!(
                    %folder,
                    "the folder holds no registry, and none is made in read-only mode: is its volume mounted?"
                ),
            }
        }
        let mut files = Files::new(root.clone(), options.durability);
        files.probe().map_err(|error| VolumeError::of("list", &root, error))?;
        if options.access == Access::ReadWrite {
            let staging = files.path(layout::staging().as_str());
            files.make_folder(&staging).map_err(|error| VolumeError::of("make", &staging, error))?;
            files
                .way_into(&staging)
                .and_then(|way| files.sync_way(way))
                .map_err(|error| VolumeError::of("sync", &staging, error))?;
            match files.probe_writing() {
                // What is there can be pulled.
                Err(error) if Fault::of(&error) == Fault::Full => {
                    tracing::warn!(folder = %staging.display(), "there is no space left")
                }
                written => written.map_err(|error| VolumeError::of("write to", &staging, error))?,
            }
            files.sweep_staging();
        }
        files.remember_root().map_err(|error| VolumeError::of("look into", &root, error))?;
        Ok(Self { files: Arc::new(files) })
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        place: &str,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let files = self.files.clone();
        blocking(operation, place, move || work(&files)).await
    }

    async fn list(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
        view: View,
    ) -> Result<Page, BackendError> {
        let path = self.files.path(folder.as_str());
        let after = after.map(str::to_owned);
        self.blocking("list", folder.as_str(), move |files| {
            files.listings().page(&path, after.as_deref(), limit, view)
        })
        .await
    }
}

impl VolumeError {
    fn of(act: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            io::ErrorKind::PermissionDenied => {
                Self::Forbidden { path, act, user: rustix::process::geteuid().as_raw() }
            }
            _ => Self::Io { path, source },
        }
    }
}

#[async_trait]
impl Backend for Volume {
    async fn open(&self, key: &Key) -> Result<Option<Object>, BackendError> {
        let path = self.files.path(key.as_str());
        self.blocking("open", key.as_str(), move |_| {
            let Some((file, size)) = files::open(&path)? else { return Ok(None) };
            Ok(Some(Object { size, content: Content::File(Arc::new(file)) }))
        })
        .await
    }

    async fn read(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, BackendError> {
        let path = self.files.path(key.as_str());
        let read = self.blocking("read", key.as_str(), move |_| files::read(&path, limit)).await?;
        match read {
            files::Read::Absent => Ok(None),
            files::Read::Bytes(bytes) => Ok(Some(bytes)),
            files::Read::TooLarge => Err(BackendError::of("read", key, Fault::TooLarge)),
        }
    }

    async fn read_many(&self, keys: &[Key], limit: u64) -> Result<Vec<Option<Bytes>>, BackendError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let paths: Vec<_> = keys.iter().map(|key| self.files.path(key.as_str())).collect();
        self.blocking("read", first.as_str(), move |_| {
            let read = paths.iter().map(|path| match files::read(path, limit)? {
                files::Read::Bytes(bytes) => Ok(Some(bytes)),
                files::Read::Absent | files::Read::TooLarge => Ok(None),
            });
            read.collect()
        })
        .await
    }

    async fn sizes(&self, keys: &[Key]) -> Result<Vec<Option<u64>>, BackendError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let paths: Vec<_> = keys.iter().map(|key| self.files.path(key.as_str())).collect();
        self.blocking("look up", first.as_str(), move |_| {
            paths.iter().map(|path| files::size(path)).collect()
        })
        .await
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), BackendError> {
        let path = self.files.path(key.as_str());
        let files = self.files.clone();
        let written = blocking("write", key.as_str(), move || {
            let way = files.write(&path, &bytes)?;
            Ok(Syncing::begin(&files, way))
        });
        written.await?.end("write", key.as_str()).await
    }

    async fn delete(&self, key: &Key) -> Result<bool, BackendError> {
        let path = self.files.path(key.as_str());
        self.blocking("delete", key.as_str(), move |files| files.delete(&path)).await
    }

    async fn delete_if(&self, key: &Key, seen: &Object) -> Result<bool, BackendError> {
        let Content::File(seen) = &seen.content else { return Ok(false) };
        let (path, seen) = (self.files.path(key.as_str()), seen.clone());
        self.blocking("delete", key.as_str(), move |files| files.delete_if(&path, &seen)).await
    }

    async fn delete_empty(&self, folder: &Folder) -> Result<(), BackendError> {
        let path = self.files.path(folder.as_str());
        self.blocking("delete", folder.as_str(), move |files| files.delete_empty(&path)).await
    }

    async fn delete_folder(&self, folder: &Folder) -> Result<(), BackendError> {
        let path = self.files.path(folder.as_str());
        self.blocking("delete", folder.as_str(), move |files| files.delete_folder(&path)).await
    }

    async fn changed(&self, folder: &Folder) -> Result<Option<SystemTime>, BackendError> {
        let path = self.files.path(folder.as_str());
        self.blocking("look up", folder.as_str(), move |_| match std::fs::metadata(&path) {
            Err(error) if files::is_absence(&error) => Ok(None),
            found => found?.modified().map(Some),
        })
        .await
    }

    async fn children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        self.list(folder, after, limit, View::Now).await
    }

    async fn recent_children(
        &self,
        folder: &Folder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        self.list(folder, after, limit, View::Recent).await
    }

    async fn begin_upload(&self, upload: &UploadKey, algorithm: Algorithm) -> Result<(), BackendError> {
        let upload = upload.clone();
        self.blocking("begin", &upload.to_string(), move |files| stage::begin(files, &upload, algorithm))
            .await
    }

    async fn upload(&self, upload: &UploadKey) -> Result<Option<UploadStatus>, BackendError> {
        let upload = upload.clone();
        self.blocking("look up", &upload.to_string(), move |files| stage::status(files, &upload)).await
    }

    async fn stage(&self, upload: &UploadKey) -> Result<Option<Box<dyn Stage>>, BackendError> {
        let key = upload.clone();
        let files = self.files.clone();
        let opened = self
            .blocking("open", &upload.to_string(), move |_| match VolumeStage::open(files, key) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Err(Fault::Busy)),
                opened => opened.map(Ok),
            })
            .await?;
        match opened {
            Ok(stage) => Ok(stage.map(|stage| Box::new(stage) as Box<dyn Stage>)),
            Err(fault) => Err(BackendError::of("open", upload, fault)),
        }
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.blocking("list", "its folder", Files::probe).await
    }

    async fn probe_writing(&self) -> Result<(), BackendError> {
        self.blocking("write to", layout::staging().as_str(), Files::probe_writing).await
    }
}

/// Makes the folder that keeps all the others, so that it is there after a crash.
fn make_root(root: &Path, durability: Durability) -> Result<(), VolumeError> {
    std::fs::create_dir(root).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => VolumeError::Missing(root.to_owned()),
        _ => VolumeError::of("make", root, error),
    })?;
    if durability == Durability::Buffered {
        return Ok(());
    }
    // The parent of a relative path may be unnamed.
    let named = root.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = named.unwrap_or(Path::new("."));
    match File::open(parent) {
        // Something can be made there, and yet not be listed.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(
                folder = %root.display(),
                error = &error as &dyn std::error::Error,
                "the folder was made, but not synced: its parent may not be read"
            );
            Ok(())
        }
        opened => opened
            .and_then(|parent| parent.sync_all())
            .inspect_err(|_| {
                // Or the next start would find it and take it as it is.
                let _ = std::fs::remove_dir(root);
            })
            .map_err(|error| VolumeError::of("sync", parent, error)),
    }
}

/// Runs `work` on the pool of threads that may block.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    place: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    ended(operation, place, spawn_blocking(work)).await
}

/// Waits for what was begun on that pool.
async fn ended<T>(
    operation: &'static str,
    place: &str,
    work: JoinHandle<io::Result<T>>,
) -> Result<T, BackendError> {
    work.await.map_err(io::Error::from).flatten().map_err(|error| BackendError::io(operation, place, error))
}

/// Syncs a file's bytes, and what is needed to read them back.
fn sync(file: &File, durability: Durability) -> io::Result<()> {
    match durability {
        Durability::Synced => file.sync_data(),
        Durability::Buffered => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::around::Surrounded;
    use crate::backend::conformance;
    use crate::backend::fault::{Failure, Faults, Moment};
    use crate::{Digest, Hasher, Registry, RegistryOptions, UploadId};

    fn key() -> UploadKey {
        UploadKey { repository: "team/app".parse().unwrap(), id: UploadId::random() }
    }

    fn volume() -> (tempfile::TempDir, Volume) {
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::open(folder.path(), VolumeOptions::default()).unwrap();
        (folder, volume)
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        conformance::check(|| {
            let root = folder.path().join(UploadId::random().to_string());
            let replica = || Arc::new(Volume::open(&root, VolumeOptions::default()).unwrap());
            conformance::Replicas { here: replica(), there: replica() }
        })
        .await;
    }

    #[tokio::test]
    async fn an_upload_resumes_at_its_last_checkpoint_and_becomes_a_blob() {
        let (folder, volume) = volume();
        let upload = key();
        volume.begin_upload(&upload, Algorithm::Sha256).await.unwrap();
        let mut stage = volume.stage(&upload).await.unwrap().unwrap();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"kept ");
        stage.push(vec!["ke".into(), "pt ".into()]).await.unwrap();
        stage.checkpoint(&hasher.state()).await.unwrap();
        stage.push(vec!["lost".into()]).await.unwrap();
        let busy = volume.stage(&upload).await.unwrap_err();
        assert_eq!(busy.fault, Fault::Busy);
        drop(stage);

        let other_replica = Volume::open(folder.path(), VolumeOptions::default()).unwrap();
        let mut stage = other_replica.stage(&upload).await.unwrap().unwrap();
        assert_eq!(stage.resumed_from().offset(), 5);
        stage.push(vec!["again".into()]).await.unwrap();
        let blob = layout::blob(&Digest::of(Algorithm::Sha256, b"kept again"));
        stage.publish(&blob).await.unwrap();
        assert_eq!(volume.read(&blob, 100).await.unwrap().unwrap(), "kept again");
        assert!(volume.upload(&upload).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_nobody_can_resume_from_takes_no_room_on_a_full_store() {
        let (folder, volume) = volume();
        let faults = Arc::new(Faults::default());
        let faulty = Surrounded::new(Arc::new(volume), faults.clone());
        let registry = Registry::new(Arc::new(faulty), RegistryOptions::default());
        let UploadKey { repository, .. } = key();
        let writer = registry.writer(repository.clone());
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let data = folder.path().join(layout::upload_data(&UploadKey { repository, id }).as_str());
        let body = |bytes: &'static [u8]| {
            futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from_static(bytes))])
        };
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.receive(body(b"kept")).await.unwrap();
        upload.keep().await.unwrap();
        drop(upload);

        let digest = Digest::of(Algorithm::Sha256, b"kept and more");
        // Room is short after some more bytes, for their checkpoint, or for the link to the blob that they become.
        for (failing, moment, is_last) in
            [(1, Moment::After, false), (2, Moment::Before, false), (2, Moment::Before, true)]
        {
            faults.fail(failing, Failure { fault: Fault::Full, moment });
            let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
            let is_refused = match upload.receive(body(b" and more")).await {
                Err(_) => true,
                Ok(()) if is_last => upload.finish(&digest).await.is_err(),
                Ok(()) => upload.keep().await.is_err(),
            };
            assert!(is_refused, "{:?}", faults.heal());
            assert_eq!(std::fs::read(&data).unwrap(), b"kept", "{:?}", faults.heal());
        }
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        upload.receive(body(b" and more")).await.unwrap();
        upload.finish(&digest).await.unwrap();
        let blob = folder.path().join(layout::blob(&digest).as_str());
        assert_eq!(std::fs::read(blob).unwrap(), b"kept and more");
    }

    #[tokio::test]
    async fn a_repository_that_was_never_more_than_uploads_goes_with_the_last_of_them() {
        let (folder, volume) = volume();
        let (first, last) = (key(), key());
        for upload in [&first, &last] {
            volume.begin_upload(upload, Algorithm::Sha256).await.unwrap();
        }
        volume.stage(&first).await.unwrap().unwrap().discard().await.unwrap();
        assert!(volume.upload(&last).await.unwrap().is_some());
        volume.stage(&last).await.unwrap().unwrap().discard().await.unwrap();
        let repositories = folder.path().join(layout::repositories().as_str());
        assert_eq!(std::fs::read_dir(repositories).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn uploads_begin_while_others_of_their_repository_go() {
        let folder = tempfile::tempdir().unwrap();
        let options = VolumeOptions { durability: Durability::Buffered, access: Access::ReadWrite };
        let [here, there] = [(), ()].map(|()| Volume::open(folder.path(), options).unwrap());
        let come_and_go = async |volume: &Volume| {
            for _ in 0..300 {
                let upload = key();
                volume.begin_upload(&upload, Algorithm::Sha256).await?;
                volume.stage(&upload).await?.expect("it has begun").discard().await?;
            }
            Ok::<_, BackendError>(())
        };
        tokio::try_join!(come_and_go(&here), come_and_go(&there)).unwrap();
    }

    #[tokio::test]
    async fn a_root_that_has_gone_is_not_made_anew_and_another_one_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let [root, away] = ["data", "away"].map(|name| folder.path().join(name));
        let volume = Volume::open(&root, VolumeOptions::default()).unwrap();
        volume.probe().await.unwrap();
        std::fs::rename(&root, &away).unwrap();
        assert!(volume.probe().await.is_err() && volume.probe_writing().await.is_err());
        assert!(volume.write(&layout::probe(), Bytes::new()).await.is_err());
        assert!(volume.begin_upload(&key(), Algorithm::Sha256).await.is_err());
        assert!(!root.exists());

        std::fs::create_dir(&root).unwrap();
        let another = volume.probe().await.unwrap_err().source.unwrap().to_string();
        assert!(another.contains("is the volume mounted?"), "{another}");
        std::fs::remove_dir(&root).unwrap();
        std::fs::rename(&away, &root).unwrap();
        volume.probe().await.unwrap();
        volume.probe_writing().await.unwrap();
    }

    #[tokio::test]
    async fn a_torn_hash_state_is_passed_over() {
        let (folder, volume) = volume();
        let upload = key();
        volume.begin_upload(&upload, Algorithm::Sha256).await.unwrap();
        let mut stage = volume.stage(&upload).await.unwrap().unwrap();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"whole");
        stage.push(vec!["whole".into()]).await.unwrap();
        stage.checkpoint(&hasher.state()).await.unwrap();
        stage.push(vec![" and more".into()]).await.unwrap();
        drop(stage);
        let torn = layout::upload_checkpoint(&upload, Algorithm::Sha256, 9);
        std::fs::write(folder.path().join(torn.as_str()), b"sha\x03").unwrap();
        assert_eq!(volume.upload(&upload).await.unwrap().unwrap().checkpoint.offset(), 5);
    }

    #[tokio::test]
    async fn an_upload_whose_bytes_have_become_a_blob_is_none_and_is_purged() {
        let (folder, volume) = volume();
        let upload = key();
        volume.begin_upload(&upload, Algorithm::Sha256).await.unwrap();
        let mut stage = volume.stage(&upload).await.unwrap().unwrap();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"bytes");
        stage.push(vec!["bytes".into()]).await.unwrap();
        stage.checkpoint(&hasher.state()).await.unwrap();
        // As it is between the two steps of a publication, or after a crash there.
        std::fs::rename(
            folder.path().join(layout::upload_data(&upload).as_str()),
            folder.path().join("blob"),
        )
        .unwrap();
        assert!(volume.upload(&upload).await.unwrap().is_none());
        assert!(volume.stage(&upload).await.unwrap().is_none(), "nor does looking for it make one");
        assert!(!folder.path().join(layout::upload_data(&upload).as_str()).exists());

        let registry = Registry::new(Arc::new(volume), RegistryOptions::default());
        let hour = std::time::Duration::from_secs(60 * 60);
        for (deadline, purged) in [(SystemTime::now() - hour, 0), (SystemTime::now() + hour, 1)] {
            assert_eq!(registry.purge_uploads(deadline, crate::Purge::Remove).await.unwrap(), purged);
        }
        assert!(!folder.path().join(layout::upload(&upload).as_str()).exists());
    }

    #[test]
    fn of_two_who_write_and_remove_at_once_none_loses_what_the_other_has_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let options = VolumeOptions { durability: Durability::Buffered, access: Access::ReadWrite };
        let [writing, removing] = [(), ()].map(|()| Volume::open(folder.path(), options).unwrap().files);
        let link =
            writing.path(layout::tags(&"team/app".parse().unwrap()).folder("v1").object("link").as_str());
        let folder_of_tag = link.parent().unwrap().to_owned();
        const VERSIONS: u32 = 1000;
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let removed = std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                let mut removed = Vec::new();
                while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                    let Some((seen, _)) = files::open(&link).unwrap() else { continue };
                    if removing.delete_if(&link, &seen).unwrap() {
                        removed.push(io::read_to_string(seen).unwrap().parse::<u32>().unwrap());
                        removing.delete_empty(&folder_of_tag).unwrap();
                    }
                }
                removed
            });
            for version in 0..=VERSIONS {
                let way = writing.write(&link, version.to_string().as_bytes()).unwrap();
                writing.sync_way(way).unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::SeqCst);
            remover.join().unwrap()
        });
        let left = std::fs::read_to_string(&link).ok();
        let is_removed = removed.last() == Some(&VERSIONS);
        assert_eq!(left, (!is_removed).then(|| VERSIONS.to_string()), "{} were removed", removed.len());
        assert!(removed.is_sorted() && !removed.is_empty());
        let staging = writing.path(layout::staging().as_str());
        assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_upload_is_as_old_as_what_was_last_written_to_it() {
        let (folder, volume) = volume();
        let upload = key();
        volume.begin_upload(&upload, Algorithm::Sha256).await.unwrap();
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(1_000_000);
        let data = layout::upload_data(&upload);
        for file in [data.as_str(), layout::upload_started(&upload).as_str()] {
            let file = std::fs::File::options().write(true).open(folder.path().join(file)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let touched = async || volume.upload(&upload).await.unwrap().unwrap().touched;
        assert_eq!(touched().await, long_ago);
        let mut stage = volume.stage(&upload).await.unwrap().unwrap();
        stage.push(vec!["more".into()]).await.unwrap();
        assert!(touched().await > long_ago);
    }

    #[test]
    fn a_way_is_short_once_it_was_synced_through_the_same_folders() {
        let folder = tempfile::tempdir().unwrap();
        let files = Volume::open(folder.path(), VolumeOptions::default()).unwrap().files;
        let [tag, tags] = ["docker/a/tags/v1", "docker/a/tags"].map(|folder| files.path(folder));
        let long = [tag.clone(), tags.clone(), files.path("docker/a"), files.path("docker")];
        for _ in ["a failure to sync it", "a sync"] {
            let way = files.write(&tag.join("link"), b"x").unwrap();
            assert!(way.folders().eq(&long));
        }
        files.sync_way(files.way_into(&tag).unwrap()).unwrap();
        let way = files.write(&tag.join("link"), b"x").unwrap();
        assert!(way.folders().eq([&tag]));
        // A file system may give the number of the old folder to the new one.
        std::fs::rename(&tags, files.path("docker/a/old")).unwrap();
        let way = files.write(&tag.join("link"), b"x").unwrap();
        assert!(way.folders().eq(&long[..3]));
    }

    #[tokio::test]
    async fn names_are_listed_in_byte_order_and_what_others_add_is_seen() {
        let (folder, volume) = volume();
        let tags = layout::tags(&"team/app".parse().unwrap());
        for name in ["v1.2", "v1", "v1-a", "v10"] {
            volume.write(&tags.folder(name).object("link"), "x".into()).await.unwrap();
        }
        let page = volume.children(&tags, Some("v1"), 2).await.unwrap();
        assert_eq!(page, Page { names: vec!["v1-a".into(), "v1.2".into()], more: true });
        let other_replica = Volume::open(folder.path(), VolumeOptions::default()).unwrap();
        other_replica.write(&tags.folder("v1-b").object("link"), "x".into()).await.unwrap();
        let page = volume.children(&tags, Some("v1-a"), 9).await.unwrap();
        assert_eq!(page.names, ["v1-b", "v1.2", "v10"]);
        assert_eq!(volume.children(&tags.folder("no"), None, 9).await.unwrap(), Page::default());
    }

    #[tokio::test]
    async fn a_listing_of_many_names_is_paged_through_and_follows_changes() {
        let (folder, volume) = volume();
        let tags = layout::tags(&"team/app".parse().unwrap());
        let path = folder.path().join(tags.as_str());
        std::fs::create_dir_all(&path).unwrap();
        for number in 0..2000 {
            std::fs::create_dir(path.join(format!("t{number:04}"))).unwrap();
        }
        // Long enough ago for the listing to be kept.
        let settled = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        File::open(&path).unwrap().set_modified(settled).unwrap();
        for after in [None, Some("t0999"), Some("t0999")] {
            let page = volume.children(&tags, after, 3).await.unwrap();
            let first = after.map_or("t0000", |_| "t1000");
            assert_eq!((page.names[0].as_str(), page.names.len(), page.more), (first, 3, true));
        }
        std::fs::create_dir(path.join("t0999a")).unwrap();
        assert_eq!(volume.children(&tags, Some("t0999"), 1).await.unwrap().names, ["t0999a"]);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Volume::open(folder.path().join("no/such"), VolumeOptions::default()).unwrap_err();
        assert!(missing.to_string().contains("is the volume mounted?"), "{missing}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Volume::open(file, VolumeOptions::default()), Err(VolumeError::NotAFolder(_))));
    }

    #[tokio::test]
    async fn the_rules_stand_on_it() {
        let (_folder, volume) = volume();
        let registry = Registry::new(Arc::new(volume), RegistryOptions::default());
        let writer = registry.writer("team/app".parse().unwrap());
        let id = writer.begin_upload(Algorithm::Sha256).await.unwrap();
        let mut upload = writer.resume_upload(id).await.unwrap().unwrap();
        let body = futures_util::stream::iter([
            Ok::<_, io::Error>(Bytes::from_static(b"some ")),
            Ok("bytes".into()),
        ]);
        upload.receive(body).await.unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"some bytes");
        upload.finish(&digest).await.unwrap();
        let blob = registry.reader("team/app".parse().unwrap()).blob(&digest).await.unwrap().unwrap();
        assert_eq!(blob.size, 10);
        let elsewhere = registry.reader("team/other".parse().unwrap()).blob(&digest).await.unwrap();
        assert!(elsewhere.is_none(), "another repository does not hold it");
    }
}
