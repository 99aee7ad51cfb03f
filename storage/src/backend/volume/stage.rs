//! An upload in a folder: a file that grows, and beside it the hash states from which it may be resumed.
//!
//! Whoever writes holds a lock on the file (`flock`), so that a second writer, in this process or another one, is refused. The lock goes
//! with the file handle: a killed server leaves none behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::files::{self, Files};
use super::syncing::Syncing;
use super::{Durability, blocking, ended, sync};
use crate::backend::{BackendError, Content, Fault, Object, Stage, UploadStatus};
use crate::digest::{Algorithm, HashState, Hasher};
use crate::kernel;
use crate::layout::{self, Key, UploadKey};

/// After so many bytes the disk is set to work, so that little is left to sync when the last byte has come.
const WRITE_OUT_BYTES: u64 = 8 << 20;

/// One call writes so much at most: that is as large as the page cache then makes its pieces. Larger ones cost a little less to write
/// as long as the kernel has them ready, and several times as much when it has to find, or to be given, memory that is as large.
const PIECE_BYTES: usize = 64 << 10;

/// An upload that this process holds the lock of.
#[derive(Debug)]
pub(super) struct VolumeStage {
    files: Arc<Files>,
    key: UploadKey,
    data: Arc<File>,
    resumed_from: HashState,
    /// Where the next byte goes.
    end: u64,
    /// Up to where the disk was set to work.
    written_out: u64,
}

/// Makes the folder of a new upload. It is not synced: a machine's crash costs the client nothing but another beginning.
pub(super) fn begin(files: &Files, upload: &UploadKey, algorithm: Algorithm) -> io::Result<()> {
    files.make_folder(&files.path(layout::upload(upload).as_str()))?;
    // Without any state the hash is a sha256, as in distribution.
    if algorithm != Algorithm::Sha256 {
        write_checkpoint(files, upload, &Hasher::new(algorithm).state())?;
    }
    // Made here alone: what is gone was published, and is not to be taken for an upload of nothing.
    let data = files.path(layout::upload_data(upload).as_str());
    OpenOptions::new().write(true).create(true).truncate(false).open(data)?;
    // The upload exists from here on.
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    File::create(files.path(layout::upload_started(upload).as_str()))?.write_all_at(started.as_bytes(), 0)
}

/// How far an upload has come.
pub(super) fn status(files: &Files, upload: &UploadKey) -> io::Result<Option<UploadStatus>> {
    let started = match fs::metadata(files.path(layout::upload_started(upload).as_str())) {
        Err(error) if files::is_absence(&error) => return Ok(None),
        started => started?,
    };
    let data = files.path(layout::upload_data(upload).as_str());
    let Some((data, size)) = files::open(&data)? else { return Ok(None) };
    let touched = started.modified()?.max(data.metadata()?.modified()?);
    // Let go of at once, when `data` goes.
    let busy = matches!(data.try_lock_shared(), Err(TryLockError::WouldBlock));
    Ok(Some(UploadStatus { checkpoint: last_checkpoint(files, upload, size)?, touched, busy }))
}

/// The furthest hash state that the data reaches.
///
/// Data without a state is cut off: it was being received when the server died. Distribution writes a state whenever it closes the
/// file, so an upload that it began is resumed where it stopped.
fn last_checkpoint(files: &Files, upload: &UploadKey, size: u64) -> io::Result<HashState> {
    let mut last: Option<HashState> = None;
    for algorithm in Algorithm::ALL {
        for offset in checkpoints(files, upload, algorithm)? {
            let further = last.as_ref().is_none_or(|last| last.offset() < offset);
            if offset <= size && further {
                let path = files.path(layout::upload_checkpoint(upload, algorithm, offset).as_str());
                // One that a crash tore, or that is somebody else's, is none.
                last = match files::read(&path, 1024)? {
                    files::Read::Bytes(bytes) => HashState::parse(&bytes)
                        .ok()
                        .filter(|state| state.offset() == offset && state.algorithm() == algorithm),
                    files::Read::Absent | files::Read::TooLarge => None,
                }
                .or(last);
            }
        }
    }
    Ok(last.unwrap_or_else(|| Hasher::new(Algorithm::Sha256).state()))
}

/// The offsets of which there are hash states.
fn checkpoints(files: &Files, upload: &UploadKey, algorithm: Algorithm) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(files.path(layout::upload_checkpoints(upload, algorithm).as_str())) {
        Err(error) if files::is_absence(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut offsets = Vec::new();
    for entry in entries {
        offsets.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(offsets)
}

/// Writes a hash state down; not durably. In place: a torn one does not parse.
fn write_checkpoint(files: &Files, upload: &UploadKey, state: &HashState) -> io::Result<File> {
    let folder = files.path(layout::upload_checkpoints(upload, state.algorithm()).as_str());
    files.make_folder(&folder)?;
    let file = File::create(folder.join(state.offset().to_string()))?;
    file.write_all_at(state.as_bytes(), 0)?;
    Ok(file)
}

/// Cuts off what lies after the last checkpoint of an upload whose lock is held, and gives that checkpoint. `None`
/// if `data` is not the upload's any more: whoever had the lock before may have published or discarded it.
fn cut_back(files: &Files, upload: &UploadKey, data: &File) -> io::Result<Option<HashState>> {
    let there = match fs::metadata(files.path(layout::upload_data(upload).as_str())) {
        Err(error) if files::is_absence(&error) => return Ok(None),
        there => there?,
    };
    let started = files::size(&files.path(layout::upload_started(upload).as_str()))?;
    let data_now = data.metadata()?;
    if there.ino() != data_now.ino() || started.is_none() {
        return Ok(None);
    }
    let last = last_checkpoint(files, upload, data_now.len())?;
    data.set_len(last.offset())?;
    Ok(Some(last))
}

impl VolumeStage {
    /// Opens an upload at its last checkpoint. An error of the kind `WouldBlock` says that somebody else has it open.
    pub(super) fn open(files: Arc<Files>, key: UploadKey) -> io::Result<Option<Self>> {
        let started = files.path(layout::upload_started(&key).as_str());
        let path = files.path(layout::upload_data(&key).as_str());
        if files::size(&started)?.is_none() {
            return Ok(None);
        }
        let data = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if files::is_absence(&error) => return Ok(None),
            data => data?,
        };
        data.try_lock()?;
        let Some(resumed_from) = cut_back(&files, &key, &data)? else { return Ok(None) };
        let end = resumed_from.offset();
        let data = Arc::new(data);
        Ok(Some(Self { files, key, data, resumed_from, end, written_out: end }))
    }
}

/// Writes all of `chunks` at `begin`, and gives the place after them.
fn write_all(data: &File, chunks: &[Bytes], begin: u64) -> io::Result<u64> {
    /// What one call takes, by POSIX and in Linux.
    const MOST_SLICES: usize = 1024;
    let mut end = begin;
    let mut piece = Vec::new();
    for chunk in chunks {
        let mut bytes = &chunk[..];
        while !bytes.is_empty() {
            let past = usize::try_from(end % PIECE_BYTES as u64).expect("a remainder is less than a piece");
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - past));
            piece.push(IoSlice::new(now));
            (bytes, end) = (later, end + now.len() as u64);
            if now.len() == PIECE_BYTES - past || piece.len() == MOST_SLICES {
                write_before(data, &mut piece, end)?;
                piece.clear();
            }
        }
    }
    write_before(data, &mut piece, end)?;
    Ok(end)
}

/// Writes what ends at `end`.
fn write_before(data: &File, mut slices: &mut [IoSlice<'_>], end: u64) -> io::Result<()> {
    let mut left: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    while left > 0 {
        match rustix::io::pwritev(data, slices, end - left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                left -= written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[async_trait]
impl Stage for VolumeStage {
    fn resumed_from(&self) -> &HashState {
        &self.resumed_from
    }

    async fn push(&mut self, chunks: Vec<Bytes>) -> Result<(), BackendError> {
        let (data, begin) = (self.data.clone(), self.end);
        let written_out = self.written_out;
        let durability = self.files.durability();
        (self.end, self.written_out) =
            blocking("write", layout::upload_data(&self.key).as_str(), move || {
                let end = write_all(&data, &chunks, begin)?;
                if durability == Durability::Buffered || end - written_out < WRITE_OUT_BYTES {
                    return Ok((end, written_out));
                }
                // Where it cannot be done the sync has more to do. What fails on the way to the disk is told by the sync, too.
                let _ = kernel::begin_writing_out(&data, written_out, end - written_out);
                Ok((end, end))
            })
            .await?;
        Ok(())
    }

    async fn checkpoint(&mut self, state: &HashState) -> Result<(), BackendError> {
        let place = self.key.to_string();
        let (algorithm, offset) = (state.algorithm(), state.offset());
        let (files, key, data, state) =
            (self.files.clone(), self.key.clone(), self.data.clone(), state.clone());
        let (written, way) = blocking("checkpoint", &place, move || {
            // The bytes first: a state must never promise more than the disk has.
            let durability = files.durability();
            sync(&data, durability)?;
            let written = write_checkpoint(&files, &key, &state)?;
            let written = spawn_blocking(move || sync(&written, durability));
            let way = files.way_into(&files.path(layout::upload_checkpoints(&key, algorithm).as_str()))?;
            Ok((written, Syncing::begin(&files, way)))
        })
        .await?;
        let written = ended("checkpoint", &place, written).await;
        written.and(way.end("checkpoint", &place).await)?;
        let (files, key, data) = (self.files.clone(), self.key.clone(), self.data.clone());
        blocking("checkpoint", &place, move || {
            let before = checkpoints(&files, &key, algorithm)?.into_iter().filter(|other| *other != offset);
            for offset in before {
                files::remove(&files.path(layout::upload_checkpoint(&key, algorithm, offset).as_str()))?;
            }
            // Held until here, even if nobody waits for this any more, so that what goes is not somebody's later state.
            drop(data);
            Ok(())
        })
        .await
    }

    async fn cut_back(&mut self) -> Result<(), BackendError> {
        let (files, key, data) = (self.files.clone(), self.key.clone(), self.data.clone());
        blocking("cut back", &self.key.to_string(), move || cut_back(&files, &key, &data).map(drop)).await
    }

    async fn content(&mut self) -> Result<Object, BackendError> {
        Ok(Object { size: self.end, content: Content::File(self.data.clone()) })
    }

    async fn publish(self: Box<Self>, to: &Key) -> Result<(), BackendError> {
        let Self { files, key, data, .. } = *self;
        let place = key.to_string();
        let from = files.path(layout::upload_data(&key).as_str());
        let to = files.path(to.as_str());
        let (renamed, upload) = (files.clone(), key.clone());
        let way = blocking("publish", &place, move || {
            let way = sync(&data, renamed.durability()).and_then(|()| renamed.rename(&from, &to));
            if way.as_ref().is_err_and(|error| Fault::of(error) == Fault::Full) {
                // Only for the room: whoever opens the upload next does it, too.
                let _ = cut_back(&renamed, &upload, &data);
            }
            Ok(Syncing::begin(&renamed, way?))
        });
        way.await?.end("publish", &place).await?;
        blocking("publish", &place, move || {
            // It is done. What a crash or a failure leaves is no upload without its bytes, and the purge removes it.
            if let Err(error) = fs::remove_dir_all(files.path(layout::upload(&key).as_str())) {
                tracing::debug!(upload = %key, error = &error as &dyn std::error::Error, "a finished upload is not removed");
            }
            Ok(())
        })
        .await
    }

    async fn discard(self: Box<Self>) -> Result<(), BackendError> {
        let Self { files, key, data, .. } = *self;
        blocking("discard", &key.to_string(), move || {
            files::remove(&files.path(layout::upload_started(&key).as_str()))?;
            let folder = files.path(layout::upload(&key).as_str());
            files.delete_folder(&folder)?;
            // Of a repository that never held more, nothing stays.
            files.remove_empty_above(&folder, &files.path(layout::repositories().as_str()));
            // Held until here, so that nobody resumes what is going away.
            drop(data);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_cut_into_pieces_is_written_as_it_was() {
        let crumbs = (0..3000_u32).map(|number| Bytes::from(vec![number.to_le_bytes()[0]]));
        let loaf = |length: u32| Bytes::from_iter((0..length).map(|at| (at % 251).to_le_bytes()[0]));
        let chunks: Vec<Bytes> = crumbs.chain([loaf(200_000), loaf(1), loaf(65_536)]).collect();
        let all = chunks.concat();
        for begin in [0, 6, 65_530, 65_536] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let end = write_all(file.as_file(), &chunks, begin).unwrap();
            assert_eq!(end, begin + all.len() as u64);
            let written = fs::read(file.path()).unwrap();
            assert!(written[usize::try_from(begin).unwrap()..] == all, "from {begin}");
        }
    }
}
